"""Turns analyses into the sections of a report."""

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np

from distill.counting import counted, form
from distill.experiments.report import (
    answers,
    charted,
    comparisons,
    figure,
    findings,
    history,
    limits,
    proposals,
    quantities,
    section_tables,
    settings,
    statistics,
)
from distill.experiments.report.analysis import Analysis
from distill.experiments.report.blocks import (
    Block,
    Cell,
    Chart,
    Curve,
    Point,
    Section,
    Series,
    Table,
    Text,
    Tiles,
)
from distill.experiments.report.collect import Unfinished
from distill.experiments.report.optimum import Optimum, effective_lines, validation_scores
from distill.experiments.report.settings import Cell as Setting
from distill.experiments.report.text import large, number, one_line, p_value, signed
from distill.experiments.sweep import outcomes

MOST_CURVES = 6
NO_START = (
    "The students before distillation are not drawn: no run was evaluated before or right after its start. To get "
    "them, train the same configuration for one update that changes almost nothing, with --gin.TRAIN_STEPS=1 "
    "--gin.LEARNING_RATE=1e-9, and give its folder to distill report too."
)


def of(analysis: Analysis, unfinished: Sequence[Unfinished], prefix: str = "", suffix: str = "") -> list[Section]:
    """The sections about one part; ``prefix`` makes anchors unique, ``suffix`` names the part in headings."""
    made: list[tuple[str, str, Sequence[Block]]] = [
        ("findings", "What the data show", _findings(analysis, unfinished)),
        ("curves", "Curves", _curves(analysis)),
        ("answers", "Answers", _answers(analysis, unfinished)),
        ("comparisons", "Comparisons", section_tables.comparisons_blocks(analysis)),
        ("cost", "Cost", section_tables.cost_blocks(analysis)),
        ("rows", "Rows that change", section_tables.rows_blocks(analysis, prefix)),
        ("training", "Training curves", _training(analysis)),
        ("configuration", "Configuration", section_tables.configuration_blocks(analysis)),
        ("provenance", "Provenance", section_tables.provenance_blocks(analysis)),
    ]
    return [Section(prefix + key, title + suffix, tuple(blocks)) for key, title, blocks in made if blocks]


def _findings(analysis: Analysis, unfinished: Sequence[Unfinished]) -> list[Block]:
    evidence, part, cell = analysis.evidence, analysis.part, analysis.selected
    interval = evidence.cell_interval(cell)
    tiles = [
        (
            findings.score(analysis, interval.value),
            f"test {evidence.metric}, selected setting",
            one_line(cell.label, 60),
        )
    ]
    for head in analysis.headlines:
        found = comparisons.oriented(analysis.family, head.a, head.b)
        if found is not None and len(tiles) < 3:
            verdict = "no test"
            if found.tested:
                verdict = "significant" if found.apart else "cannot be distinguished"
                verdict += f", p = {p_value(found.p_holm)}".replace("= <", "<")
            if found.seeds == 1:
                verdict = "two students of one seed, not two settings"
            elif found.partial:
                verdict += f", {findings.seeds_text(found)}"
                verdict += f"; the means differ by {findings.gap(analysis, statistics.Interval(found.of_means))}"
            unit = " points" if evidence.scale == 100 else ""
            value = signed(found.difference.value, 1 if unit else 3) + unit
            tiles.append(
                (
                    value,
                    f"against {one_line(head.b.label, 50)}",
                    verdict,
                )
            )
    bounded = [each for each in analysis.optima if each.bounded]
    if bounded:
        best = min(bounded, key=lambda each: each.lam.high / max(each.lam.low, 1e-9))
        tiles.append(_optimum_tile(analysis, best))
    elif analysis.shares:
        best_share = answers.headline(analysis.shares)
        tiles.append(
            (
                findings.share_text(best_share).split(" (")[0],
                f"of the data equals all of {one_line(best_share.standard, 50)}",
                one_line(best_share.line, 50),
            )
        )
    seeds, seen = sorted({len(each.runs) for each in part.cells}), settings.any_seen(part.runs)
    tiles.append(
        (
            counted(len(part.runs)),
            f"{counted(len(part.cells), 'setting')}, {'–'.join(map(str, dict.fromkeys((seeds[0], seeds[-1]))))} "
            f"{form(seeds[-1], 'seed')} each",
            counted(part.rows, "test row") + (f", {settings.seen_range(part.runs)} seen in training" if seen else ""),
        )
    )
    blocks: list[Block] = [Tiles(tuple(tiles))]
    blocks.append(Text("\n".join(findings.sentences(analysis)), "finding"))
    blocks.append(
        Text(
            "Settings and steps were selected on validation. Every test number is of the parameters that validation "
            "selected, evaluated once at the end of its run.",
            "note",
        )
    )
    blocks += [Text(warning, "warning") for warning in limits.warnings(analysis, unfinished)]
    return blocks


