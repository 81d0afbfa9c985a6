"""Curves are means over seeds at common steps; differences and provenance name only what differs."""

import pytest

from distill.experiments.report import history
from distill.training import event_files
from tests.distill.experiments.report import synthetic
from tests.distill.experiments.report.conftest import analysed


def test_validation_curves_are_means_at_common_steps(methods_analysis):
    found = methods_analysis[1]
    cell = found.part.cells[0]
    (curve,) = history.validation_curves(found.evidence, [cell])
    assert [step for step, _ in curve.points] == [0, 100, 200, 300, 400]
    assert curve.points[0][1] == pytest.approx(31.0)


def test_losses_come_from_event_files(tmp_path):
    for seed, loss in ((0, 1.0), (1, 3.0)):
        directory = synthetic.write_run(tmp_path / str(seed), [True, False], configuration={"RANDOM_SEED": seed})
        writer = event_files.ScalarWriter(directory / "logs", 0)
        writer.write(50, {"train/loss/label": loss})
        writer.close()
    _, found = analysed(tmp_path)
    (curve,) = history.loss_curves(found.part.cells)
    assert curve.points == ((50, 2.0),)


def test_the_students_before_distillation(methods_analysis, tmp_path):
    assert (methods_analysis[1].before.split, methods_analysis[1].before.runs) == ("validation", 30)
    synthetic.write_run(tmp_path / "a", [True] * 4, configuration={"A": 1})
    assert analysed(tmp_path)[1].before is None
    synthetic.write_run(
        tmp_path / "b", [True] + [False] * 3, configuration={"A": 1, "TRAIN_STEPS": 1}, training={"steps": 1}
    )
    before = analysed(tmp_path)[1].before
    assert (before.split, before.score.value) == ("test", 25.0)


def test_only_what_differs_is_listed(methods_analysis):
    labels, rows = history.differences(methods_analysis[1].part)
    assert len(labels) == 6 and [name for name, _ in rows] == ["FORM", "TRAIN_ROWS"]


def test_provenance_counts_runs(methods_analysis):
    facts = dict(history.provenance(methods_analysis[1].part.runs))
    assert facts["revision"] == [("0123456789ab", 30)] and facts["jax"] == [("0.8.1", 30)]
    assert facts["train rows"][0] == ("250 (train250)", 10)
