"""Tests and intervals for runs scored on the same rows: variance components, bootstrap, McNemar, Cochran, Holm, power.

Scores of one setting are a matrix of seeds by rows. Both are drawn at random, and every seed answers the same rows, so the
two are crossed random effects: a difference between two settings is ``d[s, r] = μ + seed[s] + row[r] + rest[s, r]``.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float
from scipy import stats

ALPHA = 0.05
POWER = 0.8
DRAWS = 2000
DIGITS = 9  # decimals of a mean score from which two count as equal
_ROUNDING = 1e-9  # a standard error below this share of its mean is an error of rounding


@dataclasses.dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval; the ends are nan where none can be given."""

    value: float
    low: float = math.nan
    high: float = math.nan

    @property
    def known(self) -> bool:
        """Whether the interval exists."""
        return not (math.isnan(self.low) or math.isnan(self.high))


def half_width(scores: Sequence[float]) -> float:
    """Returns half of the 95 % interval of the mean over seeds (Student's t); nan for one seed."""
    values = np.asarray(scores, np.float64)
    if len(values) < 2:
        return math.nan
    return float(stats.t.ppf(1 - ALPHA / 2, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values)))


def mean_interval(scores: Sequence[float]) -> Interval:
    """Returns the mean over seeds with Student's 95 % interval; no interval for one seed."""
    mean, half = float(np.mean(scores)), half_width(scores)
    return Interval(mean, mean - half, mean + half)


def within(interval: Interval, low: float, high: float) -> Interval:
    """Returns the interval, cut to the values between ``low`` and ``high`` that a score or a difference can have."""
    if not interval.known:
        return interval
    return dataclasses.replace(interval, low=max(interval.low, low), high=min(interval.high, high))


def share_interval(scores: Sequence[float], whole: float = 1.0) -> Interval:
    """Returns :func:`mean_interval`, cut to the possible values if all scores are shares.

    Args:
      scores: one per seed.
      whole: the value of a share of 1: 1, or 100 for percentages.
    """
    found = mean_interval(scores)
    return within(found, 0.0, whole) if all(0 <= score <= whole for score in scores) else found


def is_whole(interval: Interval, whole: float = 1.0) -> bool:
    """Returns whether the interval of a share holds all shares, and so says nothing of it; ``whole`` as above."""
    return interval.low <= 0 and interval.high >= whole


@dataclasses.dataclass(frozen=True)
class Components:
    """Variance components of a mean over seeds and rows.

    Attributes:
      mean: the mean.
      seeds, rows: number of each.
      of_seeds, of_rows, of_rest: variance of one seed's effect, of one row's, and of what remains in one cell.
      variance: of the mean, ``of_seeds/seeds + of_rows/rows + of_rest/(seeds·rows)``.
      freedom: degrees of freedom of ``variance`` (Satterthwaite).
    """

    mean: float
    seeds: int
    rows: int
    of_seeds: float
    of_rows: float
    of_rest: float
    variance: float
    freedom: float

    @property
    def known(self) -> bool:
        """Whether the values show how far the mean may be off: False without any spread, and for a single value."""
        return self.variance > (_ROUNDING * self.mean) ** 2

    @property
    def p(self) -> float:
        """Two-sided p-value of the mean being 0, from Student's t; nan if the variance is not :attr:`known`.

        Without spread around 0, two settings are the same in all that was seen: 1.
        """
        if not self.known:
            return 1.0 if self.mean == self.variance == 0 else math.nan
        return float(2 * stats.t.sf(abs(self.mean) / math.sqrt(self.variance), self.freedom))

    @property
    def interval(self) -> Interval:
        """Student's 95 % interval of the mean; none if the variance is not :attr:`known`."""
        if not self.known:
            return Interval(self.mean)
        half = float(stats.t.ppf(1 - ALPHA / 2, self.freedom)) * math.sqrt(self.variance)
        return Interval(self.mean, self.mean - half, self.mean + half)


