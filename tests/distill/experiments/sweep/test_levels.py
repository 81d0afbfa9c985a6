"""Levels: numbers of ranges, ratios, and the conditions of axes."""

import pytest

from distill.experiments.sweep import levels
from distill.experiments.sweep.levels import Kind, Level, Range


def test_a_range_has_its_ends_and_rounds_to_four_digits():
    log = Range(0.03, 30, log=True)
    assert (log.at(0.0), log.at(1.0)) == (0.03, 30)
    assert log.at(0.5) == pytest.approx(0.03 * 1000**0.5, rel=1e-3)
    assert Range(0, 1).at(1 / 3) == 0.3333
    assert log.grid()[0] == 0.03 and len(Range(1, 100, log=True, points=3).grid()) == 3
    assert Range(1, 100, log=True, points=3).grid() == [1.0, 10.0, 100.0]


def test_whole_numbers_have_equal_shares():
    drawn = [Range(1, 4, whole=True).at(share / 1000) for share in range(1000)]
    assert {value: drawn.count(value) for value in set(drawn)} == {1: 250, 2: 250, 3: 250, 4: 250}
    assert Range(1, 4, whole=True).at(1.0) == 4
    assert Range(1, 64, log=True, whole=True, points=4).grid() == [1, 4, 16, 64]


@pytest.mark.parametrize(
    ("value", "sides"), [("3:1", (3, 1)), (4, (4, 1)), (0.25, (1, 4)), (1, (1, 1)), ("1:8", (1, 8))]
)
def test_ratios(value, sides):
    assert levels.parts(value) == sides


@pytest.mark.parametrize("value", ["3", "a:b", "0:1", -1, 0, True, "1:-1", float("nan")])
def test_what_is_no_ratio(value):
    with pytest.raises(ValueError):
        levels.parts(value)


def test_bindings_are_gin():
    assert levels.binding("A", "@x.y()") == "A = @x.y()"
    assert Kind(("A",)).level("text") == Level("text", bindings=("A = 'text'",))
    assert Kind(("A",)).level(True).number is None


def test_conditions_follow_each_other():
    when = {"b": {"a": ("x",)}, "c": {"b": ("1",)}}
    point = {"a": Level("x"), "b": Level("1"), "c": Level("2")}
    assert levels.is_active("c", when, point)
    assert not levels.is_active("c", when, {**point, "a": Level("y")})
    assert not levels.is_active("c", when, {"a": Level("x"), "c": Level("2")})


def test_numbers_of_names():
    assert [levels.number_of(text) for text in ("3:1", "1:4", "0.5", "base", "1:0")] == [3.0, 0.25, 0.5, None, None]
    assert [levels.number_of(text) for text in ("10", "4:1", "nan", "a:b")] == [10.0, 4.0, None, None]
    assert levels.is_ratio("1:4") and not levels.is_ratio("0.25")
