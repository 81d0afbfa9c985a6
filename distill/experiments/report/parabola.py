"""A parabola of accuracy over log λ, by weighted least squares, and its maximum."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy import stats

PRIOR_FREEDOM = 1.0
"""Weight, in seeds, of the median variance of all settings in the variance of one setting."""


@dataclasses.dataclass(frozen=True)
class Fit:
    """Accuracy as a quadratic function of ``ln λ``.

    Attributes:
      coefficients: of 1, ``ln λ`` (centred) and its square.
      covariance: of the coefficients.
      centre: mean of ``ln λ`` that was subtracted.
      low, high: ends of the trained range of ``ln λ``.
      residual: χ² per degree of freedom; nan if no degree is left.
      residual_p: probability of a larger χ² if the curve is quadratic; nan if no degree is left.
    """

    coefficients: Float[np.ndarray, "3"]
    covariance: Float[np.ndarray, "3 3"]
    centre: float
    low: float
    high: float
    residual: float
    residual_p: float

    def __call__(self, lam: Float[np.ndarray, " points"]) -> Float[np.ndarray, " points"]:
        """Returns the fitted accuracy at each effective λ."""
        x = np.log(lam) - self.centre
        return self.coefficients[0] + self.coefficients[1] * x + self.coefficients[2] * x**2


def shrunk_variances(variances: Sequence[float], numbers: Sequence[int]) -> Float[np.ndarray, " settings"]:
    """Returns variances of single seeds, shrunk slightly towards their median: few seeds estimate them poorly.

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
    return (PRIOR_FREEDOM * middle + freedom * given) / (PRIOR_FREEDOM + freedom)


def fit(lam: Sequence[float], means: Sequence[float] | np.ndarray, variances: Sequence[float] | np.ndarray) -> Fit:
    """Fits a quadratic in ``ln λ`` by weighted least squares.

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


def coefficients(
    lam: Sequence[float],
    drawn: Float[np.ndarray, "draws settings"],
    variances: Float[np.ndarray, " settings"],
    centre: float,
) -> Float[np.ndarray, "draws 3"]:
    """Returns the coefficients of a :class:`Fit` for each draw of the means.

    Args:
      lam: positive numbers.
      drawn: means at each λ, one row per draw.
      variances: of each mean, positive.
      centre: of the fit.
    """
    x = np.log(np.asarray(lam)) - centre
    design = np.stack([np.ones_like(x), x, x**2], axis=1)
    weighted = design / variances[:, None]
    return drawn @ np.linalg.solve(design.T @ weighted, weighted.T).T


def argmax(of: Fit, coefficients: Float[np.ndarray, "draws 3"]) -> Float[np.ndarray, " draws"]:
    """Returns ``ln λ`` of the maximum within the trained range; ``∓∞`` if the maximum is at or beyond an end."""
    _, slope, bend = coefficients.T
    with np.errstate(divide="ignore", invalid="ignore"):
        place = of.centre - slope / (2 * bend)
    ends = np.array([of.low, of.high]) - of.centre
    values = slope[:, None] * ends + bend[:, None] * ends**2
    at_end = np.where(values[:, 0] > values[:, 1], -np.inf, np.inf)
    inside = (bend < 0) & (place > of.low) & (place < of.high)
    beyond = np.where(place <= of.low, -np.inf, np.inf)
    return np.where(inside, place, np.where(bend < 0, beyond, at_end))
