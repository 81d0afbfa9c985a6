"""The command lines that the legs run, and what these commands need first."""

import json
import subprocess
import sys
from pathlib import Path


def distill(*arguments: str) -> list[str]:
    """The command line of ``distill``, by this interpreter."""
    return [sys.executable, "-m", "distill", *arguments]


def training(directory: Path, model_dir: Path, *bindings: str) -> list[str]:
    """The command that trains the quickstart's student on the rows in ``directory``."""
    splits = {split: str(directory / "rows" / f"{split}.jsonl") for split in ("train", "validation", "test")}
    given = (f"FILES={json.dumps(splits)}", f"VOCABULARY_PATH={directory / 'rows' / 'vocabulary.model'}")
    return distill(
        "train",
        "--gin_file=gin/recipes/quickstart.gin",
        *(f"--gin.{each}" for each in (*given, f"MODEL_DIR={model_dir}", *bindings)),
    )


def prepared(directory: Path, student: bool) -> Path:
    """Writes the rows and, with ``student``, trains the student that ``infer`` needs; returns its model directory."""
    if not (directory / "rows").exists():
        subprocess.run(distill("example", f"--output={directory / 'rows'}"), check=True, stdout=subprocess.DEVNULL)
    model_dir = directory / "student"
    if student and not (model_dir / "result.json").exists():
        settings = ("TRAIN_STEPS=300", "CHECKPOINT_PERIOD=300", "EVAL_PERIOD=300", "LEARNING_RATE=2e-2")
        with (directory / "student.log").open("ab") as log:
            subprocess.run(training(directory, model_dir, *settings), check=True, stdout=log, stderr=log)
    return model_dir
