"""``distill.from_gin``: the run of the command, and advice about its settings."""

import dataclasses
import json
import pathlib

import gin
import numpy as np
import pytest

import distill
from distill.api import configuration, run
from distill.terminal import Terminal
from distill.training.config import Progress
from tests_support import write_rows

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def test_a_table_larger_than_the_vocabulary_is_named_once(tmp_path):
    given = {"MODEL_DIR": tmp_path / "run", "FILES": {"train": "a.jsonl"}, "VOCABULARY_PATH": "bytes"}
    given["TEST_SPLIT"] = None
    files = ["gin/models/t5_1_1_small.gin", "gin/tasks/jsonl.gin", "gin/runs/distill.gin", "gin/hardware/cpu.gin"]
    table, windows = distill.from_gin(files, given).advice()
    assert "384 ids and the student's table 32,128 rows: --gin.VOCAB_SIZE=384 saves 32,505,856 parameters" in table
    assert "TASK_FEATURE_LENGTHS counts bytes, now 512 for inputs and 256 for targets" in windows
    assert distill.from_gin(files, given | {"VOCAB_SIZE": 384}).advice() == []
    assert distill.from_gin(files, given | {"INITIAL_CHECKPOINT_PATH": "runs/a"}).advice() == []


def test_a_weight_of_two_tasks_where_one_is_trained_is_named(tmp_path):
    given = {
        "MODEL_DIR": tmp_path / "run",
        "FILES": {"train": "a.jsonl"},
        "VOCABULARY_PATH": "bytes",
        "VOCAB_SIZE": 384,
    }
    files = ["gin/models/t5_1_1_small.gin", "gin/tasks/jsonl.gin", "gin/runs/finetune.gin", "gin/hardware/cpu.gin"]
    given |= {"TEST_SPLIT": None, "LAMBDA": 3}
    assert distill.from_gin(files, given).advice() == ["jsonl_label is one task: LAMBDA=3 changes nothing"]
    assert distill.from_gin(files, given | {"LAMBDA": 1}).advice() == []
    assert distill.from_gin(files, given | {"FORM": "paired"}).advice() == []
    per_token = "evaluate.DecodeConfig.normalize_by_target_length"
    (line,) = distill.from_gin(files, given | {"LAMBDA": 1, per_token: True}).advice()
    assert line.startswith("DecodeConfig.normalize_by_target_length=True changes nothing: ")


def test_more_steps_after_patience_ran_out_are_refused_before_anything_is_said(tmp_path, capsys):
    write_rows(tmp_path / "a.jsonl", 20)
    root = tmp_path / "run"
    given = {
        "MODEL_DIR": root,
        "FILES": {"train": tmp_path / "a.jsonl"},
        "VOCABULARY_PATH": "bytes",
        "TEST_SPLIT": None,
    }
    given |= {"FIELDS": {"input": "question", "rationale": "why", "label": "answer"}, "TRAIN_STEPS": 20, "PATIENCE": 2}
    files = ["gin/models/t5_1_1_tiny.gin", "gin/tasks/jsonl.gin", "gin/runs/distill.gin", "gin/hardware/cpu.gin"]
    made = distill.from_gin(files, given)
    made.begin()
    progress = Progress(best=0.5, best_step=4, stale=2, stopped="early", limits=[20, 2])
    (root / "checkpoints" / "10" / "progress").mkdir(parents=True)
    (root / "checkpoints" / "10" / "progress" / "metadata").write_text(json.dumps(dataclasses.asdict(progress)))
    (root / "best" / "4").mkdir(parents=True)
    (root / "result.json").write_text('{"stopped": "early"}')
    before = {path.name: path.read_bytes() for path in root.iterdir() if path.is_file()}
    capsys.readouterr()
    with pytest.raises(
        ValueError, match=r"TRAIN_STEPS \(now 40, before 20\) trains nothing more: raise PATIENCE above 2"
    ):
        distill.from_gin(files, given | {"TRAIN_STEPS": 40}).run()
    said = capsys.readouterr().err
    assert "continuing" not in said and "reading" not in said
    kept = {path.name: path.read_bytes() for path in root.iterdir() if path.suffix != ".lock" and path.is_file()}
    assert kept == before
    more = distill.from_gin(files, given | {"TRAIN_STEPS": 40, "PATIENCE": 3})
    assert more._check_longer(more.arguments) is None


