"""Damages a checkpoint on purpose, and counts what a restore does not notice.

Command: ``python -m benchmarks.reliability.damage --count=1000``. It saves two steps and best parameters of a small state
once. Each trial damages one file of a copy (a flipped bit, a truncation, a deletion, a whole item's folder removed), and
restores as training or as evaluation does. Training must continue from the newest intact step, and evaluation must refuse.

A trial is *silent* if arrays, data position or progress differ from those saved and no message names the file. It is *lost*
if a restart restores no intact step, although one exists.
"""

import argparse
import collections
import dataclasses
import json
import logging
import random
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from distill.checkpoints.digests import Damaged
from distill.checkpoints.manager import BEST, LATEST, Checkpoints
from distill.model.network import T5Config
from distill.training.config import Progress
from distill.training.state import TrainState

KINDS = ("bit flipped", "file truncated", "file deleted", "folder removed")
_CONFIG = T5Config(16, 8, 2, 4, 8, num_encoder_layers=1, num_decoder_layers=1)
_LARGE = 300_000  # float32 numbers that random data does not compress: a file above 1 MiB is hashed in the background


@dataclasses.dataclass(frozen=True)
class Row:
    """The trials of one kind.

    Attributes:
      what: the damage, and where.
      tried: number of trials.
      silent: of them, those that gave other values without a message that names the file.
      lost: of them, those after which a restart got no intact step.
      harmless: of them, those that changed nothing that is read: the commit file, whose content nothing reads.
    """

    what: str
    tried: int
    silent: int
    lost: int
    harmless: int


class _Messages(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def run(count: int = 1000, seed: int = 0) -> list[Row]:
    """Makes ``count`` trials. Returns a row per kind of damage and place.

    Args:
      count: trials.
      seed: of the damage.
    """
    rng = random.Random(seed)
    outcomes: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    messages = _Messages()
    logger = logging.getLogger()
    handlers, logger.handlers = logger.handlers, [messages]
    try:
        with tempfile.TemporaryDirectory() as folder:
            intact, copy = Path(folder, "intact"), Path(folder, "copy")
            states = _saved(intact)
            for _ in range(count):
                shutil.rmtree(copy, ignore_errors=True)
                shutil.copytree(intact, copy)
                place, kind = rng.choice((LATEST, BEST)), rng.choice(KINDS)
                step = max((copy / place).iterdir(), key=lambda path: int(path.name) if path.name.isdecimal() else -1)
                damaged = _damage(step, kind, rng)
                messages.texts.clear()
                outcome = (
                    _restart(copy, states, messages, damaged) if place == LATEST else _evaluate(copy, states, damaged)
                )
                outcomes[f"{kind}, {place}"][outcome] += 1
    finally:
        logger.handlers = handlers
    return [
        Row(what, sum(found.values()), found["silent"], found["lost"], found["harmless"])
        for what, found in sorted(outcomes.items())
    ]


def _saved(directory: Path) -> dict[int, TrainState]:
    """Saves steps 1 and 2 and best parameters of step 2; returns the states."""
    rng = np.random.default_rng(0)
    states = {
        step: TrainState(
            step=jax.numpy.int32(step),
            params={
                "large": jax.numpy.asarray(rng.standard_normal(_LARGE, np.float32)),
                "small": jax.numpy.asarray(rng.standard_normal((7, 5), np.float32)),
            },
            opt_state={"count": jax.numpy.int32(step)},
        )
        for step in (1, 2)
    }
    saver = Checkpoints(directory, _CONFIG)
    for step, state in states.items():
        if step == 2:
            saver.save_best(step, state.params, {"accuracy": 0.5})
        saver.save(state, _position(step), dataclasses.asdict(_progress(step)))
    saver.wait()
    saver.close()
    return states


def _position(step: int) -> dict[str, Any]:
    return {"seed": 0, "draws": 8 * step, "consumed": {"task": 8 * step}, "data": {"task": "f" * 64}}


def _progress(step: int) -> Progress:
    return Progress(best=0.5, best_step=2 if step == 2 else 0, examples=8 * step)


def _damage(step: Path, kind: str, rng: random.Random) -> Path:
    """Damages a random file, or removes an item's folder, below ``step``; returns its path."""
    if kind == "folder removed":
        path = rng.choice(sorted(path for path in step.rglob("*") if path.is_dir()))
        shutil.rmtree(path)
        return path
    path = rng.choice(sorted(path for path in step.rglob("*") if path.is_file() and path.stat().st_size))
    data = bytearray(path.read_bytes())
    if kind == "file deleted":
        path.unlink()
    elif kind == "file truncated":
        path.write_bytes(data[: rng.randrange(len(data))])
    else:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
    return path


def _restart(directory: Path, states: dict[int, TrainState], messages: _Messages, damaged: Path) -> str:
    """As a restarted training does."""
    saver = Checkpoints(directory, _CONFIG, clean=True)
    try:
        state, position, progress = saver.restore(states[1])
    except Exception as error:
        logging.error("%s: %r", damaged, error)
        return "lost"
    finally:
        saver.close()
    step = int(state.step)
    same = _equal(state, states.get(step)) and (position, progress) == (
        _position(step),
        dataclasses.asdict(_progress(step)),
    )
    named = any(str(damaged) in text for text in messages.texts)
    if not same:
        return "silent"
    if named:
        return "found" if step == 1 else "lost"
    return "harmless" if step == 2 else "silent"


def _evaluate(directory: Path, states: dict[int, TrainState], damaged: Path) -> str:
    """As evaluation, inference and export do."""
    saver = Checkpoints(directory, _CONFIG)
    try:
        step, params = saver.restore_best(states[1].params)
    except Damaged as error:
        return "found" if str(damaged) in str(error) and "\n" not in str(error) else "silent"
    except FileNotFoundError:
        return "found"  # no step is left: the folder that holds its metadata was removed
    finally:
        saver.close()
    return "harmless" if step == 2 and _equal(params, states[2].params) else "silent"


def _equal(found: Any, saved: Any) -> bool:
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(saved), strict=True)
    return saved is not None and all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in pairs)


def main() -> None:
    """Prints a table, and its sum as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    started = time.monotonic()
    rows = run(options.count, options.seed)
    print(f"{'what':<34} {'tried':>6} {'silent':>6} {'lost':>6} {'harmless':>8}")
    for row in rows:
        print(f"{row.what:<34} {row.tried:>6} {row.silent:>6} {row.lost:>6} {row.harmless:>8}")
    total = {name: sum(getattr(row, name) for row in rows) for name in ("tried", "silent", "lost", "harmless")}
    print(json.dumps(total | {"seed": options.seed, "seconds": round(time.monotonic() - started, 1)}))


if __name__ == "__main__":
    main()
