"""A directory that holds another sweep is refused, and what differs first is named."""

import json
import shutil

import pytest

from distill.experiments.sweep import SweepError, leases, outcomes, plan, planning, reading
from tests_support import begin_run

TEXT = "axes: {LAMBDA: [1, 2], RANDOM_SEED: [0, 1]}\nbindings: {TRAIN_STEPS: 10, A: 1}\ngin_files: [a.gin, b.gin]\n"


def read(tmp_path, text=TEXT, added=()):
    (tmp_path / "s.yaml").write_text(text)
    return reading.read(tmp_path / "s.yaml", tmp_path / "out").with_bindings(added)


@pytest.mark.parametrize(
    ("text", "added", "message"),
    [
        (
            TEXT.replace(": 10", ": 20"),
            (),
            "_SEED-1 has TRAIN_STEPS 10 there and 20 in this sweep (3 other runs differ, too); ",
        ),
        (TEXT.replace("A: 1", "B: 1"), (), "has A 1 there and unset in this sweep"),
        (TEXT.replace("b.gin", "c.gin"), (), 'has gin file 2 "b.gin" there and "c.gin" in this sweep'),
        (TEXT.replace(", b.gin", ""), (), 'has gin file 2 "b.gin" there and unset in this sweep'),
        (TEXT, ["B = 'x'"], "has B unset there and 'x' in this sweep"),
    ],
)
def test_another_configuration_of_a_run_is_named(tmp_path, text, added, message):
    begin_run(planning.prepare(read(tmp_path)).runs[1])
    for refuse in (planning.refuse_other_sweep, planning.prepare):
        with pytest.raises(SweepError) as caught:
            refuse(read(tmp_path, text, added))
        assert message in str(caught.value) and str(caught.value).startswith(
            f"{tmp_path / 'out'} holds runs of another"
        )
        assert "; give another directory with --directory=DIR, or delete this one" in str(caught.value)


def test_a_file_may_be_mended_before_any_run_has_begun(tmp_path):
    planning.prepare(read(tmp_path))
    mended = read(tmp_path, TEXT.replace(": 10", ": 20"))
    refused = pytest.raises(SweepError, match="has TRAIN_STEPS 10 there and 20 in this sweep")
    with leases.claim(tmp_path / "out", "LAMBDA-2__RANDOM_SEED-0"), refused:  # a worker is about to begin it
        planning.refuse_other_sweep(mended)
    planning.refuse_other_sweep(mended)
    made = planning.prepare(mended)
    assert all("TRAIN_STEPS = 20" in run.configuration()[1] for run in made.runs)
    written = json.loads((tmp_path / "out" / plan.PLAN).read_text())
    assert all("TRAIN_STEPS = 20" in entry["bindings"] for entry in written["runs"].values())


def test_a_common_start_that_has_begun_keeps_its_configuration(tmp_path):
    """It is not trained again, so the runs would start from another student than the file names."""
    text = TEXT + "start: {gin_files: [p.gin], bindings: {TRAIN_STEPS: 100}}\n"
    made = planning.prepare(read(tmp_path, text))
    other = text.replace(": 100", ": 200")
    planning.refuse_other_sweep(read(tmp_path, other))  # nothing was trained yet
    begin_run(made.start)
    planning.refuse_other_sweep(read(tmp_path, text.replace(": 100", ": 100.0")))
    with pytest.raises(
        SweepError, match=r"common start of another .*: pretraining has TRAIN_STEPS 100 there and 200 in"
    ):
        planning.refuse_other_sweep(read(tmp_path, other))


def test_a_value_that_an_axis_replaces_is_not_compared(tmp_path):
    text = TEXT.replace("LAMBDA: [1, 2]", "LAMBDA: [1, 2], TRAIN_STEPS: [30]")
    begin_run(planning.prepare(read(tmp_path, text)).runs[0])
    planning.prepare(read(tmp_path, text.replace("TRAIN_STEPS: 10", "TRAIN_STEPS: 20")))
    with pytest.raises(SweepError, match="has A 1 there and 2 in this sweep"):
        planning.prepare(read(tmp_path, text.replace("A: 1", "A: 2")))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "axes: {rates: {ratio: [1, 2]}, RANDOM_SEED: [0]}",
            "its axes are LAMBDA, RANDOM_SEED, and this sweep's are ",
        ),
        (TEXT.replace("[1, 2]", "[3, 4]").replace("A: 1", "A: 2"), "'bindings' has A 1 there and 2 in this sweep"),
        (TEXT.replace("[1, 2]", "[3, 4]") + "start: {gin_files: [c.gin]}", "'start' unset there and {\"gin_files\""),
    ],
)
def test_runs_of_other_names_are_refused_once_one_has_begun(tmp_path, text, message):
    made = planning.prepare(read(tmp_path))
    planning.refuse_other_sweep(read(tmp_path, text))
    begin_run(made.runs[0])
    with pytest.raises(SweepError, match="holds 1 run of another sweep, such as LAMBDA-1__RANDOM_SEED-0: ") as caught:
        planning.refuse_other_sweep(read(tmp_path, text))
    assert message in str(caught.value)


