"""The Markdown twin shows every string as it is."""

from distill.experiments.report import markdown
from distill.experiments.report.blocks import Cell, Chart, Document, Point, Section, Series, Table, Text, Tiles


def test_all_blocks():
    chart = Chart("c", "x", "y", (Series("s", (Point(1, 2, 1.5, 2.5),)),), levels=(("teacher 3", 3.0),))
    blocks = (
        Tiles((("80 %", "accuracy", "best"),)),
        Text("mind", "warning"),
        chart,
        Table(("a|b", "c"), (("x|y", Cell("z", "best")),)),
    )
    text = markdown.render(Document("T <b>", "s", (Section("curves", "Curves", blocks),)), "r.png")
    assert text.startswith("# T \\<b\\>\n")
    assert "- **80 %** accuracy (best)" in text and "> **Note:** mind" in text
    assert "| a\\|b | c |\n| --- | --- |\n| x\\|y | **z** |" in text
    assert "| s | 1 | 2 | 1.5 – 2.5 |" in text and "teacher 3" in text
    assert "![charts](r.png)" in text


def test_a_hostile_cell_stays_in_its_cell():
    table = Table(("a",), (("</td>\n| new | <script>`x`",),))
    (line,) = markdown.render(Document("t", "", (Section("s", "S", (table,)),))).splitlines()[-1:]
    assert line == "| \\</td\\> \\| new \\| \\<script\\>\\`x\\` |"


def test_points_of_charts_name_their_setting():
    series = Series("all_tokens", (Point(0.4, 68, 60, 70, (), "all_tokens, rates 32:1"),))
    text = markdown.render(Document("t", "", (Section("s", "S", (Chart("c", "λ", "y", (series,)),)),)))
    assert "| line | setting | λ | y | 95 % interval |" in text
    assert "| all\\_tokens | all\\_tokens, rates 32:1 | 0.4 | 68 | 60 – 70 |" in text
