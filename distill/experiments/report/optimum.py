"""The best effective λ: a weighted quadratic fit of accuracy over log λ, its interval, and runs that would narrow it."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy import stats

from distill.experiments.report import quantities, statistics
from distill.experiments.report.evidence import Evidence
from distill.experiments.report.quantities import Line
from distill.experiments.report.text import number

NEXT_RUNS = 5
_PRIOR_FREEDOM = 1.0  # how many seeds' worth a setting's variance is drawn towards the median of all settings
_POOR = 0.01
_APART = 1.1


@dataclasses.dataclass(frozen=True)
class Fit:
    """Accuracy as a quadratic function of ``ln λ``.

    Attributes:
      coefficients: of 1, ``ln λ`` (centred) and its square.
      covariance: of the coefficients.
      centre: mean of ``ln λ`` that was subtracted.
      low, high: the range of ``ln λ`` that was trained.
      residual: χ² per degree of freedom; nan if no degree is left.
      residual_p: the probability of a larger χ² if the curve were quadratic; nan if no degree is left.
    """

    coefficients: Float[np.ndarray, "3"]
    covariance: Float[np.ndarray, "3 3"]
    centre: float
    low: float
    high: float
    residual: float
    residual_p: float

    def __call__(self, lam: Float[np.ndarray, " points"]) -> Float[np.ndarray, " points"]:
        """Values of the fit at effective λ."""
        x = np.log(lam) - self.centre
        return self.coefficients[0] + self.coefficients[1] * x + self.coefficients[2] * x**2


@dataclasses.dataclass(frozen=True)
class NextRun:
    """A suggestion: ``runs`` more seeds at ``lam``; the interval's width afterwards as a share of the width now."""

    lam: float
    runs: int
    width: float


@dataclasses.dataclass(frozen=True)
class Optimum:
    """The best effective λ of a line.

    Attributes:
      line: its name.
      fit: the curve.
      lam: the optimum, with interval; an end of 0 or infinity means that the trained range does not bound it.
      bounded: whether the fit has a maximum within the range.
      gain: accuracy at the optimum minus that at λ = 1, with interval; None if 1 is out of range.
      next_runs: what would narrow the interval most.
      settings: what sets each suggested λ, as text; empty if neither rates nor ``LAMBDA`` do along this line.
    """

    line: str
    fit: Fit
    lam: statistics.Interval
    bounded: bool
    gain: statistics.Interval | None
    next_runs: tuple[NextRun, ...]
    settings: tuple[str, ...] = ()

    @property
    def poor(self) -> bool:
        """Whether a quadratic does not describe the means."""
        return self.fit.residual_p < _POOR


def shrunk_variances(variances: Sequence[float], numbers: Sequence[int]) -> Float[np.ndarray, " settings"]:
    """Variances of single seeds, drawn slightly towards their median, since few seeds estimate them badly.

    ``(d₀·median + (n − 1)·s²) / (d₀ + n − 1)`` with ``d₀ = 1`` (Smyth, G. K. (2004), Statistical Applications in Genetics
    and Molecular Biology 3). A setting with one seed gets the median.

    >>> shrunk_variances([1.0, 100.0, 1.0], [5, 5, 5])
    array([ 1. , 80.2,  1. ])
    """
    freedom = np.maximum(np.asarray(numbers) - 1, 0)
    given = np.where(freedom > 0, np.nan_to_num(np.asarray(variances, np.float64)), 0.0)
    known = given[freedom > 0]
    middle = float(np.median(known)) if known.size else math.nan
    if known.size and middle == 0:
        middle = float(known.mean())
    return (_PRIOR_FREEDOM * middle + freedom * given) / (_PRIOR_FREEDOM + freedom)


def fit(lam: Sequence[float], means: Sequence[float] | np.ndarray, variances: Sequence[float] | np.ndarray) -> Fit:
    """Weighted least squares of a quadratic in ``ln λ``.

    Weights are the inverse variances of the means. If the means scatter more than their variances explain, the covariance
    is multiplied by χ² per degree of freedom (Birge, R. T. (1932), Physical Review 40).

    Args:
      lam: at least three different positive numbers.
      means: accuracy at each.
      variances: of each mean, positive.
    """
    logs = np.log(np.asarray(lam, np.float64))
    centre = float(logs.mean())
    x = logs - centre
    design = np.stack([np.ones_like(x), x, x**2], axis=1)
    weights = 1 / np.asarray(variances, np.float64)
    covariance = np.linalg.inv(design.T @ (weights[:, None] * design))
    y = np.asarray(means, np.float64)
    coefficients = covariance @ (design.T @ (weights * y))
    freedom = len(x) - 3
    square = float((weights * (y - design @ coefficients) ** 2).sum())
    residual = square / freedom if freedom > 0 else math.nan
    p = float(stats.chi2.sf(square, freedom)) if freedom > 0 else math.nan
    scale = max(1.0, residual) if freedom > 0 else 1.0
    return Fit(coefficients, covariance * scale, centre, float(logs.min()), float(logs.max()), residual, p)


