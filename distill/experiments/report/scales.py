"""Axes of charts: ranges, ticks, and the place of a value in the picture."""

import dataclasses
import math
from collections.abc import Sequence

from distill.experiments.report.blocks import Chart
from distill.experiments.report.text import large, number

MOST_MARKS = 30
"""Points of a series that have marks; more are a line."""


@dataclasses.dataclass(frozen=True)
class Scale:
    """Maps values from ``low`` to ``high`` to places from ``start`` to ``end``; logarithmic if ``log``."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The place of a value.

        >>> Scale(1, 100, 0, 10, log=True)(10)
        5.0
        """
        low, high, at = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (at - low) / (high - low) * (self.end - self.start)


def horizontal(chart: Chart) -> tuple[float, float]:
    """The range of the horizontal axis, with some room at both ends."""
    values = [point.x for series in chart.series for point in series.points]
    values += [x for curve in chart.curves for x, _ in curve.points]
    low, high = min(values), max(values)
    if chart.log:
        room = max((high / low) ** 0.05, 1.08)
        return low / room, high * room
    room = 0.04 * (high - low) or 0.5
    return (0.0 if 0 <= low < 0.3 * high else low - room), high + room


def vertical(chart: Chart) -> tuple[float, float]:
    """The range of the vertical axis.

    It contains means, runs and levels, and intervals as far as they reach no more than the height of those beyond them: two
    seeds have an interval that would hide all else. Arrows mark the ends that are cut (:func:`is_cut`).
    """
    values = [y for series in chart.series for point in series.points for y in (point.y, *point.runs)]
    values += [value for _, value in chart.levels]
    low, high = min(values), max(values)
    reach = max(high - low, 1e-3 * max(abs(high), abs(low)), 1e-9)
    ends = [y for series in chart.series for point in series.points for y in (point.low, point.high)]
    ends += [y for curve in chart.curves for _, y in curve.points]
    low = max(low - reach, min([low, *ends]))
    high = min(high + reach, max([high, *ends]))
    room = 0.06 * (high - low) or 0.5
    return low - room, high + room


def is_cut(chart: Chart) -> bool:
    """Whether an interval reaches beyond an axis, so that an arrow takes the place of its end."""
    (left, right), (bottom, top) = horizontal(chart), vertical(chart)
    points = [point for series in chart.series for point in series.points]
    return any(p.low < bottom or p.high > top or p.left < left or p.right > right for p in points)


def has_bare(chart: Chart) -> bool:
    """Whether a point that should have an interval has none, and its mark is drawn open."""
    return any(point.bare for series in chart.series if len(series.points) <= MOST_MARKS for point in series.points)


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers between ``low`` and ``high``.

    >>> ticks(0.1, 0.9)
    [0.2, 0.4, 0.6, 0.8]
    """
    rough = (high - low) / max(1, most - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(n * step, 12) for n in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(values: Sequence[float], scale: Scale, apart: float) -> list[float]:
    """The values themselves if they are few, else 1, 2 and 5 of each decade; none is closer than ``apart`` to another."""
    own = sorted({float(f"{value:.3g}") for value in values})
    if len(own) > 9:
        decades = range(math.floor(math.log10(scale.low)), math.ceil(math.log10(scale.high)) + 1)
        own = [step * 10.0**n for n in decades for step in (1, 2, 5)]
    out: list[float] = []
    for value in own:
        if scale.low <= value <= scale.high and (not out or abs(scale(value) - scale(out[-1])) >= apart):
            out.append(value)
    return out


def label(value: float) -> str:
    """The text of a tick."""
    return large(value) if abs(value) >= 10_000 else number(value)
