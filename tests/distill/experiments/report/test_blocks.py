"""A document knows its charts in order."""

from distill.experiments.report.blocks import Chart, Document, Section, Text


def test_charts_in_order():
    first, second = Chart("1", "x", "y", ()), Chart("2", "x", "y", ())
    document = Document("t", "s", (Section("a", "A", (Text("x"), first)), Section("b", "B", (second,))))
    assert list(document.charts) == [first, second]
