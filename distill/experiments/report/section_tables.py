"""Sections that are mostly tables: comparisons, cost, rows that change, configuration, provenance."""

import dataclasses
import math
from collections.abc import Callable, Sequence

from distill.counting import counted
from distill.experiments.report import (
    charted,
    comparisons,
    figure,
    findings,
    history,
    quantities,
    settings,
    statistics,
)
from distill.experiments.report.analysis import Analysis
from distill.experiments.report.blocks import Block, Cell, Chart, Examples, Point, Series, Table, Text
from distill.experiments.report.cost import Cost
from distill.experiments.report.text import large, number, one_line, p_value
from distill.experiments.sweep.levels import FEW_SEEDS

_SEEN = "test rows seen in training"
_MOST_COLUMNS = 8  # settings beside each other in the table of differences


def comparisons_blocks(analysis: Analysis) -> list[Block]:
    """The pairs, and Cochran's Q over all settings."""
    family = analysis.family
    if not family.comparisons:
        return []
    ordered = sorted(
        family.comparisons,
        key=lambda each: (each.p_holm if each.tested else 2.0, -abs(each.difference.value)),
    )
    partial = any(each.partial for each in ordered)
    rows: list[tuple[Cell | str, ...]] = []
    for each in ordered:
        word = Cell("cannot be distinguished" if each.tested else "no test", "soft")
        if each.seeds == 1 and not math.isnan(each.mcnemar_holm):
            word = Cell(f"two students {'differ' if each.students_apart else 'are not shown to differ'}", "soft")
        if each.apart:
            word = Cell("first is better", "good")
        need = "–" if each.apart else _short_need(each)
        rows.append(
            (
                one_line(each.a.label),
                one_line(each.b.label),
                Cell(findings.gap(analysis, each.difference), "best" if each.apart else ""),
                f"{each.seeds} of {len(each.a.runs)} and {len(each.b.runs)}" if each.partial else str(each.seeds),
                *([findings.gap(analysis, statistics.Interval(each.of_means))] if partial else []),
                p_value(each.p),
                p_value(each.p_holm),
                f"{each.only_a:,} : {each.only_b:,}",
                p_value(each.mcnemar_holm),
                word,
                need,
            )
        )
    note = (
        f"Pairs: {family.rule}. Differences are paired by seed and test row, on the shared seeds; intervals from a "
        "bootstrap over both, p from the variance components of both, or McNemar's where nothing varies. One shared seed "
        "compares two students, not two settings: there is no p, and the interval is over rows only. Corrected: Holm, over "
        "all pairs here. McNemar: exact, per seed, merged by "
        "Rüger's rule. McNemar and Cochran use only rows that the settings answer differently in one seed: n such rows "
        "give McNemar's p of at least 2^(1−n), and of two seeds the larger p counts, so one seed without such rows gives "
        "p = 1, however clear the other is. Needed: for the observed difference, at level 0.05 with power 0.8."
    )
    if partial:
        note += (
            " Means shown: those of all seeds of each setting. They differ by another number than the pairs where settings "
            "share only some seeds; no setting is called better if they point in the other direction."
        )
    blocks: list[Block] = []
    if not math.isnan(family.cochran):
        blocks.append(Text(_deciding(analysis), "plain"))
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
                "shared seeds",
                *(["means shown differ by"] if partial else []),
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
            tuple(range(3, 9 if partial else 8)),
        )
    )
    return blocks


def _deciding(analysis: Analysis) -> str:
    """Which test decides the verdicts, and what the others are for."""
    family, count = analysis.family, len(analysis.part.cells)
    q = f"p = {p_value(family.cochran)}".replace("= <", "<")
    of = f"on {counted(family.cochran_seeds, 'seed')} that all have"
    students = ", so it compares students" if family.cochran_seeds == 1 else ""
    return (
        "The verdicts rest on p corrected. McNemar's test of a pair and Cochran's Q over all "
        f"{count} settings ({q}, {of}{students}) are checks that use one seed at a time and have less power; they decide "
        "no verdict."
    )


def _short_need(each: comparisons.Comparison) -> str:
    need = each.needed
    if each.seeds < 2:
        return f"at least {FEW_SEEDS} seeds"
    if each.p_holm < statistics.ALPHA:  # the means over all seeds differ in the other direction
        return "more shared seeds"
    if need.difference == 0:
        return "no difference"
    if not each.difference.known:
        return "not known"
    seeds = f"{need.seeds:,} seeds" if need.seeds is not None else ""
    rows = f"{need.rows:,} rows" if need.rows is not None else ""
    return " or ".join(filter(None, (seeds, rows))) or "more of both"


def weight_blocks(analysis: Analysis) -> list[Block]:
    """What weighs the tasks in each setting: rates, normaliser, ``LAMBDA`` and the effective λ; empty if nothing varies."""
    cells = [cell for cell in analysis.part.cells if cell.training("lambda") > 0]
    varied = {(_rates(cell), str(cell.macro("NORMALIZER")), _lambda(cell)) for cell in cells}
    if len(varied) < 2:
        return []
    metric = str(cells[0].runs[0].record["selection"]["metric"])
    seen = settings.any_seen(analysis.part.runs)
    rows: list[tuple[Cell | str, ...]] = []
    for cell in sorted(cells, key=lambda cell: cell.training("lambda")):
        validation = analysis.evidence.mean_interval(
            [analysis.evidence.scale * score for score in cell.scores(metric, "validation")]
        )
        chosen = cell is analysis.selected
        rows.append(
            (
                Cell(one_line(cell.label), "best" if chosen else ""),
                _rates(cell),
                one_line(cell.macro("NORMALIZER") or "–"),
                _lambda(cell),
                number(cell.training("lambda")),
                findings.spread(analysis, validation),
                findings.spread(analysis, analysis.evidence.cell_interval(cell)),
                *([_seen(cell)] if seen else []),
            )
        )
    unit = ", %" if analysis.evidence.scale == 100 else ""
    headers = (
        "setting",
        settings.RATE,
        "NORMALIZER",
        "LAMBDA",
        "effective λ",
        f"validation {metric}{unit}",
        charted.metric_name(analysis),
        *([_SEEN] if seen else []),
    )
    note = (
        "By effective λ: the mean over updates of rationale weight / label weight. Bold: selected on validation. A dash: "
        "the form draws no mixture, or λ has a schedule."
    )
    return [Table(headers, tuple(rows), "Settings by effective λ", note, (4,))]


