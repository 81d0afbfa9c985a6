"""Measures how long a checkpoint in the background stalls training.

Command: ``python -m benchmarks.save_stall --size=small``. It saves the training state of a T5 (parameters, Adafactor's
state) again and again while steps of fixed duration run, and prints as JSON lines, in milliseconds: the time for which
``save`` itself blocks, the time that a copy of the state from the devices to the host takes (what a save cannot avoid), and
the time of a step with and without a save in the background.

A step waits ``--step_ms`` without using the processor, as a host does whose accelerator computes. With ``--busy`` it
computes on the host instead, as training on CPUs does: a save in the background then takes processor time from it.
"""

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.restore_digests import POSITION, SIZES, random_state
from distill.checkpoints.manager import Checkpoints
from distill.training.config import Progress


def main() -> None:
    """Prints one JSON line per measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--saves", type=int, default=5)
    parser.add_argument("--step_ms", type=float, default=50.0)
    parser.add_argument("--busy", action="store_true", help="steps compute on the host")
    parser.add_argument("--folder", help="where to write; by default the system's temporary folder")
    options = parser.parse_args()
    config = SIZES[options.size]
    state = random_state(config)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    step = _busy_step(options.step_ms) if options.busy else lambda: time.sleep(options.step_ms / 1e3)
    copies = [_milliseconds(lambda: _copied(state)) for _ in range(options.saves + 1)][1:]
    without = [_milliseconds(step) for _ in range(40)]
    blocked, during, background = [], [], []
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        saver = Checkpoints(folder, config, keep=1)
        for number in range(1, options.saves + 2):
            state = state.replace(step=jnp.int32(number))
            before = time.perf_counter()
            saver.save(state, POSITION, vars(Progress()))
            block = (time.perf_counter() - before) * 1e3
            steps = []
            while saver.saving_in_progress():
                steps.append(_milliseconds(step))
            if number > 1:  # the first one starts threads
                blocked.append(block)
                during += steps
                background.append((time.perf_counter() - before) * 1e3)
            saver.wait()
        saver.close()
        free = shutil.disk_usage(folder).free
    print(json.dumps({"bytes": size, "load": os.getloadavg()[0], "disk_free": free, "busy": options.busy}))
    for name, values in (
        ("save_blocks_ms", blocked),
        ("copy_to_host_ms", copies),
        ("background_ms", background),
        ("step_without_save_ms", without),
        ("step_during_save_ms", during),
    ):
        spread = (statistics.median(values), min(values), max(values)) if values else (float("nan"),) * 3
        print(json.dumps({name: dict(zip(("median", "min", "max"), (round(one, 1) for one in spread)))}))


def _milliseconds(call: Callable[[], Any]) -> float:
    before = time.perf_counter()
    call()
    return (time.perf_counter() - before) * 1e3


def _copied(state: Any) -> Any:
    return jax.tree.map(lambda leaf: np.array(leaf, copy=True), state)


def _busy_step(milliseconds: float) -> Callable[[], None]:
    """A jitted computation that takes about ``milliseconds`` on this host."""
    matrix = jnp.ones((512, 512), jnp.float32)
    once = jax.jit(lambda a, times: jax.lax.fori_loop(0, times, lambda _, x: x @ matrix / 512.0, a))
    jax.block_until_ready(once(matrix, 1))
    taken = min(_milliseconds(lambda: jax.block_until_ready(once(matrix, 10))) for _ in range(5))
    times = max(1, round(10 * milliseconds / taken))
    return lambda: jax.block_until_ready(once(matrix, times))


if __name__ == "__main__":
    main()
