"""What varies is drawn, and the axis that moves it runs along the lines."""

import dataclasses
import math

from distill.experiments.report import quantities
from tests.distill.experiments.report import synthetic
from tests.distill.experiments.report.conftest import analysed


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


def test_chip_hours_of_one_amount_of_work_are_no_curve(tmp_path):
    """Times that differ only by the load of the machine."""
    for place, name in enumerate(("label", "paired")):
        for seed in range(2):
            synthetic.write_run(
                tmp_path / f"{name}{seed}", [True, False, seed > 0], configuration={"FORM": name, "RANDOM_SEED": seed},
                training={"chip_seconds": 100.0 + 400 * place, "flops": 1e15},
            )  # fmt: skip
    part = analysed(tmp_path)[1].part
    assert not quantities.time(part.cells[0], "chip_seconds").known, "trained together: one time"
    assert "chip_hours" not in {each.key for each in quantities.varying(part)}


def test_the_spread_of_a_time(methods_analysis):
    cell = methods_analysis[1].part.cells[0]
    found = quantities.time(cell, "chip_seconds", 3600)
    assert found.value == quantities.chip_hours(cell) and found.low < found.value < found.high


def test_lines_of_rates_name_the_axis(tmp_path):
    """Rates × LAMBDA with task_tokens: one line along λ for each rate."""
    for labels in (1, 4):
        for lam in (0.5, 2.0):
            name = synthetic.name(rates=f"{labels}:1", LAMBDA=lam)
            synthetic.write_run(
                tmp_path / name, [True, labels > 1, lam > 1], training={"lambda": lam},
                configuration={"FORM": "mixed", "LABEL_RATE": labels, "RATIONALE_RATE": 1, "LAMBDA": lam},
            )  # fmt: skip
    synthetic.write_sweep(tmp_path, [path.name for path in tmp_path.iterdir()])
    found = names(analysed(tmp_path)[1])
    assert sorted(found["effective"]) == ["rates 1:1", "rates 4:1"]
    assert sorted(found["rate"]) == ["LAMBDA 0.5", "LAMBDA 2.0"]


def test_a_setting_without_a_level_of_an_added_axis_is_drawn_at_its_lambda(tmp_path):
    """Rates, and values of LAMBDA that ``more`` added at one of them; without rationales λ weighs nothing."""
    points = [("1:1", None), ("4:1", None), ("4:1", 0.5), ("4:1", 2.0)]
    for rates, lam in points:
        axes = {"rates": rates} if lam is None else {"rates": rates, "LAMBDA": lam}
        synthetic.write_run(
            tmp_path / synthetic.name(**axes), [True, rates == "1:1", lam is None], training={"lambda": lam or 1.0},
            configuration={"FORM": "mixed", "LABEL_RATE": int(rates[0]), "RATIONALE_RATE": 1, "LAMBDA": lam},
        )  # fmt: skip
    synthetic.write_sweep(tmp_path, [path.name for path in tmp_path.iterdir()])
    part = analysed(tmp_path)[1].part
    values = {line.name: line.values for line in quantities.lines(part, quantities.quantity("lambda"))}
    assert values == {"rates 1:1": (1.0,), "rates 4:1": (0.5, 1.0, 2.0)}
    assert sorted(names(analysed(tmp_path)[1])["rate"]) == ["LAMBDA 0.5", "LAMBDA 1", "LAMBDA 2.0"]
    (cell, *_) = part.cells
    run = cell.runs[0]
    label = {**run.record, "training": {"lambda": 0.0}}
    alone = dataclasses.replace(cell, runs=(dataclasses.replace(run, record=label),))
    assert math.isnan(quantities.quantity("lambda").of(alone))