def _optimum_tile(analysis: Analysis, best: Optimum) -> tuple[str, str, str]:
    """The best λ as it is configured, rates or ``LAMBDA``, with its interval; the rest of the setting, the effective λ."""
    fit = "a poor fit" if best.weaknesses.any else "the fit"
    of = "" if best.line == "all settings" else one_line(best.line, 40)
    if best.knob is None:
        what = f"best effective λ by {fit}"
        return f"λ = {number(best.lam.value, 2)}", what, "; ".join(filter(None, (findings.lam_interval(best), of)))
    line = next(each for each in effective_lines(analysis.evidence) if each.name == best.line)
    other = findings.shared_weight(line, best.knob.name)
    known = not findings.unbounded(best.lam)
    interval = f"95 % interval {findings.knob_ends(best, best.knob)}" if known else findings.UNBOUNDED
    return (
        best.knob.level(best.lam.value),
        f"best {best.knob.name} by {fit}; {interval}",
        ", ".join(filter(None, (of, other, f"effective λ {number(best.lam.value, 2)}"))),
    )


def _curves(analysis: Analysis) -> list[Block]:
    blocks: list[Block] = []
    for each in quantities.varying(analysis.part):
        lines = quantities.lines(analysis.part, each)
        series = tuple(
            Series(
                line.name,
                tuple(charted.point(analysis, c, v, _spread_of(each, c)) for c, v in zip(line.cells, line.values)),
                line.varies and line.connected,
                place,
            )
            for place, line in enumerate(lines)
        )
        if series:
            values = [value for line in lines for value in line.values]
            blocks.append(
                Chart(
                    each.heading,
                    each.name,
                    charted.metric_name(analysis),
                    series,
                    max(values) / min(values) > 2.5,
                    charted.levels(analysis),
                )
            )
    if blocks:
        note = (
            "Points: mean over seeds with Student's 95 % interval; small dots: single runs. Intervals are over seeds, "
            "on these test rows."
        )
        drawn = [figure.notes(block) for block in blocks if isinstance(block, Chart)]
        note = " ".join((note, *dict.fromkeys(itertools.chain.from_iterable(drawn))))
        blocks.append(Text(note, "note"))
        if analysis.before is None:
            blocks.append(Text(NO_START, "note"))
        if analysis.teacher is None:
            why = "the test rows do not contain its answers, or the settings have teachers with different ones"
            blocks.append(Text(f"The teacher's accuracy is not drawn: {why}.", "note"))
    return blocks


def _spread_of(of: quantities.Quantity, cell: Setting) -> statistics.Interval:
    """The interval of a time over seeds; none for quantities that the setting determines."""
    return quantities.time(cell, "chip_seconds", 3600) if of.key == "chip_hours" else statistics.Interval(math.nan)


