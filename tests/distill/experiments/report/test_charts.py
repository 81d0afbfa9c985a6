"""SVG: well-formed, escaped, inside its frame."""

import re
import xml.etree.ElementTree

from distill.experiments.report import charts
from distill.experiments.report.blocks import Chart, Curve, Point, Series

HOSTILE = '</svg><script>alert(1)</script>\x00\ud800&"'


def drawn(**more):
    points = (Point(1, 50, 40, 60, (45.0, 55.0), HOSTILE), Point(100, 70, -300, 900))
    other = Series(HOSTILE, (Point(1, 52, 51, 53), Point(90, 66, 60, 72)), True, 9)
    made = Chart(HOSTILE, "x", HOSTILE, (Series("a", points), other), True, ((HOSTILE, 71.0), ("near", 71.2)), **more)
    return xml.etree.ElementTree.fromstring(str(charts.svg(made)))


def test_hostile_names_are_text():
    root = drawn()
    assert not list(root.iter("script"))
    assert "<script>" in "".join(root.itertext())


def test_everything_is_inside_the_frame():
    root = drawn(curves=(Curve(((1, 50), (100, 70))),), band=(0.0, 5.0, float("inf")))
    for node in root.iter():
        for name, end in (
            ("x", 480),
            ("x1", 480),
            ("x2", 480),
            ("cx", 480),
            ("y", 300),
            ("y1", 300),
            ("y2", 300),
            ("cy", 300),
        ):
            if name in node.attrib:
                assert 0 <= float(node.attrib[name]) <= end, (node.tag, node.attrib)
    texts = [float(node.attrib["y"]) for node in root.iter("text") if node.attrib["class"] == "level-name"]
    assert abs(texts[0] - texts[1]) >= 12, "names of levels that are close do not cover each other"
    assert all("nan" not in value for node in root.iter() for value in node.attrib.values())


def test_intervals_end_in_a_line_or_where_the_picture_cuts_them_in_an_arrow():
    points = (Point(1, 50, 40, 60, (45.0, 55.0)), Point(100, 70, -300, 75), Point(50, 60, 60, 60, (), "", 10, 900))
    text = str(charts.svg(Chart("t", "x", "y", (Series("a", points),))))
    whole, cut, sideways = re.findall(r'class="bar c0" d="([^"]+)"', text)
    assert whole.count("h6") == 2 and "l3" not in whole
    assert cut.count("h6") == 1 and cut.count("l3 4l3 -4") == 1, "an arrow that points down"
    assert sideways.count("l4 3l-4 3") == 1 and sideways.count("M") == 2


def test_series_have_colours_and_markers():
    text = str(charts.svg(Chart("t", "x", "y", (Series("a", (Point(1, 2, 2, 2), Point(2, 3, 3, 3)), True, 3),))))
    assert re.search(r'class="line c3"', text) and re.search(r'class="fill c3"', text)
    assert 'class="fill c1"' in charts.marker(1)


def test_equal_lines_leave_a_part_of_each_other_to_be_seen():
    points = (Point(1, 2, 2, 2), Point(2, 3, 3, 3))
    text = str(charts.svg(Chart("t", "x", "y", tuple(Series(name, points, True, n) for n, name in enumerate("abc")))))
    lines = re.findall(r'class="line c\d"( stroke-dasharray="\S+ \S+" stroke-dashoffset="\S+")? d=', text)
    assert lines == ["", *(f' stroke-dasharray="{on} {15 - on}" stroke-dashoffset="{on}"' for on in (10, 5))]
    assert re.findall(r'class="fill c\d" transform="[^"]* scale\(([^)]+)\)"', text) == [
        size for size in ("1.20", "1.00", "0.83") for _ in points
    ]


def test_a_point_without_an_interval_is_open():
    points = (Point(1, 50, 50, 50, (40.0, 60.0), bare=True), Point(2, 50, 40, 60))
    text = str(charts.svg(Chart("t", "x", "y", (Series("a", points),))))
    assert text.count('class="bare c0"') == text.count('class="fill c0"') == 1
    assert "a at 1: 50 (too few or equal seeds for an interval)" in text
