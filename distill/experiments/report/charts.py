"""Charts as inline SVG: text stays text, and the page's style sheet colours them for light and dark."""

from collections.abc import Sequence

from markupsafe import Markup

from distill.experiments.report import scales
from distill.experiments.report.blocks import Chart, Point, Series
from distill.experiments.report.text import number, one_line

COLOURS = 8
WIDTH, HEIGHT = 480, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 16, 14, 46
_DODGE = 5.0  # between the intervals of two series at the same place
_DASH = 5.0
_SHAPES = (
    "M-4 0A4 4 0 1 0 4 0A4 4 0 1 0 -4 0Z",
    "M-3.6 -3.6H3.6V3.6H-3.6Z",
    "M0 -5L5 0L0 5L-5 0Z",
    "M0 -4.8L4.6 3.4H-4.6Z",
    "M0 4.8L4.6 -3.4H-4.6Z",
)


def _escape(text: str) -> Markup:
    return Markup.escape(one_line(text))


def marker(place: int) -> Markup:
    """The marker of a series, for a legend."""
    shape = _SHAPES[place % len(_SHAPES)]
    return Markup(
        '<svg class="key" viewBox="-8 -8 16 16" aria-hidden="true"><path class="fill c{}" d="{}"/></svg>'
    ).format(place % COLOURS, Markup(shape))


def svg(chart: Chart) -> Markup:
    """A chart as an SVG element. Every string is escaped."""
    x = scales.Scale(*scales.horizontal(chart), _LEFT, WIDTH - _RIGHT, chart.log)
    y = scales.Scale(*scales.vertical(chart), HEIGHT - _BOTTOM, _TOP)
    parts = [*_grid(chart, x, y), *_levels(chart, x, y)]
    if chart.band:
        parts += _band(chart.band, x)
    for curve in chart.curves:
        path = "M" + "L".join(f"{x(a):.1f} {y(b):.1f}" for a, b in curve.points)
        parts.append(f'<path class="fit c{curve.colour % COLOURS}" d="{path}"/>')
    for place, (series, shift) in enumerate(zip(chart.series, _dodges(chart.series, x))):
        parts += _series(series, x, y, shift, (place, len(chart.series)))
    title = _escape(f"{chart.title}: {chart.y} against {chart.x}")
    return Markup(
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">'
        f"<title>{title}</title>{''.join(parts)}</svg>"
    )


def _grid(chart: Chart, x: scales.Scale, y: scales.Scale) -> list[str]:
    bottom = HEIGHT - _BOTTOM
    parts = []
    for value in scales.ticks(y.low, y.high):
        at = y(value)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(
            f'<text class="tick" x="{_LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{scales.label(value)}</text>'
        )
    values = [point.x for series in chart.series for point in series.points]
    marks = scales.log_ticks(values, x, 46) if chart.log else scales.ticks(x.low, x.high, 7)
    for value in marks:
        at = x(value)
        parts.append(f'<line class="mark" x1="{at:.1f}" x2="{at:.1f}" y1="{bottom}" y2="{bottom + 4}"/>')
        parts.append(
            f'<text class="tick" x="{at:.1f}" y="{bottom + 17}" text-anchor="middle">{scales.label(value)}</text>'
        )
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{bottom}" y2="{bottom}"/>')
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    name = f"{chart.x} (log scale)" if chart.log else chart.x
    parts.append(f'<text class="name" x="{middle:.0f}" y="{HEIGHT - 8}" text-anchor="middle">{_escape(name)}</text>')
    return parts


