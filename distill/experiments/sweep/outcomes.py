"""The outcome of a run as files in its folder: ``failure.json`` and ``pruned.json`` beside training's ``result.json``."""

import contextlib
import dataclasses
import json
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distill import locking
from distill.counting import with_more
from distill.experiments.sweep import files, leases
from distill.experiments.sweep.levels import SweepError
from distill.experiments.sweep.runs import Run
from distill.inference import own_files
from distill.inference.own_files import FAILURE, PRUNED, newest_step

_BRIEF = 120  # characters of an error in a table
STATES = ("done", "failed", "pruned", "running", "waiting")


@dataclasses.dataclass(frozen=True)
class Failure:
    """A run that failed.

    Attributes:
      error: one line.
      attempts: how often it failed. The first kill of a worker, after which it is started again, is no failure.
    """

    error: str
    attempts: int = 1


def failure(run: Run) -> Failure | None:
    """Returns how a run failed; None if it did not, or was completed since.

    Raises:
      SweepError: the record of the failure cannot be read.
    """
    found = None if run.done else _read(run.directory / FAILURE)
    if found is None:
        return None
    if not isinstance(found.get("error"), str) or not isinstance(found.get("attempts"), int):
        raise SweepError(f"{run.directory / FAILURE} must hold 'error' and 'attempts'; delete it to repeat the run")
    return Failure(found["error"], found["attempts"])


def brief(error: str) -> str:
    """The error of a run without circumstances and remedies, for tables; the whole is in ``failure.json``.

    >>> brief("the loss is nan at step 2; no checkpoint was saved before; replace this point")
    'the loss is nan at step 2'
    """
    text = error.split("; ")[0]
    return text if len(text) <= _BRIEF else f"{text[: _BRIEF - 1]}…"


def note_failure(run: Run, error: str) -> Failure:
    """Writes that a run failed; returns the failure with all its attempts."""
    before = _read(run.directory / FAILURE) or {}
    noted = Failure(error, int(before.get("attempts", 0)) + 1)
    _write(run.directory / FAILURE, dataclasses.asdict(noted) | {"time": time.time(), "pid": os.getpid()})
    return noted


def forget_failure(run: Run) -> None:
    """Removes the record of a failure, for a run that is repeated; the number of attempts starts again."""
    (run.directory / FAILURE).unlink(missing_ok=True)


def pruned(run: Run) -> dict[str, Any] | None:
    """Returns ``step`` and ``value`` of the validation at which a search ended a run early, or None."""
    return None if run.done else _read(run.directory / PRUNED)


def note_pruned(run: Run, step: int, value: float) -> None:
    """Writes that a search ended a run early."""
    _write(run.directory / PRUNED, {"step": step, "value": value})


def check_discarded(run: Run) -> None:
    """Checks that :func:`discard` can remove the folder of a failed attempt.

    Raises:
      SweepError: the folder holds files that no run writes.
    """
    found = sorted(path.name for path in _files(run.directory) if not own_files.is_of_a_run(path.name))
    if found:
        raise SweepError(
            f"{run.directory} holds a failed attempt with another configuration, which is removed before the run starts "
            f"again, and {with_more(found)}, which no run writes and which would be lost: move it away"
        )


def discard(run: Run) -> None:
    """Removes the files of a failed attempt, which must not be continued with other settings, and its empty folder."""
    for path in _files(run.directory):
        if own_files.is_of_a_run(path.name):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    with contextlib.suppress(OSError):  # there is none, it is not empty, or it is a link
        run.directory.rmdir()


def _files(directory: Path) -> list[Path]:
    return [*directory.iterdir()] if directory.is_dir() else []


def state(run: Run, held: bool) -> str:
    """Returns one of ``STATES``; ``held`` is whether a living worker holds the run's lease."""
    if run.done:
        return "done"
    if held:
        return "running"
    if pruned(run) is not None:
        return "pruned"
    return "failed" if failure(run) is not None else "waiting"


def checkpoint_step(directory: Path) -> int | None:
    """Returns the step of the newest complete checkpoint, or None."""
    return newest_step(directory / "checkpoints")


def is_open(run: Run, retries: int = 0) -> bool:
    """Returns whether a run is to be trained: it is neither done nor pruned, and failed at most ``retries`` times."""
    if run.done or pruned(run) is not None:
        return False
    failed = failure(run)
    return failed is None or failed.attempts <= retries


def given_up(runs: Sequence[Run], retries: int = 0) -> list[Run]:
    """Returns the runs that failed more than ``retries`` times: a sweep skips them, unless failed runs are repeated."""
    return [run for run in runs if failure(run) is not None and not is_open(run, retries)]


def is_running(directory: Path, group: Sequence[Run]) -> bool:
    """Returns whether a living worker trains the group: one holds its lease, or the lock of a model directory."""
    if leases.is_held(directory, lease_name(group)):
        return True
    return any(locking.holder(locking.of_directory(run.directory)) is not None for run in group)


def lease_name(group: Sequence[Run]) -> str:
    """Returns the name of a group's lease: that of its first run."""
    return group[0].name


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise SweepError(f"{path} is not JSON: {error}; delete it to repeat the run") from None
    if not isinstance(found, dict):
        raise SweepError(f"{path} must hold an object; got {type(found).__name__}; delete it to repeat the run")
    return found


def _write(path: Path, value: dict[str, Any]) -> None:
    files.replace_text(path, json.dumps(value) + "\n")
