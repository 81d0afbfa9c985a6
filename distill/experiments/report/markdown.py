"""The report as Markdown, for a repository or a merge request; the charts are in the PNG beside it."""

import re
from collections.abc import Sequence

from distill.experiments.report.blocks import Block, Cell, Chart, Document, Examples, Table, Text, Tiles
from distill.experiments.report.text import number, one_line, shown

_MOST_EXAMPLES = 10
_SPECIAL = str.maketrans({c: f"\\{c}" for c in "\\`*_{}[]<>#|~$&"})


def escape(value: object, limit: int = 200) -> str:
    """Text on one line, escaped so that Markdown shows it unchanged.

    >>> escape("a|b <i>*c*")
    'a\\\\|b \\\\<i\\\\>\\\\*c\\\\*'
    """
    return one_line(value, limit).translate(_SPECIAL)


def render(document: Document, picture: str | None = None) -> str:
    """Returns the report; ``picture`` is the file name of the PNG, if there is one."""
    parts = [f"# {escape(document.title)}", escape(document.subtitle)]
    for section in document.sections:
        parts.append(f"## {escape(section.title)}")
        for block in section.blocks:
            parts.append(_block(block))
        if picture and section.key.endswith("curves"):
            parts.append(f"![charts]({picture})")
    return "\n\n".join(part for part in parts if part) + "\n"


def _block(block: Block) -> str:
    if isinstance(block, Text) and block.kind == "code":
        return _code(block.text)
    if isinstance(block, Text):
        text = escape(block.text, 10_000)
        return f"> **Note:** {text}" if block.kind == "warning" else text
    if isinstance(block, Tiles):
        return "\n".join(f"- **{escape(value)}** {escape(what)} ({escape(more)})" for value, what, more in block.tiles)
    if isinstance(block, Table):
        title = f"### {escape(block.title)}\n\n" if block.title else ""
        note = f"\n\n{escape(block.note, 10_000)}" if block.note else ""
        return title + _table(block.headers, block.rows) + note
    if isinstance(block, Chart):
        return _chart(block)
    return _examples(block)


def _code(text: str) -> str:
    """A block of code; its fence is longer than any run of backticks in it."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}\n{shown(text, 10_000).rstrip()}\n{fence}"


def _table(headers: Sequence[str], rows: Sequence[Sequence[Cell | str]]) -> str:
    lines = [headers, ["---"] * len(headers)]
    lines += [[_cell(value) for value in row] for row in rows]
    return "\n".join("| " + " | ".join(escape(v) if n == 0 else v for v in line) + " |" for n, line in enumerate(lines))


def _cell(value: Cell | str) -> str:
    text = escape(value.text if isinstance(value, Cell) else value, 400)
    return f"**{text}**" if isinstance(value, Cell) and value.mark == "best" and text else text


def _chart(chart: Chart) -> str:
    """A chart as the table of its points; long curves, such as losses, are only in the picture."""
    if sum(len(series.points) for series in chart.series) > 60:
        return f"### {escape(chart.title)}\n\nIn the picture."
    named = any(point.name not in ("", series.name) for series in chart.series for point in series.points)
    rows = []
    for series in chart.series:
        for point in series.points:
            interval = f"{number(point.low, 4)} – {number(point.high, 4)}" if point.high > point.low else "–"
            setting = [point.name] if named else []
            rows.append([series.name, *setting, number(point.x), number(point.y, 4), interval])
    levels = "".join(f"\n\n{escape(name)}" for name, _ in chart.levels)
    headers = ["line", *["setting"] * named, chart.x, chart.y, "95 % interval"]
    return f"### {escape(chart.title)}\n\n" + _table(headers, rows) + levels


def _examples(block: Examples) -> str:
    changes = block.changes
    rows = [
        [each.id, each.input, each.target, str(each.a), str(each.b), each.teacher or "–"]
        for each in changes.examples[:_MOST_EXAMPLES]
    ]
    headers = ["row", "input", "target", changes.a.label, changes.b.label, "teacher"]
    return _table(headers, [[one_line(value, 120) for value in row] for row in rows])
