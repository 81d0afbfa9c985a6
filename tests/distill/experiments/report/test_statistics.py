"""Tests and intervals against scipy, statsmodels, hand-computed cases and simulations."""

import math

import numpy as np
import pandas
import pytest
import statsmodels.api as sm
from scipy import stats
from statsmodels.formula.api import ols
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from distill.experiments.report import statistics


def test_the_mean_interval_is_students():
    scores = [61.0, 64.0, 62.5, 66.0]
    interval = statistics.mean_interval(scores)
    low, high = stats.t.interval(0.95, 3, loc=np.mean(scores), scale=stats.sem(scores))
    assert (interval.value, interval.low, interval.high) == pytest.approx((63.375, low, high))
    assert not statistics.mean_interval([5.0]).known


def test_variance_components_are_those_of_an_analysis_of_variance():
    random = np.random.default_rng(0)
    values = random.normal(size=(4, 1)) + random.normal(size=(1, 7)) + random.normal(size=(4, 7))
    seeds, rows = np.indices(values.shape)
    fitted = ols(
        "y ~ C(s) + C(r)", pandas.DataFrame({"y": values.ravel(), "s": seeds.ravel(), "r": rows.ravel()})
    ).fit()
    table = sm.stats.anova_lm(fitted)
    square = {name: float(table.loc[name, "mean_sq"]) for name in ("C(s)", "C(r)", "Residual")}
    parts = statistics.crossed(values)
    assert parts.of_rest == pytest.approx(square["Residual"])
    assert parts.of_seeds == pytest.approx(max(0, square["C(s)"] - square["Residual"]) / 7)
    assert parts.of_rows == pytest.approx(max(0, square["C(r)"] - square["Residual"]) / 4)
    assert parts.variance == pytest.approx((square["C(s)"] + square["C(r)"] - square["Residual"]) / 28)


def test_one_seed_gives_the_test_over_rows_and_other_rows_the_test_over_seeds():
    values = np.random.default_rng(1).normal(0.4, 1, size=30)
    assert statistics.crossed(values[None]).p == pytest.approx(stats.ttest_1samp(values, 0).pvalue)
    groups = [values[:10], values[10:20], values[20:]]
    expected = stats.ttest_1samp([group.mean() for group in groups], 0).pvalue
    assert statistics.nested(groups).p == pytest.approx(expected)
    same = statistics.crossed(np.zeros((3, 5)))
    assert (same.mean, same.variance, same.p) == (0.0, 0.0, 1.0)


@pytest.mark.parametrize(
    "parts",
    [
        statistics.crossed(np.ones((3, 5))),
        statistics.crossed(np.array([[1.0, 0.0], [0.0, 1.0]])),
        statistics.nested([np.array([100 * (0.72 - 0.61)]), np.array([100 * (0.53 - 0.42)])]),
        statistics.nested([np.array([10.0])]),
    ],
    ids=["constant", "balanced", "rounded", "one value"],
)
def test_without_spread_there_is_no_test_and_no_interval(parts):
    assert math.isnan(parts.p) and not parts.interval.known
    assert (statistics.widened(np.linspace(0, 1, 9), parts) == parts.mean).all()
    need = statistics.needed(parts)
    assert (need.seeds, need.rows) == (None, None) and math.isnan(need.detectable)


def draws_of(values, random, number):
    """Plain bootstrap draws of the mean over seeds and rows."""
    seeds, rows = values.shape
    weights = random.multinomial(rows, np.full(rows, 1 / rows), size=number) / rows
    per_seed = weights @ values.T
    return per_seed[np.arange(number)[:, None], random.integers(seeds, size=(number, seeds))].mean(axis=1)


@pytest.mark.parametrize("spread", [(0.0, 1.0, 1.0), (0.15, 0.5, 1.0), (0.4, 0.2, 0.2)], ids=["rows", "both", "seeds"])
def test_the_bootstrap_covers_the_truth(spread):
    """Of 300 simulated differences over five seeds, about 95 % have an interval that contains the truth."""
    random = np.random.default_rng(3)
    of_seeds, of_rows, of_rest = spread
    inside = plain = 0
    for _ in range(300):
        values = (
            0.3
            + random.normal(0, of_seeds, (5, 1))
            + random.normal(0, of_rows, (1, 60))
            + random.normal(0, of_rest, (5, 60))
        )
        draws = draws_of(values, random, 400)
        interval = statistics.percentile_interval(values.mean(), statistics.widened(draws, statistics.crossed(values)))
        inside += interval.low <= 0.3 <= interval.high
        low, high = np.quantile(draws, [0.025, 0.975])
        plain += low <= 0.3 <= high
    assert 0.92 <= inside / 300 <= 0.99, inside / 300
    if of_seeds > of_rows:
        assert plain / 300 < 0.91, "the plain bootstrap is too narrow for five seeds; else the correction is not needed"