def _answers(analysis: Analysis, unfinished: Sequence[Unfinished]) -> list[Block]:
    blocks: list[Block] = []
    if analysis.shares:
        rows = tuple(
            (
                one_line(each.line),
                one_line(each.standard),
                findings.score(analysis, each.goal),
                Cell(findings.share_text(each), "best"),
            )
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
        sizes = tuple(
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
                (
                    "line",
                    "smallest student that beats the teacher",
                    "95 % interval",
                    "smallest with a lead whose interval excludes 0",
                ),
                sizes,
                "How small a student beats the teacher",
                "Parameters. 'none': no size that was trained beats the teacher.",
            )
        )
    for each in analysis.optima:
        blocks.append(_fit_chart(analysis, each))
        blocks.append(Text(findings.optimum_sentence(analysis, each), "beside"))
    blocks += [Text(findings.unfitted_sentence(line), "plain") for line in analysis.unfitted]
    steps = proposals.next_sentences(analysis, unfinished)
    if len(steps) > 1:
        blocks.append(Text(proposals.order(analysis), "plain"))
    for sentence, (what, code) in steps:
        blocks.append(Text(sentence, "plain"))
        blocks += [Text(what, "plain"), Text(code, "code")] if code else []
    blocks += section_tables.weight_blocks(analysis)
    return blocks


def _fit_chart(analysis: Analysis, found: Optimum) -> Chart:
    line = next(each for each in effective_lines(analysis.evidence) if each.name == found.line)
    points = []
    for value, scores, cell in zip(line.values, validation_scores(analysis.evidence, line), line.cells):
        interval = analysis.evidence.mean_interval(scores)
        low, high = charted.ends(analysis, interval)
        points.append(Point(value, interval.value, low, high, tuple(scores), cell.label, bare=low == high))
    grid = np.geomspace(min(line.values), max(line.values), 60)
    curve = Curve(tuple(zip(grid.tolist(), found.fit(grid).tolist())))
    band = (found.lam.low, found.lam.value, found.lam.high) if found.bounded else None
    unit = ", %" if analysis.evidence.scale == 100 else ""
    metric = str(line.cells[0].runs[0].record["selection"]["metric"])
    chart = Chart(
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
    return dataclasses.replace(chart, note=" ".join((chart.note, *figure.notes(chart))))


def shown_cells(analysis: Analysis) -> list[Setting]:
    """The settings whose training curves are drawn: those of the headlines, then the best on validation."""
    cells = list(analysis.part.cells)
    if len(cells) <= MOST_CURVES:
        return cells
    first = [analysis.selected, *(head.b for head in analysis.headlines)]
    ordered = sorted(cells, key=comparisons.on_validation, reverse=True)
    kept = list({id(cell): cell for cell in [*first, *ordered]}.values())[:MOST_CURVES]
    return [cell for cell in cells if cell in kept]


def _training(analysis: Analysis) -> list[Block]:
    cells = shown_cells(analysis)
    colours = {cell.label: place for place, cell in enumerate(cells)}

    def chart(title: str, y: str, found: Sequence[history.History]) -> list[Block]:
        if not any(len(each.points) > 1 for each in found):
            return []
        series = tuple(
            Series(
                each.name,
                tuple(Point(step, value, value, value) for step, value in each.points),
                True,
                colours[each.name],
            )
            for each in found
        )
        return [Chart(title, "step", y, series)]

    unit = ", %" if analysis.evidence.scale == 100 else ""
    metric = str(analysis.part.runs[0].record["selection"]["metric"])
    blocks = chart(
        "Validation by step", f"validation {metric}{unit}", history.validation_curves(analysis.evidence, cells)
    )
    blocks += chart("Training loss of the label task", "nats per target token", history.loss_curves(cells))
    if blocks and len(cells) < len(analysis.part.cells):
        blocks.append(
            Text(
                f"{len(cells)} of {len(analysis.part.cells)} settings: the selected one, those it is compared with, and "
                "the best on validation.",
                "note",
            )
        )
    return blocks


def unfinished_section(unfinished: Sequence[Unfinished]) -> Section | None:
    """The runs that failed or are not finished."""
    if not unfinished:
        return None
    order = ("failed", "pruned", "stopped", "running", "waiting")
    rows = tuple(
        (
            one_line(each.name),
            Cell(each.state, "bad" if each.state == "failed" else "soft"),
            one_line(outcomes.brief(each.error), 300) or "–",
        )
        for each in sorted(unfinished, key=lambda each: order.index(each.state) if each.state in order else 9)
    )
    failed = any(each.error for each in unfinished)
    note = f"The whole message of a failed run is in {outcomes.FAILURE} of its folder." if failed else ""
    return Section("unfinished", "Failed and unfinished runs", (Table(("run", "state", "error"), rows, note=note),))
