"""A run's files, read and replaced atomically, without the imports of training: the scheduler of a sweep is light."""

import contextlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from distill import atomic_files, locking
from distill.inference import run_settings
from distill.inference.own_files import ATTEMPTS, EVALUATIONS, PLAIN_CONFIG, REACHED, RESULT


def replace_text(path: Path, text: str) -> None:
    """Replaces a file atomically, and makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_files.replace(path, text)


@contextlib.contextmanager
def no_empty_folders(folder: Path) -> Iterator[None]:
    """After the block, removes the folder and those above it that the block made and that are empty."""
    made = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # the first that is not empty
            for one in made:
                one.rmdir()


def no_metric(directory: str | Path, metric: str, known: Iterable[str]) -> str:
    """The message that a run has no such test metric, with those that it has."""
    return f"{directory} has no test metric {metric!r}; it has {', '.join(sorted(known)) or 'none'}"


def read_evaluations(directory: Path) -> list[dict[str, Any]]:
    """Returns ``split``, ``step`` and metrics of each evaluation of a run; a line that is being written is left out."""
    try:
        text = (directory / EVALUATIONS).read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    out = []
    for line in text.splitlines():
        try:
            entry = json.loads(line)
            out.append({**entry, "step": int(entry["step"]), "split": str(entry["split"])})
        except (ValueError, TypeError, KeyError, RecursionError):
            continue
    return out


def reached_step(directory: Path) -> int | None:
    """Returns the step that the newest attempt of a run has reached; None if it made none, or its note cannot be read."""
    try:
        _, step = (directory / REACHED).read_text(encoding="utf-8").split()
        return int(step) or None
    except (OSError, ValueError):
        return None


def progress(directory: Path) -> str:
    """Returns what a running run does: ``step N/M``, or "loading and compiling" before the first step of this attempt.

    The process that trains takes the lock of the directory first, and notes its attempt after loading.
    """
    try:
        begun = (directory / REACHED).stat().st_mtime >= locking.owner_file(directory).stat().st_mtime
        first = json.loads((directory / ATTEMPTS).read_text(encoding="utf-8"))[-1]["first_step"]
    except (OSError, ValueError, LookupError, TypeError):
        begun, first = False, 0
    step = reached_step(directory)
    if not begun or step is None or step <= first:
        return "loading and compiling"
    return f"step {step}{_of(directory)}"


def _of(directory: Path) -> str:
    """``/`` and the number of steps of a run, empty if it is not known."""
    try:
        settings = json.loads((directory / PLAIN_CONFIG).read_text(encoding="utf-8"))
        return next(
            f"/{settings[name]}" for name in reversed(run_settings.STEPS) if isinstance(settings.get(name), int)
        )
    except (OSError, ValueError, AttributeError, StopIteration, RecursionError):
        return ""


def read_result(directory: Path) -> dict[str, Any]:
    """Returns the result of a finished run. Raises ValueError if it is not a JSON object."""
    try:
        value = json.loads((directory / RESULT).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{directory / RESULT} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{directory / RESULT} must hold a JSON object; got {type(value).__name__}")
    return value
