"""Points and levels are those of the evidence."""

import dataclasses

import pytest

from distill.experiments.report import charted, statistics


def test_a_point_has_mean_interval_and_runs(methods_analysis):
    found = methods_analysis[1]
    cell = found.part.cells[0]
    point = charted.point(found, cell, 250)
    scores = [100 * score for score in cell.scores("accuracy")]
    assert list(point.runs) == pytest.approx(scores) and point.y == pytest.approx(sum(scores) / 5)
    assert point.low < point.y < point.high and (point.x, point.name) == (250, cell.label)
    assert not point.bare and charted.point(found, dataclasses.replace(cell, runs=cell.runs[:1]), 250).bare


def test_an_interval_that_holds_all_scores_is_not_drawn(methods_analysis):
    found = methods_analysis[1]
    assert charted.ends(found, statistics.Interval(50.0, 0.0, 100.0)) == (50.0, 50.0)
    assert charted.ends(found, statistics.Interval(50.0, 0.0, 99.0)) == (0.0, 99.0)


def test_levels_have_their_values_in_their_names(methods_analysis):
    (teacher, value), (before, start) = charted.levels(methods_analysis[1])
    assert teacher == f"teacher {value:.1f} %" and before == f"before distillation (validation) {start:.1f} %"
    assert charted.metric_name(methods_analysis[1]) == "test accuracy, %"