def test_rows_that_are_held_out_are_counted(tmp_path):
    write_rows(tmp_path / "a.jsonl", 5)
    given = {"MODEL_DIR": tmp_path / "run", "FILES": {"train": tmp_path / "a.jsonl"}, "VOCABULARY_PATH": "bytes"}
    given |= {"TEST_SPLIT": None, "FIELDS": {"input": "question", "rationale": "why", "label": "answer"}}
    files = ["gin/models/t5_1_1_small.gin", "gin/tasks/jsonl.gin", "gin/runs/distill.gin", "gin/hardware/cpu.gin"]
    made = distill.from_gin(files, given)
    made.register()
    (line,) = made.held_out()
    assert line == (
        "no validation rows are given: 1 of 5 rows of the training data is held out for validation and not trained on"
    )
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "result.json").write_text("{}")
    (tmp_path / "a.jsonl").unlink()
    made.register()
    assert made.held_out() == [], "a complete run reads no rows"
    given["FILES"] = {"train": "a.jsonl", "validation": "b.jsonl"}
    assert distill.from_gin(files, given).held_out() == []


def test_validation_rows_far_from_the_share_are_warned_of(tmp_path, capsys):
    asked = ["question 0"] * 20 + ["a"] * 9 + [f"other {number}" for number in range(3)]  # the hash holds out "a"
    rows = [{"input": text, "rationale": "why", "label": "yes"} for text in asked]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = {"MODEL_DIR": tmp_path / "run", "FILES": {"train": tmp_path / "a.jsonl"}, "VOCABULARY_PATH": "bytes"}
    files = ["gin/models/t5_1_1_small.gin", "gin/tasks/jsonl.gin", "gin/runs/distill.gin", "gin/hardware/cpu.gin"]
    made = distill.from_gin(files, given | {"TEST_SPLIT": None})
    made.register()
    counted, warning = made.held_out()
    assert counted == (
        "no validation rows are given: 9 of 32 rows of the training data, 1 of 5 different inputs, are held out for "
        "validation and not trained on"
    )
    assert warning.startswith("28.1% of the training data is held out for validation, and validation_fraction is 0.1: ")
    made.introduce(Terminal(), writes=False)
    said = capsys.readouterr().err.splitlines()
    assert counted in said and f"WARNING {warning}" in said


def test_passages_that_are_held_out_are_counted(tmp_path):
    (tmp_path / "book.txt").write_text("\n\f".join(f"passage {number} of the book" for number in range(7)))
    given = {"MODEL_DIR": tmp_path / "run", "FILES": {"train": tmp_path / "book.txt"}, "VOCABULARY_PATH": "bytes"}
    files = ["gin/models/t5_1_1_tiny.gin", "gin/runs/pretrain.gin", "gin/hardware/cpu.gin"]
    made = distill.from_gin(files, given)
    made.register()
    (line,) = made.held_out()
    assert " 1 of 7 passages of the training data is held out " in line, "by a hash, 1% of 7 passages would be none"


