"""The next runs in words."""

import dataclasses
import json
import math
import re
import shutil

import pytest

from distill.experiments.report import collect, next_runs, proposals
from tests.distill.experiments.report.conftest import analysed


def test_the_next_runs_of_each_line_have_a_reason_and_a_complete_setting(rates_analysis):
    found = rates_analysis[1]
    (first, _), (second, (_, file)), (third, (_, seeds)) = proposals.next_sentences(found)
    todo = [
        collect.Unfinished(name, {}, state) for name, state in (("a", "waiting"), ("b", "running"), ("c", "failed"))
    ]
    said = [text for text, _ in proposals.next_sentences(found, todo)]
    assert said[0] == f"{first} Before that, finish the 2 runs of the sweep that are still to do."
    assert said[1] == second
    assert first == (
        "Next, 1 of 3, best λ (all_tokens): 10 runs, 5 seeds at λ = 0.075 (LABEL_RATE:RATIONALE_RATE about 32:1), 5 seeds "
        "at λ = 0.15 (LABEL_RATE:RATIONALE_RATE about 16:1), because the maximum may be at λ below 0.3. The range in which "
        "the best λ may be becomes about 67 % of now, in log λ. All other settings stay: NORMALIZER all_tokens, and all "
        "that the settings share. It takes about 6.7 chip-hours, with compilation and without the start of each process."
    ), "the interval of the best λ is open below"
    assert second.startswith("Next, 2 of 3, best λ (task_tokens): 20 runs, ") and "\n  LAMBDA: [" in file
    assert third == (
        "Next, 3 of 3, all_tokens, rates 8:1 or task_tokens, rates 1:1: 20 runs, 10 seeds of all_tokens, rates 8:1 and 10 "
        "seeds of task_tokens, rates 1:1, distinguish the two if their difference is 6.5 points, as observed; the width of "
        "its interval becomes about 58 % of now. It takes about 13 chip-hours, with compilation and without the start of "
        "each process."
    )
    lines = seeds.splitlines()
    assert all(line.startswith("for seed in 5 6 7 8 9 10 11 12 13 14; do distill train --gin_file=") for line in lines)
    assert [name in line for name, line in zip(("all_tokens__rates-8_1", "task_tokens__rates-1_1"), lines)] == [
        True
    ] * 2


def test_seeds_of_two_settings_that_are_still_to_do_are_not_proposed_again(rates_analysis):
    found = rates_analysis[1]
    sweep, question = found.part.runs[0].sweep, "all_tokens, rates 8:1 or task_tokens, rates 1:1"

    def step(*numbers):
        """The step once the two settings have these numbers of planned seeds."""
        settings = ({"NORMALIZER": "all_tokens", "rates": "8:1"}, {"NORMALIZER": "task_tokens", "rates": "1:1"})
        to_do = tuple(
            collect.Unfinished("a", {**axes, "RANDOM_SEED": str(5 + seed)}, "waiting", sweep=sweep)
            for axes, number in zip(settings, numbers)
            for seed in range(number)
        )
        part = dataclasses.replace(found.part, to_do=to_do)
        steps = proposals.steps(dataclasses.replace(found, evidence=dataclasses.replace(found.evidence, part=part)))
        return next((step for step in steps if step.question == question), None)

    rest = step(9, 12)
    assert rest.text.startswith("1 run, 1 seed of all_tokens, rates 8:1, distinguishes the two if ") and rest.runs == 1
    assert rest.text.endswith(" 19 more runs for it are still to do in the sweep; they are not among these.")
    assert rest.recipe.commands.startswith("for seed in 14; do"), "which the other one gets"
    assert step(10, 10).text == "no run to add: the 20 runs for it are still to do in the sweep."
    assert step().runs == 20


def test_a_setting_gets_the_seeds_that_only_the_other_one_has(rates, tmp_path):
    """Where the two share too few seeds for a number that they need to be known."""
    folder = shutil.copytree(rates, tmp_path / "rates")
    plan = json.loads((folder / "sweep.json").read_text())
    for name in [name for name in plan["runs"] if re.search("task_tokens__rates-1_1__RANDOM_SEED-[1-4]", name)]:
        plan["runs"].pop(name)
        shutil.rmtree(folder / name)
    (folder / "sweep.json").write_text(json.dumps(plan))
    (step,) = [step for step in proposals.steps(analysed(folder)[1]) if " or " in step.question]
    assert step.text == (
        "4 runs, 4 seeds of task_tokens, rates 1:1, give both settings the same 5 seeds; their comparison rests on 1 pair "
        "of runs now."
    )
    assert step.runs == 4 and math.isnan(step.width)
    assert step.recipe.commands.startswith("for seed in 1 2 3 4; do ")


def test_the_order_is_that_of_narrowing_per_hour_and_per_run_without_times(rates_analysis, monkeypatch):
    found = rates_analysis[1]
    steps = proposals.steps(found)
    rates = [(1 - step.width) / step.hours for step in steps]
    assert len(steps) == 3 and rates == sorted(rates, reverse=True) and all(0 <= step.width <= 1 for step in steps)

    def timed(hours):
        """The steps with other times of the settings with all_tokens; a third of them is compilation, which counts."""
        times = {"chip_seconds": hours * 3600, "phases": {"compile": 200.0}}
        for cell in found.part.cells:
            for run in cell.runs if cell.values["NORMALIZER"] == "all_tokens" else ():
                monkeypatch.setitem(run.record, "training", {**run.record["training"], **times})
        return proposals.steps(found)

    slow = timed(10.0)
    assert slow[0].question == "best λ (task_tokens)"
    assert next(step.hours for step in slow if step.question == "best λ (all_tokens)") == pytest.approx(10 * 10.0)
    assert [step.question for step in timed(float("nan"))] == [step.question for step in steps]


def test_settings_that_differ_for_certain_need_no_more_seeds(methods_analysis):
    found = methods_analysis[1]
    assert found.headlines and not any(" or " in step.question for step in proposals.steps(found))


def test_runs_that_narrow_an_interval_say_by_how_much():
    narrow = next_runs.Proposal("narrow", (next_runs.NextRun(2.0, 5, "LAMBDA about 2", True),), width=0.7)
    assert proposals.proposal_text(narrow) == (
        "5 more runs, 5 seeds at λ = 2 (LAMBDA about 2, new seeds), narrow the interval most; its width becomes about 70 % "
        "of now."
    )
    some = proposals.proposal_text(dataclasses.replace(narrow, to_do=2))
    assert some.endswith("70 % of now. 2 more runs for it are still to do in the sweep; they are not among these.")
    none = dataclasses.replace(narrow, runs=(), to_do=1)
    assert proposals.proposal_text(none) == "no run to add: the run for it is still to do in the sweep."
    assert proposals.recipe_text(narrow.recipe) == ("", "") and proposals.of_line("all settings") == ""
