"""Axes: ranges that contain the data, round ticks that do not touch."""

import itertools

from distill.experiments.report import scales
from distill.experiments.report.blocks import Chart, Point, Series


def chart(points, **more):
    return Chart("t", "x", "y", (Series("s", tuple(points)),), **more)


def test_one_wide_interval_does_not_hide_the_rest():
    points = [Point(1, 60, -400, 520, (58, 62)), Point(2, 64, 63, 65)]
    low, high = scales.vertical(chart(points))
    assert 50 < low < 58 and 65 < high < 75
    assert scales.is_cut(chart(points)) and not scales.is_cut(
        chart([Point(1, 60, 55, 65, (58, 62)), Point(2, 64, 61, 67)])
    )
    assert scales.is_cut(chart([Point(1, 5, 5, 5, left=0.5, right=9.0), Point(2, 5, 5, 5)]))
    low, high = scales.vertical(chart([Point(1, 5, 5, 5)]))
    assert low < 5 < high


def test_levels_are_in_range():
    low, high = scales.vertical(chart([Point(1, 60, 59, 61)], levels=(("teacher", 80.0),)))
    assert low < 60 and high > 80


def test_log_ticks_keep_apart():
    scale = scales.Scale(0.1, 1000, 0, 400, log=True)
    values = [0.1 * 1.5**n for n in range(20)]
    places = [scale(tick) for tick in scales.log_ticks(values, scale, 40)]
    assert len(places) > 4 and all(b - a >= 40 for a, b in itertools.pairwise(places))
    assert scales.log_ticks([1.0, 2.0, 4.0], scale, 10) == [1.0, 2.0, 4.0]


def test_ranges_of_one_point():
    assert scales.horizontal(chart([Point(3, 1, 1, 1)], log=True)) == (3 / 1.08, 3 * 1.08)
    assert scales.ticks(0, 1.0) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]


def test_an_open_mark_needs_a_note_where_marks_are_drawn():
    bare = Point(1, 50, 50, 50, (40.0, 60.0), bare=True)
    whole = Point(2, 50, 40, 60, (49.0, 51.0))
    assert scales.has_bare(Chart("t", "x", "y", (Series("a", (bare, whole)),)))
    assert not scales.has_bare(Chart("t", "x", "y", (Series("a", (whole,)),)))
    assert not scales.has_bare(Chart("t", "x", "y", (Series("a", (bare,) * 31),))), "a line without marks"
