"""Findings as sentences that fixed rules generate from the numbers, and warnings about their limits."""

import math
from collections.abc import Callable, Sequence

from distill.counting import counted
from distill.experiments.report import comparisons, next_runs, quantities, settings, statistics
from distill.experiments.report.analysis import Analysis
from distill.experiments.report.answers import EqualShare, SmallestModel
from distill.experiments.report.cost import Cost, Costs
from distill.experiments.report.optimum import Optimum, Unfitted
from distill.experiments.report.parabola import Fit
from distill.experiments.report.proposals import of_line
from distill.experiments.report.settings import RATE
from distill.experiments.report.text import large, number, one_line, p_value, signed
from distill.experiments.sweep.levels import FEW_SEEDS

TOO_FEW = "too few seeds for an interval"
UNBOUNDED = "95 % interval not bounded by the data"
SAME_TIME = 1.1
"""Settings whose chip-hours differ by less than this factor count as equally fast."""


def score(analysis: Analysis, value: float) -> str:
    """A score as shown, with its unit."""
    if math.isnan(value):
        return "–"
    return f"{value:.1f} %" if analysis.evidence.scale == 100 else number(value, 4)


def spread(analysis: Analysis, interval: statistics.Interval) -> str:
    """A score with its interval; where this holds all possible scores, the reason: too few seeds."""
    text = score(analysis, interval.value)
    if not interval.known or interval.low == interval.high:
        return text
    scale = analysis.evidence.scale
    if scale == 100 and statistics.is_whole(interval, scale):
        return f"{text} ({TOO_FEW})"
    digits = 1 if scale == 100 else 3
    return f"{text} ({interval.low:.{digits}f} – {interval.high:.{digits}f})".replace("-", "−")


def gap(analysis: Analysis, interval: statistics.Interval) -> str:
    """A difference with its interval and unit; where this holds all possible differences, the reason: too few seeds."""
    percent = analysis.evidence.scale == 100
    digits, unit = (1, " points") if percent else (3, "")
    if not interval.known or interval.low == interval.high:
        return f"{signed(interval.value, digits)}{unit}"
    if percent and interval.low <= -100 and interval.high >= 100:
        return f"{signed(interval.value, digits)}{unit} ({TOO_FEW})"
    between = f"({signed(interval.low, digits)} to {signed(interval.high, digits)})".replace(" ", "\u00a0")
    return f"{signed(interval.value, digits)}{unit} {between}"


def sentences(analysis: Analysis) -> list[str]:
    """The findings, most important first; of students that learned nothing, only this."""
    if analysis.nothing_learned:
        return ["No student has learned the task: all of them score 0 on the test rows, so nothing can be compared."]
    out = [_selected(analysis), *settings.seen_sentence(analysis.part.runs)]
    for head in analysis.headlines:
        comparison = comparisons.oriented(analysis.family, head.a, head.b)
        if comparison is not None:
            out.append(verdict(analysis, comparison, f"{one_line(head.a.label)}", one_line(head.name)))
    out += [optimum_sentence(analysis, each) for each in analysis.optima]
    out += [unfitted_sentence(each) for each in analysis.unfitted]
    out += [share_sentence(analysis, each) for each in analysis.shares if each.told]
    out += [smallest_sentence(each) for each in analysis.smallest]
    out += _teacher_and_before(analysis)
    out += _cost(analysis)
    return out


def _selected(analysis: Analysis) -> str:
    cell, evidence = analysis.selected, analysis.evidence
    interval = evidence.cell_interval(cell)
    number_of = f"mean of {len(cell.runs)} seeds" if len(cell.runs) > 1 else "one seed"
    if len(analysis.part.cells) == 1:
        return f"All runs share one setting; its test {evidence.metric} is {spread(analysis, interval)}, {number_of}."
    ties = sum(comparisons.on_validation(each) == comparisons.on_validation(cell) for each in analysis.part.cells)
    tie = f" (validation scores it like {ties - 1} other setting{'s' if ties > 2 else ''})" if ties > 1 else ""
    return (
        f"Of {len(analysis.part.cells)} settings, validation selected {one_line(cell.label)}{tie}: test {evidence.metric} "
        f"{spread(analysis, interval)}, {number_of}."
    )


def unfitted_sentence(found: Unfitted) -> str:
    """Why a line of settings has no best λ."""
    return f"The best effective λ{of_line(found.line.name)} is not estimated: {found.reason}."


