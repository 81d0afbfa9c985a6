"""The parabola against statsmodels, and its maximum."""

import math

import numpy as np
import pytest
import statsmodels.api as sm

from distill.experiments.report import parabola
from distill.experiments.report.parabola import argmax, fit

LAM = [0.1, 0.3, 1.0, 3.0, 10.0]


def truth(lam, best=0.5):
    return 70 - 2.0 * np.log(np.asarray(lam) / best) ** 2


def test_the_fit_is_weighted_least_squares():
    random = np.random.default_rng(0)
    variances = np.array([0.01, 0.04, 1.0, 0.2, 9.0])
    means = truth(LAM) + random.normal(0, np.sqrt(variances))
    found = fit(LAM, means, variances)
    x = np.log(LAM) - np.mean(np.log(LAM))
    expected = sm.WLS(means, np.stack([np.ones(5), x, x**2], axis=1), weights=1 / variances).fit()
    assert found.coefficients == pytest.approx(expected.params)
    assert found.residual == pytest.approx(expected.scale)
    assert found.covariance == pytest.approx(expected.normalized_cov_params * max(1, expected.scale))
    assert found(np.array(LAM)) == pytest.approx(expected.fittedvalues)


def test_without_noise_the_optimum_is_exact_and_ends_are_named():
    found = fit(LAM, truth(LAM), np.ones(5))
    assert math.exp(argmax(found, found.coefficients[None])[0]) == pytest.approx(0.5)
    rising = fit(LAM, np.log(LAM), np.ones(5))
    assert argmax(rising, rising.coefficients[None])[0] == math.inf
    assert argmax(found, np.array([[0.0, -1.0, 0.1]]))[0] == -math.inf


def test_variances_of_few_seeds_are_drawn_to_the_median():
    assert parabola.shrunk_variances([4.0, 4.0, 0.0], [3, 3, 1]) == pytest.approx([4.0, 4.0, 4.0])
