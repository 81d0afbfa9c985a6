"""Times the four Triton kernels of attention alone, with several tiles, for the defaults of ``gpu_attention``.

    python -m benchmarks.accelerator.tiles --data=FOLDER --out=FOLDER

The profiler records all calls in one trace. In the trace, a kernel is found by its name, and a program by its place in
the order of the calls. Run by :mod:`benchmarks.accelerator.measure`.
"""

import dataclasses
import glob
import gzip
import itertools
import json
import statistics
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.accelerator import cases
from distill.data.packing import Layout
from distill.sharding import gpu_attention
from distill.sharding.gpu_attention import Tile, Tiles

KERNELS = ("forward", "d_query", "d_key_value", "d_bias")
TILES = tuple(
    Tile(*numbers)
    for numbers in (
        (64, 64, 4, 2), (64, 64, 4, 3), (64, 64, 8, 2), (64, 64, 2, 2), (32, 32, 2, 2), (32, 32, 1, 2), (32, 32, 2, 3),
        (32, 64, 2, 2), (64, 32, 4, 3), (64, 32, 2, 2), (128, 64, 4, 3), (128, 64, 8, 2), (32, 128, 4, 2), (64, 128, 4, 2),
    )
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Shape:
    """An attention of one layer: the set, the lengths of its windows, and which of encoder, decoder or cross."""

    name: str
    inputs: int
    targets: int
    kind: str

    def arrays(self, data: Path, rows: int, heads: int) -> tuple[Any, ...]:
        """Random queries, keys, values, bias, segments of real packed windows, and a gradient of the output."""
        batch = next(
            cases.batches(cases.read_rows(data / "rows.npz", self.name), Layout(rows, self.inputs, self.targets))
        )
        encoder, decoder = (batch.arrays[f"{side}_segment_ids"] for side in ("encoder", "decoder"))
        query, key = {"encoder": (encoder, encoder), "decoder": (decoder, decoder), "cross": (decoder, encoder)}[
            self.kind
        ]
        rng = np.random.default_rng(0)

        def activations(segments: np.ndarray) -> jax.Array:
            return jnp.asarray(0.3 * rng.normal(size=(*segments.shape, heads, 64)), jnp.bfloat16)

        bias = None if self.kind == "cross" else rng.normal(size=(heads, query.shape[1], key.shape[1]))
        inputs = (activations(query), activations(key), activations(key))
        bias = None if bias is None else jnp.asarray(bias, jnp.float32)
        return *inputs, bias, jnp.asarray(query), jnp.asarray(key), activations(query)


SHAPES = (
    *(Shape("svamp", 256, 160, kind) for kind in ("encoder", "decoder", "cross")),
    *(Shape("cqa", 256, 96, kind) for kind in ("decoder", "cross")),
    *(Shape("svamp", 256, 192, kind) for kind in ("decoder", "cross")),
)


def lowered(shape: Shape, tile: Tile, arrays: tuple[Any, ...]) -> Any:
    """Forward and backward pass with one tile for all kernels; interpreted where there is no GPU."""
    interpret = jax.default_backend() != "gpu"

    def run(query: Any, key: Any, value: Any, bias: Any, queries: Any, keys: Any, gradient: Any) -> Any:
        def attend(query: Any, key: Any, value: Any, bias: Any) -> jax.Array:
            tiles = Tiles(tile, tile, tile, tile)
            causal = shape.kind == "decoder"
            return gpu_attention.gpu_attention(
                query, key, value, bias, queries, keys, causal=causal, interpret=interpret, tiles=tiles
            )

        output, back = jax.vjp(attend, query, key, value, bias)
        return output, back(gradient)

    return jax.jit(run).lower(*arrays)


def durations(trace: Path) -> dict[str, list[float]]:
    """Microseconds of every run of each kernel in a profile, in their order."""
    path = glob.glob(str(trace / "**/*.trace.json.gz"), recursive=True)[-1]
    with gzip.open(path) as file:
        events = json.load(file)["traceEvents"]
    on_gpu = {e["pid"] for e in events if e.get("name") == "process_name" and "GPU" in e["args"].get("name", "")}
    found: dict[str, list[float]] = {}
    for event in sorted((e for e in events if e.get("ph") == "X" and e["pid"] in on_gpu), key=lambda e: e["ts"]):
        for kernel in KERNELS:
            if event["name"].startswith(f"gpu_attention_{kernel}"):
                found.setdefault(kernel, []).append(event["dur"])
    return found


def table(ran: Sequence[tuple[Shape, Tile]], found: dict[str, list[float]], calls: int) -> list[dict[str, Any]]:
    """A row per program: the median of each of its kernels over ``calls`` calls, in microseconds.

    Raises:
      ValueError: a kernel ran a different number of times than the programs called it.
    """
    turns = {kernel: iter(times) for kernel, times in found.items()}
    rows = []
    for shape, tile in ran:
        row: dict[str, Any] = {**dataclasses.asdict(shape), "tile": list(tile)}
        for kernel in KERNELS:
            if kernel == "d_bias" and shape.kind == "cross":
                continue
            times = list(itertools.islice(turns.get(kernel, iter(())), calls))
            if len(times) != calls:
                raise ValueError(
                    f"the profile has {len(times)} of {calls} runs of gpu_attention_{kernel} for {shape} {tile}"
                )
            row[kernel] = round(statistics.median(times), 1)
        rows.append(row)
    if left := [kernel for kernel, turn in turns.items() if next(turn, None) is not None]:
        raise ValueError(f"the profile has more runs than expected of {', '.join(left)}")
    return rows


def fastest(rows: Iterable[dict[str, Any]], shape: Shape, kernel: str) -> list[tuple[float, tuple[int, ...]]]:
    """Time and tile of one kernel, the fastest first."""
    own = (row for row in rows if all(row[field] == value for field, value in dataclasses.asdict(shape).items()))
    return sorted((row[kernel], tuple(row["tile"])) for row in own if kernel in row)


def main() -> None:
    parser = cases.parser(__doc__)
    parser.add_argument("--rows", type=int, default=96)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--calls", type=int, default=5)
    options = parser.parse_args()
    work: list[tuple[Shape, Tile, tuple[Any, ...], Any]] = []
    for shape in SHAPES:
        arrays = shape.arrays(options.data, options.rows, options.heads)
        fitted = dict.fromkeys(gpu_attention.fit(tile, arrays[0], arrays[1].shape[1]) for tile in TILES)
        work += [(shape, tile, arrays, lowered(shape, tile, arrays)) for tile in fitted]

    def compiled(lowering: Any) -> Any:
        try:
            return lowering.compile()
        except Exception as error:
            return error

    with ThreadPoolExecutor(14) as pool:
        executables = list(pool.map(compiled, [lowering for *_, lowering in work]))
    ran: list[tuple[Shape, Tile, tuple[Any, ...], Any]] = []
    errors: list[dict[str, str]] = []
    for (shape, tile, arrays, _), executable in zip(work, executables, strict=True):
        try:
            if isinstance(executable, Exception):
                raise executable
            jax.block_until_ready(executable(*arrays))
            ran.append((shape, tile, arrays, executable))
        except Exception as error:  # for example a tile that needs more shared memory than there is
            errors.append({"program": f"{shape} {tile}", "error": f"{type(error).__name__}: {error}"[:300]})
    trace = options.out / "tiles"
    with jax.profiler.trace(str(trace)):
        for _, _, arrays, executable in ran:
            for _ in range(options.calls):
                result = executable(*arrays)
            jax.block_until_ready(result)
    rows = table([(shape, tile) for shape, tile, *_ in ran], durations(trace), options.calls)
    (options.out / "tiles.json").write_text(json.dumps({"results": rows, "errors": errors}, indent=1) + "\n")
    for shape, kernel in itertools.product(SHAPES, KERNELS):
        for time, tile in fastest(rows, shape, kernel)[:3]:
            print(shape.name, shape.inputs, shape.targets, shape.kind, kernel, f"{time} µs", tile, flush=True)


if __name__ == "__main__":
    main()