def _levels(chart: Chart, x: scales.Scale, y: scales.Scale) -> list[str]:
    parts: list[str] = []
    taken: list[float] = []
    for name, value in sorted(chart.levels, key=lambda level: level[1]):
        at = y(value)
        text = at - 5
        while any(abs(text - other) < 13 for other in taken):
            text -= 13
        taken.append(text)
        parts.append(f'<line class="level" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        place, anchor = _free_side(chart, x, y, text, 7.0 * len(name))
        parts.append(
            f'<text class="level-name" x="{place}" y="{max(_TOP, text):.1f}" text-anchor="{anchor}">{_escape(name)}</text>'
        )
    return parts


def _free_side(chart: Chart, x: scales.Scale, y: scales.Scale, base: float, width: float) -> tuple[int, str]:
    """Where the name of a level covers the fewest points and intervals: right, left, or in the middle of its line."""
    middle = (_LEFT + WIDTH - _RIGHT) // 2
    sides = {
        (WIDTH - _RIGHT - 2, "end"): (WIDTH - _RIGHT - width, WIDTH),
        (_LEFT + 4, "start"): (0, _LEFT + width),
        (middle, "middle"): (middle - width / 2, middle + width / 2),
    }

    def covered(span: tuple[float, float]) -> float:
        return sum(
            span[0] <= x(p.x) <= span[1] and y(p.high) - 6 <= base and y(p.low) + 6 >= base - 12
            for series in chart.series
            for p in series.points
        )

    return min(sides, key=lambda side: covered(sides[side]))


def _band(band: tuple[float, float, float], x: scales.Scale) -> list[str]:
    low, value, high = (min(max(x(end), _LEFT), WIDTH - _RIGHT) if end > 0 else _LEFT for end in band)
    height = HEIGHT - _BOTTOM - _TOP
    return [
        f'<rect class="band" x="{low:.1f}" y="{_TOP}" width="{max(1.0, high - low):.1f}" height="{height}">'
        f"<title>{number(band[1])} ({number(band[0])} – {number(band[2])})</title></rect>",
        f'<line class="best" x1="{value:.1f}" x2="{value:.1f}" y1="{_TOP}" y2="{_TOP + height}"/>',
    ]


def _dodges(series: Sequence[Series], x: scales.Scale) -> list[float]:
    """How far each series is moved sideways, so that intervals at the same place do not cover each other."""
    intervals = any(point.high > point.low for one in series for point in one.points)
    shared = (
        intervals
        and len(series) > 1
        and any(
            abs(x(a.x) - x(b.x)) < _DODGE
            for n, one in enumerate(series)
            for other in series[n + 1 :]
            for a in one.points
            for b in other.points
        )
    )
    return [(n - (len(series) - 1) / 2) * min(_DODGE, 20 / len(series)) if shared else 0.0 for n in range(len(series))]


def dashes(place: int, number: int) -> tuple[float, float]:
    """Dash and gap, which comes first, of one of ``number`` lines, so that of equal lines a part of each is seen.

    Lines are drawn over each other in order. The first is solid; each later one has a longer gap in the same period.

    >>> [dashes(place, 3) for place in range(3)]
    [(15.0, 0.0), (10.0, 5.0), (5.0, 10.0)]
    """
    count = min(number, COLOURS)
    return (count - place % count) * _DASH, place % count * _DASH


def mark_scale(place: int, number: int) -> float:
    """The size of the marks of one of ``number`` series, relative to the usual one: marks drawn over others are smaller.

    >>> [f"{mark_scale(place, 3):.2f}" for place in range(3)]
    ['1.20', '1.00', '0.83']
    """
    return 1.2 ** ((min(number, COLOURS) - 1) / 2 - place % COLOURS)


def _series(series: Series, x: scales.Scale, y: scales.Scale, shift: float, place: tuple[int, int]) -> list[str]:
    colour = series.colour % COLOURS
    bottom, top = HEIGHT - _BOTTOM, _TOP

    def clip(value: float) -> float:
        return min(max(y(value), top), bottom)

    parts = []
    if series.line and len(series.points) > 1:
        path = "M" + "L".join(f"{x(p.x) + shift:.1f} {y(p.y):.1f}" for p in series.points)
        on, off = dashes(*place)
        drawn = f' stroke-dasharray="{on:g} {off:g}" stroke-dashoffset="{on:g}"' if off else ""
        parts.append(f'<path class="line c{colour}"{drawn} d="{path}"/>')
    few = len(series.points) <= scales.MOST_MARKS
    for point in series.points:
        at = x(point.x) + shift
        if point.high > point.low:
            low, high = clip(point.low), clip(point.high)
            caps = "".join(
                f"M{at - 3:.1f} {end:.1f}h6"
                if end == y(value)
                else f"M{at - 3:.1f} {end + back:.1f}l3 {-back}l3 {back}"
                for end, value, back in ((low, point.low, -4), (high, point.high, 4))
            )
            parts.append(f'<path class="bar c{colour}" d="M{at:.1f} {low:.1f}V{high:.1f}{caps}"/>')
        if point.right > point.left:
            left, right = (min(max(x(max(end, x.low)), _LEFT), WIDTH - _RIGHT) for end in (point.left, point.right))
            arrows = "".join(
                f"M{end + back:.1f} {y(point.y) - 3:.1f}l{-back} 3l{back} 3"
                for end, back, cut in ((left, 4, point.left < x.low), (right, -4, point.right > x.high))
                if cut
            )
            parts.append(f'<path class="bar c{colour}" d="M{left:.1f} {y(point.y):.1f}H{right:.1f}{arrows}"/>')
        parts += [
            f'<circle class="run c{colour}" cx="{at + 6:.1f}" cy="{clip(run):.1f}" r="1.8"/>' for run in point.runs
        ]
        if few:
            shape, mark = _SHAPES[series.colour % len(_SHAPES)], "bare" if point.bare else "fill"
            size = mark_scale(*place)
            parts.append(
                f'<path class="{mark} c{colour}" transform="translate({at:.1f} {y(point.y):.1f}) scale({size:.2f})" '
                f'd="{shape}">'
                f"<title>{_escape(_tooltip(series, point))}</title></path>"
            )
    return parts


def _tooltip(series: Series, point: Point) -> str:
    interval = f" ({number(point.low)} – {number(point.high)})" if point.high > point.low else ""
    interval = " (too few or equal seeds for an interval)" if point.bare else interval
    return f"{point.name or series.name} at {number(point.x)}: {number(point.y)}{interval}"
