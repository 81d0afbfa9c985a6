"""The PNG twin."""

import dataclasses
import io

import matplotlib.image
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from distill.experiments.report import figure, scales
from distill.experiments.report.blocks import Chart, Curve, Document, Point, Section, Series


def test_all_charts_are_drawn():
    series = (Series("$a_{", (Point(1, 2, 1, 3, (1.5, 2.5)), Point(10, 3, 3, 3))),)
    one = Chart("t", "x", "y", series, True, (("teacher", 2.5),), (Curve(((1, 2), (10, 3))),), (0.0, 2.0, float("inf")))
    document = Document("title", "", (Section("a", "A", (one, one, one)),))
    picture = matplotlib.image.imread(io.BytesIO(figure.png(document)))
    assert picture.shape[0] > 900 and picture.shape[1] > 1300
    noted = figure.png(dataclasses.replace(document, missing="Not in these numbers: 2 failed."))
    assert noted != figure.png(document)
    wide = dataclasses.replace(one, series=(Series("a", (Point(1, 2, -90, 80), Point(10, 3, 3, 3, (), "", 5, 90))),))
    axes = Figure().add_subplot()
    figure.intervals(axes, wide, wide.series[0], "black")
    markers = [(line.get_marker(), line.get_ydata()[0]) for line in axes.lines if line.get_marker() != "None"]
    bottom, top = scales.vertical(wide)
    assert markers == [("v", bottom), ("^", top), (">", 3)]
    assert len(np.unique((picture[..., :3] * 255).astype(np.uint8).reshape(-1, 3), axis=0)) > 50


def test_equal_lines_leave_a_part_of_each_other_to_be_seen(monkeypatch):
    drawn = []
    monkeypatch.setattr(
        Axes, "plot", lambda self, *given, plot=Axes.plot, **how: drawn.extend(plot(self, *given, **how))
    )
    points = (Point(1, 2, 2, 2), Point(2, 3, 3, 3))
    chart = Chart("t", "x", "y", tuple(Series(name, points, True, n) for n, name in enumerate("abc")))
    assert figure.png(Document("t", "", (Section("a", "A", (chart,)),)))
    assert len({line.get_markersize() for line in drawn}) == 3
    assert [line.is_dashed() for line in drawn] == [False, True, True]


def test_no_chart_no_picture():
    assert figure.png(Document("t", "", ())) is None


def test_a_point_without_an_interval_is_open_and_a_note_says_why():
    series = Series("a", (Point(1, 2, 2, 2, (1.0, 3.0), bare=True), Point(2, 3, 2, 4)))
    axes = Figure().add_subplot()
    figure.bare_marks(axes, series, "black", "o")
    assert [(line.get_xdata()[0], line.get_markerfacecolor()) for line in axes.lines] == [(1, "white")]
    assert figure.notes(Chart("t", "x", "y", (series,))) == [figure.BARE]
    assert figure.notes(Chart("t", "x", "y", (Series("a", (Point(1, 2, 1.9, 2.1, (1.0, 3.0)),)),))) == []
