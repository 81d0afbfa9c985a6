"""Equal steps and equal compute, against the formula by hand."""

import pytest

from distill.experiments.sweep import SweepError, budgets, reading
from distill.experiments.sweep.budgets import Cost

TEXT = """
axes:
  method: {label: {}, paired: {}}
  SIZE: [1, 2]
  K: {values: [1], when: {method: paired}}
  budget: {budget: [steps, compute], reference: {method: %s}}
  RANDOM_SEED: [0, 1]
"""


def read(tmp_path, reference):
    (tmp_path / "s.yaml").write_text(TEXT % reference)
    return reading.read(tmp_path / "s.yaml", "out")


def test_steps_of_the_reference(tmp_path):
    asked = []

    def cost(run):
        asked.append(run.name)
        steps = {"label": 400, "paired": 300}[run.values["method"]]
        return Cost(steps, {"label": 2.0, "paired": 7.0}[run.values["method"]] * run.numbers["SIZE"])

    runs = budgets.resolved(read(tmp_path, "label"), cost)
    found = {
        (run.values["method"], run.values["SIZE"], run.values["budget"]): run.bindings[-2]
        for run in runs
        if run.values["RANDOM_SEED"] == "0"
    }
    for size in ("1", "2"):
        assert found["label", size, "steps"] == found["label", size, "compute"] == "TRAIN_STEPS = 400"
        assert found["paired", size, "steps"] == "TRAIN_STEPS = 400"
        assert found["paired", size, "compute"] == f"TRAIN_STEPS = {round(400 * 2 / 7)}"
    assert len(asked) == 4  # of two methods and two sizes; not of budgets and seeds
    assert all(run.bindings[-1].startswith("MODEL_DIR = ") for run in runs)


def test_a_reference_with_an_axis_that_others_lack_is_refused(tmp_path):
    with pytest.raises(SweepError, match="has an axis 'K', which the other configurations do not have"):
        budgets.resolved(read(tmp_path, "paired"), lambda run: Cost(1, 1.0))


def test_a_sweep_without_budgets_is_unchanged(tmp_path):
    (tmp_path / "s.yaml").write_text("axes: {A: [1, 2]}")
    sweep = reading.read(tmp_path / "s.yaml", "out")
    assert budgets.resolved(sweep, lambda run: pytest.fail("asked")) == sweep.runs()
