"""What is checked of a run before its training begins, and advice about its settings."""

import dataclasses
import json

import pytest

import distill
from distill.api import run_checks
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


@pytest.mark.parametrize(
    ("steps", "patience", "expected"),
    [
        (250, None, None),
        (1, None, None),
        (751, 2, None),
        (100, None, "the run validates once, after its last step, so it keeps those parameters as the best"),
        (100, 1, "those parameters as the best, and PATIENCE=1 changes nothing"),
        (750, 2, "PATIENCE=2 changes nothing, because it needs 3 validations before the last step"),
    ],
)
def test_validations_that_are_too_rare_to_choose_or_to_end_the_run_are_named(tmp_path, steps, patience, expected):
    given = {"MODEL_DIR": tmp_path / "run", "FILES": {"train": "a.jsonl"}, "VOCABULARY_PATH": "bytes"}
    given |= {"VOCAB_SIZE": 384, "TEST_SPLIT": None, "TRAIN_STEPS": steps, "PATIENCE": patience}
    files = ["gin/models/t5_1_1_small.gin", "gin/tasks/jsonl.gin", "gin/runs/distill.gin", "gin/hardware/cpu.gin"]
    lines = distill.from_gin(files, given).advice()
    start = f"EVAL_PERIOD=250 and TRAIN_STEPS={steps}: "
    assert len(lines) == (expected is not None)
    assert all(line.startswith(start) and line.endswith(expected) for line in lines)


def test_numbers_of_steps_that_continue_nothing_are_refused_before_anything_is_said(tmp_path, capsys):
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
    assert run_checks.check_longer(more.directory, more.arguments) is None
    (root / "result.json").unlink()  # stopped before its end
    with pytest.raises(ValueError, match=r"has done 10 steps, .* TRAIN_STEPS must be above 10 to continue it"):
        distill.from_gin(files, given | {"TRAIN_STEPS": 6}).run()
    said = capsys.readouterr().err
    assert "continuing" not in said and "differ" not in said and "validates once" not in said