def test_other_levels_seeds_and_repeated_failures_are_the_same_sweep(tmp_path):
    made = planning.prepare(read(tmp_path))
    for run in made.runs:
        begin_run(run)
    planning.refuse_other_sweep(read(tmp_path, TEXT.replace("[1, 2]", "[1.0, 3]")))
    planning.refuse_other_sweep(read(tmp_path, TEXT.replace("[0, 1]", "[5]")))
    changed = read(tmp_path, TEXT.replace("A: 1", "A: 2"))
    with pytest.raises(SweepError):
        planning.refuse_other_sweep(changed)
    for run in made.runs:
        outcomes.note_failure(run, "the loss is nan")
    planning.refuse_other_sweep(changed)


def test_a_sweep_with_budgets_is_compared_without_its_steps_until_they_are_known(tmp_path):
    text = (
        "axes:\n  method: {a: {bindings: {A: 1}}, b: {bindings: {A: 2}}}\n"
        "  budget: {budget: [steps], reference: {method: a}}\n"
        "bindings: {TRAIN_STEPS: 10}\n"
    )
    sweep = read(tmp_path, text)
    made = planning.prepare(sweep)
    begin_run(made.runs[0])
    path = made.directory / plan.PLAN
    there = json.loads(path.read_text())
    for entry in there["runs"].values():
        entry["bindings"].append("TRAIN_STEPS = 7")
    path.write_text(json.dumps(there))
    planning.refuse_other_sweep(sweep)
    with pytest.raises(SweepError, match="has TRAIN_STEPS 7 there and 10 in this sweep"):
        planning.prepare(sweep)
    with pytest.raises(SweepError, match="has A 1 there and 3 in this sweep"):
        planning.refuse_other_sweep(read(tmp_path, text.replace("A: 1", "A: 3")))


def test_a_search_of_another_file_differs(tmp_path):
    search = TEXT + "design: {kind: optuna, trials: 3}\n"
    planning.prepare(read(tmp_path, search))
    assert planning.differences(read(tmp_path, search)) == []
    assert planning.differences(read(tmp_path, search.replace("A: 1", "A: 2"))) == [
        "'bindings' has A 1 there and 2 in this sweep"
    ]


def test_a_search_and_a_grid_do_not_share_a_directory(tmp_path):
    planning.prepare(read(tmp_path))
    search = TEXT + "design: {kind: optuna, trials: 3}\n"
    with pytest.raises(
        SweepError, match="holds the runs of a design whose points are known, and this sweep is a search"
    ):
        planning.refuse_other_sweep(read(tmp_path, search))


def test_a_level_may_be_changed_once_the_folders_of_its_runs_are_deleted(tmp_path):
    text = "axes: {method: {a: {bindings: {A: 1}}, b: {bindings: {A: 2}}}, RANDOM_SEED: [0, 1]}\n"
    made = planning.prepare(read(tmp_path, text))
    for run in made.runs[:3]:
        begin_run(run)
    other = read(tmp_path, text.replace("A: 2", "A: 4"))
    with pytest.raises(SweepError, match=r"method-b__RANDOM_SEED-0 has A 2 .* delete the folders of its runs to train"):
        planning.prepare(other)
    shutil.rmtree(made.runs[2].directory)
    planning.refuse_other_sweep(other)
    assert "A = 4" in planning.prepare(other).runs[2].bindings and made.runs[0].directory.exists()


def test_a_dropped_run_that_is_added_again_keeps_its_configuration(tmp_path):
    """Its folder is kept, so its result would else be that of other settings."""
    text = "axes: {method: {a: {bindings: {A: 1}}, b: {bindings: {A: 2}}, c: {bindings: {A: 3}}}}\n"
    less = "axes: {method: {a: {bindings: {A: 1}}}}\n"
    made = planning.prepare(read(tmp_path, text))
    for run in made.runs[:2]:
        begin_run(run)
    for _ in range(2):  # also after several commands
        planning.prepare(read(tmp_path, less))
    assert list(plan.read_plan(tmp_path / "out").dropped) == ["method-b"], "the third run has not begun"
    other = read(tmp_path, text.replace("{A: 2}", "{A: 4}"))
    for refuse in (planning.refuse_other_sweep, planning.prepare):
        with pytest.raises(SweepError, match="another configuration: method-b has A 2 there and 4 in this sweep"):
            refuse(other)
    again = planning.prepare(read(tmp_path, text.replace("{A: 3}", "{A: 5}")))
    assert not again.dropped and len(again.runs) == 3
    outcomes.note_failure(made.runs[1], "the loss is nan")
    planning.prepare(read(tmp_path, less))
    assert planning.prepare(other) and not made.runs[1].directory.exists(), "a failed run starts again"