def crossed(values: Float[np.ndarray, "seeds rows"]) -> Components:
    """Estimates the components of two crossed random effects by their mean squares.

    Searle, S. R., Casella, G. and McCulloch, C. E. (1992), *Variance Components*, section 4.3; the degrees of freedom by
    Satterthwaite, F. E. (1946), Biometrics Bulletin 2. A component whose estimate is negative counts as 0. One seed gives
    the variance over rows alone, which does not contain what another seed would change.

    Args:
      values: a score per seed and row, or a difference of two.
    """
    seeds, rows = values.shape
    mean = float(values.mean())
    if rows < 2:
        return nested(list(values))
    by_row = values.mean(axis=0)
    if seeds == 1:
        variance = float(by_row.var(ddof=1))
        return Components(mean, 1, rows, math.nan, variance, 0.0, variance / rows, rows - 1)
    by_seed = values.mean(axis=1)
    square_seeds = rows * float(by_seed.var(ddof=1))
    square_rows = seeds * float(by_row.var(ddof=1))
    rest = values - by_seed[:, None] - by_row[None, :] + mean
    square_rest = float((rest**2).sum()) / ((seeds - 1) * (rows - 1))
    parts = [
        (1.0, square_seeds, seeds - 1),
        (1.0, square_rows, rows - 1),
        (-1.0, square_rest, (seeds - 1) * (rows - 1)),
    ]
    if square_seeds <= square_rest or square_rows <= square_rest:
        parts = [max(parts[:2], key=lambda part: part[1])]
    total = sum(sign * square for sign, square, _ in parts)
    spread = sum(square**2 / freedom for _, square, freedom in parts)
    return Components(
        mean,
        seeds,
        rows,
        max(0.0, square_seeds - square_rest) / rows,
        max(0.0, square_rows - square_rest) / seeds,
        square_rest,
        total / (seeds * rows),
        total**2 / spread if spread > 0 else float(seeds - 1),
    )


def nested(values: Sequence[Float[np.ndarray, " _"]]) -> Components:
    """Returns the components where each seed has rows that no other has: the means of the seeds are independent.

    Args:
      values: for each seed, a score per row (or one score).
    """
    means = np.array([each.mean() for each in values])
    if len(means) < 2:
        rows = values[0]
        variance = float(rows.var(ddof=1)) if len(rows) > 1 else math.nan
        return Components(
            float(means[0]), 1, len(rows), math.nan, variance, 0.0, variance / len(rows), max(1, len(rows) - 1)
        )
    between = float(means.var(ddof=1))
    number = len(means)
    rows_each = int(np.mean([len(each) for each in values]))
    return Components(float(means.mean()), number, rows_each, between, 0.0, 0.0, between / number, number - 1)


def widened(draws: Float[np.ndarray, " draws"], parts: Components) -> Float[np.ndarray, " draws"]:
    """Rescales bootstrap draws around their estimate, for few seeds.

    Drawing seeds and rows with replacement (the pigeonhole bootstrap: Owen, A. B. (2007), Annals of Applied Statistics 1)
    has too small a spread between few seeds and counts the rest three times. The draws keep their form and get the
    variance of :func:`crossed`, and the wider quantiles of Student's t (Hesterberg, T. C. (2015), The American Statistician
    69, section 4.1).
    """
    spread = float(draws.std())
    if spread == 0 or not parts.known:
        return np.full_like(draws, parts.mean)
    ratio = stats.t.ppf(1 - ALPHA / 2, parts.freedom) / stats.norm.ppf(1 - ALPHA / 2)
    return parts.mean + (draws - draws.mean()) * (ratio * math.sqrt(parts.variance) / spread)


def percentile_interval(value: float, draws: Float[np.ndarray, " draws"]) -> Interval:
    """Returns the middle 95 % of bootstrap draws; infinite draws are allowed."""
    low, high = np.quantile(draws, [ALPHA / 2, 1 - ALPHA / 2], method="inverted_cdf")
    return Interval(value, float(low), float(high))


def mcnemar(a: Bool[np.ndarray, " rows"], b: Bool[np.ndarray, " rows"]) -> tuple[int, int, float]:
    """McNemar's exact test of two classifiers on the same rows.

    McNemar, Q. (1947), Psychometrika 12; computed by statsmodels.

    Returns:
      Rows that only ``a`` has right, rows that only ``b`` has right, and the two-sided p-value.
    """
    from statsmodels.stats import contingency_tables

    table = [[int((a & b).sum()), int((a & ~b).sum())], [int((~a & b).sum()), int((~a & ~b).sum())]]
    only_a, only_b = table[0][1], table[1][0]
    if only_a + only_b == 0:
        return 0, 0, 1.0
    return only_a, only_b, float(contingency_tables.mcnemar(table, exact=True).pvalue)


def cochran(correct: Bool[np.ndarray, "settings rows"]) -> float:
    """Cochran's Q: the p-value of all settings having the same accuracy on the same rows.

    Cochran, W. G. (1950), Biometrika 37; computed by statsmodels.
    """
    from statsmodels.stats import contingency_tables

    decided = correct.any(axis=0) & ~correct.all(axis=0)  # other rows have no influence on Q
    if len(correct) < 2 or not decided.any():
        return 1.0
    return float(contingency_tables.cochrans_q(correct[:, decided].T.astype(int)).pvalue)


