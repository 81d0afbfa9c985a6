"""Draws are shared by all runs, and the evidence of runs on the same rows must agree."""

import numpy as np
import pytest

from distill.experiments.report import collect, evidence, settings
from distill.experiments.report.collect import ReportError
from tests.distill.experiments.report import synthetic


def test_the_same_rows_are_drawn_for_all_runs(methods_analysis):
    found = methods_analysis[1].evidence
    first, second = found.part.runs[:2]
    assert found.scale == 100 and found.row_draws[first].shape == (2000,)
    assert found.row_draws[first].mean() == pytest.approx(first.score("accuracy"), abs=0.005)
    cell = found.part.cells[0]
    assert np.array_equal(found.draws(cell.runs, cell.runs), np.zeros(2000)), "a setting minus itself is 0 in each draw"
    assert found.draws(cell.runs).std() > 1
    again = evidence.gather(found.part, "accuracy")
    assert np.array_equal(again.row_draws[second], found.row_draws[second])


def test_a_metric_that_no_run_has_is_named(methods_analysis):
    with pytest.raises(ReportError, match=r"has no test metric 'f1'; it has accuracy"):
        evidence.gather(methods_analysis[1].part, "f1")


def test_the_same_fingerprint_with_other_ids_is_refused(tmp_path):
    table = synthetic.rows(3)
    synthetic.write_run(tmp_path / "a", [True] * 3, configuration={"FORM": "a"}, table=table)
    synthetic.write_run(tmp_path / "b", [True] * 3, configuration={"FORM": "b"}, table=table[::-1])
    (part,) = settings.parts(collect.collect([tmp_path]))
    with pytest.raises(ReportError, match="same fingerprint of test rows and different ids"):
        evidence.gather(part, "accuracy")


def test_intervals_of_shares_end_at_0_and_100_percent(tmp_path):
    for number, correct in enumerate(([True, False, False], [False, False, False])):
        synthetic.write_run(tmp_path / str(number), correct, configuration={"RANDOM_SEED": number})
    (part,) = settings.parts(collect.collect([tmp_path]))
    interval = evidence.gather(part, "accuracy").cell_interval(part.cells[0])
    assert interval.value == pytest.approx(100 / 6) and (interval.low, interval.high) == (0.0, 100.0)


def test_a_metric_without_judged_rows_is_compared_by_seeds(tmp_path):
    for number in range(3):
        synthetic.write_run(
            tmp_path / str(number), [True, False], configuration={"RANDOM_SEED": number}, test={"bleu": 20.0 + number}
        )
    (part,) = settings.parts(collect.collect([tmp_path]))
    found = evidence.gather(part, "bleu")
    assert found.scale == 1 and not found.correct
    assert found.components(found.matrix(part.runs)).variance == pytest.approx(1 / 3)
