"""The interval of the optimum against simulations, and when a fit is not trusted."""

import dataclasses
import math

import numpy as np
import pytest

from distill.experiments.report import findings, next_runs, optimum, quantities
from tests.distill.experiments.report import synthetic
from tests.distill.experiments.report.conftest import analysed


def truth(lam, best=0.5):
    return 70 - 2.0 * np.log(np.asarray(lam) / best) ** 2


def test_the_optimum_of_a_sweep_is_near_the_truth(rates_analysis):
    (found,) = rates_analysis[1].optima
    assert found.line == "all_tokens", "task_tokens has one λ only"
    assert found.lam.low < 0.4 < found.lam.high and found.bounded
    assert 0.15 < found.lam.value < 1.0


def test_intervals_of_the_optimum_cover_it(rates_analysis):
    """Noise that differs by a factor of 100 between λ; five seeds."""
    random = np.random.default_rng(1)
    (line,) = [
        line for line in quantities.lines(rates_analysis[1].part, quantities.quantity("effective")) if line.varies
    ]
    spread = np.array([0.3, 0.2, 0.5, 1.0, 3.0, 20.0])
    inside = 0
    for number in range(150):
        scores = truth(line.values)[:, None] + random.normal(size=(6, 5)) * spread[:, None]
        found = optimum.estimate(line, scores.tolist(), draws=300, seed=number)
        inside += found.lam.low <= 0.5 <= found.lam.high
    assert 0.9 <= inside / 150 <= 1.0, inside / 150


@pytest.fixture(scope="module")
def line(rates_analysis):
    """Six settings with λ from 0.3 to 9.6, set by rates."""
    (found,) = [line for line in optimum.effective_lines(rates_analysis[1].evidence) if line.varies]
    return found


def scores(line, mean, spread=0.5, seed=0):
    random = np.random.default_rng(seed)
    return [(mean(lam) + random.normal(size=5) * spread).tolist() for lam in line.values]


def test_the_gain_over_a_weight_of_one_is_one_that_accuracies_can_have(line):
    """Between 0 and 100 points, and no more than what is left above the accuracy at λ = 1."""
    peaks = [float(108 - 14 * np.log(lam / 3) ** 2) for lam in line.values]
    steep = [(mean + np.array([-2.0, -1.0, 0.0, 1.0, 2.0])).clip(0, 100).tolist() for mean in peaks]
    free, cut = (optimum.estimate(line, steep, draws=500, seed=0, highest=end) for end in (math.inf, 100.0))
    at_one = float(free.fit(np.array([1.0]))[0])
    assert free.gain.value > 0 and at_one + free.gain.value > 100, "the parabola exceeds 100 %"
    assert cut.gain.value == pytest.approx(100 - at_one) and 0 <= cut.gain.low <= cut.gain.high <= 100
    assert cut.gain.high < free.gain.high


def test_a_peak_inside_the_range_is_trusted(line):
    found = optimum.estimate(line, scores(line, lambda lam: float(truth(lam, 1.5))), draws=500, seed=0)
    assert not found.weaknesses.any and found.proposal.kind == "narrow" and 0 < found.proposal.width < 1
    assert sum(run.runs for run in found.proposal.runs) == next_runs.NEXT_RUNS
    assert found.best.training("lambda") in (pytest.approx(1.2, rel=0.01), pytest.approx(2.4, rel=0.01))


@pytest.mark.parametrize(("side", "sign"), [("above", 1), ("below", -1)])
def test_a_rising_score_widens_the_range_on_its_side(line, side, sign):
    found = optimum.estimate(line, scores(line, lambda lam: 70 + sign * np.log(lam)), draws=500, seed=0)
    weak = found.weaknesses
    assert (weak.above, weak.below) == (side == "above", side == "below") and not found.bounded
    lams = [run.lam for run in found.proposal.runs]
    assert found.proposal.kind == "explore" and len(lams) == 2 and all(run.runs == 5 for run in found.proposal.runs)
    assert min(lams) > 1.9 * max(line.values) if side == "above" else max(lams) < min(line.values) / 1.9
    assert f"the maximum may be at λ {side} {'9.6' if side == 'above' else '0.3'}" in found.proposal.reason


def test_a_flat_score_is_called_flat_and_a_curved_one_is_not(line):
    flat = [optimum.estimate(line, scores(line, lambda lam: 70.0, seed=n), draws=400, seed=n) for n in range(60)]
    assert np.mean([each.weaknesses.flat for each in flat]) > 0.9
    assert all(each.proposal.kind == "explore" for each in flat if each.weaknesses.flat)
    curved = [
        optimum.estimate(line, scores(line, lambda lam: float(truth(lam, 1.7)), seed=n), draws=400, seed=n)
        for n in range(60)
    ]
    assert not any(each.weaknesses.flat or each.weaknesses.below or each.weaknesses.above for each in curved)