def test_from_gin_is_the_run_of_the_command(tmp_path):
    with gin.unlock_config():
        gin.clear_config()
    gin.parse_config("MINE = 3")
    given = {"MODEL_DIR": tmp_path / "run", "VOCABULARY_PATH": "bytes", "TRAIN_STEPS": 70, "LAMBDA": 0.25}
    got = distill.from_gin("gin/recipes/quickstart.gin", given)
    assert gin.query_parameter("MINE/macro.value") == 3  # the caller's configuration is left alone
    assert got.arguments["loop"].train_steps == 70
    assert got.arguments["loss"].lam == 0.25
    assert got.directory == str(tmp_path / "run")
    assert got.bindings["TRAIN_STEPS"] == 70
    with pytest.raises(configuration.ConfigurationError, match="nothing uses TRIAN_STEPS"):
        distill.from_gin(
            "gin/recipes/quickstart.gin", [*(f"{k} = {str(v)!r}" for k, v in given.items()), "TRIAN_STEPS=1"]
        )
    assert gin.query_parameter("MINE/macro.value") == 3
    for odd in (object(), float("nan"), {"a": [float("inf")]}):
        with pytest.raises(configuration.ConfigurationError, match=r"^bindings=\{'MESH': …\} must be a finite number"):
            distill.from_gin("gin/recipes/quickstart.gin", given | {"MESH": odd})
    with pytest.raises(
        configuration.ConfigurationError, match=r"^WARMUP_STEPS .* must be in \[0, TRAIN_STEPS=7\); got 50$"
    ):
        distill.from_gin("gin/recipes/quickstart.gin", given | {"TRAIN_STEPS": 7})
    assert isinstance(got, run.Run)
    gin.clear_config()


def test_numbers_of_numpy_and_paths_are_bound_wherever_they_stand():
    files = [f"gin/{name}.gin" for name in ("models/t5_1_1_tiny", "tasks/jsonl", "runs/distill", "hardware/cpu")]
    given = {
        "MODEL_DIR": pathlib.Path("run"), "VOCABULARY_PATH": "bytes", "TEST_SPLIT": None, "LAMBDA": np.float64(0.25),
        "FILES": {"train": [pathlib.Path("a.jsonl")]}, "TRAIN_STEPS": np.int64(70),
        "TASK_FEATURE_LENGTHS": {"inputs": np.int32(48), "targets": np.int32(32)},
    }  # fmt: skip
    found = distill.from_gin(files, given).bindings
    assert found["FILES"] == {"train": ["a.jsonl"]} and found["MODEL_DIR"] == "run"
    assert found["TASK_FEATURE_LENGTHS"] == {"inputs": 48, "targets": 32}
    assert (found["LAMBDA"], found["TRAIN_STEPS"]) == (0.25, 70) and type(found["TRAIN_STEPS"]) is int


def test_a_split_to_test_that_files_lack_is_named_before_tensorflow_is_imported(monkeypatch):
    monkeypatch.setattr(run.tensorflow_log, "import_quietly", lambda: pytest.fail("TensorFlow is imported"))
    files = [f"gin/{name}.gin" for name in ("models/t5_1_1_tiny", "tasks/jsonl", "runs/distill", "hardware/cpu")]
    with pytest.raises(configuration.ConfigurationError) as caught:
        run.from_gin(files, {"MODEL_DIR": "m", "VOCABULARY_PATH": "bytes", "FILES": {"train": "a.jsonl"}})
    assert str(caught.value).startswith("FILES has no split 'test', which TEST_SPLIT scores at the end; it has train: ")
    assert str(caught.value).endswith("or give bindings={'TEST_SPLIT': None} to score none")


def test_metrics_from_gin_take_two_arguments(tmp_path):
    (tmp_path / "own.gin").write_text(
        "from __gin__ import dynamic_registration\n"
        "from distill.tasks import metrics\n"
        "from distill.tasks import registration\n"
        "registration.register.rationale_metrics = [@metrics.bleu, @metrics.share]\n"
    )
    given = {"MODEL_DIR": tmp_path / "run", "FILES": {"train": "a.jsonl"}, "VOCABULARY_PATH": "bytes"}
    files = ["gin/models/t5_1_1_small.gin", "gin/tasks/jsonl.gin", "gin/runs/distill.gin", "gin/hardware/cpu.gin"]
    message = r"^registration\.register\.rationale_metrics\[1\] must take two positional arguments, .*; got share\(name"
    with pytest.raises(configuration.ConfigurationError, match=message):
        distill.from_gin([*files, str(tmp_path / "own.gin")], given | {"TEST_SPLIT": None})
