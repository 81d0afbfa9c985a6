"""Times the check of a checkpoint's SHA-256 digests against a restore.

Command: ``python -m benchmarks.restore_digests --size=base``. It writes the parameters of a T5 1.1 model, or with
``--state`` a whole training state with Adafactor's, to a temporary folder. It restores them with and without the check, in
turn, and prints medians and ranges of wall and processor time as JSON lines, and last the ratio of both within a round.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

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
POSITION = {"seed": 0, "draws": 0, "consumed": {}}


def main() -> None:
    """Prints one JSON line per kind of restore, and one with the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="base")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--state", action="store_true", help="a whole training state, not only its parameters")
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
        rows: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
        for number in range(options.rounds + 1):
            for verify in (False, True) if number % 2 else (True, False):
                wall, cpu = time.perf_counter(), time.process_time()
                jax.block_until_ready(restored(folder, config, like, verify, options.state))
                if number:  # the first round warms the page cache
                    rows[verify].append((time.perf_counter() - wall, time.process_time() - cpu))
    for verify, times in rows.items():
        walls, cpus = zip(*times)
        print(json.dumps({"verify": verify, "bytes": size, "wall_s": _spread(walls), "cpu_s": _spread(cpus)}))
    more = [checked[0] / plain[0] - 1 for checked, plain in zip(rows[True], rows[False])]
    print(json.dumps({"more_wall": _spread(more), "rounds": options.rounds, "load": os.getloadavg()[0]}))


def random_state(config: T5Config) -> Any:
    """A training state of normal random parameters on the first device: TrainState with Adafactor's state."""
    rng = np.random.default_rng(0)
    device = jax.devices()[0]
    params = jax.tree.map(
        lambda shape: jax.device_put(rng.standard_normal(shape.shape, np.float32), device), param_shapes(config)
    )
    return init_state(params, optimizers.adafactor(1e-3))


def restored(folder: str, config: T5Config, like: Any, verify: bool, state: bool) -> Any:
    """The parameters in ``best``, or the newest state, of the model directory ``folder``."""
    if not state:
        return restore_like(folder, config, like.params, verify)[1]
    saver = Checkpoints(folder, config, verify=verify)
    try:
        return saver.restore(like)[0]
    finally:
        saver.close()


def _spread(values: Any) -> dict[str, float]:
    return {
        name: round(one, 3)
        for name, one in (("median", statistics.median(values)), ("min", min(values)), ("max", max(values)))
    }


if __name__ == "__main__":
    main()