def verdict(analysis: Analysis, comparison: comparisons.Comparison, ours: str, theirs: str) -> str:
    """A comparison: the effect with its interval, the corrected p-value, and the seeds that it rests on, if not all."""
    effect = gap(analysis, comparison.difference)
    pairs = len(analysis.family.comparisons)
    corrected = f"p = {p_value(comparison.p_holm)}".replace("= <", "<")
    corrected += f" after Holm's correction over {pairs} pairs" if pairs > 1 else ""
    on, means = "", ""
    if comparison.partial:
        on, means = f", {seeds_text(comparison)}", f" {means_text(analysis, comparison)}"
    if comparison.seeds == 1:
        return f"{_students(analysis, comparison, ours, theirs)} {needs(analysis, comparison)}{means}"
    if not comparison.tested:
        return (
            f"{ours} differs from {theirs} by {effect}{on}; no spread between {comparison.seeds} seeds, no test.{means}"
        )
    if comparison.apart:
        word = "better" if analysis.evidence.sign * comparison.difference.value > 0 else "worse"
        return f"{ours} is {word} than {theirs}: {effect}, {corrected}{on}.{means}"
    text = f"{ours} and {theirs} cannot be distinguished: {effect}, {corrected}{on}.{means}"
    return (
        text
        if not comparison.agree and comparison.p_holm < statistics.ALPHA
        else f"{text} {needs(analysis, comparison)}"
    )


def _students(analysis: Analysis, comparison: comparisons.Comparison, ours: str, theirs: str) -> str:
    """What one pair of runs shows: whether two students differ, not two settings."""
    effect = gap(analysis, comparison.difference)
    text = (
        f"{ours} and {theirs} are compared by one run of each, which compares two students, not two settings: {effect}"
    )
    if math.isnan(comparison.mcnemar_holm):
        return f"{text}, no test."
    differ = "differ" if comparison.students_apart else "are not shown to differ"
    p = f"p = {p_value(comparison.mcnemar_holm)}".replace("= <", "<")
    return f"{text}; the two students {differ} (McNemar's {p})."


def seeds_text(comparison: comparisons.Comparison) -> str:
    """The seeds that a comparison rests on: ``5 seeds``, or ``on the 2 seeds that both have``."""
    number = comparison.seeds
    if not comparison.partial:
        return counted(number, "seed")
    if not comparison.same_seeds:
        return f"on {counted(number, 'pair')} of seeds"
    return f"on the {counted(number, 'seed')} that both have" if number > 1 else "on the one seed that both have"


def means_text(analysis: Analysis, comparison: comparisons.Comparison) -> str:
    """Why the difference is not that of the means shown, which are over all seeds of each setting."""
    of_means = gap(analysis, statistics.Interval(comparison.of_means))
    numbers = f"{len(comparison.a.runs)} and {len(comparison.b.runs)} seeds"
    text = f"The means shown, of {numbers}, differ by {of_means}"
    if not comparison.agree and comparison.of_means * comparison.difference.value < 0:
        return f"{text}, in the other direction."
    return f"{text}."


def needs(analysis: Analysis, comparison: comparisons.Comparison) -> str:
    """The number of seeds or rows at which a difference of the observed size is detected."""
    need = comparison.needed
    if comparison.seeds < 2:
        return f"A statement about settings needs at least {FEW_SEEDS} seeds that both have."
    if need.difference == 0:
        return "The two have the same score; no number of seeds distinguishes them."
    if not comparison.difference.known:
        return "The difference has no spread, so it is not known how many seeds or rows distinguish them."
    of = f"A difference of {number(need.difference, 2)}{' points' if analysis.evidence.scale == 100 else ''}"
    ways = []
    if need.seeds is not None:
        ways.append(f"{need.seeds:,} seeds {'that both have' if comparison.partial else 'of each'}")
    if need.rows is not None:
        ways.append(f"{need.rows:,} test rows")
    if not ways:
        return f"{of} needs both more seeds and more test rows."
    pairs = len(analysis.family.comparisons)
    corrected = f", corrected for {pairs} pairs" if pairs > 1 else ""
    return f"{of} needs about {' or '.join(ways)} (power {statistics.POWER}{corrected})."


