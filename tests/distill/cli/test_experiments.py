"""``distill example``, the exit code of a sweep, and which errors end one run and which the whole sweep."""

import argparse
import dataclasses
import errno
import json
from pathlib import Path

import pytest

from distill import exit_codes, locking
from distill.cli import experiments, main
from distill.experiments.sweep import Run, Sweep, planning
from distill.precompile import step_costs
from distill.tasks.records import SourceError
from distill.training import finite, joint_seeds, train

OPTIONS = argparse.Namespace(gin_search_paths="", gin_module=[], quiet=True)


@pytest.fixture
def one(tmp_path):
    return Run("LAMBDA-0.5", {"LAMBDA": "0.5"}, (), (), tmp_path / "out")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("TRAIN_STEPS must be ≥ 1"), "TRAIN_STEPS must be ≥ 1"),
        (FloatingPointError("the loss is nan at step 3"), "the loss is nan at step 3"),
        (SourceError("rows.jsonl is missing"), "rows.jsonl is missing"),
        (RuntimeError("INTERNAL: a kernel failed\nstack"), "RuntimeError: INTERNAL: a kernel failed"),
    ],
)
def test_errors_of_a_run_are_one_line_and_the_sweep_continues(one, monkeypatch, error, line):
    monkeypatch.setattr(experiments, "configure_run", raising(error))
    failed = experiments.train_group([one], False, OPTIONS)
    assert list(failed) == ["LAMBDA-0.5"]
    assert line in failed["LAMBDA-0.5"] and "\n" not in failed["LAMBDA-0.5"]


@pytest.mark.parametrize(
    ("name", "remedy", "expected"),
    [
        (
            "a",
            finite.remedy("bfloat16"),
            "in the sweep file, replace this point by one with a lower LEARNING_RATE or DTYPE='float32'; the end",
        ),
        (
            "a",
            finite.remedy("bfloat16") + finite.OR_SKIP,
            "by one with a lower LEARNING_RATE, DTYPE='float32' or ON_NONFINITE='skip'; the end",
        ),
        (
            "a",
            finite.remedy("float32") + finite.OR_SKIP,
            "by one with a lower LEARNING_RATE or ON_NONFINITE='skip'; the end",
        ),
        ("a", finite.remedy("float32"), "by one with a lower LEARNING_RATE; the end"),
        (
            "pretraining",
            finite.REMEDY + finite.OR_SKIP,
            "train the sweep in another --directory, with 'start' of a lower ",
        ),
        ("a", "restore it, or train in another MODEL_DIR", "restore it, or train the sweep in another --directory"),
    ],
)
def test_the_remedy_of_a_run_is_one_of_its_sweep(one, monkeypatch, name, remedy, expected):
    monkeypatch.setattr(
        experiments, "configure_run", raising(FloatingPointError(f"the loss is nan; {remedy}; the end"))
    )
    failed = experiments.train_group([dataclasses.replace(one, name=name)], False, OPTIONS)[name]
    assert expected in failed and "MODEL_DIR" not in failed and failed.endswith("; the end")


def test_the_remedy_of_an_added_point_names_the_flag_that_drops_it(one, monkeypatch):
    added = ({"LAMBDA": [0.5, 2], "LEARNING_RATE": 1},)
    dataclasses.replace(planning.planned(Sweep(one.directory.parent, {}), [one]), added_points=added).write()
    monkeypatch.setattr(experiments, "configure_run", raising(FloatingPointError(f"the loss is nan; {finite.REMEDY}")))
    run = dataclasses.replace(one, values={"LAMBDA": "0.5", "LEARNING_RATE": "1", "RANDOM_SEED": "0"})
    text = experiments.train_group([run], False, OPTIONS)[one.name]
    flag = """--drop_more='{"LAMBDA": 0.5, "LEARNING_RATE": 1}'"""
    assert f"; with {flag} --more=POINT, replace this added point by one with a lower LEARNING_RATE" in text
    assert "in the sweep file" in experiments.train_group([one], False, OPTIONS)[one.name]


