"""The fit against statsmodels, its interval against simulations, and the value of the next runs."""

import math

import numpy as np
import pytest
import statsmodels.api as sm

from distill.experiments.report import findings, optimum, statistics
from distill.experiments.report.optimum import argmax, fit, optima

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


def test_the_optimum_of_a_sweep_is_near_the_truth(rates_analysis):
    (found,) = rates_analysis[1].optima
    assert found.line == "all_tokens", "task_tokens has one λ only"
    assert found.lam.low < 0.4 < found.lam.high and found.bounded
    assert 0.15 < found.lam.value < 1.0


def test_intervals_of_the_optimum_cover_it(rates_analysis):
    """Noise that differs by a factor of 100 between λ; five seeds."""
    random = np.random.default_rng(1)
    (line,) = [
        line
        for line in optimum.quantities.lines(rates_analysis[1].part, optimum.quantities.quantity("effective"))
        if line.varies
    ]
    spread = np.array([0.3, 0.2, 0.5, 1.0, 3.0, 20.0])
    inside = 0
    for number in range(150):
        scores = truth(line.values)[:, None] + random.normal(size=(6, 5)) * spread[:, None]
        found = optimum.estimate(line, scores.tolist(), draws=300, seed=number)
        inside += found.lam.low <= 0.5 <= found.lam.high
    assert 0.9 <= inside / 150 <= 1.0, inside / 150


def test_variances_of_few_seeds_are_drawn_to_the_median():
    assert optimum.shrunk_variances([4.0, 4.0, 0.0], [3, 3, 1]) == pytest.approx([4.0, 4.0, 4.0])


def test_next_runs_narrow_the_optimum_as_much_as_they_promise(rates_analysis):
    """The suggested runs, simulated many times, shrink the spread of the optimum by the promised factor."""
    random = np.random.default_rng(2)
    spread = np.full(5, 0.6)
    numbers = [3] * 5
    curve = fit(LAM, truth(LAM), spread**2 / 3)
    steps = optimum.next_runs(curve, LAM, spread**2, numbers, statistics.Interval(0.5, 0.2, 1.0))
    assert sum(step.runs for step in steps) == optimum.NEXT_RUNS and all(0.1 <= step.lam <= 10 for step in steps)

    def place(lam, runs):
        means = truth(lam) + random.normal(size=len(lam)) * 0.6 / np.sqrt(runs)
        found = fit(lam, means, 0.36 / np.asarray(runs))
        return argmax(found, found.coefficients[None])[0]

    more = [*LAM, *(step.lam for step in steps)]
    now = np.std([place(LAM, numbers) for _ in range(400)])
    later = np.std([place(more, [*numbers, *(step.runs for step in steps)]) for _ in range(400)])
    assert later / now == pytest.approx(steps[0].width, abs=0.12)


def test_suggestions_say_which_rates_give_their_lambda(rates_analysis):
    (found,) = optima(rates_analysis[1].evidence)
    assert len(found.settings) == len(found.next_runs) > 0
    assert all(text.startswith("LABEL_RATE : RATIONALE_RATE about ") for text in found.settings)
    lam = found.next_runs[0].lam
    assert float(found.settings[0].split()[4]) == pytest.approx(2.4 / lam, rel=0.1)


def test_settings_whose_lambda_hardly_differs_have_no_fit_but_a_sentence(rates_analysis, monkeypatch):
    analysis = rates_analysis[1]
    (narrow,) = optimum.narrow_lines(analysis.evidence)
    assert [each.line for each in optima(analysis.evidence)] == ["all_tokens"]
    sentence = findings.narrow_sentence(narrow)
    assert sentence == "The best effective λ (task_tokens) is not estimated: λ is 1 in all 6 settings."
    assert sentence in findings.sentences(analysis)
    monkeypatch.setattr(optimum, "_APART", 1e6)
    assert optima(analysis.evidence) == []
    sentences = sorted(findings.narrow_sentence(line) for line in optimum.narrow_lines(analysis.evidence))
    assert len(sentences) == 2 and "λ is between" in sentences[0]