def optimum_sentence(analysis: Analysis, optimum: Optimum) -> str:
    """The best effective λ of a line, what sets it, and why the estimate cannot be trusted, if it cannot."""
    of = of_line(optimum.line)
    low, high = math.exp(optimum.fit.low), math.exp(optimum.fit.high)
    scope = f"between {number(low, 2)} and {number(high, 2)}"
    if not optimum.bounded and _is_lowest_inside(optimum.fit):
        text = f"Best effective λ{of}: not bounded by these runs; the fit has its lowest score, not its highest, inside"
        text += f" their range, so the best λ may be below {number(low, 2)} or above {number(high, 2)}."
    elif not optimum.bounded:
        end = f"below {number(low, 2)}" if optimum.lam.value == 0 else f"above {number(high, 2)}"
        text = f"Best effective λ{of}: not bounded by these runs; the fit still rises towards values {end}."
    else:
        text = f"Best effective λ{of}: {number(optimum.lam.value, 2)} ({lam_interval(optimum)}){knob_text(optimum)}"
        text += f", fitted to validation scores at λ {scope}"
        text += f"; {gap(analysis, optimum.gain)} against λ = 1 by the fit." if optimum.gain else "."
    return (text + _weak_text(optimum)).replace("= <", "<")


def _is_lowest_inside(curve: Fit) -> bool:
    """Whether the fitted parabola opens upwards around a minimum within the trained range."""
    _, slope, bend = curve.coefficients
    return bool(bend > 0 and curve.low < curve.centre - slope / (2 * bend) < curve.high)


def _weak_text(optimum: Optimum) -> str:
    weak, best = optimum.weaknesses, optimum.best
    parts = []
    if weak.misfit:
        parts.append(f"a parabola describes the points badly (χ² test: p = {p_value(optimum.fit.residual_p)})")
    if weak.few:
        parts.append(f"{weak.few} different λ fix a parabola exactly, so nothing tests its form")
    if weak.flat:
        parts.append("its curvature cannot be distinguished from 0")
    if optimum.bounded and (weak.below or weak.above) and not weak.misfit:
        parts.append("the interval does not end within the range of λ")
    if not parts:
        return ""
    at = number(best.training("lambda"), 2)
    return f" The fit is poor: {'; '.join(parts)}. The best trained λ on validation is {at} ({one_line(best.label)})."


def knob_text(optimum: Optimum) -> str:
    """The rates or ``LAMBDA`` at the best λ, with the interval; empty if no setting is known to determine λ."""
    knob, lam = optimum.knob, optimum.lam
    if knob is None:
        return ""
    ends = "" if unbounded(lam) else f" ({knob_ends(optimum, knob)})"
    return f", at {knob.name} {knob.level(lam.value)}{ends}"


def knob_ends(optimum: Optimum, knob: next_runs.Knob) -> str:
    """The rates or ``LAMBDA`` at the ends of the interval of the best λ."""
    low, high = math.exp(optimum.fit.low), math.exp(optimum.fit.high)
    ends = (optimum.lam.low, optimum.lam.high)
    return " to ".join(f"{'beyond ' * (end in (0, math.inf))}{knob.level(min(max(end, low), high))}" for end in ends)


def unbounded(interval: statistics.Interval) -> bool:
    """Whether an interval from 0 to infinity has no end within what was trained, and so says nothing."""
    return interval.low == 0 and math.isinf(interval.high)


def shared_weight(line: quantities.Line, knob: str) -> str:
    """What the settings of a line share of rates and ``LAMBDA``, apart from the one that sets λ: ``LAMBDA 1``, or empty."""
    if knob == RATE:
        values = {number(quantities.lambda_of(cell)) for cell in line.cells}
        return f"LAMBDA {values.pop()}" if len(values) == 1 else ""
    rates = {quantities.rate(cell) for cell in line.cells}
    known = len(rates) == 1 and math.isfinite(max(rates))
    return f"{RATE} {next_runs.ratio_text(rates.pop())}" if known else ""


def lam_interval(optimum: Optimum) -> str:
    """The 95 % interval of the best λ; an open end is named as such."""
    lam = optimum.lam
    if unbounded(lam):
        return UNBOUNDED
    low = number(lam.low, 2) if lam.low > 0 else f"< {number(math.exp(optimum.fit.low), 2)}"
    high = number(lam.high, 2) if math.isfinite(lam.high) else f"> {number(math.exp(optimum.fit.high), 2)}"
    return f"95 % interval {low} to {high}"


