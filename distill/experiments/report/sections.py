"""Turns analyses into the sections of a report."""

import math
from collections.abc import Sequence

import numpy as np

from distill.experiments.report import comparisons, findings, history, quantities, statistics
from distill.experiments.report.analysis import Analysis
from distill.experiments.report.blocks import Block, Cell, Chart, Curve, Examples, Point, Section, Series, Table, Text, Tiles
from distill.experiments.report.collect import Unfinished
from distill.experiments.report.optimum import Optimum, validation_scores
from distill.experiments.report.settings import Cell as Setting
from distill.experiments.report.text import large, number, one_line, p_value, signed

MOST_CURVES = 6
_MOST_COLUMNS = 8  # settings beside each other in the table of differences
NO_START = (
    "The students before distillation are not drawn: no run has an evaluation at step 0. A run that starts from another run "
    "has that row if the other one is given too; else score the initial checkpoint once with distill eval."
)


def of(analysis: Analysis, unfinished: Sequence[Unfinished], prefix: str = "", suffix: str = "") -> list[Section]:
    """The sections about one part; ``prefix`` makes anchors unique, ``suffix`` names the part in headings."""
    made: list[tuple[str, str, Sequence[Block]]] = [
        ("findings", "What the data show", _findings(analysis, unfinished)),
        ("curves", "Curves", _curves(analysis)),
        ("answers", "Answers", _answers(analysis)),
        ("comparisons", "Comparisons", _comparisons(analysis)),
        ("cost", "Cost", _cost(analysis)),
        ("rows", "Rows that change", _rows(analysis, prefix)),
        ("training", "Training curves", _training(analysis)),
        ("configuration", "Configuration", _configuration(analysis)),
        ("provenance", "Provenance", _provenance(analysis)),
    ]
    return [Section(prefix + key, title + suffix, tuple(blocks)) for key, title, blocks in made if blocks]


def _metric_name(analysis: Analysis) -> str:
    return f"test {analysis.evidence.metric}{', %' if analysis.evidence.scale == 100 else ''}"


def _findings(analysis: Analysis, unfinished: Sequence[Unfinished]) -> list[Block]:
    evidence, part, cell = analysis.evidence, analysis.part, analysis.selected
    interval = evidence.cell_interval(cell)
    tiles = [(findings.score(analysis, interval.value), f"test {evidence.metric}, selected setting", one_line(cell.label, 60))]
    for head in analysis.headlines:
        found = comparisons.oriented(analysis.family, head.a, head.b)
        if found is not None and len(tiles) < 3:
            told = "told apart" if found.apart else "cannot be told apart"
            unit = " points" if evidence.scale == 100 else ""
            value = signed(found.difference.value, 1 if unit else 3) + unit
            tiles.append((value, f"against {one_line(head.b.label, 50)}", f"{told}, p = {p_value(found.p_holm)}".replace("= <", "<")))
    bounded = [each for each in analysis.optima if each.bounded]
    if bounded:
        best = min(bounded, key=lambda each: each.lam.high / max(each.lam.low, 1e-9))
        interval_text = findings.lam_interval(best).split("interval ")[-1].rstrip(")")
        tiles.append((f"λ = {number(best.lam.value, 2)}", "best effective λ", f"{interval_text}{_line_name(best)}"))
    elif analysis.shares:
        tiles.append((findings.share_text(analysis.shares[0]).split(" (")[0], "of the data is enough", one_line(analysis.shares[0].line, 50)))
    seeds = sorted({len(each.runs) for each in part.cells})
    tiles.append((f"{len(part.runs)} runs", f"{len(part.cells)} settings, {'–'.join(map(str, dict.fromkeys((seeds[0], seeds[-1]))))} seeds each", f"{part.rows:,} test rows"))
    blocks: list[Block] = [Tiles(tuple(tiles))]
    blocks.append(Text("\n".join(findings.sentences(analysis)), "finding"))
    blocks.append(
        Text(
            "Settings and steps were selected on validation. Every test number is of the parameters that validation selected, "
            "evaluated once at the end of its run.",
            "note",
        )
    )
    blocks += [Text(warning, "warning") for warning in findings.warnings(analysis, unfinished)]
    return blocks


