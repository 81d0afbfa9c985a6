"""``distill.from_gin``: the run of the command."""

import json

import gin
import pytest

import distill
from distill.api import configuration, run
from distill.terminal import Terminal
from tests_support import write_rows

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


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
