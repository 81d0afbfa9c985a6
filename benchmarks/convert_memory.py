"""Memory of a conversion against the size of the largest array: a synthetic checkpoint, converted and converted back.

Each conversion runs in its own process. Two numbers are reported, both less the memory of the process before the
conversion: peak anonymous memory (RssAnon, sampled every 5 ms), and the kernel's peak resident set. The latter includes
pages of mapped files, which the kernel can reclaim at any time (safetensors files are read by mapping them).

    python -m benchmarks.convert_memory [--vocab=250112] [--width=1024] [--layers=4] [--directory=DIR]
"""

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

FORMATS = {"hf": "hf", "hf2": "hf", "t5x2": "t5x", "distill": "distill"}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab", type=int, default=250112, help="with the other dims: 3 GB, the largest array 1 GB")
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=10)
    parser.add_argument("--scan_layers", action="store_true", help="stack the layers of the synthetic checkpoint")
    parser.add_argument("--directory", help="working folder (default: a temporary folder, deleted afterwards)")
    parser.add_argument("--steps", default="t5x:hf,hf:t5x2", help="conversions between t5x, hf, t5x2, distill and hf2")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args()


def _status(field: str) -> int:
    """Returns a size in /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return 1024 * int(line.split()[1])
    raise ValueError(f"/proc/self/status has no {field}")


class Peak:
    """Peak anonymous memory and the kernel's high-water mark, bytes, less those on entry."""

    def __enter__(self) -> "Peak":
        Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
        self._anonymous, self._resident = _status("RssAnon"), _status("VmRSS")
        self.anonymous = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(0.005):
            self.anonymous = max(self.anonymous, _status("RssAnon") - self._anonymous)

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self.resident = _status("VmHWM") - self._resident


def child(source: str, to: str, to_format: str) -> None:
    from distill.checkpoints import conversion

    with conversion.open_source(source):  # imports modules, and compiles what every conversion compiles
        pass
    started = time.monotonic()
    with Peak() as peak:
        conversion.convert(source, to, to_format)
    seconds = time.monotonic() - started
    print(json.dumps({"anonymous": peak.anonymous, "resident": peak.resident, "seconds": seconds}))


def make(folder: Path, options: argparse.Namespace) -> tuple[int, int]:
    """Writes the synthetic checkpoint; returns the bytes of its largest array, and of all arrays."""
    import numpy as np

    from distill.checkpoints import t5x as t5x_checkpoints
    from distill.checkpoints.weights import flat_shapes
    from distill.model.network import T5Config

    width = options.width
    config = T5Config(
        options.vocab,
        width,
        width // 64,
        64,
        4 * width,
        options.layers,
        options.layers,
        scan_layers=options.scan_layers,
    )
    shapes = flat_shapes(config)
    rng = np.random.default_rng(0)

    def read(name: str) -> np.ndarray:
        return rng.standard_normal(shapes[name], np.float32)

    t5x_checkpoints.write(read, config, folder, 1, compression="none")
    sizes = [4 * math.prod(shape) for shape in shapes.values()]
    return max(sizes), sum(sizes)


def main() -> None:
    options = arguments()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    if options.child:
        child(*options.child)
        return
    work = Path(tempfile.mkdtemp(prefix="convert-memory-", dir=options.directory))
    try:
        largest, total = make(work / "t5x", options)
        print(f"synthetic T5X checkpoint: {total / 1e9:.2f} GB, largest array {largest / 1e9:.3f} GB")
        print(
            "conversion                own memory peak   × largest  × total   resident peak (with mapped files)   seconds"
        )
        for pair in options.steps.split(","):
            source, to = pair.split(":")
            command = [
                sys.executable,
                "-m",
                "benchmarks.convert_memory",
                "--child",
                work / source,
                work / to,
                FORMATS[to],
            ]
            done = subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True)
            found = json.loads(done.stdout.splitlines()[-1])
            own, resident = found["anonymous"], found["resident"]
            print(
                f"{source:>8} → {to:<12} {own / 1e9:12.3f} GB {own / largest:10.2f} {own / total:9.2f} "
                f"{resident / 1e9:15.3f} GB {found['seconds']:28.1f}",
                flush=True,
            )
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
