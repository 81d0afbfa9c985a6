"""What varies is drawn, and the axis that moves it runs along the lines."""

from distill.experiments.report import quantities


def names(analysis):
    return {
        each.key: [line.name for line in quantities.lines(analysis.part, each)]
        for each in quantities.varying(analysis.part)
    }


def test_lines_of_methods(methods_analysis):
    found = names(methods_analysis[1])
    assert found["data"] == ["standard", "step-by-step"]
    assert found["flops"] == ["standard", "step-by-step"], "work is coloured by the axis of names that causes it"
    assert set(found) == {"data", "flops", "chip_hours"}


def test_lines_of_rates(rates_analysis):
    part = rates_analysis[1].part
    found = names(rates_analysis[1])
    assert found == {"effective": ["task_tokens", "all_tokens"], "rate": ["task_tokens", "all_tokens"]}
    still, moving = quantities.lines(part, quantities.quantity("effective"))
    assert not still.varies and moving.varies and list(moving.values) == sorted(moving.values)
    assert quantities.rate(part.cells[0]) == 0.25


def test_values(methods_analysis):
    found = methods_analysis[1].evidence
    cell = found.part.cells[0]
    assert quantities.train_rows(cell) == 250
    assert quantities.chip_hours(cell) == (1100 + 2) / 3600
