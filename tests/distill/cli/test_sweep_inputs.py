"""Gin files and rows that are edited while a sweep runs; without training."""

import argparse
import json
import pathlib

import pytest

from distill import exit_codes
from distill.api import configuration
from distill.cli import experiments, main
from distill.experiments.sweep import SweepError, outcomes, plan, reading, workers
from distill.precompile import step_costs
from distill.training import train
from tests_support import write_rows

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")

FILE = """
gin_files: [gin/models/t5_1_1_tiny.gin, gin/tasks/jsonl.gin, gin/runs/distill.gin, gin/hardware/cpu.gin, FOLDER/own.gin]
bindings:
  FILES: {train: FOLDER/train.jsonl, test: FOLDER/test.jsonl}
  FIELDS: {input: question, rationale: why, label: answer}
  VOCABULARY_PATH: bytes
  VOCAB_SIZE: 384
  BATCH_SIZE: 4
  partitioning.MeshConfig.data: 1
axes: {LAMBDA: [1, 3], RANDOM_SEED: [0, 1]}
directory: FOLDER/out
"""
NAMES = [f"LAMBDA-{level}__RANDOM_SEED-{seed}" for level in (1, 3) for seed in (0, 1)]


@pytest.fixture
def edits(monkeypatch):
    """Run → what happens while it trains: training is a stub."""
    real, configure, trained, edits = train.train, experiments.configure_run, [], {}

    def configured(run, options):
        with monkeypatch.context() as patch:
            patch.setattr(train, "train", real)
            return configure(run, options)

    def stub(*, model_dir, **given):
        folder = pathlib.Path(model_dir)
        (folder / "config.gin").write_text(configuration.resolved())
        (folder / "result.json").write_text("{}")
        trained.append(folder.name)
        edits.get(folder.name, lambda: None)()
        return argparse.Namespace(stopped=None)

    monkeypatch.setattr(experiments, "configure_run", configured)
    monkeypatch.setattr(experiments.command_runs, "write_configuration", lambda quiet: None)
    monkeypatch.setattr(step_costs, "of_run", lambda given: None)
    monkeypatch.setattr(train, "train", stub)
    return edits, trained


def test_runs_do_not_start_with_edited_files_and_continue_when_they_are_as_before(tmp_path, edits, capsys):
    edits, trained = edits
    own, rows, out, path = (tmp_path / name for name in ("own.gin", "train.jsonl", "out", "sweep.yaml"))
    path.write_text(FILE.replace("FOLDER", str(tmp_path)))
    own.write_text("LABEL_PREFIX = 'label: '\n")
    write_rows(rows, 40)
    write_rows(tmp_path / "test.jsonl", 10, start=50)
    before = rows.read_text()
    edits[NAMES[0]] = lambda: own.write_text("LABEL_PREFIX = 'answer: '\n")
    edits[NAMES[1]] = lambda: rows.write_text(before[: before.rindex("{")])

    assert main.main(["sweep", str(path)]) == exit_codes.MISTAKE
    said = capsys.readouterr().err
    assert f"{NAMES[1]} was not started: {own} has been edited since the sweep was planned (LABEL_PREFIX was " in said
    assert "'label: ' and is now 'answer: ')" in said
    own.write_text("# as it was\nLABEL_PREFIX = 'label: '\n")
    assert main.main(["sweep", str(path), *(f"--run={name}" for name in NAMES[1:])]) == exit_codes.MISTAKE
    said = capsys.readouterr().err
    assert f"{NAMES[2]} was not started: the rows of {rows} have changed since the sweep was planned" in said
    leased = ["sweep", str(out), f"--run={NAMES[2]}", "--leased"]
    assert main.main(leased) == workers.CHANGED_CODE
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"{NAMES[2]} was not started: the rows")
    assert not any(outcomes.failure(run) for run in plan.read_plan(out).runs) and trained == NAMES[:2]
    rows.write_text(before)
    assert main.main(leased) == exit_codes.DONE and trained == NAMES[:3]


