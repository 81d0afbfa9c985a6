"""``distill example``: writes a small question-answering data set with reasons, and the vocabulary to train on it.

The questions are those of :mod:`distill.tasks.demo_world` about its familiar nouns. No file is read and nothing is
downloaded; the same arguments write the same bytes.
"""

import json
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from distill import atomic_files
from distill.counting import counted
from distill.tasks import demo_world
from distill.tasks.demo_world import Question

TRAIN_ROWS = 6000
VALIDATION_ROWS = 200
TEST_ROWS = 500
NEW_ROWS = 3
VOCABULARY = "vocabulary.model"
RECIPE = "gin/recipes/quickstart.gin"
RECIPE_DIRECTORY = "rows"
"""Where ``gin/recipes/quickstart.gin`` looks for the files."""


def questions(train_rows: int = TRAIN_ROWS, seed: int = 0) -> dict[str, list[Question]]:
    """Returns questions by split, no two of them equal up to the order of words.

    Args:
      train_rows: training questions. The other splits do not depend on it.
      seed: seed of the questions.

    Returns:
      ``test``, ``validation``, ``new`` and ``train``.

    Raises:
      ValueError: fewer than one training row, or a negative seed.
    """
    if train_rows < 1:
        raise ValueError(f"--train_rows must be at least 1; got {train_rows}")
    if seed < 0:
        raise ValueError(f"--seed must be at least 0; got {seed}")
    draw = np.random.default_rng(seed)
    sizes = {"test": TEST_ROWS, "validation": VALIDATION_ROWS, "new": NEW_ROWS, "train": train_rows}
    seen: set[tuple[frozenset[str], frozenset[str]]] = set()
    splits: dict[str, list[Question]] = {}
    for split, rows in sizes.items():
        found: list[Question] = []
        while len(found) < rows:
            question = demo_world.ask(draw, demo_world.WORLD.familiar)
            if question.identity not in seen:
                seen.add(question.identity)
                found.append(question)
        splits[split] = found
    return splits


def files(train_rows: int = TRAIN_ROWS, seed: int = 0) -> dict[str, bytes]:
    """Returns contents by file name: four JSON-lines files and a SentencePiece model of words.

    Raises:
      ValueError: as :func:`questions`.
    """
    from distill.tools import vocabulary

    splits = questions(train_rows, seed)
    contents = {
        f"{split}.jsonl": _json_lines(
            {"question": each.text, "why": each.reasons, "answer": each.answer} for each in splits[split]
        )
        for split in ("train", "validation", "test")
    }
    contents["new.jsonl"] = _json_lines(
        {"id": number, "question": each.text} for number, each in enumerate(splits["new"], 1)
    )
    contents[VOCABULARY] = vocabulary.of_words(demo_world.vocabulary_texts(), demo_world.VOCABULARY_SIZE)
    return contents


def write(directory: Path, train_rows: int = TRAIN_ROWS, seed: int = 0) -> Iterator[str]:
    """Writes :func:`files` into ``directory``, and yields one line per file.

    All files are compared before the first is written, so a refusal leaves the folder as it was.

    Raises:
      ValueError: as :func:`questions`; the output is a file; it contains a file of the same name with other contents; or it
        contains files, and none of an earlier call.
    """
    if directory.exists() and not directory.is_dir():
        raise ValueError(f"--output must be a folder; {directory} is a file")
    contents = files(train_rows, seed)
    same = {name for name in contents if _holds(directory / name, contents[name])}
    others = sorted(path.name for path in directory.iterdir() if path.name[0] != ".") if directory.exists() else []
    if others and not same:
        raise ValueError(
            f"--output={directory} holds other files ({', '.join(others[:3])}{', …' if others[3:] else ''}); nothing was "
            f"written. Give a new or an empty folder, such as --output={directory / RECIPE_DIRECTORY}"
        )
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        path = directory / name
        if name not in same:
            atomic_files.replace(path, content)
        what = counted(content.count(10), "row") if path.suffix == ".jsonl" else f"{len(content):,} bytes"
        yield f"{'kept' if name in same else 'wrote'} {path}: {what}"


def next_command(directory: Path, model_dir: str = "runs/first") -> str:
    """Returns the command that trains on the files of ``directory``."""
    words = ["distill", "train", f"--gin_file={RECIPE}"]
    if directory != Path(RECIPE_DIRECTORY):
        splits = {split: str(directory / f"{split}.jsonl") for split in ("train", "validation", "test")}
        words += [f"--gin.FILES={json.dumps(splits)}", f"--gin.VOCABULARY_PATH={directory / VOCABULARY}"]
    return shlex.join([*words, f"--gin.MODEL_DIR={model_dir}"])


def _holds(path: Path, content: bytes) -> bool:
    """Returns whether the file exists. Raises ValueError if it has other contents."""
    if not path.exists():
        return False
    if not path.is_file() or path.read_bytes() != content:
        raise ValueError(
            f"{path} exists and differs from what would be written; nothing was written. "
            "Give another --output, or delete it"
        )
    return True


def _json_lines(rows: Iterable[dict[str, object]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()
