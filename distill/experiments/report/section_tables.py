"""Sections that are mostly tables: comparisons, cost, rows that change, configuration, provenance."""

import math

from distill.experiments.report import charted, comparisons, findings, history, statistics
from distill.experiments.report.analysis import Analysis
from distill.experiments.report.blocks import Block, Cell, Chart, Examples, Series, Table, Text
from distill.experiments.report.text import large, number, one_line, p_value

_MOST_COLUMNS = 8  # settings beside each other in the table of differences


def comparisons_blocks(analysis: Analysis) -> list[Block]:
    """The pairs, and Cochran's Q over all settings."""
    family = analysis.family
    if not family.comparisons:
        return []
    ordered = sorted(
        family.comparisons,
        key=lambda each: (each.p_holm if not math.isnan(each.p_holm) else 2.0, -abs(each.difference.value)),
    )
    rows = []
    for each in ordered:
        word = Cell("cannot be distinguished", "soft")
        if each.apart:
            word = Cell("first is better", "good")
        need = "–" if each.apart else _short_need(each)
        rows.append(
            (
                one_line(each.a.label),
                one_line(each.b.label),
                Cell(findings.gap(analysis, each.difference), "best" if each.apart else ""),
                p_value(each.p),
                p_value(each.p_holm),
                f"{each.only_a:,} : {each.only_b:,}",
                p_value(each.mcnemar_holm),
                word,
                need,
            )
        )
    note = (
        f"Pairs: {family.rule}. Differences are paired by seed and test row; intervals from a bootstrap over both, p from "
        "the variance components of both. Corrected: Holm, over all pairs here. McNemar: exact, per seed, merged by "
        "Rüger's rule. Needed: for the observed difference, at level 0.05 with power 0.8."
    )
    blocks: list[Block] = []
    if not math.isnan(family.cochran):
        count = len(analysis.part.cells)
        verdict = (
            "the settings differ" if family.cochran < statistics.ALPHA else "no difference between settings is shown"
        )
        blocks.append(
            Text(
                f"Cochran's Q over all {count} settings: p = {p_value(family.cochran)}; {verdict}.".replace("= <", "<"),
                "plain",
            )
        )
    if any(not each.same_seeds for each in family.comparisons):
        blocks.append(
            Text("Some settings have no seed in common; their runs are paired in the order of seeds.", "note")
        )
    blocks.append(
        Table(
            (
                "first",
                "second",
                "difference (95 % interval)",
                "p",
                "p corrected",
                "only first : second right",
                "McNemar, corrected",
                "verdict",
                "needed",
            ),
            tuple(rows),
            "",
            note,
            (3, 4, 5, 6),
        )
    )
    return blocks


def _short_need(each: comparisons.Comparison) -> str:
    need = each.needed
    if each.seeds < 2:
        return "more seeds"
    if need.difference == 0:
        return "no difference"
    seeds = f"{need.seeds:,} seeds" if need.seeds is not None else ""
    rows = f"{need.rows:,} rows" if need.rows is not None else ""
    return " or ".join(filter(None, (seeds, rows))) or "more of both"


