"""Small charts as inline SVG, without downloads, for light and dark themes."""

import html
from collections.abc import Mapping, Sequence

WIDTH, HEIGHT = 440, 150
_LEFT, _BOTTOM, _TOP = 44, 22, 10


def escape(text: object) -> str:
    """``text`` as HTML."""
    return html.escape(str(text), quote=True)


def _nice(value: float) -> float:
    """A round number no less than ``value``."""
    power = 1.0
    while power * 10 <= value:
        power *= 10
    while power > value > 0:
        power /= 10
    return next((step * power for step in (1, 2, 5, 10) if step * power >= value), 10 * power)


def histogram(
    values: Sequence[float], *, limit: float | None = None, unit: str = "", bins: int = 40, title: str = ""
) -> str:
    """A histogram; values beyond ``limit`` are highlighted, and a line marks it.

    Args:
      values: the values.
      limit: the planned length.
      unit: of the values.
      bins: maximum number of bars.
      title: for screen readers.
    """
    if not values:
        return '<p class="none">nothing to show</p>'
    low, high = 0.0, float(max(values))
    # The last bar holds all values beyond the 99.5th percentile, so that outliers do not compress the rest.
    ordered = sorted(values)
    bulk = float(ordered[min(len(ordered) - 1, int(0.995 * len(ordered)))])
    top = high if high <= 1.5 * max(bulk, limit or 0.0) else max(bulk, limit or 0.0) * 1.1
    whole = all(float(value).is_integer() for value in values)
    step = max((top - low) / bins, 1.0 if whole else 1e-9)
    if whole:
        step = float(-(-int(top + 1) // bins)) if top + 1 > bins else 1.0
    number = max(1, min(bins, int((top - low) / step) + 1))
    counts = [0] * number
    for value in values:
        counts[min(number - 1, int((value - low) / step))] += 1
    ceiling = _nice(max(counts))
    plot_width, plot_height = WIDTH - _LEFT - 8, HEIGHT - _BOTTOM - _TOP
    wide = plot_width / number
    parts = [_axis(ceiling, plot_height)]
    for n, count in enumerate(counts):
        if not count:
            continue
        start, end = low + n * step, low + (n + 1) * step
        tall = max(1.0, count / ceiling * plot_height)
        beyond = ' class="beyond"' if limit is not None and start > limit else ' class="bar"'
        name = f"{start:g}" if whole and step == 1 else f"{start:g} to {end - (1 if whole else 0):g}"
        name = f"{start:g} and more" if n == number - 1 and high > end else name
        parts.append(
            f'<rect{beyond} x="{_LEFT + n * wide + 0.5:.1f}" y="{_TOP + plot_height - tall:.1f}" '
            f'width="{max(wide - 1, 0.5):.1f}" height="{tall:.1f}">'
            f"<title>{escape(name)} {escape(unit)}: {count:,}</title></rect>"
        )
    end = low + number * step
    between = _nice((end - low) / 8)
    at = 0.0
    while at <= end:
        x = _LEFT + (at - low) / (end - low) * plot_width + (wide / 2 if whole and step == 1 else 0)
        if x <= WIDTH - 8:
            parts.append(f'<text class="tick" x="{x:.1f}" y="{HEIGHT - 6}" text-anchor="middle">{at:g}</text>')
        at = round(at + between, 9)
    if limit is not None and limit <= end:
        x = _LEFT + (limit - low) / (end - low) * plot_width
        parts.append(f'<line class="limit" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP - 6}" y2="{_TOP + plot_height}"/>')
        side, shift = ("end", -4) if x > WIDTH / 2 else ("start", 4)
        parts.append(
            f'<text class="limit-name" x="{x + shift:.1f}" y="{_TOP + 2}" text-anchor="{side}">limit {limit:g}</text>'
        )
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}" preserveAspectRatio="xMinYMin meet">'
        f"{''.join(parts)}</svg>"
    )


def _axis(ceiling: float, plot_height: float) -> str:
    parts = []
    for share in (0.0, 0.5, 1.0):
        y = _TOP + plot_height * (1 - share)
        value = ceiling * share
        text = f"{value / 1000:g}k" if value >= 10_000 else f"{value:g}"
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - 8}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 6}" y="{y + 3:.1f}" text-anchor="end">{text}</text>')
    return "".join(parts)


def bars(counts: Mapping[str, int], *, most: int = 12, total: int | None = None, long: bool = False) -> str:
    """Horizontal bars with numbers and shares; names beyond ``most`` are summed in one line.

    Args:
      counts: name → number, in the order to show.
      most: maximum number of bars.
      total: denominator of shares and widths; by default the sum.
      long: whether the names are sentences, which need a wide column.
    """
    if not counts:
        return '<p class="none">none</p>'
    total = total or sum(counts.values()) or 1
    rows = []
    for name, count in list(counts.items())[:most]:
        share = min(100.0, 100.0 * count / total)
        rows.append(
            f'<tr><th title="{escape(name)}">{escape(name)}</th><td class="track"><i style="width:{share:.1f}%"></i></td>'
            f'<td class="number">{count:,}</td><td class="share">{count / total:.1%}</td></tr>'
        )
    rest = list(counts.values())[most:]
    if rest:
        rows.append(
            f'<tr class="rest"><th>{len(rest):,} others</th><td></td><td class="number">{sum(rest):,}</td>'
            f'<td class="share">{sum(rest) / total:.1%}</td></tr>'
        )
    return f'<table class="bars{" long" if long else ""}">{"".join(rows)}</table>'