@pytest.fixture
def two(tmp_path, monkeypatch):
    """Two runs whose configuration and training are stubs."""
    monkeypatch.setattr(experiments, "configure_run", lambda run, options: {"model_dir": str(run.directory)})
    monkeypatch.setattr(experiments.command_runs, "write_configuration", lambda quiet: None)
    monkeypatch.setattr(step_costs, "of_run", lambda given: None)
    return [Run(name, {}, (), (), tmp_path / name) for name in ("a", "b")]


def test_a_run_that_fails_leaves_the_next_one_trained(two, monkeypatch):
    trained = []

    def fails_first(**arguments):
        trained.append(arguments["model_dir"])
        if len(trained) == 1:
            raise FloatingPointError("the loss is nan at step 3")
        return argparse.Namespace(stopped=None)

    monkeypatch.setattr(train, "train", fails_first)
    assert list(experiments.train_group(two, False, OPTIONS)) == ["a"]
    assert trained == [str(run.directory) for run in two]


def test_runs_that_differ_in_more_than_the_seed_are_not_trained_jointly(two, monkeypatch):
    texts = iter(("LAMBDA = 0.1", "LAMBDA = 1.0"))
    monkeypatch.setattr(experiments, "configuration_text", lambda: next(texts))
    monkeypatch.setattr(joint_seeds.Seed, "read", lambda *given, **more: None)
    failed = experiments.train_group(two, True, OPTIONS)
    assert set(failed) == {"a", "b"} and failed["a"].startswith("b and a differ in more than the seed")


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        MemoryError(),
        locking.Locked("out is in use"),
        exit_codes.Stopped("SIGTERM"),
    ],
)
def test_errors_of_the_machine_and_signals_end_the_sweep(one, monkeypatch, error):
    monkeypatch.setattr(experiments, "configure_run", raising(error))
    for joint in (False, True):
        with pytest.raises(type(error)):
            experiments.train_group([one], joint, OPTIONS)


def raising(error):
    def configure_run(run, options):
        raise error

    return configure_run


def test_a_run_that_a_signal_stopped_ends_the_sweep_and_is_unlocked(one, monkeypatch):
    given = []

    def trained(**arguments):
        given.append(arguments)
        return argparse.Namespace(stopped="SIGTERM")

    monkeypatch.setattr(experiments, "configure_run", lambda run, options: {"model_dir": str(run.directory)})
    monkeypatch.setattr(experiments.command_runs, "write_configuration", lambda quiet: None)
    monkeypatch.setattr(train, "train", trained)
    monkeypatch.setattr(step_costs, "of_run", lambda given: None)
    with pytest.raises(exit_codes.Stopped, match="SIGTERM"):
        experiments.train_group([one], False, OPTIONS)
    assert given[0]["quiet"] and given[0]["model_dir"] == str(one.directory)
    with locking.held(locking.of_directory(one.directory), "out"):
        pass  # free again


def test_failed_runs_are_printed_and_give_their_exit_code(capsys):
    assert experiments.exit_code({}) == exit_codes.DONE
    assert experiments.exit_code({"a": "the loss is nan", "b": "no rows"}) == exit_codes.SOME_FAILED
    assert capsys.readouterr().err == "failed: a: the loss is nan\nfailed: b: no rows\n"
    failures = {"a": "the loss is nan at step 2; in the sweep file, replace this point", "b": "no rows"}
    assert experiments.exit_code(failures, Path("out")) == exit_codes.SOME_FAILED
    assert capsys.readouterr().err.splitlines() == [
        "failed: a: the loss is nan at step 2", "failed: b: no rows",
        "whole messages: out/RUN/failure.json; --retry_failed repeats failed runs",
    ]  # fmt: skip


def test_example_writes_rows_and_names_the_next_command(tmp_path, capsys):
    assert main.main(["example", f"--output={tmp_path / 'example'}", "--train_rows=20", "--seed=3"]) == exit_codes.DONE
    said = capsys.readouterr().out
    rows = [json.loads(line) for line in (tmp_path / "example" / "train.jsonl").read_text().splitlines()]
    assert len(rows) == 20
    assert said.splitlines()[-1].startswith("next: distill train ")