def _line_name(found: Optimum) -> str:
    return "" if found.line == "all settings" else f", {one_line(found.line, 40)}"


def point(analysis: Analysis, cell: Setting, x: float) -> Point:
    """A setting's mean, interval and runs as a point of a chart."""
    interval = analysis.evidence.cell_interval(cell)
    low, high = (interval.low, interval.high) if interval.known else (interval.value, interval.value)
    runs = tuple(analysis.evidence.run_score(run) for run in cell.runs) if len(cell.runs) > 1 else ()
    return Point(x, interval.value, low, high, runs, cell.label)


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


def _curves(analysis: Analysis) -> list[Block]:
    blocks: list[Block] = []
    for each in quantities.varying(analysis.part):
        lines = quantities.lines(analysis.part, each)
        series = tuple(
            Series(line.name, tuple(point(analysis, c, v) for c, v in zip(line.cells, line.values)), line.varies and line.connected, place)
            for place, line in enumerate(lines)
        )
        if series:
            values = [value for line in lines for value in line.values]
            blocks.append(
                Chart(each.heading, each.name, _metric_name(analysis), series, max(values) / min(values) > 2.5, levels(analysis))
            )
    if blocks:
        note = "Points: mean over seeds with Student's 95 % interval; small dots: single runs. Intervals are over seeds, on these test rows."
        blocks.append(Text(note, "note"))
        if analysis.before is None:
            blocks.append(Text(NO_START, "note"))
        if analysis.teacher is None:
            blocks.append(Text("The teacher's accuracy is not drawn: the test rows do not contain its answers.", "note"))
    return blocks


def _answers(analysis: Analysis) -> list[Block]:
    blocks: list[Block] = []
    if analysis.shares:
        rows = tuple(
            (one_line(each.line), one_line(each.standard), findings.score(analysis, each.goal), Cell(findings.share_text(each), "best"))
            for each in analysis.shares
        )
        blocks.append(
            Table(
                ("line", "compared with", "its score with all data", "share of the data that equals it"),
                rows,
                "How much data is enough",
                "Linear in the logarithm of the rows; interval from a bootstrap over seeds and rows.",
            )
        )
    if analysis.smallest:
        rows = tuple(
            (
                one_line(each.line),
                Cell(large(each.parameters.value) if math.isfinite(each.parameters.value) else "none", "best"),
                f"{large(each.parameters.low) if math.isfinite(each.parameters.low) else 'none'} to "
                f"{large(each.parameters.high) if math.isfinite(each.parameters.high) else 'none'}",
                large(each.certain) if math.isfinite(each.certain) else "none",
            )
            for each in analysis.smallest
        )
        blocks.append(
            Table(
                ("line", "smallest student that beats the teacher", "95 % interval", "smallest with a lead whose interval excludes 0"),
                rows,
                "How small a student beats the teacher",
                "Parameters. 'none': no size that was trained beats the teacher.",
            )
        )
    for each in analysis.optima:
        blocks.append(_fit_chart(analysis, each))
        blocks.append(Text(f"{findings.optimum_sentence(analysis, each)}\n\n{findings.next_runs_text(each)}", "beside"))
    return blocks


def _fit_chart(analysis: Analysis, found: Optimum) -> Chart:
    line = next(l for l in quantities.lines(analysis.part, quantities.quantity("effective")) if l.name == found.line)
    points = []
    for value, scores, cell in zip(line.values, validation_scores(analysis.evidence, line), line.cells):
        interval = statistics.mean_interval(scores)
        low, high = (interval.low, interval.high) if interval.known else (interval.value, interval.value)
        points.append(Point(value, interval.value, low, high, tuple(scores), cell.label))
    grid = np.geomspace(min(line.values), max(line.values), 60)
    curve = Curve(tuple(zip(grid.tolist(), found.fit(grid).tolist())))
    band = (found.lam.low, found.lam.value, found.lam.high) if found.bounded else None
    unit = ", %" if analysis.evidence.scale == 100 else ""
    metric = str(line.cells[0].runs[0].record["selection"]["metric"])
    return Chart(
        f"Where the best λ is{'' if found.line == 'all settings' else f': {found.line}'}",
        "effective λ",
        f"validation {metric}{unit}",
        (Series(found.line, tuple(points), False),),
        True,
        (),
        (curve,),
        band,
        "Dotted: parabola in log λ, weighted by the variances of the means. Grey: 95 % interval of its maximum.",
    )


