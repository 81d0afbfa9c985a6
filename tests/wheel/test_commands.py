"""From an empty folder, an installed wheel trains, evaluates, answers and exports; the demo and a shipped sweep run."""

import json
import pathlib
import re

import pytest

from tests_support import write_rows

ROOT = pathlib.Path(__file__).resolve().parents[2]
FILES = [f"--gin_file=gin/{name}.gin" for name in ("models/demo", "tasks/jsonl", "runs/distill", "hardware/cpu")]
TINY = [f"--gin.network.T5Config.{size}" for size in ("embed_dim=16", "num_heads=2", "head_dim=8", "mlp_dim=16")]
TINY += [f"--gin.network.T5Config.num_{part}_layers=1" for part in ("encoder", "decoder")]
SHORT = [f"--gin.train.LoopConfig.{setting}" for setting in ("train_steps=2", "log_period=1")]
SHORT += ["--gin.train.ValidationConfig.period=2", "--gin.VALIDATION_EXAMPLES=4", "--gin.EVAL_BATCH_SIZE=4"]
ROWS = [
    "--gin.FILES={'train': 'train.jsonl', 'validation': 'test.jsonl', 'test': 'test.jsonl'}",
    "--gin.FIELDS={'input': 'question', 'rationale': 'why', 'label': 'answer'}",
    "--gin.TASK_FEATURE_LENGTHS={'inputs': 32, 'targets': 32}",
    "--gin.MAX_DECODE_LEN=4",
    "--gin.MAX_INPUT_LEN=32",
    "--gin.VOCABULARY_PATH=bytes",
]
FEW = ["--gin.demo_world.dataset.validation_rows=8", "--gin.demo_world.dataset.test_rows=8"]  # of each run
# Not pretrained, and one setting of five, of the method step-by-step, whose two seeds are trained jointly. The demo's test,
# tests/distill/experiments/test_demo.py, trains all methods.
FEWER = {"start: demo\n": "start: demo_vocabulary\n", "[125, 250]": "[125]", "[0, 1, 2]": "[0, 1]"}
FEWER |= {"[standard, step-by-step]": "[step-by-step]"}
OTHERS = re.compile(
    r"^    (# One update|before distillation:\n      bindings:|standard:\n      bindings:).*\n", re.MULTILINE
)
PRETRAINING = [f"--gin.demo_world.pretraining.{size}" for size in ("train_rows=200", "validation_rows=20")]
DEMO_GRID = {"gin_files": ["gin/recipes/demo_student.gin"], "axes": {"TRAIN_ROWS": [20], "RANDOM_SEED": [0]}}


@pytest.fixture(scope="module")
def walked(installed, tmp_path_factory):
    """The results by name of everything below, run in one process, and the folder, which held only the rows."""
    folder = tmp_path_factory.mktemp("empty")
    write_rows(folder / "train.jsonl", 16)
    write_rows(folder / "test.jsonl", 4, start=16)
    (folder / "grid.json").write_text(json.dumps(DEMO_GRID))
    model, asked = "--model_dir=runs/a", ["--input=test.jsonl", "--input_field=question"]
    start = "--gin.optimizers.linear_decay.warmup_steps=1"
    shipped = (ROOT / "gin/sweeps/demo.yaml").read_text(encoding="utf-8")
    for whole, part in FEWER.items():
        assert shipped.count(whole) == 1, whole
        shipped = shipped.replace(whole, part)
    shipped, others = OTHERS.subn("", shipped)
    assert others == 3
    (folder / "demo.yaml").write_text(shipped)
    commands = {
        "train": ["train", *FILES, *TINY, *SHORT, *ROWS, "--gin.MODEL_DIR=runs/a"],
        "eval": ["eval", model],
        "infer": ["infer", model, *asked, "--output=answers.jsonl"],
        "export": ["export", model, "--output=exported"],
        "demo": ["demo", "--sweep=grid.json", *TINY, *SHORT, *FEW, *PRETRAINING, start],
        "sweep": ["sweep", "demo.yaml", "--directory=grid", *TINY, *SHORT, *FEW],
        "report": ["report", "grid", "--output=page.html"],
    }
    done = installed.walk(list(commands.values()), folder)
    return folder, dict(zip(commands, done, strict=True))


@pytest.mark.parametrize("name", ["train", "eval", "infer", "export", "demo", "sweep", "report"])
def test_it_ends_well(name, walked):
    result = walked[1][name]
    assert result["code"] == 0, result["err"]


def test_what_they_leave_behind(walked):
    folder, done = walked
    assert "test accuracy: " in done["train"]["out"]
    assert "test accuracy: " in done["eval"]["out"]
    answers = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    assert len(answers) == 4
    assert all("error" not in answer for answer in answers)
    assert (folder / "exported" / "model.safetensors").stat().st_size > 1000
    assert json.loads(done["demo"]["out"].strip().splitlines()[-1])["task"] == "demo_world"
    rows = (folder / "grid" / "results.csv").read_text().splitlines()
    assert len(list((folder / "grid").glob("*/result.json"))) == 2
    assert len(rows) > 1
    for page in (folder / "page.html", folder / "grid" / "report.html"):
        assert "What the data show" in page.read_text(encoding="utf-8"), "the wheel has the page's template and style"