def merged(p_values: Sequence[float]) -> float:
    """Merges p-values of one hypothesis that may depend on each other: the upper median times ``n / rank``.

    Rüger, B. (1978), Metrika 25: for any rank chosen beforehand, the p-value of that rank times ``n / rank`` is valid.

    >>> merged([0.01, 0.02, 0.5])
    0.03
    """
    ordered = sorted(p_values)
    rank = len(ordered) // 2 + 1
    return min(1.0, ordered[rank - 1] * len(ordered) / rank)


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns p-values corrected for their number: Holm, S. (1979), Scandinavian Journal of Statistics 6.

    A nan stays nan and is not counted. The tests compare with statsmodels, whose function collects garbage at every call.
    """
    out = np.asarray(p_values, np.float64).copy()
    known = np.flatnonzero(~np.isnan(out))
    order = known[np.argsort(out[known], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    out[order] = np.minimum(1.0, np.maximum.accumulate(factors * out[order]))
    return [float(p) for p in out]


@dataclasses.dataclass(frozen=True)
class Needed:
    """The numbers of seeds and rows at which a difference is detected.

    Attributes:
      difference: the difference to detect.
      seeds: seeds of each setting, with the present rows; None if no number is enough or it is not known.
      rows: test rows, with the present seeds; None if no number is enough or it is not known.
      detectable: the smallest difference that the present seeds and rows detect; nan if the variance is not known.
      width: the standard error of the difference with ``seeds``, as a share of the present one; nan if it is not known.
    """

    difference: float
    seeds: int | None
    rows: int | None
    detectable: float
    width: float = math.nan


def needed(parts: Components, difference: float | None = None, pairs: int = 1) -> Needed:
    """Seeds or rows at which a difference is detected at level 0.05 / ``pairs`` with power 0.8.

    The smallest number at which ``difference ≥ (t[1 − α/2] + t[power]) · sqrt(of_seeds/S + of_rows/R + of_rest/(S·R))``,
    the normal-theory formula (Cohen, J. (1988), *Statistical Power Analysis*, chapter 2; for comparisons of models, Card et
    al. (2020), "With Little Power Comes Great Responsibility", EMNLP) with the variance of crossed effects.

    Args:
      parts: components of the difference.
      difference: the difference to detect; by default the one observed.
      pairs: number of comparisons that are corrected together. Bonferroni's level is the strictest that Holm's
        correction can set.
    """
    goal = abs(parts.mean if difference is None else difference)
    of_seeds = 0.0 if math.isnan(parts.of_seeds) else parts.of_seeds

    def factor(freedom: float) -> float:
        return float(stats.t.ppf(1 - ALPHA / pairs / 2, freedom) + stats.t.ppf(POWER, freedom))

    def variance(seeds: int, rows: int) -> float:
        return of_seeds / seeds + parts.of_rows / rows + parts.of_rest / (seeds * rows)

    def enough(seeds: int, rows: int, freedom: float) -> bool:
        return factor(freedom) * math.sqrt(variance(seeds, rows)) <= goal

    detectable = factor(parts.freedom) * math.sqrt(parts.variance) if parts.known else math.nan
    # With one seed, or without spread, it is unknown how much seeds differ: no number of either can be promised.
    if goal == 0 or parts.seeds < 2 or not parts.known:
        return Needed(goal, None, None, detectable)
    many = 10**7
    seeds = _smallest(lambda n: enough(n, parts.rows, max(1, n - 1)), 2, 10**4)
    row_freedom = math.inf if of_seeds == 0 else parts.seeds - 1
    rows = None
    if (
        parts.of_rows > 0 or parts.of_rest > 0
    ):  # else no two seeds share rows, and the effect of rows is not known apart
        rows = _smallest(lambda n: enough(parts.seeds, n, min(row_freedom, n - 1)), 2, many)
    now = variance(parts.seeds, parts.rows)
    width = math.nan if seeds is None or now == 0 else math.sqrt(variance(seeds, parts.rows) / now)
    return Needed(goal, seeds, rows, detectable, width)


def _smallest(good: Callable[[int], bool], low: int, high: int) -> int | None:
    """The smallest number for which a monotone condition is true, or None."""
    if not good(high):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if good(middle) else (middle + 1, high)
    return low