def share_text(found: EqualShare) -> str:
    """A share of the data with its interval."""
    value, low, high = (share_end(found, end) for end in (found.share.value, found.share.low, found.share.high))
    return f"{value} ({UNBOUNDED if unbounded(found.share) else f'95 % interval {low} to {high}'})"


def share_end(found: EqualShare, value: float) -> str:
    """A share of the data; one beyond the trained amounts as ≤ the smallest, or > 100 %."""
    if value == 0:
        return f"≤ {100 * found.smallest:.0f} %"
    return "> 100 %" if math.isinf(value) else f"{100 * value:.0f} %"


def share_sentence(analysis: Analysis, found: EqualShare) -> str:
    """One sentence about the share of data that is enough."""
    goal = f"{one_line(found.standard)} with all {large(found.rows)} rows ({score(analysis, found.goal)})"
    if math.isinf(found.share.value):
        perhaps = (
            "" if math.isinf(found.share.low) else f" (the interval begins at {share_end(found, found.share.low)})"
        )
        return f"{one_line(found.line)} does not reach {goal} with as many rows{perhaps}."
    return f"{one_line(found.line)} equals {goal} at {share_text(found)} of the data."


def smallest_sentence(found: SmallestModel) -> str:
    """One sentence about the smallest student that beats the teacher."""
    low, high = (large(end) if math.isfinite(end) else "none" for end in (found.parameters.low, found.parameters.high))
    if math.isinf(found.parameters.value):
        return (
            f"No student of {one_line(found.line)} beats the teacher (sizes up to {large(found.sizes[-1])} parameters)."
        )
    certain = (
        f"; from {large(found.certain)} on, the interval of the lead excludes 0"
        if math.isfinite(found.certain)
        else "; at no size does the interval of the lead exclude 0"
    )
    return (
        f"The smallest student of {one_line(found.line)} that beats the teacher has {large(found.parameters.value)} "
        f"parameters (95 % interval {low} to {high}){certain}."
    )


def _teacher_and_before(analysis: Analysis) -> list[str]:
    out = []
    if analysis.teacher is not None:
        accuracy = analysis.teacher.accuracy
        shown = statistics.Interval(100 * accuracy.value, 100 * accuracy.low, 100 * accuracy.high)
        out.append(f"The teacher answers {spread(analysis, shown)} of the test rows correctly.")
    if analysis.before is not None:
        place = "test" if analysis.before.split == "test" else "validation"
        out.append(f"Before distillation the student scores {spread(analysis, analysis.before.score)} on {place} rows.")
    return out


def _cost(analysis: Analysis) -> list[str]:
    costs = analysis.costs
    if len(costs.settings) < 2:
        return []
    out = []
    if costs.work_varies:
        out.append(_front_text(analysis, costs.front, costs.unit, lambda each: large(each.work)))
    elif costs.unit:
        out.append(f"All settings do the same work, {large(costs.settings[0].work)} {costs.unit} per run.")
    if costs.time_front is not None:
        out.append(_front_text(analysis, costs.time_front, costs.hours, lambda each: number(each.chip_hours.value, 2)))
    elif _times(costs) > SAME_TIME:
        out.append(f"Times do not rank the settings: {time_reason(costs)}.")
    return out


def _times(costs: Costs) -> float:
    hours = [each.chip_hours.value for each in costs.settings]
    return max(hours) / min(hours) if min(hours) > 0 else 1.0


def time_reason(costs: Costs) -> str:
    """Why there is no front of accuracy against chip-hours."""
    if not all(each.chip_hours.known for each in costs.settings):
        return "seeds that were trained together, or a single seed, give one time, whose spread is not known"
    return f"the intervals of their {costs.hours} overlap"


def _front_text(analysis: Analysis, on_front: Sequence[Cost], unit: str, amount: Callable[[Cost], str]) -> str:
    def named(each: Cost) -> str:
        return f"{one_line(each.cell.label)} ({amount(each)} {unit}, {score(analysis, each.accuracy.value)})"

    if len(on_front) == 1:
        return f"{named(on_front[0])} needs the fewest {unit} and has the best mean test score."
    total = len(analysis.costs.settings)
    ends = f"from {named(on_front[0])} to {named(on_front[-1])}"
    return f"{len(on_front)} of {total} settings are on the front of mean accuracy against {unit}: {ends}."
