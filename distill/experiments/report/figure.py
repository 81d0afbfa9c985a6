"""The charts of a report as one PNG."""

import io
import math
from typing import TYPE_CHECKING, Any

from distill.experiments.report import charts, scales
from distill.experiments.report.blocks import Chart, Document, Series
from distill.experiments.report.collect import SOFTWARE
from distill.experiments.report.text import one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#2f6fb5", "#d1600f", "#2a8a57", "#a23b8c", "#8a6d00", "#c2334d", "#4a5a6a", "#0f8f9f")
CUT = "Arrows: the interval goes on."
BARE = "Open marks: no bar, because the seeds are too few, or have equal scores."
_MARKERS = "osD^v"
_WIDTH = 1.8  # of lines, points
_MARK = 6.0  # the usual size of marks, points


def png(document: Document) -> bytes | None:
    """Draws all charts in a grid; None if the report has no chart."""
    if not document.charts:
        return None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(2, len(document.charts))
    rows = math.ceil(len(document.charts) / columns)
    figure = Figure(figsize=(6.4 * columns, 4.4 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(_plain(document.title), fontsize=14)
    below = [document.missing] if document.missing else []
    below += [note for note in (BARE, CUT) if any(note in notes(chart) for chart in document.charts)]
    if below:
        figure.supxlabel("\n".join(map(_plain, below)), fontsize=9)
    for place, chart in enumerate(document.charts, 1):
        axes = figure.add_subplot(rows, columns, place)
        if chart.band:
            low, value, high = chart.band
            left, right = scales.horizontal(chart)
            axes.axvspan(max(low, left), min(high, right), color="#000000", alpha=0.07, linewidth=0)
            axes.axvline(value, color="#666666", linewidth=1)
        for name, value in chart.levels:
            axes.axhline(value, color="#777777", linewidth=1, linestyle="--")
            axes.annotate(
                _plain(name), (1, value), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=8
            )
        for number, series in enumerate(chart.series):
            colour, points = COLOURS[series.colour % len(COLOURS)], series.points
            marker = _MARKERS[series.colour % len(_MARKERS)] if len(points) <= scales.MOST_MARKS else None
            xs, ys = [p.x for p in points], [p.y for p in points]
            among = number, len(chart.series)
            style = line_style(*among) if series.line else {"linestyle": ""}
            axes.plot(
                xs, ys, marker=marker, markersize=mark_size(*among), color=colour, label=_plain(series.name), **style
            )
            intervals(axes, chart, series, colour)
            bare_marks(axes, series, colour, marker, mark_size(*among))
            for p in points:
                axes.scatter([p.x] * len(p.runs), p.runs, color=colour, s=8, alpha=0.5, linewidths=0)
        for curve in chart.curves:
            axes.plot(*zip(*curve.points), color=COLOURS[curve.colour % len(COLOURS)], linewidth=1, linestyle=":")
        if chart.log:
            axes.set_xscale("log")
            scale = scales.Scale(*scales.horizontal(chart), 0, 400, True)
            marks = scales.log_ticks([p.x for s in chart.series for p in s.points], scale, 46)
            axes.set_xticks(marks, [scales.label(mark) for mark in marks])
            axes.minorticks_off()
        axes.set_xlim(*scales.horizontal(chart))
        axes.set_ylim(*scales.vertical(chart))
        axes.set_title(_plain(chart.title), fontsize=11)
        axes.set_xlabel(_plain(chart.x))
        axes.set_ylabel(_plain(chart.y))
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if len(chart.series) > 1:
            axes.legend(framealpha=0.9, edgecolor="none", fontsize=8, handlelength=4)
    out = io.BytesIO()
    figure.savefig(out, dpi=110, format="png", metadata={"Software": SOFTWARE})
    return out.getvalue()


def line_style(place: int, number: int) -> dict[str, Any]:
    """The line of one of ``number`` series, which leaves a part of each line at the same place to be seen."""
    on, off = charts.dashes(place, number)
    return {"linewidth": _WIDTH, "linestyle": (on / _WIDTH, (on / _WIDTH, off / _WIDTH)) if off else "-", "alpha": 0.9}


def mark_size(place: int, number: int) -> float:
    """The size of the marks of one of ``number`` series, in points."""
    return _MARK * charts.mark_scale(place, number)


def intervals(axes: "Axes", chart: Chart, series: Series, colour: str) -> None:
    """Draws the intervals of a series within the ranges of a chart: a bar ends in a line, or in an arrow if it is cut."""
    (left, right), (bottom, top) = scales.horizontal(chart), scales.vertical(chart)

    def end(x: float, y: float, marker: str) -> None:
        axes.plot([x], [y], marker=marker, color=colour, markersize=6, clip_on=False)

    for p in series.points:
        if p.high > p.low:
            low, high = max(p.low, bottom), min(p.high, top)
            axes.plot([p.x, p.x], [low, high], color=colour, linewidth=1)
            end(p.x, low, "v" if p.low < bottom else "_")
            end(p.x, high, "^" if p.high > top else "_")
        if p.right > p.left:
            axes.plot([max(p.left, left), min(p.right, right)], [p.y, p.y], color=colour, linewidth=1)
            if p.left < left:
                end(left, p.y, "<")
            if p.right > right:
                end(right, p.y, ">")


def bare_marks(axes: "Axes", series: Series, colour: str, marker: str | None, size: float = _MARK) -> None:
    """Draws the marks of points that have no interval open, over their filled ones."""
    for p in series.points:
        if p.bare and marker is not None:
            axes.plot(
                [p.x],
                [p.y],
                marker=marker,
                markersize=size,
                color=colour,
                markerfacecolor="white",
                linestyle="",
                zorder=3,
            )


def notes(chart: Chart) -> list[str]:
    """What the marks of a chart mean, as far as it has them."""
    return [note for note, has in ((BARE, scales.has_bare(chart)), (CUT, scales.is_cut(chart))) if has]


def _plain(text: str) -> str:
    """Text that matplotlib does not take for mathematics."""
    return one_line(text, 90).replace("$", r"\$")
