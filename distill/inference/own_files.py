"""Names of a run's files, and folders that no run can use: they cannot be made, or hold others' files.

Imports neither JAX nor TensorFlow.
"""

import fnmatch
import itertools
import os
import tempfile
from pathlib import Path

from etils import epath

from distill import atomic_files
from distill.counting import counted

CONFIG, RESULT = "config.gin", "result.json"
PLAIN_CONFIG = "config.json"
EVALUATIONS = "evaluations.jsonl"
ATTEMPTS, REACHED = "attempts.json", "attempts.step"
FAILURE, PRUNED = "failure.json", "pruned.json"

_OF_A_RUN = (CONFIG, RESULT)
"""A directory with one of these holds a run that has begun; it is continued or refused by its settings."""

# Names that a run or a sweep may write before the first checkpoint.
_EARLY = (
    PLAIN_CONFIG, "student.json", "vocabulary.model", "rows", ATTEMPTS, REACHED, EVALUATIONS, "record.json",
    "predictions", "checkpoints", "best", "logs", "replay", "profile", "stacks", FAILURE, PRUNED, "trackers.json",
    "wandb", "mlflow.db", "mlruns",
)  # fmt: skip
_KNOWN = (*_EARLY, ".*", "*.lock", "*.log", "*.out", "*.err", "lost+found")
"""With those of the user's shell and file system."""
_WRITTEN = (
    *_EARLY, CONFIG, RESULT, "result.before-*.json", "curves.png", "damaged", "sweep.log", ".stop", ".lock", ".lock.*",
    atomic_files.partial("*").name,
)  # fmt: skip
"""All that a run, or the sweep that trains it, writes into the run's directory."""
_SHOWN = 3


def others(directory: epath.PathLike) -> list[str]:
    """Returns the names in a directory that neither a run nor its start writes, sorted; none if a run has begun there.

    A directory that is missing, empty, or left by a start that was interrupted has none.
    """
    root = epath.Path(directory)
    if not root.is_dir():
        return []
    names = sorted(path.name for path in root.iterdir())
    if any(name in _OF_A_RUN for name in names):
        return []
    return [name for name in names if not _matches(name, _KNOWN)]


def is_of_a_run(name: str) -> bool:
    """Whether a run, or the sweep that trains it, writes a file or folder of this name into the run's directory."""
    return _matches(name, _WRITTEN)


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def check(directory: epath.PathLike) -> None:
    """Checks that a run may begin, or continue, in a directory.

    Raises:
      ValueError: it is a file, or holds files of another program and no run.
      OSError: it cannot be made or written.
    """
    root = epath.Path(directory)
    if root.exists() and not root.is_dir():
        raise ValueError(f"MODEL_DIR={directory} is a file; expected a folder: give the path of a new folder")
    check_can_be_made("MODEL_DIR", directory)
    found = others(root)
    if found:
        shown = ", ".join(itertools.islice(found, _SHOWN))
        more = f" and {counted(len(found) - _SHOWN, 'other')}" if len(found) > _SHOWN else ""
        raise ValueError(
            f"MODEL_DIR={directory} holds no run, but {shown}{more}, which no run writes; give a new folder, such as "
            f"MODEL_DIR={root / 'run'}"
        )


def check_can_be_made(name: str, directory: epath.PathLike) -> None:
    """Checks that a local folder can be made, or that an existing one can be written.

    Args:
      name: the setting or flag that names the folder, for the message.
      directory: the folder; those above it may be missing, too.

    Raises:
      ValueError: a file is in the place of a folder.
      OSError: the system refuses it.
    """
    text = os.fspath(directory)
    if "://" in text:
        return
    missing, remedy = Path(text).absolute(), "give a folder in which you may write"
    place = next(folder for folder in (missing, *missing.parents) if os.path.lexists(folder))
    if not place.is_dir():
        raise ValueError(f"{name}={text} cannot be made: {place} is a file; give the path of a new folder")
    if place == missing:
        if not os.access(place, os.W_OK | os.X_OK):
            raise PermissionError(f"{name}={text} cannot be written: permission denied; {remedy}")
        return
    try:
        os.rmdir(tempfile.mkdtemp(prefix=".", dir=place))
    except OSError as error:
        raise type(error)(f"{name}={text} cannot be made in {place}: {error.strerror}; {remedy}") from None


def newest_step(folder: epath.PathLike) -> int | None:
    """Returns the newest complete step of a folder of steps, or None: one that is being written has no number as name."""
    root = epath.Path(folder)
    names = [path.name for path in root.iterdir()] if root.is_dir() else []
    return max((int(name) for name in names if name.isdecimal()), default=None)
