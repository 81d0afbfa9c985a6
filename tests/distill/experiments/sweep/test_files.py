"""Atomic replacement of a run's files, and broken ones."""

import os

import pytest
from etils import epath

from distill import locking
from distill.experiments.sweep import files
from distill.training import timing
from tests.distill.experiments.report import synthetic


def test_a_file_is_replaced_whole(tmp_path):
    files.replace_text(tmp_path / "a" / "b.json", "[1]")
    assert (tmp_path / "a" / "b.json").read_text() == "[1]"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b.json"]
    (tmp_path / "result.json").write_text("[1]")
    with pytest.raises(ValueError, match="must hold a JSON object; got list"):
        files.read_result(tmp_path)
    for text in ("{", "[" * 100_000):
        (tmp_path / "result.json").write_text(text)
        with pytest.raises(ValueError, match=r"result\.json is not JSON: "):
            files.read_result(tmp_path)


def test_broken_evaluations_are_left_out(tmp_path):
    directory = synthetic.write_run(
        tmp_path / "a", [True, False, True, True], configuration={"FORM": "label", "RANDOM_SEED": 3}, before=0.25
    )
    with (directory / "evaluations.jsonl").open("a") as file:
        file.write('{"split": "test"\n[]\n' + "[" * 100_000 + "\n")
    steps = [entry["step"] for entry in files.read_evaluations(directory)]
    assert steps == [0, 100, 200, 300, 400, 300]
    assert files.read_evaluations(tmp_path) == []


def test_a_note_of_the_step_that_is_damaged_says_nothing(tmp_path):
    assert files.reached_step(tmp_path) is None
    for text, step in (
        ("", None),
        ("         1 x\n", None),
        ("         1         0\n", None),
        ("         2        37\n", 37),
    ):
        (tmp_path / "attempts.step").write_text(text)
        assert files.reached_step(tmp_path) == step


def test_a_running_run_is_at_the_step_that_its_newest_attempt_has_begun(tmp_path):
    assert files.progress(tmp_path) == "loading and compiling"
    timing.Attempts(epath.Path(tmp_path), 0, started=0.0).made(40)
    os.utime(tmp_path / "attempts.step", (0, 0))  # long before the lock is taken again
    with locking.held(locking.of_directory(tmp_path), "the run"):
        assert files.progress(tmp_path) == "loading and compiling", "that was another attempt"
        attempts = timing.Attempts(epath.Path(tmp_path), 20, started=0.0)
        assert files.progress(tmp_path) == "loading and compiling"
        attempts.made(21)
        assert files.progress(tmp_path) == "step 21"
        (tmp_path / "config.json").write_text('{"TRAIN_STEPS": 400, "train.LoopConfig.train_steps": 400}')
        assert files.progress(tmp_path) == "step 21/400"


def test_a_missing_metric_is_named_with_those_that_exist():
    assert files.no_metric("runs/a", "f1", {"loss": 0, "acc": 1}) == "runs/a has no test metric 'f1'; it has acc, loss"
    assert files.no_metric("runs/a", "f1", ()).endswith("it has none")


def test_folders_that_a_block_made_and_left_empty_are_removed(tmp_path):
    (tmp_path / "there").mkdir()
    with files.no_empty_folders(tmp_path / "there"):
        pass
    with pytest.raises(KeyError), files.no_empty_folders(tmp_path / "a" / "b" / "c"):
        (tmp_path / "a" / "b" / "c").mkdir(parents=True)
        (tmp_path / "a" / "kept").touch()
        raise KeyError
    assert sorted(one.name for one in tmp_path.rglob("*")) == ["a", "kept", "there"]
