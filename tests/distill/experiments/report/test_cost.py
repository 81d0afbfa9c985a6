"""Chip-hours, prices, and the Pareto front."""

import math

import pytest

from distill.experiments.report import cost


def test_costs(methods_analysis):
    found = methods_analysis[1].costs
    assert [each.cell.values["method"] for each in found] == ["standard"] * 3 + ["step-by-step"] * 3
    assert found[0].price == pytest.approx(1.5 * found[0].chip_hours)
    assert [each.cell.label for each in found if each.on_front] == [
        "standard, TRAIN_ROWS 1000",
        "step-by-step, TRAIN_ROWS 1000",
    ]
    assert math.isnan(cost.costs(methods_analysis[1].evidence)[0].price)


def test_equal_points_are_both_on_the_front():
    assert cost.front([1.0, 1.0, 2.0], [5.0, 5.0, 5.0]) == [True, True, False]
