"""A sweep compared with the plan of its directory; test_same_sweep.py has what is refused."""

import dataclasses
import os

import pytest

from distill.experiments.sweep import SweepError, plan, planning, reading
from distill.experiments.sweep.inputs import Inputs
from tests_support import begin_run

TEXT = "axes: {rates: {ratio: ['2:1', '1:4']}, RANDOM_SEED: [0, 1]}\nbindings: {A: 1}\n"


def read(tmp_path, text=TEXT):
    (tmp_path / "s.yaml").write_text(text)
    return reading.read(tmp_path / "s.yaml", tmp_path / "out")


def test_a_metric_that_finished_runs_do_not_have_leaves_the_plan_as_it_is(tmp_path):
    made = planning.prepare(read(tmp_path))
    begin_run(made.runs[0])
    (made.runs[0].directory / "result.json").write_text('{"test": {"accuracy": 0.5, "loss": 1.0}}')
    before = (tmp_path / "out" / "sweep.json").read_text()
    for write in (False, True):
        with pytest.raises(SweepError, match=r"SEED-0 has no test metric 'acc'; it has accuracy, loss"):
            planning.prepare(read(tmp_path, TEXT + "metric: acc\n"), write=write)
    assert (tmp_path / "out" / "sweep.json").read_text() == before
    planning.prepare(read(tmp_path, TEXT + "metric: loss\n"))


def test_what_the_checks_found_is_kept_until_the_runs_are_checked_again(tmp_path):
    found = {"validation": ("dev", "loss"), "inputs": Inputs({"a.gin": {"A": 1}}, {"set, split train": ["x"]})}
    dataclasses.replace(planning.prepare(read(tmp_path)), **found).write()
    planning.prepare(read(tmp_path))
    again = plan.read_plan(tmp_path / "out")
    assert (again.validation, again.inputs) == (found["validation"], found["inputs"])


def test_a_dry_run_writes_nothing(tmp_path):
    planning.prepare(read(tmp_path), write=False)
    assert not (tmp_path / "out").exists()


def test_a_moved_directory_keeps_the_runs_of_a_common_start(tmp_path):
    text = "axes: {A: [1, 2]}\nstart: demo\n"
    planning.prepare(read(tmp_path, text))
    os.rename(tmp_path / "out", tmp_path / "moved")
    moved = reading.read(tmp_path / "s.yaml", tmp_path / "moved")
    made = planning.prepare(moved)
    assert f"INITIAL_CHECKPOINT_PATH = {str(tmp_path / 'moved' / 'pretraining')!r}" in made.runs[0].bindings
    begin_run(made.runs[0])
    other = reading.read(tmp_path / "s.yaml", tmp_path / "moved").with_bindings(["INITIAL_CHECKPOINT_PATH = 'x/best'"])
    with pytest.raises(SweepError, match="holds runs of another configuration"):
        planning.prepare(other)


def test_an_edited_range_keeps_the_finished_runs_of_equal_numbers(tmp_path):
    """A range ends at the number as written, 16, and computes 16.0 between its ends; both are one setting."""
    made = planning.prepare(read(tmp_path, "axes: {A: {low: 1, high: 16, points: 3, log: true}, RANDOM_SEED: [0]}"))
    assert [run.name for run in made.runs][-1] == "A-16__RANDOM_SEED-0"
    for run in made.runs:
        run.directory.mkdir()
        (run.directory / "result.json").write_text("{}")
    edited = read(tmp_path, "axes: {A: {low: 1, high: 64, points: 4, log: true}, RANDOM_SEED: [0, 1]}")
    again = planning.prepare(edited)
    assert [run.name for run in again.runs if run.done] == [run.name for run in made.runs]
    assert {run.values["A"] for run in again.runs} == {"1", "4.0", "16", "64"}
    assert plan.left_out(tmp_path / "out", again.runs) == []
    with pytest.raises(SweepError, match="holds runs of another configuration"):
        planning.prepare(read(tmp_path, "axes: {A: [16], RANDOM_SEED: [0]}\nbindings: {B: 2}"))