def argmax(of: Fit, coefficients: Float[np.ndarray, "draws 3"]) -> Float[np.ndarray, " draws"]:
    """``ln λ`` of the maximum within the range that was trained; ``∓∞`` where the maximum is at or beyond an end."""
    _, slope, bend = coefficients.T
    with np.errstate(divide="ignore", invalid="ignore"):
        place = of.centre - slope / (2 * bend)
    ends = np.array([of.low, of.high]) - of.centre
    values = slope[:, None] * ends + bend[:, None] * ends**2
    at_end = np.where(values[:, 0] > values[:, 1], -np.inf, np.inf)
    inside = (bend < 0) & (place > of.low) & (place < of.high)
    beyond = np.where(place <= of.low, -np.inf, np.inf)
    return np.where(inside, place, np.where(bend < 0, beyond, at_end))


def optima(evidence: Evidence, *, draws: int = statistics.DRAWS, seed: int = 0) -> list[Optimum]:
    """The best effective λ of each line with at least three values of λ that are apart, from validation scores.

    Args:
      evidence: the settings.
      draws: bootstrap draws of the fit: each setting's mean is drawn from Student's t with its variance.
      seed: of the draws.
    """
    out = []
    for line in effective_lines(evidence):
        if apart(line.values) >= 3:
            found = estimate(line, validation_scores(evidence, line), draws=draws, seed=seed)
            out += [found] if found is not None else []
    return out


def effective_lines(evidence: Evidence) -> list[Line]:
    """The lines of settings over the effective λ."""
    return quantities.lines(evidence.part, quantities.quantity("effective"))


def apart(values: Sequence[float]) -> int:
    """Counts values > 0 that differ by at least 10 % from the next smaller one that is counted.

    Random draws alone move the effective λ of two settings apart by a few per cent. A parabola through three such values
    says nothing.

    >>> apart([0.841, 0.998, 1.0, 1.001]), apart([0.4, 1.6, 6.3])
    (2, 3)
    """
    counted: list[float] = []
    for value in sorted(values):
        if not counted or value >= counted[-1] * _APART:
            counted.append(value)
    return len(counted)


def narrow_lines(evidence: Evidence) -> list[Line]:
    """Lines of at least three settings whose values of the effective λ are too close together for :func:`optima`."""
    return [line for line in effective_lines(evidence) if len(line.cells) >= 3 and apart(line.values) < 3]


def validation_scores(evidence: Evidence, line: Line) -> list[list[float]]:
    """Validation scores of each setting of a line, as shown: of the metric that selects."""
    metric = str(line.cells[0].runs[0].record["selection"]["metric"])
    return [[evidence.scale * score for score in cell.scores(metric, "validation")] for cell in line.cells]


def estimate(line: Line, scores: Sequence[Sequence[float]], *, draws: int, seed: int) -> Optimum | None:
    """The best effective λ of a line; None if scores are not finite, no setting has two seeds, or no seed differs.

    Args:
      line: the settings.
      scores: for each setting, a score per seed.
      draws, seed: of the bootstrap.
    """
    numbers = [len(each) for each in scores]
    if not all(math.isfinite(score) for each in scores for score in each) or max(numbers) < 2:
        return None
    single = shrunk_variances([float(np.var(each, ddof=1)) if len(each) > 1 else 0.0 for each in scores], numbers)
    if not (single > 0).all():
        return None
    variances = single / np.array(numbers)
    means = np.array([float(np.mean(each)) for each in scores])
    curve = fit(line.values, means, variances)
    random = np.random.default_rng(seed)
    # As many degrees of freedom as seeds and prior give; one extra degree keeps the variance of t finite.
    freedom = np.maximum(np.array(numbers) - 1 + _PRIOR_FREEDOM, 3.0)
    scale = math.sqrt(max(1.0, curve.residual)) if math.isfinite(curve.residual) else 1.0
    drawn = means + scale * np.sqrt(variances) * random.standard_t(freedom, size=(draws, len(means)))
    coefficients = _coefficients(line.values, drawn, variances, curve.centre)
    places = argmax(curve, coefficients)
    best = float(argmax(curve, curve.coefficients[None])[0])
    with np.errstate(over="ignore"):
        interval = statistics.percentile_interval(float(np.exp(best)), np.exp(places))
    gain = None
    if curve.low <= 0 <= curve.high and math.isfinite(best):
        gain = _gain(curve, best, coefficients, places)
    steps = next_runs(curve, line.values, single, numbers, interval) if math.isfinite(best) else ()
    return Optimum(line.name, curve, interval, math.isfinite(best), gain, steps, _settings(line, steps))


