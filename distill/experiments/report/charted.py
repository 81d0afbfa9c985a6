"""Settings as points of charts, and the levels that charts compare them with."""

import math

from distill.experiments.report import findings, statistics
from distill.experiments.report.analysis import Analysis
from distill.experiments.report.blocks import Point
from distill.experiments.report.settings import Cell as Setting


def metric_name(analysis: Analysis) -> str:
    """The name of the vertical axis."""
    return f"test {analysis.evidence.metric}{', %' if analysis.evidence.scale == 100 else ''}"


def point(
    analysis: Analysis, cell: Setting, x: float, x_interval: statistics.Interval = statistics.Interval(math.nan)
) -> Point:
    """A setting's mean, interval and runs as a point of a chart; ``x_interval`` is that of ``x``, if it is known."""
    interval = analysis.evidence.cell_interval(cell)
    low, high = ends(analysis, interval)
    runs = tuple(analysis.evidence.run_score(run) for run in cell.runs) if len(cell.runs) > 1 else ()
    return Point(x, interval.value, low, high, runs, cell.label, x_interval.low, x_interval.high, low == high)


def ends(analysis: Analysis, interval: statistics.Interval) -> tuple[float, float]:
    """The ends of an interval in a chart; the value where there is none, or where it holds all possible scores."""
    whole = analysis.evidence.scale == 100 and statistics.is_whole(interval, 100)
    return (interval.low, interval.high) if interval.known and not whole else (interval.value, interval.value)


def levels(analysis: Analysis) -> tuple[tuple[str, float], ...]:
    """The teacher and the students before distillation, as horizontal lines."""
    out = []
    if analysis.teacher is not None and analysis.evidence.metric == "accuracy":
        value = analysis.teacher.accuracy.value * analysis.evidence.scale
        out.append((f"teacher {findings.score(analysis, value)}", value))
    if analysis.before is not None:
        split = "" if analysis.before.split == "test" else " (validation)"
        value = analysis.before.score.value
        out.append((f"before distillation{split} {findings.score(analysis, value)}", value))
    return tuple(out)
