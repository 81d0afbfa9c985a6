"""Mistakes of a sweep are named with file, axis, value and expected value before TensorFlow and JAX are imported."""

from pathlib import Path

import pytest

from distill import exit_codes
from distill.cli import main, runs
from distill.experiments.sweep import planning, reading
from tests_support import begin_run, write_rows

TEXT = """directory: out
gin_files: [gin/models/t5_1_1_tiny.gin, gin/tasks/jsonl.gin, gin/runs/distill.gin, gin/hardware/cpu.gin]
bindings:
  FILES: {train: train.jsonl, test: test.jsonl}
  FIELDS: {input: question, rationale: why, label: answer}
  VOCABULARY_PATH: bytes
  TASK_FEATURE_LENGTHS: {inputs: 48, targets: 48}
  TRAIN_STEPS: 10
axes:
  LAMBDA: [0.5, 2]
  RANDOM_SEED: [0, 1]
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "train.jsonl", 40)
    write_rows(tmp_path / "test.jsonl", 10, start=50)


def said(capsys, monkeypatch, text, *given):
    Path("s.yaml").write_text(text)
    monkeypatch.setattr(runs, "load_tensorflow", lambda options: pytest.fail("TensorFlow is loaded first"))
    assert main.main(["sweep", "s.yaml", *given]) == exit_codes.MISTAKE
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and not Path("out").exists()
    return line


def with_axis(axis):
    return TEXT.replace("  LAMBDA: [0.5, 2]\n", f"  {axis}\n")


LAM = "as losses.TwoTaskLoss.lam: expected float or function or None; got 'one' (str)"
STEPS = "as train.LoopConfig.train_steps: expected int; got 'ten' (str)"
NONE = "cannot be trained, so none was started"
LEVELS = "weight: {a: {bindings: {LAMBDA: 1}}, b: {bindings: {LAMBDA: %s}}}"
START = f"start: {{{TEXT.splitlines()[1]}, bindings: {{FILES: {{train: train.jsonl}}, TRAIN_STEPS: ten}}}}\n"
IDLE = "changes nothing in any run"


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        (with_axis("LAMBDA: [one, 2]"), [f"2 of 4 runs {NONE}: LAMBDA-one__RANDOM_SEED-0 and 1 more: LAMBDA (set in "]),
        (with_axis("LAMBDA: [1, 2, one]"), ["2 of 6 runs ", f"LAMBDA (set in axis 'LAMBDA' of s.yaml:10), {LAM}"]),
        (with_axis(LEVELS % "one"), [f"LAMBDA (set in level 'b' of axis 'weight' of s.yaml:10), {LAM}"]),
        (with_axis("losses.TwoTaskLoss.lam: [one, 1]"), ["(set in axis 'losses.TwoTaskLoss.lam' of s.yaml:10)"]),
        (
            with_axis("LEARNING_RATE: [high, 0.1]"),
            ["axis 'LEARNING_RATE'", "expected float or function; got 'high' (str)"],
        ),
        (
            with_axis("RATIONALES: [some, all]"),
            ["axis 'RATIONALES' of s.yaml:10", "expected one of 'auto', ", "got 'some' (str)"],
        ),
        (with_axis("TASK_FEATURE_LENGTHS: [64, 128]"), ["expected Mapping[str, int]; got 64 (int)"]),
        (with_axis("FROZEN: [encoder]"), ["expected tuple[str, ...] or None; got 'encoder' (str)"]),
        (
            TEXT.replace("[0, 1]", "[0, 0.5]"),
            [
                f"2 of 4 runs {NONE}: LAMBDA-0.5__RANDOM_SEED-0.5 and 1 more: RANDOM_SEED (set in axis 'RANDOM_SEED' of ",
                "s.yaml:11), as train.LoopConfig.seed: expected int; got 0.5 (float)",
            ],
        ),
        (
            TEXT.replace(": 10", ": ten"),
            [f"4 of 4 runs {NONE}: ", f"TRAIN_STEPS (set in 'bindings' of s.yaml:8), {STEPS}"],
        ),
        (TEXT.replace("train: train.jsonl", "train: trian.jsonl"), [f"4 of 4 runs {NONE}: ", "trian.jsonl"]),
        (TEXT + START, [f"pretraining: TRAIN_STEPS (set in 'start' of s.yaml:12), {STEPS}"]),
        (
            with_axis("rates: {ratio: ['1:2', '2:1']}"),
            [
                f"axis 'rates' of s.yaml:10 (levels 1:2, 2:1) {IDLE}: FORM=paired draws no mixture; ",
                "set FORM=mixed, or delete the axis",
            ],
        ),
        (with_axis(LEVELS % "1"), [f"axis 'weight' of s.yaml:10 (levels a, b) {IDLE}: every level gives the same"]),
    ],
)
@pytest.mark.parametrize("given", [[], ["--dry_run"]])
def test_a_value_that_no_run_can_have(text, messages, given, capsys, monkeypatch):
    line = said(capsys, monkeypatch, text, *given)
    assert all(message in line for message in messages), line


def test_a_value_of_the_command_line_and_points_of_more(capsys, monkeypatch):
    line = said(capsys, monkeypatch, TEXT, "--gin.TRAIN_STEPS=ten")
    assert "TRAIN_STEPS (set in the command line), as train.LoopConfig.train_steps: expected int" in line
    line = said(capsys, monkeypatch, TEXT, '--more={"LAMBDA": "one"}')
    assert f"LAMBDA (set in axis 'LAMBDA' of s.yaml:10), {LAM}" in line


@pytest.mark.parametrize(
    ("text", "given", "name", "place"),
    [
        (TEXT.replace("  TRAIN_STEPS: 10", "  MODEL_DIR: mine"), [], "MODEL_DIR", "'bindings' of s.yaml:8"),
        (
            TEXT.replace("  TRAIN_STEPS: 10", "  train.train.model_dir: a"),
            [],
            "train.train.model_dir",
            "'bindings' of s.",
        ),
        (with_axis("MODEL_DIR: [a, b]"), [], "MODEL_DIR", "axis 'MODEL_DIR' of s.yaml:10"),
        (TEXT, ["--gin.MODEL_DIR=mine"], "MODEL_DIR", "the command line"),
        (TEXT, ['--more={"LAMBDA": 1, "MODEL_DIR": "a"}'], "MODEL_DIR", "'more'"),
        (TEXT + START.replace("TRAIN_STEPS: ten", "MODEL_DIR: a"), [], "MODEL_DIR", "'start' of s.yaml:12"),
        (
            (TEXT + START).replace("TRAIN_STEPS: 10", "INITIAL_CHECKPOINT_PATH: there"),
            [],
            "INITIAL_CHECKPOINT_PATH",
            "'bindings' of s.yaml:8",
        ),
        (TEXT + "start: demo_vocabulary\n", [], "VOCABULARY_PATH", "'bindings' of s.yaml:6"),
    ],
)
def test_what_the_sweep_itself_sets_cannot_be_set(text, given, name, place, capsys, monkeypatch):
    line = said(capsys, monkeypatch, text, *given)
    assert f"{name} (set in {place}" in line and ") cannot be set: " in line and line.endswith("Delete this setting\n")


def test_an_end_of_the_range_of_a_search(capsys, monkeypatch):
    pytest.importorskip("optuna")
    text = TEXT.replace("LAMBDA: [0.5, 2]", "RANDOM: 1").replace("RANDOM: 1", "TRAIN_STEPS: {low: 1.5, high: 2.5}")
    text += "design: {kind: optuna, trials: 2}\n"
    line = said(capsys, monkeypatch, text, "--workers=1")
    assert (
        "TRAIN_STEPS (set in axis 'TRAIN_STEPS' of s.yaml:10), as train.LoopConfig.train_steps: expected int; got 1.5"
        in line
    )


def test_a_directory_with_another_sweep_is_refused_first(capsys, monkeypatch):
    Path("s.yaml").write_text(TEXT)
    begin_run(planning.prepare(reading.read("s.yaml")).runs[0])
    Path("s.yaml").write_text(TEXT.replace("TRAIN_STEPS: 10", "TRAIN_STEPS: 20"))
    monkeypatch.setattr(runs, "load_tensorflow", lambda options: pytest.fail("TensorFlow is loaded first"))
    for given in ([], ["--dry_run"], ["--workers=2"], ["--index=0"]):
        assert main.main(["sweep", "s.yaml", *given]) == exit_codes.MISTAKE
        line = capsys.readouterr().err
        assert (
            "out holds runs of another configuration: LAMBDA-0.5__RANDOM_SEED-0 has TRAIN_STEPS 10 there and 20" in line
        )
        assert "give another directory with --directory=DIR" in line


def test_files_that_the_results_would_replace_are_refused_where_there_is_no_sweep(capsys, monkeypatch):
    Path("mine").mkdir()
    Path("mine/results.csv").write_text("mine")
    line = said(capsys, monkeypatch, TEXT, "--directory=mine")
    assert "mine holds no sweep, but results.csv, which the results would replace; move it away" in line
    assert Path("mine/results.csv").read_text() == "mine"


def test_a_folder_that_cannot_be_made_is_named_once(capsys, monkeypatch):
    Path("taken").write_text("")
    Path("s.yaml").write_text(TEXT.replace("directory: out", "directory: taken/out"))
    monkeypatch.setattr(runs, "load_tensorflow", lambda options: pytest.fail("TensorFlow is loaded first"))
    assert main.main(["sweep", "s.yaml"]) == exit_codes.MISTAKE
    line = capsys.readouterr().err
    assert line.startswith("distill sweep: directory=taken/out cannot be made: ") and line.count("cannot be made") == 1


def test_a_misspelt_name_is_named_before_the_difference_from_the_directory(capsys, monkeypatch):
    Path("s.yaml").write_text(TEXT)
    begin_run(planning.prepare(reading.read("s.yaml")).runs[0])
    Path("s.yaml").write_text(TEXT.replace("TRAIN_STEPS: 10", "TRIAN_STEPS: 20"))
    assert main.main(["sweep", "s.yaml"]) == exit_codes.MISTAKE
    assert "nothing uses TRIAN_STEPS (set in 'bindings' of s.yaml:8); did you mean" in capsys.readouterr().err


def test_from_another_folder_the_one_where_the_sweep_was_planned_is_named(capsys, monkeypatch, tmp_path):
    Path("small.gin").write_text("TRAIN_STEPS = 10\n")
    text = TEXT.replace("gin_files: [", "gin_files: [small.gin, ")
    assert text != TEXT
    Path("s.yaml").write_text(text)
    planned = planning.prepare(reading.read("s.yaml", Path("out").absolute()))
    (tmp_path / "elsewhere").mkdir()
    before = Path.cwd()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setattr(runs, "load_tensorflow", lambda options: pytest.fail("TensorFlow is loaded first"))
    assert main.main(["sweep", str(planned.directory), "--dry_run"]) == exit_codes.MISTAKE
    line = capsys.readouterr().err
    assert "no gin file 'small.gin'" in line
    assert f"; {planned.directory} was planned in {before}, where its relative paths begin" in line


@pytest.mark.parametrize("name", ["demo_rates", "demo_budget", "demo_search", "demo"])
def test_shipped_sweeps_pass(name, capsys, monkeypatch):
    class Loaded(Exception):
        pass

    def load(options):
        raise Loaded

    monkeypatch.setattr(runs, "load_tensorflow", load)
    with pytest.raises(Loaded):
        main.main(["sweep", f"gin/sweeps/{name}.yaml", "--dry_run", "--directory=out"])
    assert capsys.readouterr().err == "" and not Path("out").exists()