def test_under_no_difference_p_is_small_as_often_as_it_says():
    random = np.random.default_rng(4)
    values = (
        random.normal(0, 0.2, (5, 1)) + random.normal(0, 0.4, (1, 60)) + random.normal(0, 1, (5, 60))
        for _ in range(600)
    )
    share = np.mean([statistics.crossed(each).p < 0.05 for each in values])
    assert 0.02 <= share <= 0.08, share


def test_mcnemar_is_a_binomial_test_on_rows_that_one_of_both_has_right():
    a = np.array([True] * 9 + [False] * 2 + [True] * 20 + [False] * 5)
    b = np.array([False] * 9 + [True] * 2 + [True] * 20 + [False] * 5)
    assert statistics.mcnemar(a, b) == (9, 2, pytest.approx(stats.binomtest(2, 11).pvalue))
    assert statistics.mcnemar(a, a) == (0, 0, 1.0)


def test_cochrans_q_by_hand():
    """Conover's formula on a table of three settings and six rows."""
    rows = np.array([[1, 1, 0], [1, 0, 0], [1, 1, 1], [1, 1, 0], [0, 0, 0], [1, 0, 1]], bool)
    totals, per_row, k = rows.sum(axis=0), rows.sum(axis=1), 3
    q = (k - 1) * (k * (totals**2).sum() - totals.sum() ** 2) / (k * per_row.sum() - (per_row**2).sum())
    assert statistics.cochran(rows.T) == pytest.approx(stats.chi2.sf(q, k - 1))
    assert statistics.cochran(np.ones((3, 4), bool)) == 1.0


def test_merged_p_values_are_valid_whatever_their_dependence():
    assert statistics.merged([0.04]) == 0.04
    assert statistics.merged([0.1, 0.2]) == pytest.approx(0.2)
    random = np.random.default_rng(5)
    common = random.random(20_000)
    same = np.mean([statistics.merged([p, p, p]) < 0.05 for p in common.tolist()])
    alone = np.mean([statistics.merged(ps) < 0.05 for ps in random.random((20_000, 3)).tolist()])
    assert same <= 0.055 and alone <= 0.055


def test_holm_is_that_of_statsmodels():
    p_values = np.random.default_rng(8).random(12) ** 3
    assert statistics.holm(p_values.tolist()) == pytest.approx(multipletests(p_values, method="holm")[1])
    assert statistics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    first, second = statistics.holm([math.nan, 0.02])
    assert math.isnan(first) and second == 0.02
    assert statistics.holm([]) == []


def test_needed_seeds_agree_with_a_paired_t_test_of_another_library():
    random = np.random.default_rng(6)
    groups = [random.normal(0.2 + effect, 0.01, 400) for effect in random.normal(0, 0.5, 8)]
    parts = statistics.nested(groups)
    need = statistics.needed(parts, 0.3)
    expected = TTestPower().solve_power(0.3 / math.sqrt(parts.of_seeds), power=0.8, alpha=0.05)
    assert abs(need.seeds - expected) <= 2
    of_ten = TTestPower().solve_power(0.3 / math.sqrt(parts.of_seeds), power=0.8, alpha=0.05 / 10)
    assert of_ten > expected + 5
    assert abs(statistics.needed(parts, 0.3, pairs=10).seeds - of_ten) <= 2
    assert need.rows is None, "rows of other seeds say nothing of the number of rows"


def test_needed_rows_and_seeds_detect_the_difference_when_simulated():
    random = np.random.default_rng(7)

    def draw(seeds, rows):
        return 0.25 + random.normal(0, 0.8, (1, rows)) + random.normal(0, 1, (seeds, rows))

    need = statistics.needed(statistics.crossed(draw(6, 4000)), 0.25)
    assert need.rows is not None and need.seeds is not None
    found = np.mean([statistics.crossed(draw(6, need.rows)).p < 0.05 for _ in range(200)])
    assert 0.7 <= found <= 0.9, (need, found)
    # Rows that differ much cannot be outweighed by seeds.
    few = statistics.crossed(0.05 + random.normal(0, 2, (1, 40)) + random.normal(0, 0.1, (5, 40)))
    assert statistics.needed(few, 0.05).seeds is None
    assert statistics.needed(few, 0.05).rows > 1000
    assert statistics.needed(statistics.crossed(np.ones((1, 5)) * 0.1)).seeds is None


def test_intervals_of_shares_end_at_possible_values():
    assert statistics.share_interval([0.0, 0.385]) == statistics.Interval(0.1925, 0.0, 1.0)
    assert statistics.share_interval([0.5, 3.0]).low < 0, "these are no shares"
    assert statistics.within(statistics.Interval(19.2, -155.8, 265.4), -100, 100) == statistics.Interval(
        19.2, -100, 100
    )
    assert not statistics.share_interval([0.5]).known
