"""The page: statistics as static HTML, rows as compressed data for the script."""

import base64
import gzip
import hashlib
import importlib.resources
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

from distill.counting import counted
from distill.tasks import metrics
from distill.tasks.records import Record
from distill.teacher.assembly.provenance import Summary
from distill.teacher.inspect.charts import bars, escape, histogram
from distill.teacher.inspect.statistics import FLAGS, NORMALIZERS, PERCENTILES, Plan, Statistics

CHUNK = 500
_MOST_LABELS = 12  # largest confusion matrix shown
_MOST_CHOICES = 300  # in the label filter
_GENERATOR = '<meta name="generator" content="distill inspect">'
_NOT_TROUBLE = ("agrees", "given the answer", "no gold label")


def _file(name: str) -> str:
    return (importlib.resources.files("distill.teacher.inspect") / name).read_text(encoding="utf-8")


def _packed(identity: str, value: Any) -> str:
    """Compressed JSON as text that cannot end the script element."""
    data = json.dumps(value, ensure_ascii=True, separators=(",", ":")).encode()
    packed = base64.b64encode(gzip.compress(data, 6, mtime=0)).decode()
    return f'<script type="application/octet-stream" id="{identity}">{packed}</script>'


def _plain(identity: str, value: Any) -> str:
    text = json.dumps(value, ensure_ascii=True).replace("<", "\\u003c")
    return f'<script type="application/json" id="{identity}">{text}</script>'


