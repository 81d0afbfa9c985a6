"""The parts of ``distill demo`` around its sweep: vocabulary, shared pretraining, and the JSON line at the end."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distill import atomic_files
from distill.experiments.report.terminal import Cell
from distill.experiments.sweep import PLAN, SEED, Run, Sweep
from distill.tasks import demo_world
from distill.tools import vocabulary

TITLE = "Answers with and without the teacher's reasons"
XLABEL = "training questions"
SIZE = "TRAIN_ROWS"
VOCABULARY = "vocabulary.model"
PRETRAINING_FILES = ("gin/recipes/demo_pretraining.gin",)
INTRODUCTION = """\
First a short pretraining on half of the world's nouns. Every student below starts from it, as T5's students start from
T5. Then the two methods, on questions about the other half."""


def write_vocabulary(directory: Path) -> Path:
    """Trains the word vocabulary of the demo into ``directory`` unless the file exists; returns its path.

    Raises:
      ValueError: the directory holds no sweep, and the file is another vocabulary.
    """
    path = directory / VOCABULARY
    if path.exists() and (directory / PLAN).exists():
        return path
    made = vocabulary.of_words(demo_world.vocabulary_texts(), demo_world.VOCABULARY_SIZE)
    if not path.exists():
        directory.mkdir(parents=True, exist_ok=True)
        atomic_files.replace(path, made)
    elif not path.is_file() or path.read_bytes() != made:
        raise ValueError(
            f"{path} exists, and is not the vocabulary of the demo; give a new folder, such as "
            f"--directory={directory / 'demo'}"
        )
    return path


def pretraining_run(directory: Path, bindings: Sequence[str]) -> Run:
    """Returns the run whose parameters the others start from."""
    where = directory / "pretraining"
    given = (*bindings, f"MODEL_DIR = {str(where)!r}")
    return Run(where.name, {}, PRETRAINING_FILES, given, where)


def json_line(sweep: Sweep, found: Sequence[Cell]) -> str:
    """Returns the outcome of the demo as one line of JSON.

    Its keys are ``task``, ``seeds``, and ``methods``: per method and size, accuracy, steps and seconds. The size of a
    method without one, such as the students before distillation, is ``any``.
    """
    methods: dict[str, dict[str, dict[str, Any]]] = {}
    for cell in found:
        others = " ".join(value for axis, value in cell.values.items() if axis != SIZE)
        methods.setdefault(others, {})[cell.values.get(SIZE, "any")] = {
            "accuracy": round(cell.mean, 4),
            "accuracies": [round(score, 4) for score in cell.scores],
            "steps": cell.steps[0],
            "seconds": round(sum(cell.seconds), 1),
        }
    seeds = [int(level.name) for level in sweep.axes.get(SEED, ())]
    return json.dumps({"task": demo_world.NAME, "seeds": seeds, "methods": methods})
