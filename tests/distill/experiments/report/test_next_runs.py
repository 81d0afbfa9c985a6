"""The next runs narrow a good fit as much as they promise, and explore where a fit is poor."""

import dataclasses
import math

import numpy as np
import pytest

from distill.experiments.report import next_runs, quantities
from distill.experiments.report.parabola import Fit, argmax, fit
from distill.experiments.report.quantities import Line
from distill.experiments.sweep.levels import parts

LAM = [0.1, 0.3, 1.0, 3.0, 10.0]


def truth(lam, best=0.5):
    return 70 - 2.0 * np.log(np.asarray(lam) / best) ** 2


def test_next_runs_narrow_the_optimum_as_much_as_they_promise():
    """The suggested runs, simulated many times, shrink the spread of the optimum by the promised factor."""
    random = np.random.default_rng(2)
    spread = np.full(5, 0.6)
    numbers = [3] * 5
    curve = fit(LAM, truth(LAM), spread**2 / 3)
    steps, width = next_runs.c_optimal(curve, LAM, spread**2, numbers)
    assert sum(runs for _, runs in steps) == next_runs.NEXT_RUNS and all(0.1 <= lam <= 10 for lam, _ in steps)

    def place(lam, runs):
        means = truth(lam) + random.normal(size=len(lam)) * 0.6 / np.sqrt(runs)
        found = fit(lam, means, 0.36 / np.asarray(runs))
        return argmax(found, found.coefficients[None])[0]

    more = [*LAM, *(lam for lam, _ in steps)]
    now = np.std([place(LAM, numbers) for _ in range(400)])
    later = np.std([place(more, [*numbers, *(runs for _, runs in steps)]) for _ in range(400)])
    assert later / now == pytest.approx(width, abs=0.12)


@pytest.fixture
def lines(rates_analysis):
    """The line of each normaliser."""
    found = quantities.lines(rates_analysis[1].part, quantities.quantity("effective"))
    return {line.name: line for line in found}


def test_rates_are_named_where_they_set_lambda(lines):
    found = next_runs.knob(lines["all_tokens"])
    assert found.name == "LABEL_RATE:RATIONALE_RATE"
    assert found.value(1.2) == pytest.approx(2.0, rel=0.01), "λ = 2.4 rationales / labels"
    assert found.lam(found.value(1.2)) == pytest.approx(1.2)
    assert (found.level(1.2), found.text(9.6)) == ("2:1", "LABEL_RATE:RATIONALE_RATE about 1:4")
    assert [found.level(lam) for lam in (0.3, 1.2, 9.6)] == ["8:1", "2:1", "1:4"]


def test_lambda_is_named_where_rates_do_not_set_it(lines):
    found = next_runs.knob(lines["task_tokens"])
    assert (found.name, found.level(0.3)) == ("LAMBDA", "0.3"), "six rates, one λ"
    assert found.level(112.0) == "110"


def test_no_knob_where_a_schedule_sets_lambda(lines):
    cells = lines["task_tokens"].cells
    for cell in cells:
        assert quantities.lambda_of(cell) == 1.0
    run = dataclasses.replace(cells[0].runs[0], record={"configuration": {"LAMBDA": "@schedules.cosine_lambda()"}})
    scheduled = dataclasses.replace(cells[0], runs=(run,))
    assert math.isnan(quantities.lambda_of(scheduled))
    assert next_runs.knob(Line("x", (scheduled,), (1.0,))) is None
    alpha = dataclasses.replace(cells[0].runs[0], record={"configuration": {"ALPHA": 0.2}})
    assert quantities.lambda_of(dataclasses.replace(cells[0], runs=(alpha,))) == pytest.approx(4.0)


def test_exploring_widens_and_fills(lines):
    line = lines["all_tokens"]
    found = next_runs.explore(line, 1.2, 5, above=True, between=True, reason="r")
    expected = [math.sqrt(0.6 * 1.2), math.sqrt(1.2 * 2.4), 9.6 * 2, 9.6 * 4]
    assert [run.lam for run in found.runs] == pytest.approx(expected, rel=0.01)
    # Before: from 0.6, below 1.2, to 38. Afterwards at most from 4.8 to 19, or from 9.6 to 38: a factor of 4 of one of 64.
    assert found.total == 20 and found.width == pytest.approx(math.log(4) / math.log(64), rel=0.01)
    assert next_runs.explore(line, 1.2, 5, reason="r").runs == ()
    ratios = [run.setting.split(" about ")[1] for run in found.runs]
    assert [first / second for first, second in map(parts, ratios)] == pytest.approx(
        [2.4 / lam for lam in expected], rel=0.05
    )
    at_the_end = next_runs.explore(line, 9.6, 5, between=True, reason="r")
    assert [run.lam for run in at_the_end.runs] == pytest.approx([math.sqrt(4.8 * 9.6)], rel=0.01)


@pytest.mark.parametrize(
    ("trained", "best", "added", "expected"),
    [
        ([1, 2, 4, 8, 16], 4, [2.83, 5.66], 0.5),
        ([1, 4], 1, [0.25, 0.0625], 2 / 3),
        ([1], 1, [0.1, 10], 1.0),
        ([1], 1, [0.01, 0.1, 10, 100], 0.5),
    ],
)
def test_the_range_that_is_left_after_more_values(trained, best, added, expected):
    assert next_runs.resolution(trained, best, added) == pytest.approx(expected, rel=0.01)
    assert math.isnan(next_runs.resolution(trained, best, []))


def test_more_runs_never_widen_an_interval():
    """Also where λ hardly differs, and rounding decides the inverse of the information."""
    random = np.random.default_rng(0)
    for spread in (3.0, 0.1, 1e-3, 1e-6):
        for _ in range(50):
            lam = np.exp(spread * random.uniform(-1, 1, 5))
            curve = Fit(
                np.array([80.0, random.normal(), -abs(random.normal())]), np.eye(3), float(np.log(lam).mean()),
                float(np.log(lam).min()), float(np.log(lam).max()), 1.0, 0.5,
            )  # fmt: skip
            _, width = next_runs.c_optimal(curve, lam.tolist(), random.uniform(0.1, 10, 5), [5] * 5)
            assert 0 <= width <= 1


def test_more_seeds_of_a_trained_value_need_no_new_level(lines):
    line = lines["all_tokens"]
    spread = np.full(6, 0.6)
    curve = fit(line.values, truth(line.values, 1.5), spread**2 / 5)
    found = next_runs.narrow(curve, line, spread**2, [5] * 6)
    new = [run for run in found.runs if not run.trained]
    assert found.total == next_runs.NEXT_RUNS and len(new) < len(found.runs)
    assert all(min(abs(math.log(run.lam / lam)) for lam in line.values) < 0.1 for run in found.runs if run.trained)