def _hash(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


def render(
    title: str,
    records: Sequence[Record],
    stats: Statistics,
    plan: Plan,
    *,
    summary: Summary | None = None,
    notes: Sequence[str] = (),
    failures: Sequence[Mapping[str, Any]] = (),
    remarks: Sequence[str] = (),
) -> str:
    """The whole page.

    Args:
      title: heading.
      records: the rows.
      stats: their statistics.
      plan: the planned training settings.
      summary: their origin.
      notes: one line per row for its card ("by teacher …"), or empty.
      failures: failures in the form that ``extract`` writes.
      remarks: paragraphs under the heading.
    """
    script, style = _file("page.js"), _file("page.css")
    labels = list(dict.fromkeys([*stats.gold_balance, *stats.teacher_balance]))
    # The policy forbids loading anything and running any other script, whatever a row contains.
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src {_hash(script)}; base-uri 'none'"
    failure_chunks = -(-len(failures) // CHUNK)
    meta = {
        "rows": len(records),
        "chunk": CHUNK,
        "failureChunks": failure_chunks,
        "labels": labels,
        "flags": list(FLAGS),
        "good": list(_NOT_TROUBLE),
        "unit": stats.unit.split(" ")[0],
    }
    body = [
        f"<h1>{escape(title)}</h1>",
        *(f'<p class="sub">{escape(remark)}</p>' for remark in remarks),
        _tiles(stats),
        '<div class="grid">',
        _labels_section(stats),
        _agreement_section(stats),
        *(_length_section(each, stats.unit) for each in stats.lengths),
        _lambda_section(stats, plan),
        _quality_section(stats),
        _origin_section(summary),
        _browser(stats, labels, failures),
        "</div>",
    ]
    data = [
        _plain("meta", meta),
        _packed("columns", _columns(records, stats, labels)),
        *_rows(records, notes, failures),
    ]
    data += [_packed(f"failures-{n}", list(failures[n * CHUNK : (n + 1) * CHUNK])) for n in range(failure_chunks)]
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">{_GENERATOR}'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{style}</style></head>\n<body><main>"
        + "\n".join(body)
        + "</main>\n"
        + "\n".join(data)
        + f"\n<script>{script}</script></body></html>\n"
    )


def is_page(file: BinaryIO) -> bool:
    """Whether a file holds a page of :func:`render`."""
    return _GENERATOR.encode() in file.read(1000)


def _columns(records: Sequence[Record], stats: Statistics, labels: Sequence[str]) -> dict[str, list[Any]]:
    place = {label: n for n, label in enumerate(labels)}
    return {
        "flags": [sum(1 << flag for flag in row) for row in stats.flags],
        "gold": [-1 if record.label is None else place[record.label] for record in records],
        "teacher": [-1 if record.llm_label is None else place[record.llm_label] for record in records],
        "input": [lengths[0] for lengths in stats.row_lengths],
        "target": [lengths[1] for lengths in stats.row_lengths],
        "rationale": [lengths[2] for lengths in stats.row_lengths],
        "weight": [round(record.weight, 6) for record in records],
    }


def _rows(records: Sequence[Record], notes: Sequence[str], failures: Sequence[Mapping[str, Any]]) -> list[str]:
    failed: dict[str, list[dict[str, Any]]] = {}
    for failure in failures:
        own = {name: value for name, value in failure.items() if name != "input"}
        failed.setdefault(str(failure.get("id", "")), []).append(own)
    rows = [
        [
            record.id,
            record.input,
            list(record.rationales),
            notes[n] if n < len(notes) else "",
            failed.get(record.id, []),
        ]
        for n, record in enumerate(records)
    ]
    return [_packed(f"rows-{n // CHUNK}", rows[n : n + CHUNK]) for n in range(0, len(rows), CHUNK)]


def _tiles(stats: Statistics) -> str:
    def of(number: int) -> str:
        return f"{number / stats.rows:.1%} of rows" if stats.rows else ""

    tiles = [
        ("rows", f"{stats.rows:,}", ""),
        ("with a rationale", f"{stats.explained:,}", of(stats.explained)),
        ("with a teacher's label", f"{stats.answered:,}", of(stats.answered)),
        ("with a gold label", f"{stats.labelled:,}", of(stats.labelled)),
    ]
    if stats.compared:
        low, high = metrics.wilson(stats.agreed, stats.compared)
        tiles.append(
            (
                "teacher agrees with gold",
                f"{stats.agreed / stats.compared:.1%}",
                f"95 % interval {low:.1%} – {high:.1%}",
            )
        )
    if stats.told:
        tiles.append(("given the answer", f"{stats.told:,}", of(stats.told)))
    tiles.append(("failed replies", f"{stats.failed:,}", "neither answer nor rationale" if stats.failed else "none"))
    if stats.undecided:
        tiles.append(("undecided replies", f"{stats.undecided:,}", "a rationale and no answer"))
    for each in stats.lengths:
        if each.limit is not None:
            tiles.append((f"{each.name} cut", f"{each.truncated:.2%}", f"at {each.limit:,} {stats.unit.split(' ')[0]}"))
    cells = (
        f'<div class="tile"><b>{value}</b><span>{escape(name)}</span><em>{escape(more)}</em></div>'
        for name, value, more in tiles
    )
    columns = f"--wide: {_columns_for(len(tiles), 7, 4)}; --middle: {_columns_for(len(tiles), 5, 3)}"
    return f'<div class="tiles" id="tiles" style="{columns}">{"".join(cells)}</div>'


def _columns_for(number: int, most: int, least: int) -> int:
    """Number of tiles per row that fills the last row best; the largest, if several are equally good.

    >>> [_columns_for(number, 7, 4) for number in (4, 7, 8, 9, 10, 11)]
    [4, 7, 4, 5, 5, 6]
    """
    return min(range(most, least - 1, -1), key=lambda columns: -number % columns)


def _labels_section(stats: Statistics) -> str:
    parts = ["<section><h2>Labels</h2>"]
    for name, counts in (("gold", stats.gold_balance), ("teacher", stats.teacher_balance)):
        if counts:
            parts.append(f"<h3>{name}: {len(counts):,} different</h3>{bars(counts, most=8)}")
    if stats.positions:
        parts.append(f"<h3>place of the gold choice among the options</h3>{bars(stats.positions)}")
    if not (stats.gold_balance or stats.teacher_balance):
        parts.append('<p class="none">no labels</p>')
    return "".join(parts) + "</section>"


def _agreement_section(stats: Statistics) -> str:
    parts = ["<section><h2>Agreement</h2>"]
    if not stats.compared:
        parts.append('<p class="none">no row has both a gold label and a teacher\'s label</p>')
    else:
        parts.append(
            f"<p>Of the {counted(stats.compared, 'row')} with both labels, teacher and gold agree on {stats.agreed:,} and "
            f"disagree on {stats.compared - stats.agreed:,}; {stats.rows - stats.compared:,} of all {stats.rows:,} rows "
            "lack one of the labels.</p>"
        )
        names = list(dict.fromkeys([*stats.gold_balance, *stats.teacher_balance]))
        if len(names) <= _MOST_LABELS:
            parts.append(_confusion(stats, names))
        else:
            wrong = {f"{gold} → {teacher}": count for (gold, teacher), count in stats.disagreements.items()}
            drawn = bars(wrong, most=6, total=stats.compared, long=True)
            parts.append(f"<h3>most frequent disagreements, gold → teacher</h3>{drawn}")
    if stats.shares:
        parts.append("<h3>vote share of the winning label, rows with several votes</h3>")
        parts.append(histogram(stats.shares, bins=20, unit="share", title="vote shares"))
    numbers = {f"{number} rationale{'s' if number != 1 else ''}": rows for number, rows in stats.rationales.items()}
    parts.append(f"<h3>rationales per row</h3>{bars(numbers)}")
    return "".join(parts) + "</section>"


def _confusion(stats: Statistics, names: Sequence[str]) -> str:
    head = "".join(f'<th class="n" title="{escape(name)}">{escape(name)}</th>' for name in names)
    rows = []
    for gold in names:
        cells = []
        for teacher in names:
            count = stats.confusion.get((gold, teacher), 0)
            cells.append(f'<td class="{"hit" if gold == teacher else ""}">{count:,}</td>')
        rows.append(f'<tr><th title="{escape(gold)}">{escape(gold)}</th>{"".join(cells)}</tr>')
    return (
        '<h3>gold (down) and teacher (across)</h3><div class="scroll"><table class="confusion">'
        f"<thead><tr><th></th>{head}</tr></thead>{''.join(rows)}</table></div>"
    )


def _length_section(each: Any, unit: str) -> str:
    values = each.percentiles()
    names = "".join(f'<th class="n">{"max" if q == 100 else f"p{q}"}</th>' for q in PERCENTILES)
    cells = "".join(f'<td class="n">{values.get(q, 0):,}</td>' for q in PERCENTILES)
    cut = "no limit given" if each.limit is None else f"{each.truncated:.2%} longer than {each.limit:,}"
    return (
        f"<section><h2>Length of {escape(each.name)}</h2>"
        f"{histogram(each.values, limit=each.limit, unit=unit, title=f'length of {each.name}')}"
        '<div class="scroll">'
        f'<table><thead><tr><th class="n">sequences</th><th class="n">mean</th>{names}</tr></thead>'
        f'<tr><td class="n">{len(each.values):,}</td><td class="n">{each.mean:.1f}</td>{cells}</tr></table></div>'
        f'<p class="note">in {escape(unit)}; {cut}</p></section>'
    )


def _lambda_section(stats: Statistics, plan: Plan) -> str:
    def shown(value: float) -> str:
        return "–" if math.isnan(value) else f"{value:.3g}"

    rows = "".join(
        f'<tr><th>{name}</th><td class="n">{shown(stats.effective[name][0])}</td>'
        f'<td class="n">{shown(stats.effective[name][1])}</td></tr>'
        for name in NORMALIZERS
    )
    return (
        '<section id="lambda"><h2>Effective λ</h2>'
        f"<p>The weight that the rationale loss gets beside the label loss, at λ = {plan.lam:g}, "
        f"{plan.batch_size:,} rows per batch, rates {plan.label_rate:g} : {plan.rationale_rate:g}.</p>"
        '<table><thead><tr><th>normaliser</th><th class="n">paired</th><th class="n">mixed</th></tr></thead>'
        f"{rows}</table>"
        '<p class="note">task_tokens and task_examples divide each task by its own size, so λ is unchanged. '
        "all_tokens divides both by all tokens: λ is multiplied by the ratio of rationale tokens to label tokens.</p>"
        "</section>"
    )


def _quality_section(stats: Statistics) -> str:
    parts = ['<section class="wide"><h2>Duplicates, leaks, failures</h2>']
    parts.append(
        f"<p>{stats.duplicate_inputs:,} rows share their input with another row; {stats.contradictions:,} of these have "
        "different gold labels.</p>"
    )
    if stats.repeated:
        parts.append(
            f"<h3>rationales that several rows share</h3>{bars(dict(stats.repeated), most=6, total=stats.rows, long=True)}"
        )
    if stats.leaks:
        parts.append(
            "<h3>rationales that give the answer away</h3>"
            + bars(stats.leaks, total=max(1, stats.explained), long=True)
        )
    total = sum(stats.failures.values())
    if total:
        parts.append(
            f"<h3>replies without an answer by reason: {stats.failed:,} failed, {stats.undecided:,} undecided</h3>"
            f"{bars(stats.failures, long=True)}"
        )
    if not (stats.repeated or stats.leaks or total):
        parts.append('<p class="none">no rationale is shared, none leaks, no reply failed</p>')
    return "".join(parts) + "</section>"


_ORIGIN = ("teacher", "model", "prompt", "settings", "rows", "tokens read / written", "dates")


def _origin_section(summary: Summary | None) -> str:
    if summary is None or not summary.origins:
        return ""
    rows = []
    for origin in summary.origins:
        settings = ", ".join(f"{name} {value}" for name, value in origin.settings.items())
        cells = (
            origin.teacher,
            origin.model,
            f"{origin.prompt} {origin.prompt_hash}",
            settings,
            f"{origin.rows:,}",
            f"{origin.usage.prompt_tokens:,} / {origin.usage.completion_tokens:,}",
            f"{origin.first[:10]} – {origin.last[:10]}",
        )
        named = zip(_ORIGIN, cells)
        rows.append("<tr>" + "".join(f'<td data-name="{name}">{escape(cell)}</td>' for name, cell in named) + "</tr>")
    head = "".join(f"<th>{name}</th>" for name in _ORIGIN)
    return (
        '<section class="wide"><h2>Where the rationales come from</h2><table class="origins">'
        f"<thead><tr>{head}</tr></thead>{''.join(rows)}</table></section>"
    )


def _browser(stats: Statistics, labels: Sequence[str], failures: Sequence[Mapping[str, Any]]) -> str:
    counts = [sum(n in row for row in stats.flags) for n in range(len(FLAGS))]
    chips = "".join(
        f'<button class="chip" data-flag="{n}" aria-pressed="false">{escape(flag)}<small>{counts[n]:,}</small></button>'
        for n, flag in enumerate(FLAGS)
        if counts[n]
    )
    options = "".join(
        f'<option value="{escape(label)}">{escape(label[:60])}</option>' for label in labels[:_MOST_CHOICES]
    )
    reasons = "".join(
        f'<option value="{escape(reason)}">{escape(reason)} ({n:,})</option>' for reason, n in stats.failures.items()
    )
    return (
        '<section class="wide" id="browse"><h2>Examples</h2>'
        f'<div class="tabs" role="tablist"><button role="tab" data-view="rows">Rows ({stats.rows:,})</button>'
        f'<button role="tab" data-view="failures">Failures ({len(failures):,})</button></div>'
        '<div class="controls"><input type="search" id="search" aria-label="search" '
        'placeholder="search inputs, rationales, labels, ids">'
        f'<select id="label" aria-label="label"><option value="">any label</option>{options}</select>'
        '<select id="sort" aria-label="order"><option value="">in file order</option>'
        '<option value="input">longest input first</option><option value="rationale">longest rationale first</option>'
        '<option value="weight">lowest weight first</option></select>'
        f'<select id="reason" aria-label="reason" hidden><option value="">any reason</option>{reasons}</select></div>'
        f'<div class="chips" id="chips">{chips}</div><div id="list"><p class="none">unpacking …</p></div>'
        '<div class="pager"><button id="before">◂ before</button><span id="count"></span>'
        '<button id="after">after ▸</button></div>'
        "</section>"
    )