def test_a_run_that_has_saved_a_step_keeps_the_rows_of_its_sweep(tmp_path, edits, capsys):
    _, trained = edits
    rows, path = tmp_path / "test.jsonl", tmp_path / "sweep.yaml"
    path.write_text(FILE.replace("FOLDER", str(tmp_path)))
    (tmp_path / "own.gin").write_text("LABEL_PREFIX = 'label: '\n")
    write_rows(tmp_path / "train.jsonl", 40)
    write_rows(rows, 10, start=50)
    assert main.main(["sweep", str(path), "--prepare"]) == exit_codes.DONE
    write_rows(rows, 9, start=50)
    assert main.main(["sweep", str(path), "--prepare"]) == exit_codes.DONE, "nothing has begun"
    (tmp_path / "out" / NAMES[1] / "checkpoints" / "5").mkdir(parents=True)
    write_rows(rows, 8, start=50)
    for flags in ([], ["--dry_run"], [f"--run={NAMES[1]}"]):
        assert main.main(["sweep", str(path), *flags]) == exit_codes.MISTAKE
        assert (
            f"the rows of {rows} have changed since {NAMES[1]} of {tmp_path / 'out'} began" in capsys.readouterr().err
        )
    assert trained == []
    (tmp_path / "out" / NAMES[1] / "checkpoints" / "5").rmdir()
    assert main.main(["sweep", str(path), "--dry_run"]) == exit_codes.DONE


def test_rows_that_are_tested_and_trained_on_are_counted_once_before_workers_start(tmp_path, edits, capsys):
    path = tmp_path / "sweep.yaml"
    path.write_text(FILE.replace("FOLDER", str(tmp_path)))
    (tmp_path / "own.gin").write_text("LABEL_PREFIX = 'label: '\n")
    write_rows(tmp_path / "train.jsonl", 40)
    write_rows(tmp_path / "test.jsonl", 10)
    text = " rows of split 'test' have the input of a training row"
    for flags in (["--dry_run"], ["--prepare"]):
        assert main.main(["sweep", str(path), *flags]) == exit_codes.DONE
        said = capsys.readouterr()
        assert (said.out + said.err).count(text) == 1
    assert main.main(["sweep", str(path), f"--run={NAMES[0]}"]) == exit_codes.DONE
    assert text not in capsys.readouterr().err, "the run says it itself"


def test_the_runs_of_a_demo_are_compared_as_those_of_a_sweep(tmp_path, edits):
    edits, trained = edits
    own, path = tmp_path / "own.gin", tmp_path / "sweep.yaml"
    path.write_text(FILE.replace("FOLDER", str(tmp_path)))
    own.write_text("LABEL_PREFIX = 'label: '\n")
    write_rows(tmp_path / "train.jsonl", 40)
    write_rows(tmp_path / "test.jsonl", 10, start=50)
    edits[NAMES[0]] = lambda: own.write_text("LABEL_PREFIX = 'answer: '\n")
    options = argparse.Namespace(gin_search_paths="", gin_module=[], quiet=True, retry_failed=True)
    with pytest.raises(
        SweepError, match=rf"{NAMES[1]} was not started: .* has been edited since the sweep was planned"
    ):
        experiments._run_sweep(reading.read(path), options)
    with pytest.raises(
        SweepError, match=rf"another configuration: {NAMES[0]} has LABEL_PREFIX .*; a gin file may have"
    ):
        experiments._run_sweep(reading.read(path), options)
    own.write_text("LABEL_PREFIX = 'label: '\n")
    assert experiments._run_sweep(reading.read(path), options) == {} and trained == NAMES


def test_a_plan_has_the_statements_of_all_files_once(tmp_path, edits):
    path = tmp_path / "sweep.yaml"
    path.write_text(FILE.replace("FOLDER", str(tmp_path)))
    (tmp_path / "own.gin").write_text("LABEL_PREFIX = 'label: '  # a comment\n")
    write_rows(tmp_path / "train.jsonl", 40)
    write_rows(tmp_path / "test.jsonl", 10, start=50)
    assert main.main(["sweep", str(path), "--prepare"]) == exit_codes.DONE
    noted = json.loads((tmp_path / "out" / "sweep.json").read_text())["inputs"]
    assert noted["gin"][str(tmp_path / "own.gin")] == {"LABEL_PREFIX": "label: "}
    assert "gin/models/t5_1_1_tiny.gin" in noted["gin"]
    assert sorted(key.split(", settings ")[0] for key in noted["rows"]) == [
        f"jsonl, split {split}" for split in ("test", "train", "validation")
    ]