def _comparisons(analysis: Analysis) -> list[Block]:
    family = analysis.family
    if not family.comparisons:
        return []
    ordered = sorted(family.comparisons, key=lambda each: (each.p_holm if not math.isnan(each.p_holm) else 2.0, -abs(each.difference.value)))
    rows = []
    for each in ordered:
        word = Cell("cannot be told apart", "soft")
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
        f"Pairs: {family.rule}. Differences are paired by seed and test row; intervals from a bootstrap over both, p from the "
        "variance components of both. Corrected: Holm, over all pairs here. McNemar: exact, per seed, merged by Rüger's rule. "
        "Needed: for the observed difference, at level 0.05 with power 0.8."
    )
    blocks: list[Block] = []
    if not math.isnan(family.cochran):
        count = len(analysis.part.cells)
        verdict = "the settings differ" if family.cochran < statistics.ALPHA else "no difference between settings is shown"
        blocks.append(Text(f"Cochran's Q over all {count} settings: p = {p_value(family.cochran)}; {verdict}.".replace("= <", "<"), "plain"))
    if any(not each.same_seeds for each in family.comparisons):
        blocks.append(Text("Some settings have no seed in common; their runs are paired in the order of seeds.", "note"))
    blocks.append(
        Table(
            ("first", "second", "difference (95 % interval)", "p", "p corrected", "only first : second right", "McNemar, corrected", "verdict", "needed"),
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


def _cost(analysis: Analysis) -> list[Block]:
    costs = analysis.costs
    priced = not math.isnan(costs[0].price)
    if all(each.chip_hours <= 0 for each in costs):
        return []
    rows = []
    for each in costs:
        name = Cell(one_line(each.cell.label), "best" if each.on_front else "")
        price = (number(each.price),) if priced else ()
        rows.append(
            (name, findings.spread(analysis, each.accuracy), number(each.chip_hours), *price, large(each.flops), number(each.cell.training("seconds")), "yes" if each.on_front else "")
        )
    headers = ("setting", _metric_name(analysis), "chip-hours", *(("price",) if priced else ()), "FLOPs", "seconds", "on the front")
    blocks: list[Block] = []
    hours = [each.chip_hours for each in costs if each.chip_hours > 0]
    if len(costs) > 1 and max(hours) / min(hours) >= findings.SAME_COST:
        front = [each for each in costs if each.on_front]
        rest = [each for each in costs if not each.on_front]
        series = [Series("on the front", tuple(point(analysis, e.cell, e.chip_hours) for e in front), len(front) > 1, 0)]
        if rest:
            series.append(Series("other settings", tuple(point(analysis, e.cell, e.chip_hours) for e in rest), False, 6))
        blocks.append(
            Chart("Accuracy against chip-hours, with the Pareto front", "chip-hours of a run", _metric_name(analysis), tuple(series), max(hours) / min(hours) > 2.5, levels(analysis))
        )
    total = sum(each.chip_hours * len(each.cell.runs) for each in costs)
    note = f"Per run, mean over seeds. All runs together: {number(total)} chip-hours"
    note += f", price {number(sum(each.price * len(each.cell.runs) for each in costs))}." if priced else "; --price_per_chip_hour adds prices."
    blocks.append(Table(headers, tuple(rows), "", note, tuple(range(1, len(headers) - 1))))
    return blocks


def _rows(analysis: Analysis, prefix: str) -> list[Block]:
    blocks: list[Block] = []
    for place, found in enumerate(analysis.changes):
        ours, theirs = one_line(found.a.label), one_line(found.b.label)
        blocks.append(
            Text(
                f"{ours} against {theirs}: of {found.rows:,} rows, {found.better:,} are right in more seeds and {found.worse:,} in fewer.",
                "plain",
            )
        )
        if found.buckets:
            rows = tuple(
                (b.name, f"{b.rows:,}", findings.score(analysis, b.a), findings.score(analysis, b.b), findings.gap(analysis, b.difference))
                for b in found.buckets
            )
            note = "Intervals are not corrected for the number of kinds: they suggest what to look at."
            blocks.append(Table(("rows", "number", ours, theirs, "difference (95 % interval)"), rows, "By kind of row", note, (1, 2, 3)))
        if found.examples:
            blocks.append(Examples(found, f"{prefix}{place}"))
    return blocks


def shown_cells(analysis: Analysis) -> list[Setting]:
    """The settings whose training curves are drawn: those of the headlines, then the best on validation."""
    cells = list(analysis.part.cells)
    if len(cells) <= MOST_CURVES:
        return cells
    metric = str(cells[0].runs[0].record["selection"]["metric"])
    first = [analysis.selected, *(head.b for head in analysis.headlines)]
    ordered = sorted(cells, key=lambda cell: -float(np.nanmean(cell.scores(metric, "validation"))))
    kept = list({id(cell): cell for cell in [*first, *ordered]}.values())[:MOST_CURVES]
    return [cell for cell in cells if cell in kept]


def _training(analysis: Analysis) -> list[Block]:
    cells = shown_cells(analysis)
    colours = {cell.label: place for place, cell in enumerate(cells)}

    def chart(title: str, y: str, found: Sequence[history.History]) -> list[Block]:
        if not any(len(each.points) > 1 for each in found):
            return []
        series = tuple(
            Series(each.name, tuple(Point(step, value, value, value) for step, value in each.points), True, colours[each.name])
            for each in found
        )
        return [Chart(title, "step", y, series)]

    unit = ", %" if analysis.evidence.scale == 100 else ""
    metric = str(analysis.part.runs[0].record["selection"]["metric"])
    blocks = chart("Validation by step", f"validation {metric}{unit}", history.validation_curves(analysis.evidence, cells))
    blocks += chart("Training loss of the label task", "nats per target token", history.loss_curves(cells))
    if blocks and len(cells) < len(analysis.part.cells):
        blocks.append(Text(f"{len(cells)} of {len(analysis.part.cells)} settings: the selected one, those it is compared with, and the best on validation.", "note"))
    return blocks


def _configuration(analysis: Analysis) -> list[Block]:
    labels, rows = history.differences(analysis.part)
    if not rows:
        return [Text("All runs have the same configuration, except for seeds and folders.", "plain")]
    kept = labels[:_MOST_COLUMNS]
    if len(labels) > _MOST_COLUMNS:
        table = tuple((Cell(name), one_line("; ".join(dict.fromkeys(one_line(v, 60) for v in values)), 400)) for name, values in rows)
        return [Table(("setting of the configuration", "values"), table, "What differs between runs")]
    table = tuple((name, *(one_line(value, 120) for value in values)) for name, values in rows)
    return [Table(("macro", *map(one_line, kept)), table, "What differs between settings", wide=True)]


def _provenance(analysis: Analysis) -> list[Block]:
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


def unfinished_section(unfinished: Sequence[Unfinished]) -> Section | None:
    """The runs that failed or are not finished."""
    if not unfinished:
        return None
    order = ("failed", "running", "waiting")
    rows = tuple(
        (one_line(each.name), Cell(each.state, "bad" if each.state == "failed" else "soft"), one_line(each.error, 300) or "–")
        for each in sorted(unfinished, key=lambda each: order.index(each.state) if each.state in order else 9)
    )
    return Section("unfinished", "Failed and unfinished runs", (Table(("run", "state", "error"), rows),))