def test_a_peak_that_is_no_parabola_is_filled_beside_the_best_value(line):
    found = optimum.estimate(
        line, scores(line, lambda lam: 90 - 30 * abs(np.log(lam / 2.4)) ** 0.5, 0.2), draws=500, seed=0
    )
    assert found.weaknesses.misfit and not (found.weaknesses.above or found.weaknesses.below)
    below, above = (run.lam for run in found.proposal.runs)
    assert below == pytest.approx(math.sqrt(1.2 * 2.4), rel=0.01)
    assert above == pytest.approx(math.sqrt(2.4 * 4.8), rel=0.01)
    assert "a parabola does not describe the scores" in found.proposal.reason


def test_three_values_are_too_few(line):
    three = dataclasses.replace(line, cells=line.cells[1:6:2], values=line.values[1:6:2])
    found = optimum.estimate(three, scores(three, lambda lam: float(truth(lam, 1.5)), 0.1), draws=300, seed=0)
    assert found.weaknesses.few == 3 and found.proposal.kind == "explore"
    assert "3 different λ determine a parabola exactly, and nothing tests it" in found.proposal.reason


def test_lines_without_a_fit_have_a_reason_and_runs(rates_analysis, tmp_path):
    analysis = rates_analysis[1]
    (narrow,) = analysis.unfitted
    assert [each.line for each in analysis.optima] == ["all_tokens"]
    sentence = "The best effective λ (task_tokens) is not estimated: λ is 1 in all 6 settings."
    assert findings.unfitted_sentence(narrow) == sentence and sentence in findings.sentences(analysis)
    assert all(run.setting.startswith("LAMBDA about ") for run in narrow.proposal.runs), "rates do not change λ here"
    assert "a maximum needs at least three different λ" in narrow.proposal.reason
    for rate in (1, 4, 16):
        synthetic.write_run(
            tmp_path / str(rate), [True, False, rate > 1], training={"lambda": 2 / rate},
            configuration={"FORM": "mixed", "LABEL_RATE": rate, "RATIONALE_RATE": 1, "NORMALIZER": "all_tokens"},
        )  # fmt: skip
    (one_seed,) = analysed(tmp_path)[1].unfitted
    assert one_seed.reason == "no setting has two seeds, so the noise is not known" and one_seed.proposal is None


def test_added_lambdas_of_one_normaliser_are_a_line_beside_the_rates_of_the_other(tmp_path):
    """The runs that a report proposes for a line without different λ give that line its best λ."""
    synthetic.rates(tmp_path, seeds=3, number=60)
    random = np.random.default_rng(5)
    for lam in (0.1, 0.3, 3.0, 10.0):
        for seed in range(3):
            right = random.random(60) < 0.7 - 0.08 * np.log(lam / 0.5) ** 2
            synthetic.write_run(
                tmp_path / synthetic.name(NORMALIZER="task_tokens", rates="2:1", LAMBDA=lam, RANDOM_SEED=seed),
                right, table=synthetic.rows(60), training={"lambda": lam},
                configuration={
                    "FORM": "mixed", "NORMALIZER": "task_tokens", "LABEL_RATE": 2, "RATIONALE_RATE": 1, "LAMBDA": lam,
                    "RANDOM_SEED": seed,
                },
            )  # fmt: skip
    synthetic.write_sweep(
        tmp_path, [path.name for path in sorted(tmp_path.iterdir()) if (path / "result.json").exists()]
    )
    analysis = analysed(tmp_path)[1]
    names = {each.line: each for each in analysis.optima}
    assert set(names) == {"all_tokens", "task_tokens, rates 2:1"} and not analysis.unfitted
    assert names["task_tokens, rates 2:1"].knob.name == "LAMBDA"
    assert names["task_tokens, rates 2:1"].proposal.recipe.keep == {"NORMALIZER": "task_tokens", "rates": "2:1"}


def test_of_equal_settings_the_first_in_the_order_of_the_report_is_the_best_as_in_the_selection(tmp_path):
    """One rule for the bold setting and for the one that next runs extend, whatever the order of seeds."""
    scores = [0.1, 0.2, 0.3], [0.2, 0.0, 0.1], [0.3, 0.2, 0.1]
    assert np.mean(scores[0]) != np.mean(scores[2]), "the same scores"
    for rates, lam, each in zip(("1:4", "1:1", "4:1"), (1.0, 0.995, 0.79), scores):
        labels, rationales = map(int, rates.split(":"))
        for seed, score in enumerate(each):
            synthetic.write_run(
                tmp_path / synthetic.name(rates=rates, RANDOM_SEED=seed), [True, False], validation=score,
                training={"lambda": lam},
                configuration={"FORM": "mixed", "LABEL_RATE": labels, "RATIONALE_RATE": rationales, "RANDOM_SEED": seed},
            )  # fmt: skip
    names = [synthetic.name(rates=rates, RANDOM_SEED=seed) for rates in ("1:4", "1:1", "4:1") for seed in range(3)]
    synthetic.write_sweep(tmp_path, names)
    found = analysed(tmp_path)[1]
    assert "(validation scores it like 1 other setting)" in findings.sentences(found)[0]
    (each,) = found.unfitted
    assert found.selected.values["rates"] == each.proposal.recipe.keep["rates"] == "1:4"
    (line,) = optimum.effective_lines(found.evidence)
    three = optimum.validation_scores(found.evidence, line)
    assert line.cells[optimum._best(line, three, found.part.cells)] is found.selected
