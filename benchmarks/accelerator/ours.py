"""Times the project's training step for several sizes, sets, batches and implementations.

All programs compile at once in threads. Then each is timed alone. Run by :mod:`benchmarks.accelerator.measure`.
"""

import dataclasses
import functools
import itertools
import json
import os
import statistics
import time
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.accelerator import cases, timing
from distill.data.packing import Layout
from distill.model.parameters import init_params
from distill.precompile import chips
from distill.training import optimizers
from distill.training.losses import TwoTaskLoss
from distill.training.state import init_state
from distill.training.step import make_train_step

OPTIMIZER = optimizers.adamw(5e-5)


@dataclasses.dataclass(frozen=True)
class Program:
    """One compiled training step.

    Attributes:
      size, name: of :data:`cases.SIZES` and :data:`cases.SETS`.
      windows: windows per batch.
      attention: ``T5Config.attention``.
      chunk_tokens: of the loss.
      remat: ``T5Config.remat_policy``.
      scan: ``T5Config.scan_layers``.
      dropout: ``T5Config.dropout_rate``.
      dtype: ``T5Config.dtype``.
      options: compiler options.
    """

    size: str
    name: str
    windows: int
    attention: str = "auto"
    chunk_tokens: int = 4096
    remat: str = "none"
    scan: bool = False
    dropout: float = 0.1
    dtype: str = "bfloat16"
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def config(self) -> cases.T5Config:
        """The network's configuration."""
        return dataclasses.replace(
            cases.SIZES[self.size],
            dtype=self.dtype,
            attention=self.attention,
            remat_policy=self.remat,
            scan_layers=self.scan,
            dropout_rate=self.dropout,
        )

    @property
    def layout(self) -> Layout:
        """The shape of its batches."""
        return Layout(self.windows, *cases.LENGTHS[self.name])

    @property
    def label(self) -> str:
        """A short name."""
        changed = [f"{k}={v}" for k, v in self.options] + [
            f"{field.name}={getattr(self, field.name)}"
            for field in dataclasses.fields(self)[4:-1]
            if getattr(self, field.name) != field.default
        ]
        return " ".join([self.size, self.name, str(self.windows), self.attention, *changed])


def new_state(program: Program) -> Any:
    """A state with random parameters of about T5's scale, made array by array: compiling the whole takes too long."""
    config = program.config
    shapes = jax.eval_shape(functools.partial(init_params, config), jax.random.key(0))
    leaves, tree = jax.tree.flatten(shapes)

    def made(number: int, shape: tuple[int, ...]) -> jax.Array:
        if min(shape) < 32 or len(shape) == 1:  # norms, also stacked ones, and position biases
            return jnp.ones(shape)
        return jax.random.normal(jax.random.key(number), shape) / (1.0 if max(shape) > 30000 else shape[0] ** 0.5)

    params = jax.tree.unflatten(tree, [made(number, leaf.shape) for number, leaf in enumerate(leaves)])
    return init_state(params, OPTIMIZER)


def lowered(program: Program, batch: cases.Batch) -> Any:
    """The step, lowered for the shapes of ``batch``."""
    config = program.config
    state = jax.eval_shape(lambda key: init_state(init_params(config, key), OPTIMIZER), jax.random.key(0))
    step = make_train_step(config, TwoTaskLoss(alpha=0.5), OPTIMIZER, chunk_tokens=program.chunk_tokens)
    options = dict(program.options) or None
    return jax.jit(step, donate_argnums=0, compiler_options=options).lower(state, batch.arrays, jax.random.key(1))


def compiled(lowering: Any) -> tuple[Any, float]:
    """The compiled program and the seconds that took."""
    started = time.perf_counter()
    return lowering.compile(), time.perf_counter() - started


