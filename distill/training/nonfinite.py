"""Updates whose loss or gradient has nan or infinity: found within two steps, counted, their batches written for replay.

The devices report loss and gradient norm of every update anyway. The loop reads them once they are computed, so that
nothing waits for them, and the step of the default policy is compiled without any check.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from distill import array_files, atomic_files
from distill.data.stream import Batch
from distill.inference.model_directory import CONFIG
from distill.training.config import LoopConfig
from distill.training.step import SKIPPED, Fetchable

FOLDER = "replay"
_WATCHED = ("loss", "grad_norm", "effective_lambda", SKIPPED)
_ROWS = "rows"  # in the file of a batch: the numbers of its rows in the global batch


@dataclasses.dataclass(frozen=True)
class _Update:
    step: int
    metrics: Any
    batches: Sequence[Batch]


@dataclasses.dataclass(frozen=True)
class Found:
    """An update of one lane that is not finite.

    Attributes:
      lane: its number.
      step: the update's.
      reason: the value that is not finite, in words.
      skipped: whether the update was skipped.
      batch: the lane's batch.
      metrics: the watched metrics as numbers.
    """

    lane: int
    step: int
    reason: str
    skipped: bool
    batch: Batch
    metrics: Mapping[str, float]


class Watch:
    """Watches the updates of a loop, a few steps later than they were dispatched.

    Args:
      read: from pending metrics of the devices to metrics per lane and step on the host, see
        :meth:`distill.training.lanes.Students.metrics`.
      in_flight: number of newest updates that :meth:`found` does not read unless all are wanted.
    """

    def __init__(self, read: Callable[[Sequence[Any]], list[list[Fetchable]]], in_flight: int):
        self._read, self._in_flight = read, in_flight
        self._updates: list[_Update] = []
        self._newest: _Update | None = None

    def add(self, step: int, metrics: Mapping[str, Any], batches: Sequence[Batch]) -> None:
        """Notes a dispatched update."""
        watched = {name: metrics[name] for name in _WATCHED if name in metrics}
        self._newest = _Update(step, watched, batches)
        self._updates.append(self._newest)

    def found(self, *, all_updates: bool) -> list[Found]:
        """Returns the updates that are not finite among those added and not yet read; waits for them."""
        count = len(self._updates) if all_updates else max(0, len(self._updates) - self._in_flight)
        updates, self._updates = self._updates[:count], self._updates[count:]
        if not updates:
            return []
        result = []
        for lane, steps in enumerate(self._read([update.metrics for update in updates])):
            for update, metrics in zip(updates, steps):
                numbers = {name: _ratio(*metrics[name]) for name in metrics}
                skipped = numbers.pop(SKIPPED, 0.0) > 0.0
                bad = [name for name in ("loss", "grad_norm") if not math.isfinite(numbers[name])]
                if bad or skipped:
                    names = {"loss": "the loss", "grad_norm": "the gradient's norm"}
                    reason = f"{names[bad[0]]} is {numbers[bad[0]]}" if bad else "loss or gradient is nan or infinity"
                    result.append(Found(lane, update.step, reason, skipped, update.batches[lane], numbers))
        return result

    def newest(self, lane: int, reason: str) -> Found:
        """The newest update as one that is not finite, for an error that was found in the state after it."""
        assert self._newest is not None
        return Found(lane, self._newest.step, reason, False, self._newest.batches[lane], {})


def _ratio(total: Any, count: Any) -> float:
    return float(total) / float(count) if float(count) else float(total)


def write(directory: epath.Path, found: Found, seed: int, rows: np.ndarray, loop: LoopConfig) -> epath.Path:
    """Writes a batch and its circumstances as ``replay/step_<N>.npz`` and ``.json``; returns the JSON file's path.

    Every process of a multi-process run writes its rows, as ``step_<N>.rows_<first>.npz``; process 0 writes the JSON.
    ``rows`` are their numbers in the global batch, int64.
    """
    folder = directory / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    arrays = found.batch.arrays
    part = "" if jax.process_count() == 1 else f".rows_{rows[0]}"
    array_files.write(folder / f"step_{found.step}{part}.npz", {_ROWS: rows, **arrays})
    path = folder / f"step_{found.step}.json"
    if jax.process_index() == 0:
        configuration = directory / CONFIG
        text = configuration.read_bytes() if configuration.exists() else b""
        described = {
            "step": found.step,
            "reason": found.reason,
            "skipped": found.skipped,
            "seed": seed,
            "dropout_rng": {"key": seed + 1, "fold_in": found.step - 1},
            "metrics": {name: value if math.isfinite(value) else str(value) for name, value in found.metrics.items()},
            "examples": found.batch.examples,
            "position_after": found.batch.position,
            "num_microbatches": loop.num_microbatches,
            "on_nonfinite": loop.on_nonfinite,
            "configuration": {"file": CONFIG, "sha256": hashlib.sha256(text).hexdigest()} if text else None,
        }
        atomic_files.replace(path, json.dumps(described, indent=2) + "\n")
    return path


def steps(directory: epath.Path) -> list[int]:
    """The steps whose batches were written, in order."""
    folder = directory / FOLDER
    names = [path.name for path in folder.iterdir()] if folder.exists() else []
    found = [name.removeprefix("step_").removesuffix(".json") for name in names if name.endswith(".json")]
    return sorted(int(name) for name in found if name.isdecimal())


def read(directory: epath.Path, step: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Returns the global batch that :func:`write` wrote, and the description.

    Raises:
      FileNotFoundError: no batch of this step was written; lists the steps.
      ValueError: a file is damaged, or rows of the batch are missing; one line, with the file.
      OSError: a file cannot be read.
    """
    folder = directory / FOLDER
    path = folder / f"step_{step}.json"
    if not path.exists():
        there = ", ".join(map(str, steps(directory))) or "none"
        raise FileNotFoundError(f"{directory} holds no batch of step {step} in {FOLDER}/ (steps there: {there})")
    try:
        described = json.loads(path.read_text())
        if problem := _problem(described):
            raise ValueError(problem)
        parts = {}
        for file in sorted(folder.iterdir(), key=str):
            if file.name.endswith(".npz") and file.name.split(".")[0] == f"step_{step}":
                held = array_files.read(file, "rows of a batch", "train again to write the batch")
                if _ROWS not in held:
                    raise ValueError(f"{file} has no array {_ROWS!r}; train again to write the batch")
                if any(array.shape[:1] != held[_ROWS].shape for array in held.values()):
                    raise ValueError(f"the arrays of {file} have other numbers of rows than {_ROWS!r} in it")
                parts[tuple(held.pop(_ROWS).tolist())] = held
        if not parts:
            raise ValueError("the batch is missing")
        numbers = np.concatenate([np.array(rows) for rows in parts])
        order = np.argsort(numbers)
        wrong = np.flatnonzero(numbers[order] != np.arange(len(numbers)))
        if wrong.size:
            raise ValueError(f"row {wrong[0]} of the batch is missing or in two files")
        pieces = list(parts.values())
        return {name: np.concatenate([piece[name] for piece in pieces])[order] for name in pieces[0]}, described
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} and the .npz files beside it hold no batch: {error}") from None


def _problem(described: Any) -> str | None:
    """In which way a parsed JSON file is no description of an update, or None."""
    if not isinstance(described, dict):
        return "it is no JSON object"
    rng = described.get("dropout_rng")
    if not isinstance(rng, dict) or any(type(rng.get(name)) is not int for name in ("key", "fold_in")):
        return "dropout_rng must hold the integers key and fold_in"
    return None if isinstance(described.get("reason"), str) else "reason must be a text"
