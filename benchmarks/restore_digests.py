"""Times the checks of a checkpoint's digests against a restore.

Command: ``python -m benchmarks.restore_digests --size=base``. It writes the parameters of a T5 1.1 model, or with
``--state`` a whole training state with Adafactor's, to a temporary folder. It restores them without a check, with that of
XXH3 and with that of SHA-256, in turn, each first, second and third equally often. It prints medians and ranges of wall
and processor time as JSON lines, with the ratio to the restore without a check in the same round. With ``--write`` it
also times the digests themselves, reading included: each alone, and both, written to the saved step.
"""

import argparse
import concurrent.futures
import functools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from etils import epath

from distill import file_digests
from distill.checkpoints import digests
from distill.checkpoints.manager import Checkpoints, restore_like
from distill.model.network import T5Config
from distill.model.parameters import param_shapes
from distill.training import optimizers
from distill.training.config import Progress
from distill.training.state import init_state

SIZES = {
    "tiny": T5Config(384, 64, 4, 16, 128, num_encoder_layers=2, num_decoder_layers=2),
    "small": T5Config(32128, 512, 6, 64, 1024, num_encoder_layers=8, num_decoder_layers=8),
    "base": T5Config(32128, 768, 12, 64, 2048, num_encoder_layers=12, num_decoder_layers=12),
}
CHECKS: dict[str, bool | str] = {"none": False, "xxh3": True, "sha256": "sha256"}
POSITION = {"seed": 0, "draws": 0, "consumed": {}}


def main() -> None:
    """Prints one JSON line per kind of restore, and one with the machine's load."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="base")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--state", action="store_true", help="a whole training state, not only its parameters")
    parser.add_argument("--write", action="store_true", help="also time the writing of digests")
    parser.add_argument("--folder", help="where to write; by default the system's temporary folder")
    options = parser.parse_args()
    config = SIZES[options.size]
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    state = random_state(config)
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), state)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        saver = Checkpoints(folder, config)
        if options.state:
            saver.save(state, POSITION, vars(Progress()))
        else:
            saver.save_best(1, state.params, {})
        saver.close()
        del state
        size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
        rows: dict[str, list[tuple[float, float]]] = {name: [] for name in CHECKS}
        names = list(CHECKS)
        for number in range(options.rounds + 1):
            for name in names[number % len(names) :] + names[: number % len(names)]:
                times = timed(functools.partial(restored, folder, config, like, CHECKS[name], options.state))
                if number:  # the first round warms the page cache
                    rows[name].append(times)
        for name, measured in rows.items():
            more = [[one[i] / none[i] - 1 for one, none in zip(measured, rows["none"])] for i in (0, 1)]
            line = {"check": name, "bytes": size, **_both(measured), "more_wall": _spread(more[0])}
            print(json.dumps({**line, "more_cpu": _spread(more[1])}))
        if options.write:
            for name, measured in written(epath.Path(folder), options.rounds).items():
                print(json.dumps({"write": name, "bytes": size, **_both(measured)}))
    print(json.dumps({"rounds": options.rounds, "load": os.getloadavg()[0]}))


def timed(call: Callable[[], Any]) -> tuple[float, float]:
    """Wall and processor time of a call, in seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    jax.block_until_ready(call())
    return time.perf_counter() - wall, time.process_time() - cpu


def written(folder: epath.Path, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Wall and processor times of hashing the step below ``folder`` with one digest, and of writing both."""
    step = next(path for kind in ("best", "checkpoints") for path in (folder / kind).glob("[0-9]*"))
    files = [path for path in Path(step).rglob("*") if path.is_file()]

    def alone(name: str) -> None:
        with concurrent.futures.ThreadPoolExecutor(len(files)) as pool:
            list(pool.map(lambda path: file_digests.several_of_file(path, (name,)), files))

    kinds = {name: functools.partial(alone, name) for name in (file_digests.SHA256, file_digests.XXH3)}
    kinds["both"] = functools.partial(digests.write, step)
    rows: dict[str, list[tuple[float, float]]] = {name: [] for name in kinds}
    for number in range(rounds):
        for name in sorted(kinds, reverse=bool(number % 2)):
            rows[name].append(timed(kinds[name]))
    return rows


def random_state(config: T5Config) -> Any:
    """A training state of normal random parameters on the first device: TrainState with Adafactor's state."""
    rng = np.random.default_rng(0)
    device = jax.devices()[0]
    params = jax.tree.map(
        lambda shape: jax.device_put(rng.standard_normal(shape.shape, np.float32), device), param_shapes(config)
    )
    return init_state(params, optimizers.adafactor(1e-3))


def restored(folder: str, config: T5Config, like: Any, verify: bool | str, state: bool) -> Any:
    """The parameters in ``best``, or the newest state, of the model directory ``folder``."""
    if not state:
        return restore_like(folder, config, like.params, verify)[1]
    saver = Checkpoints(folder, config, verify=verify)
    try:
        return saver.restore(like)[0]
    finally:
        saver.close()


def _both(times: list[tuple[float, float]]) -> dict[str, dict[str, float]]:
    walls, cpus = zip(*times)
    return {"wall_s": _spread(walls), "cpu_s": _spread(cpus)}


def _spread(values: Any) -> dict[str, float]:
    return {
        name: round(one, 3)
        for name, one in (("median", statistics.median(values)), ("min", min(values)), ("max", max(values)))
    }


if __name__ == "__main__":
    main()