def cost_blocks(analysis: Analysis) -> list[Block]:
    """Chip-hours, prices and the Pareto front; empty if no time was recorded."""
    costs = analysis.costs
    priced = not math.isnan(costs[0].price)
    if all(each.chip_hours <= 0 for each in costs):
        return []
    rows = []
    for each in costs:
        name = Cell(one_line(each.cell.label), "best" if each.on_front else "")
        price = (number(each.price),) if priced else ()
        rows.append(
            (
                name,
                findings.spread(analysis, each.accuracy),
                number(each.chip_hours),
                *price,
                large(each.flops),
                number(each.cell.training("seconds")),
                "yes" if each.on_front else "",
            )
        )
    headers = (
        "setting",
        charted.metric_name(analysis),
        "chip-hours",
        *(("price",) if priced else ()),
        "FLOPs",
        "seconds",
        "on the front",
    )
    blocks: list[Block] = []
    hours = [each.chip_hours for each in costs if each.chip_hours > 0]
    if len(costs) > 1 and max(hours) / min(hours) >= findings.SAME_COST:
        front = [each for each in costs if each.on_front]
        rest = [each for each in costs if not each.on_front]
        series = [
            Series(
                "on the front", tuple(charted.point(analysis, e.cell, e.chip_hours) for e in front), len(front) > 1, 0
            )
        ]
        if rest:
            series.append(
                Series("other settings", tuple(charted.point(analysis, e.cell, e.chip_hours) for e in rest), False, 6)
            )
        blocks.append(
            Chart(
                "Accuracy against chip-hours, with the Pareto front",
                "chip-hours of a run",
                charted.metric_name(analysis),
                tuple(series),
                max(hours) / min(hours) > 2.5,
                charted.levels(analysis),
            )
        )
    total = sum(each.chip_hours * len(each.cell.runs) for each in costs)
    note = f"Per run, mean over seeds. All runs together: {number(total)} chip-hours"
    note += (
        f", price {number(sum(each.price * len(each.cell.runs) for each in costs))}."
        if priced
        else "; --price_per_chip_hour adds prices."
    )
    blocks.append(Table(headers, tuple(rows), "", note, tuple(range(1, len(headers) - 1))))
    return blocks


def rows_blocks(analysis: Analysis, prefix: str) -> list[Block]:
    """The rows that change most, with accuracy by kind of row."""
    blocks: list[Block] = []
    for place, found in enumerate(analysis.changes):
        ours, theirs = one_line(found.a.label), one_line(found.b.label)
        blocks.append(
            Text(
                f"{ours} against {theirs}: of {found.rows:,} rows, {found.better:,} are right in more seeds and "
                f"{found.worse:,} in fewer.",
                "plain",
            )
        )
        if found.buckets:
            rows = tuple(
                (
                    b.name,
                    f"{b.rows:,}",
                    findings.score(analysis, b.a),
                    findings.score(analysis, b.b),
                    findings.gap(analysis, b.difference),
                )
                for b in found.buckets
            )
            note = "Intervals are not corrected for the number of kinds: they suggest what to look at."
            blocks.append(
                Table(
                    ("rows", "number", ours, theirs, "difference (95 % interval)"),
                    rows,
                    "By kind of row",
                    note,
                    (1, 2, 3),
                )
            )
        if found.examples:
            blocks.append(Examples(found, f"{prefix}{place}"))
    return blocks


def configuration_blocks(analysis: Analysis) -> list[Block]:
    """The macros that differ between settings."""
    labels, rows = history.differences(analysis.part)
    if not rows:
        return [Text("All runs have the same configuration, except for seeds and folders.", "plain")]
    kept = labels[:_MOST_COLUMNS]
    if len(labels) > _MOST_COLUMNS:
        short = tuple(
            (name, one_line("; ".join(dict.fromkeys(one_line(v, 60) for v in values)), 400)) for name, values in rows
        )
        return [Table(("macro", "values"), short, "What differs between settings")]
    table = tuple((name, *(one_line(value, 120) for value in values)) for name, values in rows)
    return [Table(("macro", *map(one_line, kept)), table, "What differs between settings", wide=True)]


def provenance_blocks(analysis: Analysis) -> list[Block]:
    """Code, machine and data of the runs."""
    runs = analysis.part.runs
    rows = []
    for name, values in history.provenance(runs):
        if len(values) == 1 and values[0][1] == len(runs):
            text = one_line(values[0][0])
        else:
            shown = [f"{one_line(value, 80)} ({count} runs)" for value, count in values[:6]]
            text = ", ".join(shown) + (f" and {len(values) - 6} more" if len(values) > 6 else "")
        rows.append((one_line(name), text))
    return [Table(("what", "value"), tuple(rows))]