def _coefficients(
    lam: Sequence[float],
    drawn: Float[np.ndarray, "draws settings"],
    variances: Float[np.ndarray, " settings"],
    centre: float,
) -> Float[np.ndarray, "draws 3"]:
    x = np.log(np.asarray(lam)) - centre
    design = np.stack([np.ones_like(x), x, x**2], axis=1)
    weighted = design / variances[:, None]
    return drawn @ np.linalg.solve(design.T @ weighted, weighted.T).T


def _gain(
    curve: Fit, best: float, coefficients: Float[np.ndarray, "draws 3"], places: Float[np.ndarray, " draws"]
) -> statistics.Interval:
    def over_one(rows: np.ndarray, at: np.ndarray) -> np.ndarray:
        x, one = np.clip(at, curve.low, curve.high) - curve.centre, -curve.centre
        return rows[:, 1] * (x - one) + rows[:, 2] * (x**2 - one**2)

    value = float(over_one(curve.coefficients[None], np.array([best]))[0])
    return statistics.percentile_interval(value, over_one(coefficients, places))


def next_runs(
    curve: Fit,
    lam: Sequence[float],
    single: Float[np.ndarray, " settings"],
    numbers: Sequence[int],
    interval: statistics.Interval,
) -> tuple[NextRun, ...]:
    """The settings of ``NEXT_RUNS`` more runs, chosen one after another, that make the optimum's variance smallest.

    The variance of ``−b/2c`` to first order, ``g'Cov g`` with ``g = (0, −1/2c, b/2c²)``: a c-optimal design for the turning
    point (Chaloner, K. (1989), Journal of Statistical Planning and Inference 21). Noise between trained λ is interpolated.
    Where the interval has an open end, candidates extend by a factor of 2 beyond the trained range.
    """
    _, slope, bend = curve.coefficients
    if bend >= 0:
        return ()
    gradient = np.array([0.0, -1 / (2 * bend), slope / (2 * bend**2)])
    logs = np.log(np.asarray(lam))
    order = np.argsort(logs)
    beyond = math.log(2)
    low = curve.low - (beyond if interval.low == 0 else 0)
    high = curve.high + (beyond if math.isinf(interval.high) else 0)
    grid = np.linspace(low, high, 41)
    noise = np.exp(np.interp(grid, logs[order], np.log(single[order])))

    def rows(x: np.ndarray) -> np.ndarray:
        centred = x - curve.centre
        return np.stack([np.ones_like(centred), centred, centred**2], axis=-1)

    design = rows(logs)
    information = design.T @ ((np.asarray(numbers) / single)[:, None] * design)
    now = gradient @ np.linalg.inv(information) @ gradient
    candidates = rows(grid)
    gains = candidates[:, :, None] * candidates[:, None, :] / noise[:, None, None]
    chosen: dict[int, int] = {}
    for _ in range(NEXT_RUNS):
        after = np.linalg.inv(information + gains)
        best = int(np.argmin(np.einsum("i,nij,j->n", gradient, after, gradient)))
        information = information + gains[best]
        chosen[best] = chosen.get(best, 0) + 1
    width = math.sqrt(gradient @ np.linalg.inv(information) @ gradient / now)
    return tuple(NextRun(float(np.exp(grid[at])), number, width) for at, number in sorted(chosen.items()))


def _settings(line: Line, steps: Sequence[NextRun]) -> tuple[str, ...]:
    """The rates, or else ``LAMBDA``, that give each suggested λ, by a straight line through logarithms."""
    forms = (
        (quantities.rate, "LABEL_RATE : RATIONALE_RATE about {} : 1"),
        (quantities.quantity("lambda").of, "LAMBDA about {}"),
    )
    for of, text in forms:
        values = [of(cell) for cell in line.cells]
        if all(math.isfinite(value) and value > 0 for value in values) and max(values) / min(values) > 1.02:
            slope, offset = np.polyfit(np.log(line.values), np.log(values), 1)
            return tuple(text.format(number(float(np.exp(offset + slope * math.log(step.lam))), 2)) for step in steps)
    return ()
