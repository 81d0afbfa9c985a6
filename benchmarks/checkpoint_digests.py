"""Times the check of a checkpoint's SHA-256 digests against a restore.

Command: ``python -m benchmarks.checkpoint_digests --size=base``. It writes the parameters of a T5 1.1 model to a temporary
folder, then restores them with and without the check, in turn, and prints wall and processor time of each as JSON lines.
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from distill.checkpoints.manager import Checkpoints, restore_like
from distill.model.network import T5Config
from distill.model.parameters import param_shapes

SIZES = {
    "tiny": T5Config(384, 64, 4, 16, 128, num_encoder_layers=2, num_decoder_layers=2),
    "base": T5Config(32128, 768, 12, 64, 2048, num_encoder_layers=12, num_decoder_layers=12),
}


def main() -> None:
    """Prints one JSON line per kind of restore."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="base")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", help="where to write; by default the system's temporary folder")
    options = parser.parse_args()
    config = SIZES[options.size]
    rng = np.random.default_rng(0)
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shapes = param_shapes(config)
    like = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=device), shapes)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        params = jax.tree.map(lambda s: jax.device_put(rng.standard_normal(s.shape, np.float32), device), shapes)
        saver = Checkpoints(folder, config)
        saver.save_best(1, params, {})
        saver.close()
        del params
        size = sum(path.stat().st_size for path in Path(folder, "best").rglob("*") if path.is_file())
        times: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
        for number in range(options.rounds + 1):
            for verify in (False, True):
                wall, cpu = time.perf_counter(), time.process_time()
                jax.block_until_ready(restore_like(folder, config, like, verify))
                if number:  # the first round warms the page cache
                    times[verify].append((time.perf_counter() - wall, time.process_time() - cpu))
    medians = {verify: [statistics.median(part) for part in zip(*rows)] for verify, rows in times.items()}
    for verify, (wall, cpu) in medians.items():
        print(json.dumps({"verify": verify, "bytes": size, "wall_s": round(wall, 3), "cpu_s": round(cpu, 3)}))
    more = [checked / plain - 1 for checked, plain in zip(medians[True], medians[False])]
    print(json.dumps({"more_wall": round(more[0], 3), "more_cpu": round(more[1], 3), "machine": platform.processor()}))


if __name__ == "__main__":
    main()
