"""Fronts by work, by time only where times are known, and prices."""

import dataclasses
import math

import pytest

from distill.experiments.report import cost, findings, quantities, section_tables
from distill.experiments.report.blocks import Chart, Table
from distill.experiments.report.statistics import Interval
from tests.distill.experiments.report import synthetic
from tests.distill.experiments.report.conftest import analysed


def test_costs(methods_analysis):
    found = methods_analysis[1].costs
    assert found.unit == "FLOPs" and found.work_varies
    assert [each.cell.values["method"] for each in found.settings] == ["standard"] * 3 + ["step-by-step"] * 3
    first = found.settings[0]
    assert first.price == pytest.approx(1.5 * first.chip_hours.value) and first.work == 1.1e15
    labels = ["standard, TRAIN_ROWS 1000", "step-by-step, TRAIN_ROWS 1000"]
    assert [each.cell.label for each in found.front] == labels
    assert math.isnan(cost.costs(methods_analysis[1].evidence).settings[0].price)


def test_equal_points_are_both_on_the_front():
    assert cost.front([1.0, 1.0, 2.0], [5.0, 5.0, 5.0]) == [True, True, False]


def test_a_difference_within_the_tolerance_is_no_difference():
    assert cost.front([100.0, 101.0, 300.0], [5.0, 6.0, 6.0], same=1.02) == [False, True, False]


def setting(accuracy, low, high):
    hours = Interval((low + high) / 2, low, high)
    return cost.Cost(None, Interval(accuracy), 1.0, hours, hours, math.nan, True)


def test_a_front_by_time_is_claimed_only_where_intervals_decide_it():
    fast, slow = setting(60.0, 0.9, 1.1), setting(80.0, 1.9, 2.1)
    assert cost.time_front([slow, fast]) == (fast, slow)
    beaten = setting(55.0, 1.5, 1.7)
    assert cost.time_front([fast, slow, beaten]) == (fast, slow)
    assert cost.time_front([fast, setting(80.0, 1.0, 3.0)]) is None, "the neighbours on the front overlap"
    assert cost.time_front([fast, slow, setting(55.0, 0.8, 1.6)]) is None, "it may be faster than the one that beats it"
    unknown = dataclasses.replace(slow, chip_hours=Interval(2.0))
    assert cost.time_front([fast, unknown]) is None


def timed(directory, times, flops=(1e15, 3e15)):
    """Two settings of three seeds: the chip-seconds of each run, and the FLOPs of each setting."""
    for place, (name, of_seeds) in enumerate(times.items()):
        for seed, seconds in enumerate(of_seeds):
            right = [True, place == 1, seed > 0, False, True]
            synthetic.write_run(
                directory / f"{name}{seed}", right, configuration={"FORM": name, "RANDOM_SEED": seed},
                training={"chip_seconds": seconds, "seconds": seconds, "flops": flops[place]},
            )  # fmt: skip
    return analysed(directory)[1]


def blocks(analysis):
    found = section_tables.cost_blocks(analysis)
    (table,) = [block for block in found if isinstance(block, Table)]
    return [block.title for block in found if isinstance(block, Chart)], table


def test_a_shared_machine_gives_a_front_by_work_and_none_by_time(tmp_path):
    found = timed(tmp_path, {"label": (100.0, 900.0, 300.0), "paired": (500.0, 200.0, 700.0)})
    titles, table = blocks(found)
    assert titles == ["Accuracy against FLOPs, with the Pareto front"]
    assert "No front by chip-hours is given: the intervals of their chip-hours overlap." in table.note
    assert table.rows[0][table.headers.index("seconds")] == "433 (0 – 1,470)"
    text = "\n".join(findings.sentences(found))
    assert "on the front of mean accuracy against FLOPs" in text
    assert "chip-hours" not in text.replace("the intervals of their chip-hours overlap", "")


def test_times_that_differ_clearly_give_a_front(tmp_path):
    found = timed(tmp_path, {"label": (100.0, 101.0, 102.0), "paired": (300.0, 303.0, 306.0)})
    titles, table = blocks(found)
    assert titles[1] == "Accuracy against chip-hours, with the Pareto front" and "No front" not in table.note
    assert "against chip-hours: from label (0.028 chip-hours, " in "\n".join(findings.sentences(found))
    (chart,) = section_tables.cost_blocks(found)[1:2]
    (point, _) = chart.series[0].points
    assert point.left < point.x < point.right


def test_runs_on_cpus_cost_core_hours(tmp_path, monkeypatch):
    original = synthetic.record

    def on_cpu(*given, **changes):
        made = original(*given, **changes)
        return made | {"environment": made["environment"] | {"device_kind": "cpu", "devices": 1}}

    monkeypatch.setattr(synthetic, "record", on_cpu)
    found = timed(tmp_path, {"label": (100.0, 101.0, 102.0), "paired": (300.0, 303.0, 306.0)})
    titles, table = blocks(found)
    assert titles[1] == "Accuracy against core-hours, with the Pareto front" and "core-hours" in table.headers
    names = [each.name for each in quantities.varying(found.part) if each.key == "chip_hours"]
    assert names == ["core-hours of a run"]
    shown = "\n".join([*findings.sentences(found), table.note, *titles, *table.headers])
    assert "core-hours" in shown and "chip-hours" not in shown


def test_the_run_that_compiled_for_all_costs_no_more(tmp_path):
    for form, seconds, compiling in (("label", 100.0, 10.0), ("paired", 400.0, 310.0)):
        for seed in range(3):
            training = {
                "seconds": seconds + seed,
                "chip_seconds": 2 * (seconds + seed),
                "phases": {"compile": compiling},
            }
            synthetic.write_run(
                tmp_path / f"{form}{seed}",
                [seed == 0, form == "label"],
                configuration={"FORM": form, "RANDOM_SEED": seed},
                training=training,
            )
    found = analysed(tmp_path)[1].costs
    assert [each.seconds.value for each in found.settings] == pytest.approx([91.0, 91.0])
    assert [3600 * each.chip_hours.value for each in found.settings] == pytest.approx([182.0, 182.0])
    assert found.time_front is None


def test_seeds_that_were_trained_together_have_no_spread_of_time(tmp_path):
    found = timed(tmp_path, {"label": (100.0,) * 3, "paired": (300.0,) * 3}, flops=(1e15, 1e15))
    titles, table = blocks(found)
    assert titles == [] and "seeds that were trained together" in table.note and "do the same work" in table.note
    assert not any(header.startswith("on the front") for header in table.headers)
    text = "\n".join(findings.sentences(found))
    assert "All settings do the same work, 1P FLOPs per run." in text and "Times do not rank the settings" in text


def test_without_flops_tokens_count(tmp_path):
    for name in ("label", "paired"):
        synthetic.write_run(
            tmp_path / name, [True, False], configuration={"FORM": name},
            training={"flops": None, "tokens": 1000 if name == "label" else 3000},
        )  # fmt: skip
    found = analysed(tmp_path)[1].costs
    assert (found.unit, [each.work for each in found.settings]) == ("tokens", [1000, 3000])
