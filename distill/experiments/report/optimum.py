"""The best effective λ: a parabola of accuracy over log λ, the interval of its maximum, and whether it can be trusted."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from distill.experiments.report import next_runs, next_sweep, parabola, quantities, statistics
from distill.experiments.report.collect import Unfinished
from distill.experiments.report.evidence import Evidence
from distill.experiments.report.next_runs import Knob, Proposal
from distill.experiments.report.parabola import Fit
from distill.experiments.report.quantities import Line
from distill.experiments.report.settings import Cell
from distill.experiments.report.text import number

_POOR = 0.01
_CHECKED = 4  # different λ from which a parabola leaves a degree of freedom that tests it
_WITHIN_NOISE = 2.0  # standard errors


@dataclasses.dataclass(frozen=True)
class Weaknesses:
    """Why a fit cannot be trusted.

    Attributes:
      few: the number of different λ, if it is too small to test the form of the curve; else 0.
      flat: the curvature cannot be distinguished from 0: in more than 2.5 % of the bootstrap draws it is not negative.
      misfit: the means scatter around the parabola more than seeds explain (χ² test, p < 0.01).
      below, above: the maximum may be at or beyond the smallest or the largest trained λ.
    """

    few: int = 0
    flat: bool = False
    misfit: bool = False
    below: bool = False
    above: bool = False

    @property
    def any(self) -> bool:
        """Whether there is one."""
        return bool(self.few or self.flat or self.misfit or self.below or self.above)


@dataclasses.dataclass(frozen=True)
class Optimum:
    """The best effective λ of a line.

    Attributes:
      line: its name.
      fit: the curve.
      lam: the optimum, with interval; an end of 0 or infinity means that the trained range does not bound it.
      bounded: whether the fit has a maximum within the range.
      gain: accuracy at the optimum minus that at λ = 1, with interval, of fitted accuracies cut to possible ones: shares
        give 0 to 100 points. None if 1 is out of range.
      weaknesses: why the fit cannot be trusted.
      best: the setting with the best mean on validation.
      knob: what sets λ along the line; None if neither rates nor ``LAMBDA`` do.
      proposal: the next runs.
    """

    line: str
    fit: Fit
    lam: statistics.Interval
    bounded: bool
    gain: statistics.Interval | None
    weaknesses: Weaknesses
    best: Cell
    knob: Knob | None
    proposal: Proposal


@dataclasses.dataclass(frozen=True)
class Unfitted:
    """A line whose best λ is not estimated: its settings, the reason, and the next runs, if they are known."""

    line: Line
    reason: str
    proposal: Proposal | None


def optima(evidence: Evidence, *, draws: int = statistics.DRAWS, seed: int = 0) -> list[Optimum]:
    """The best effective λ of each line with at least three different values of λ, from validation scores.

    Args:
      evidence: the settings.
      draws: bootstrap draws of the fit: each setting's mean is drawn from Student's t with its variance.
      seed: of the draws.
    """
    out = []
    for line in effective_lines(evidence):
        if next_runs.distinct(line.values) >= 3:
            highest = evidence.scale if evidence.scale == 100 else math.inf
            scores, to_do = validation_scores(evidence, line), evidence.part.to_do
            order = evidence.part.cells
            found = estimate(line, scores, draws=draws, seed=seed, highest=highest, to_do=to_do, order=order)
            out += [found] if found is not None else []
    return out


def unfitted(evidence: Evidence) -> list[Unfitted]:
    """The lines that vary what weighs the tasks, and for which :func:`optima` estimates nothing."""
    out = []
    for line in effective_lines(evidence):
        scores, values = validation_scores(evidence, line), next_runs.distinct(line.values)
        studied = len({(str(c.macro("LAMBDA")), quantities.rate(c), c.macro("NORMALIZER")) for c in line.cells}) > 1
        if len(line.cells) < 2 or not (studied or len(line.cells) >= 3):
            continue
        if values >= 3 and estimate(line, scores, draws=2, seed=0) is None:
            seeds = max(map(len, scores))
            reason = (
                "no setting has two seeds, so the noise is not known"
                if seeds < 2
                else "the seeds of each setting have the same score, or a score is not finite"
            )
            out.append(Unfitted(line, reason, None))
        elif values < 3:
            at = _best(line, scores, evidence.part.cells)
            proposal = None
            if studied and all(math.isfinite(score) for each in scores for score in each):
                gap = max(line.values) / min(line.values)
                proposal = next_runs.explore(
                    line, line.values[at], next_sweep.seeds_of(line), below=True, above=True,
                    between=gap > next_runs.APART**4,
                    reason=f"a maximum needs at least three different λ, better five, and there {_are(values)}",
                )  # fmt: skip
            proposal = proposal and next_sweep.with_recipe(proposal, line, line.cells[at], evidence.part.to_do)
            out.append(Unfitted(line, _values_text(line), proposal))
    return out


def _are(number: int) -> str:
    return "is one" if number == 1 else f"are {number}"


def _values_text(line: Line) -> str:
    low, high = number(min(line.values), 2), number(max(line.values), 2)
    between = low if low == high else f"between {low} and {high}"
    return f"λ is {between} in all {len(line.cells)} settings"


def effective_lines(evidence: Evidence) -> list[Line]:
    """The lines of settings over the effective λ.

    Different axes may set it: the rates with one normaliser, ``LAMBDA`` with another. So the settings that are on no line
    of different λ along the first axis are divided once more, along the axis that changes λ most among them.
    """
    effective, part = quantities.quantity("effective"), evidence.part
    found = quantities.lines(part, effective)
    varied = {id(cell) for line in found if next_runs.distinct(line.values) > 1 for cell in line.cells}
    rest = tuple(cell for cell in part.cells if id(cell) not in varied)
    again = quantities.lines(dataclasses.replace(part, cells=rest), effective) if varied and rest else []
    more = [line for line in again if next_runs.distinct(line.values) > 1]
    if not more:
        return found
    used = {id(cell) for line in more for cell in line.cells}
    kept = [line for line in found if len(line.cells) > 1 and not any(id(cell) in used for cell in line.cells)]
    return [*kept, *more]


def validation_scores(evidence: Evidence, line: Line) -> list[list[float]]:
    """Validation scores of each setting of a line, as shown: of the metric that selects."""
    metric = str(line.cells[0].runs[0].record["selection"]["metric"])
    return [[evidence.scale * score for score in cell.scores(metric, "validation")] for cell in line.cells]


def _best(line: Line, scores: Sequence[Sequence[float]], order: Sequence[Cell]) -> int:
    """The place in a line of its best setting; of equals, the first in the order of the report, as validation selects."""
    means = [round(float(np.mean(each)), statistics.DIGITS) for each in scores]
    equal = [place for place, mean in enumerate(means) if mean == max(means)]
    return min(equal, key=lambda place: order.index(line.cells[place]), default=0)


def estimate(
    line: Line,
    scores: Sequence[Sequence[float]],
    *,
    draws: int,
    seed: int,
    highest: float = math.inf,
    to_do: Sequence[Unfinished] = (),
    order: Sequence[Cell] = (),
) -> Optimum | None:
    """The best effective λ of a line; None if scores are not finite, no setting has two seeds, or no seed differs.

    Args:
      line: the settings.
      scores: for each setting, a score per seed.
      draws, seed: of the bootstrap.
      highest: the best possible score, if the worst is 0; infinity if scores have no bounds.
      to_do: runs of the sweeps that are still to do, which the proposal lacks.
      order: the settings in the order of the report, which decides between equal scores; that of the line if empty.
    """
    numbers = [len(each) for each in scores]
    if not all(math.isfinite(score) for each in scores for score in each) or max(numbers) < 2:
        return None
    known = [float(np.var(each, ddof=1)) if len(each) > 1 else 0.0 for each in scores]
    single = parabola.shrunk_variances(known, numbers)
    if not (single > 0).all():
        return None
    variances = single / np.array(numbers)
    means = np.array([float(np.mean(each)) for each in scores])
    curve = parabola.fit(line.values, means, variances)
    random = np.random.default_rng(seed)
    # As many degrees of freedom as seeds and prior give; one extra degree keeps the variance of t finite.
    freedom = np.maximum(np.array(numbers) - 1 + parabola.PRIOR_FREEDOM, 3.0)
    scale = math.sqrt(max(1.0, curve.residual)) if math.isfinite(curve.residual) else 1.0
    drawn = means + scale * np.sqrt(variances) * random.standard_t(freedom, size=(draws, len(means)))
    coefficients = parabola.coefficients(line.values, drawn, variances, curve.centre)
    places = parabola.argmax(curve, coefficients)
    best = float(parabola.argmax(curve, curve.coefficients[None])[0])
    bounded = math.isfinite(best)
    with np.errstate(over="ignore"):
        interval = statistics.percentile_interval(float(np.exp(best)), np.exp(places))
    gain = _gain(curve, best, coefficients, places, highest) if curve.low <= 0 <= curve.high and bounded else None
    weak = weaknesses(line.values, means, variances, curve, interval, float(np.mean(coefficients[:, 2] >= 0)))
    at = _best(line, scores, order or line.cells)
    top = line.cells[at]
    proposal = (
        next_runs.explore(
            line, line.values[at], next_sweep.seeds_of(line), below=weak.below, above=weak.above,
            between=bool(weak.few or weak.misfit) or not (weak.below or weak.above),
            reason=reason(weak, curve),
        )
        if weak.any
        else next_runs.narrow(curve, line, single, numbers)
    )  # fmt: skip
    return Optimum(
        line.name,
        curve,
        interval,
        bounded,
        gain,
        weak,
        top,
        next_runs.knob(line),
        next_sweep.with_recipe(proposal, line, top, to_do),
    )


def weaknesses(
    lam: Sequence[float],
    means: Float[np.ndarray, " settings"],
    variances: Float[np.ndarray, " settings"],
    curve: Fit,
    interval: statistics.Interval,
    not_bent: float,
) -> Weaknesses:
    """Judges a fit.

    Where the parabola misfits, the means decide whether the maximum may be at an end: the score there is within two
    standard errors of the best. Else the interval of the maximum decides.

    Args:
      lam, means, variances: the settings.
      curve: the fit.
      interval: of its maximum.
      not_bent: the share of bootstrap draws whose curvature is not negative.
    """
    few = next_runs.distinct(lam)
    misfit = curve.residual_p < _POOR
    if misfit:
        top = int(means.argmax())
        ends = [int(np.argmin(lam)), int(np.argmax(lam))]
        errors = [math.sqrt(variances[top] + variances[end]) for end in ends]
        near = [bool(end == top or means[top] - means[end] < _WITHIN_NOISE * error) for end, error in zip(ends, errors)]
        below, above = near
    else:
        below, above = interval.low == 0 or interval.value == 0, math.isinf(interval.high) or math.isinf(interval.value)
    return Weaknesses(few if few < _CHECKED else 0, not_bent > statistics.ALPHA / 2, misfit, below, above)


def reason(weak: Weaknesses, curve: Fit) -> str:
    """Why runs elsewhere are worth more than runs that narrow the fitted maximum, as a clause."""
    low, high = (number(math.exp(end), 2) for end in (curve.low, curve.high))
    parts = []
    if weak.misfit:
        parts.append(
            "a parabola does not describe the scores, so more values near the best one show where the maximum is"
        )
    if weak.few:
        parts.append(f"{weak.few} different λ determine a parabola exactly, and nothing tests it")
    if weak.below or weak.above:
        ends = (
            f"below {low} or above {high}"
            if weak.below and weak.above
            else f"below {low}"
            if weak.below
            else f"above {high}"
        )
        parts.append(f"the maximum may be at λ {ends}")
    elif weak.flat:
        parts.append(f"the curvature between λ = {low} and {high} cannot be distinguished from 0")
    return ", and ".join(parts)


def _gain(
    curve: Fit,
    best: float,
    coefficients: Float[np.ndarray, "draws 3"],
    places: Float[np.ndarray, " draws"],
    highest: float,
) -> statistics.Interval:
    def over_one(rows: np.ndarray, at: np.ndarray) -> np.ndarray:
        ends = np.clip(at, curve.low, curve.high) - curve.centre, np.full(len(rows), -curve.centre)
        there, one = (rows[:, 0] + rows[:, 1] * x + rows[:, 2] * x**2 for x in ends)
        if math.isinf(highest):
            return there - one
        return np.clip(there, 0.0, highest) - np.clip(one, 0.0, highest)

    value = float(over_one(curve.coefficients[None], np.array([best]))[0])
    return statistics.percentile_interval(value, over_one(coefficients, places))