def _rates(cell: settings.Cell) -> str:
    """The mixture rates of a setting as a ratio, as in a sweep file."""
    rates = cell.runs[0].rates
    return "–" if rates is None else settings.ratio(rates)


def _seen(cell: settings.Cell) -> str:
    return settings.seen_range(cell.runs) or "–"


def _lambda(cell: settings.Cell) -> str:
    return number(quantities.lambda_of(cell))


def cost_blocks(analysis: Analysis) -> list[Block]:
    """Work, chip-hours with their spread, prices, and the Pareto fronts; empty if neither work nor time was recorded."""
    costs = analysis.costs
    timed = any(each.chip_hours.value > 0 for each in costs.settings)
    if not timed and not costs.unit:
        return []
    blocks: list[Block] = []
    if len(costs.settings) > 1 and costs.work_varies:
        blocks.append(_front_chart(analysis, costs.front, costs.unit, f"{costs.unit} of a run"))
    if costs.time_front is not None:
        blocks.append(_front_chart(analysis, costs.time_front, costs.hours, f"{costs.hours} of a run"))
    return [*blocks, _cost_table(analysis)]


def _front_chart(analysis: Analysis, front: Sequence[Cost], unit: str, axis: str) -> Chart:
    def point(each: Cost) -> Point:
        if unit == analysis.costs.hours:
            return charted.point(analysis, each.cell, each.chip_hours.value, each.chip_hours)
        return charted.point(analysis, each.cell, each.work)

    on, rest = list(front), [each for each in analysis.costs.settings if each not in front]
    series = [Series("on the front", tuple(map(point, on)), len(on) > 1, 0)]
    if rest:
        series.append(Series("other settings", tuple(map(point, rest)), False, 6))
    values = [each.x for one in series for each in one.points]
    chart = Chart(
        f"Accuracy against {unit}, with the Pareto front",
        axis,
        charted.metric_name(analysis),
        tuple(series),
        max(values) / min(values) > 2.5,
        charted.levels(analysis),
        note="The front is that of the means; the comparisons show which differences are significant.",
    )
    return dataclasses.replace(chart, note=" ".join((chart.note, *figure.notes(chart))))


def _cost_table(analysis: Analysis) -> Table:
    costs = analysis.costs
    priced = not math.isnan(costs.settings[0].price)
    columns: dict[str, Callable[[Cost], Cell | str]] = {
        "setting": lambda each: Cell(one_line(each.cell.label), "best" if costs.work_varies and each.on_front else ""),
        charted.metric_name(analysis): lambda each: findings.spread(analysis, each.accuracy),
    }
    if settings.any_seen(analysis.part.runs):
        columns[_SEEN] = lambda each: _seen(each.cell)
    if costs.unit != "tokens":
        columns["FLOPs"] = lambda each: large(each.cell.training("flops"))
    columns["tokens"] = lambda each: large(each.cell.training("tokens"))
    if costs.work_varies:
        columns[f"on the front by {costs.unit}"] = lambda each: "yes" if each.on_front else ""
    columns[costs.hours] = lambda each: _with_spread(each.chip_hours)
    columns["seconds"] = lambda each: _with_spread(each.seconds)
    if priced:
        columns["price"] = lambda each: number(each.price)
    rows = tuple(tuple(of(each) for of in columns.values()) for each in costs.settings)
    total = sum(each.chip_hours.value * len(each.cell.runs) for each in costs.settings)
    note = (
        "Per run, mean over seeds; times are without compilation, with their 95 % interval. All runs together: "
        f"{number(total)} {costs.hours}"
    )
    if priced:
        note += f", price {number(sum(each.price * len(each.cell.runs) for each in costs.settings))}."
    else:
        note += "; --price_per_chip_hour adds prices."
    if len(costs.settings) > 1 and costs.time_front is None:
        note += f" No front by {costs.hours} is given: {findings.time_reason(costs)}."
    if len(costs.settings) > 1 and not costs.work_varies and costs.unit:
        note += f" All settings do the same work in {costs.unit}, so no front by {costs.unit} is given."
    return Table(tuple(columns), rows, "", note, tuple(range(1, len(columns))))


def _with_spread(interval: statistics.Interval) -> str:
    text = number(interval.value)
    return f"{text} ({number(interval.low)} – {number(interval.high)})" if interval.known else text


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
    rows: list[tuple[Cell | str, ...]] = []
    for name, values in history.provenance(runs):
        if len(values) == 1 and values[0][1] == len(runs):
            text = one_line(values[0][0])
        else:
            shown = [f"{one_line(value, 80)} ({count} runs)" for value, count in values[:6]]
            text = ", ".join(shown) + (f" and {len(values) - 6} more" if len(values) > 6 else "")
        rows.append((one_line(name), text))
    return [Table(("what", "value"), tuple(rows))]