def measured(
    program: Program, executable: Any, batches: list[cases.Batch], rounds: int, calls: int, trace: Path | None = None
) -> dict[str, Any]:
    """Runs the step on ``batches`` in turn; returns times, rates and memory, and writes a profile to ``trace``."""
    state, rng, turn = new_state(program), jax.random.key(1), itertools.cycle(batches)
    losses: list[Any] = []

    def step() -> Any:
        nonlocal state
        state, metrics = executable(state, next(turn).arrays, rng)
        losses.append(metrics["loss"][0])
        return state, metrics

    for _ in range(len(batches)):
        jax.block_until_ready(step())
    seconds = timing.rounds(step, jax.block_until_ready, rounds, calls)
    median = statistics.median(seconds)
    examples, tokens = (sum(getattr(one, key) for one in batches) / len(batches) for key in ("examples", "tokens"))
    flops = cases.step_flops(program.config, program.windows, *cases.LENGTHS[program.name])
    peak = chips.peak_flops(jax.local_devices()[0].device_kind)
    if trace is not None:
        with jax.profiler.trace(str(trace)):
            for _ in range(3):
                jax.block_until_ready(step())
    memory = executable.memory_analysis()
    result = {
        "milliseconds": timing.summary(seconds),
        "examples_per_step": round(examples, 1),
        "examples_per_second": round(examples / median, 1),
        "tokens_per_second": round(tokens / median),
        "padding_share": round(1 - tokens / (program.windows * sum(cases.LENGTHS[program.name])), 3),
        "tflops": round(flops / median / 1e12, 1),
        "mfu": None if peak is None else round(flops / median / peak, 3),
        "losses": [round(float(losses[0]), 4), round(float(losses[-1]), 4)],
    }
    if memory is not None:
        sizes = (memory.argument_size_in_bytes, memory.output_size_in_bytes, memory.temp_size_in_bytes)
        result["peak_gib"] = round((sum(sizes) - memory.alias_size_in_bytes) / 2**30, 2)
    return result


def run(
    programs: list[Program], data: Path, out: Path, name: str, rounds: int, calls: int, deadline: float
) -> list[dict[str, Any]]:
    """Compiles all programs at once, then times one after the other; a program that fails has its error as its result."""
    feeds = {}
    for program in programs:
        key = program.name, program.windows
        if key not in feeds:
            feeds[key] = list(
                itertools.islice(cases.batches(cases.read_rows(data / "rows.npz", program.name), program.layout), 4)
            )
    results: list[dict[str, Any]] = []
    pool, futures, started = ThreadPoolExecutor(6), [], time.perf_counter()
    for program in programs:
        try:
            futures.append(pool.submit(compiled, lowered(program, feeds[program.name, program.windows][0])))
        except Exception as error:
            futures.append(error)
    waiting = [future for future in futures if not isinstance(future, Exception)]
    wait(waiting, max(1.0, deadline - (time.perf_counter() - started)))
    for program, future in zip(programs, futures):
        row: dict[str, Any] = {"label": program.label, **dataclasses.asdict(program)}
        try:
            if isinstance(future, Exception):
                raise future
            if not future.done():
                raise TimeoutError(f"the program did not compile within {deadline:.0f} s")
            executable, row["compile_seconds"] = future.result()
            traced = out / "profile" / program.label.replace(" ", "_") if program in PROFILED else None
            row |= measured(program, executable, feeds[program.name, program.windows], rounds, calls, traced)
            del executable
        except Exception as error:
            row["error"] = f"{type(error).__name__}: {error}"[:600]
        results.append(row)
        print(json.dumps(row), flush=True)
        (out / f"ours_{name}.json").write_text(json.dumps(results, indent=1) + "\n")
    return results


def groups(size: str | None = None) -> dict[str, list[Program]]:
    """The measured programs. Each group runs as a separate process."""
    if size is not None:
        return {size: [Program(size, "svamp", 4), Program(size, "cqa", 4, "xla"), Program(size, "svamp", 4, scan=True)]}
    both = ("svamp", "cqa")
    return {
        "base": [*(Program("base", name, 96) for name in both), Program("base", "svamp", 24)],
        "large": [Program("large", name, 64) for name in both],
        "attention": [Program("base", "svamp", 96, attention) for attention in ("xla", "cudnn")],
        "more": [
            Program("base", "nli", 96),
            Program("base", "svamp", 96, options=(("xla_gpu_enable_triton_gemm", False),)),
            Program("base", "svamp", 96, chunk_tokens=0),
            Program("base", "svamp", 96, dropout=0.0),
            Program("base", "svamp", 96, scan=True),
        ],
    }


PROFILED = (Program("base", "svamp", 96), Program("large", "svamp", 64))


def main() -> None:
    parser = cases.parser(__doc__, groups())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=4)
    parser.add_argument("--deadline", type=float, default=600.0, help="seconds after which no program is waited for")
    options = parser.parse_args()
    chosen = groups(options.size)
    names = [options.group] if options.group else list(chosen)
    rows = []
    for name in names:
        rows += run(chosen[name], options.data, options.out, name, options.rounds, options.calls, options.deadline)
    os._exit(any("error" in row for row in rows))  # without waiting for programs that still compile


if __name__ == "__main__":
    main()
