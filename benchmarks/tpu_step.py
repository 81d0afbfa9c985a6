"""Our training step against T5X's, by the TPU compiler: memory and work per chip and step, without a TPU.

Both are compiled ahead of time for the same slice: windows of 512 + 256 tokens, packed, bfloat16, Adafactor, z-loss,
dropout 0.1, cheap random bits, the state donated. Operations, bytes and collectives of both programs are counted by the
same code, with loop bodies times their trip counts (`distill.precompile.costs`). T5X's side requires T5X (docs/t5x.md)
and is otherwise left out, with a notice. Its network is the unscanned `examples/t5`, or `examples/scalable_t5` if a
case names it.

    python -m benchmarks.tpu_step [--cases base_data,base_model,large,xxl] [--output=tpu_step.jsonl] [--plot=FILE.png]

Every finished side is a line of the output file; sides that are already there are not compiled again. Each side is
compiled in its own process, one after the other. Its compile time is a single measurement. For ratios of compile times,

    python -m benchmarks.tpu_step --cases=base_data --rounds=3

compiles T5X's unscanned step and ours, with and without compiler options, alternately, and compares their shortest
times.
"""

import argparse
import dataclasses
import functools
import importlib.util
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks import tpu_scale

ENCODER, DECODER = 512, 256
SIZES = {  # width, heads, mlp, layers
    "base": (768, 12, 2048, 12),
    "large": (1024, 16, 2816, 24),
    "xl": (2048, 32, 5120, 24),
    "xxl": (4096, 64, 10240, 24),
}


PROGRAMS = ("compact", "quick")  # gin/compiler/tpu_….gin


@dataclasses.dataclass(frozen=True)
class Side:
    """One program.

    ``mesh`` is (data, fsdp, model) for ours and (data, model) for T5X's; ``chunk_tokens`` is the sum over all devices;
    ``gather`` is PARAM_GATHER; ``program`` is one of `PROGRAMS`, whose options the compiler gets.
    """

    engine: str
    mesh: tuple[int, ...]
    remat: str = "elementwise"
    chunk_tokens: int = 16384
    scan: bool = True
    gather: str = "layer"
    sequence_parallel: bool = False
    program: str = ""

    @property
    def name(self) -> str:
        """The name in the tables."""
        axes = ("data", "model") if self.engine == "t5x" else ("data", "fsdp", "model")
        mesh = " × ".join(f"{axis} {size}" for axis, size in zip(axes, self.mesh) if size > 1)
        how = {"t5x": "T5X scalable_t5" if self.scan else "T5X t5"}.get(self.engine, f"ours, {self.remat}")
        gathered = {"layer": "", "step": ", gathered once", "decoder": ", decoder gathered once"}[self.gather]
        more = (", sequence parallel" * self.sequence_parallel, f", {self.program}" if self.program else "")
        return f"{how}, {mesh}{gathered}" + "".join(more)

    @property
    def compiler_options(self) -> dict[str, Any] | None:
        """The compiler options of its file."""
        import gin

        if not self.program:
            return None
        gin.clear_config()
        gin.parse_config_file(str(Path(__file__).parents[1] / f"gin/compiler/tpu_{self.program}.gin"))
        return gin.query_parameter("COMPILER_OPTIONS/gin.macro.value")


@dataclasses.dataclass(frozen=True)
class Case:
    """The same work on the same slice, for several sides."""

    size: str
    batch: int
    topology: str
    sides: tuple[Side, ...]


CASES = {
    "base_data": Case(
        "base",
        128,
        "v5e:4x4",
        (
            Side("t5x", (16, 1), scan=False),
            Side("t5x", (16, 1), scan=False, program="compact"),
            Side("t5x", (16, 1), remat="minimal"),
            Side("ours", (16, 1, 1)),
            Side("ours", (4, 4, 1)),
            Side("ours", (2, 8, 1), gather="step"),
            Side("ours", (2, 8, 1), gather="decoder"),
            Side("ours", (2, 8, 1), gather="decoder", program="compact"),
            Side("ours", (2, 8, 1), gather="decoder", program="quick"),
            Side("ours", (1, 16, 1)),
        ),
    ),
    "base_model": Case(
        "base",
        128,
        "v5e:4x4",
        (
            Side("t5x", (8, 2), scan=False),
            Side("ours", (8, 1, 2)),
            Side("ours", (1, 8, 2), gather="decoder"),
            Side("ours", (2, 8, 1)),
            Side("ours", (2, 8, 1), program="compact"),
            Side("ours", (2, 8, 1), program="quick"),
        ),
    ),
    "large": Case(
        "large",
        64,
        "v5e:4x4",
        (
            Side("t5x", (4, 4), scan=False),
            Side("ours", (4, 1, 4)),
            Side("ours", (1, 16, 1)),
            Side("ours", (2, 8, 1)),
            Side("ours", (2, 8, 1), program="compact"),
            Side("ours", (2, 8, 1), program="quick"),
            Side("ours", (2, 8, 1), gather="decoder"),
            Side("ours", (2, 4, 2), sequence_parallel=True),
        ),
    ),
    "xxl": Case(
        "xxl",
        64,
        "v5p:4x4x4",
        (
            Side("t5x", (8, 8), remat="minimal"),
            Side("t5x", (8, 8), scan=False),
            Side("ours", (1, 8, 8)),
            Side("ours", (1, 8, 8), remat="minimal"),
            Side("ours", (1, 8, 8), gather="decoder"),
            Side("ours", (1, 8, 8), gather="decoder", program="compact"),
            Side("ours", (1, 8, 8), gather="decoder", program="quick"),
            Side("ours", (1, 8, 8), gather="step"),
            Side("ours", (1, 8, 8), gather="step", program="compact"),
            Side("ours", (1, 8, 8), gather="step", sequence_parallel=True),
        ),
    ),
}


def compiled(case: Case, side: Side) -> dict[str, float]:
    """Compiles a side."""
    import jax

    jax.config.update("jax_default_prng_impl", "unsafe_rbg")
    return {"t5x": t5x, "ours": ours}[side.engine](case, side)


def compiled_alone(case: Case, side: Side) -> dict[str, Any]:
    """Compiles a side in its own process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        figures = process.submit(compiled, case, side).result()
    return {"topology": case.topology, "batch": case.batch, **figures}


def ours(case: Case, side: Side) -> dict[str, float]:
    """Compiles our step."""
    from distill.data.packing import Layout
    from distill.model.network import T5Config
    from distill.precompile import steps, topology
    from distill.sharding import partitioning
    from distill.training import optimizers
    from distill.training.losses import TwoTaskLoss
    from distill.training.train import LoopConfig

    width, heads, mlp, layers = SIZES[case.size]
    model = T5Config(
        32128, width, heads, 64, mlp, layers, layers,
        dtype="bfloat16", scan_layers=side.scan, remat_policy=side.remat, attention="pallas",
    )  # fmt: skip
    run = steps.Run(
        model=model,
        loss=TwoTaskLoss(z_loss=1e-4),
        optimizer=optimizers.adafactor(1e-3),
        loop=LoopConfig(
            train_steps=1,
            chunk_tokens=side.chunk_tokens // (side.mesh[0] * side.mesh[1]),
            param_gather=side.gather,
            sequence_parallel=side.sequence_parallel,
            compiler_options=side.compiler_options,
        ),
        layout=Layout(case.batch, ENCODER, DECODER),
        mesh=partitioning.MeshConfig(*side.mesh),
    )
    cpu = time.process_time()
    step = steps.compile_step("train", run, topology.open_topology(case.topology), explain=False)
    if step.costs is None:
        raise RuntimeError(f"{side.name}: {step.refused}")
    return measured(step.costs, step.peak_bytes, step.code_bytes, step.seconds, time.process_time() - cpu)


def measured(costs, peak: int, code: int, seconds: float, cpu_seconds: float) -> dict[str, float]:
    """Returns the figures of one side."""
    return {
        "peak_hbm_bytes": peak,
        "flops": costs.flops,
        "matmul_flops": costs.matmul_flops,
        "bytes_accessed": costs.bytes_accessed,
        "hbm_bytes": costs.hbm_bytes,
        "collective_bytes": costs.collective_bytes,
        "wire_bytes": costs.wire_bytes,
        "code_bytes": code,
        "expected_cycles": costs.expected_cycles,
        "compile_seconds": round(seconds, 1),
        "compile_cpu_seconds": round(cpu_seconds, 1),
    }


def t5x(case: Case, side: Side) -> dict[str, float]:
    """Compiles T5X's step: its model, its gradients, its optimizer, its sharding rules."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import seqio
    from flax.linen import partitioning as flax_partitioning
    from jax.sharding import Mesh, NamedSharding, PartitionSpec
    from t5x import adafactor, models, partitioning, train_state, trainer
    from t5x.examples.scalable_t5 import network as scalable_network
    from t5x.examples.t5 import network as t5_network

    from distill.precompile import costs, steps, topology

    width, heads, mlp, layers = SIZES[case.size]
    shape: dict[str, Any] = {
        "vocab_size": 32128, "dtype": jnp.bfloat16, "emb_dim": width, "num_heads": heads, "head_dim": 64, "mlp_dim": mlp,
        "num_encoder_layers": layers, "num_decoder_layers": layers, "mlp_activations": ("gelu", "linear"),
        "dropout_rate": 0.1, "logits_via_embedding": False,
    }  # fmt: skip
    if side.scan:
        module = scalable_network.Transformer(
            config=scalable_network.T5Config(**shape, scan_layers=True, remat_policy=side.remat)
        )
    else:
        module = t5_network.Transformer(config=t5_network.T5Config(**shape))
    optimizer = adafactor.Adafactor(
        decay_rate=0.8, step_offset=0, logical_factor_rules=adafactor.standard_logical_factor_rules()
    )
    vocabulary = seqio.ByteVocabulary()
    model = models.EncoderDecoderModel(module, vocabulary, vocabulary, optimizer, z_loss=1e-4)
    names = ["encoder_input_tokens", "encoder_segment_ids", "encoder_positions", "decoder_input_tokens",
             "decoder_target_tokens", "decoder_loss_weights", "decoder_segment_ids", "decoder_positions"]  # fmt: skip
    lengths = {name: ENCODER if name.startswith("encoder") else DECODER for name in names}
    rng = jax.random.key(0)
    partitioner = partitioning.PjitPartitioner(num_partitions=1)
    slice_ = topology.open_topology(case.topology)
    mesh = Mesh(np.array(slice_.devices).reshape(side.mesh), ("data", "model"))

    def fresh(rng):
        variables = model.get_initial_variables(rng, {name: (1, length) for name, length in lengths.items()})
        return train_state.FlaxOptimTrainState.create(optimizer, variables)

    shapes = jax.eval_shape(fresh, rng)
    specs = partitioner.get_mesh_axes(shapes)
    shapes = shapes.replace(params_axes=None)

    def place(value, spec):
        return jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=NamedSharding(mesh, spec or PartitionSpec()))

    state = jax.tree.map(place, shapes, specs)
    rows = NamedSharding(mesh, PartitionSpec("data"))
    batch = {
        name: jax.ShapeDtypeStruct(
            (case.batch, lengths[name]), jnp.float32 if "weights" in name else jnp.int32, sharding=rows
        )
        for name in names
    }
    key = jax.ShapeDtypeStruct(rng.shape, rng.dtype, sharding=NamedSharding(mesh, PartitionSpec()))

    def step(state, batch, rng):
        gradients, metrics, _ = trainer.accumulate_grads_microbatched(model, state, batch, rng, None)
        state, metrics = trainer.apply_grads(state, gradients, metrics, jnp.float32(1e-3), None, {})
        return state, metrics

    started, cpu = time.monotonic(), time.process_time()
    shardings = jax.tree.map(lambda value: value.sharding, state)
    # T5X reads the mesh from this older context manager.
    with mesh, flax_partitioning.axis_rules(partitioner.logical_axis_rules), topology.silenced(), topology.uncached():
        jitted = jax.jit(
            step, donate_argnums=0, out_shardings=(shardings, None), compiler_options=side.compiler_options
        )
        lowered = jitted.lower(state, batch, key)
        compiled, text = steps.compile_to_text(lowered)
    memory: Any = compiled.memory_analysis()
    peak = max(memory.peak_memory_in_bytes, steps.allocated_bytes(memory))
    return measured(
        costs.analyse(text, dict(mesh.shape)),
        peak,
        memory.generated_code_size_in_bytes,
        time.monotonic() - started,
        time.process_time() - cpu,
    )


def arguments() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--output", default="tpu_step.jsonl")
    parser.add_argument("--plot")
    parser.add_argument("--rounds", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    """Compiles missing sides and prints every case's ratios."""
    options = arguments()
    unknown = set(options.cases.split(",")) - set(CASES)
    if unknown:
        raise SystemExit(f"--cases: no case {sorted(unknown)}; there are {sorted(CASES)}")
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    path = Path(options.output)
    has_t5x = importlib.util.find_spec("t5x") is not None
    names = options.cases.split(",")
    if options.rounds:
        for name in names:
            time_compilations(name, CASES[name], options.rounds, has_t5x)
        return
    for name in names:
        case = CASES[name]
        for side in case.sides:
            key = {"case": name, "side": side.name}
            if side.engine == "t5x" and not has_t5x and not tpu_scale.rows_of(path, key):
                print(f"{name}: {side.name} is left out, T5X is not installed (docs/t5x.md)")
                continue
            tpu_scale.find_or_make(path, key, functools.partial(compiled_alone, case, side))
        report(name, case, tpu_scale.rows_of(path, {"case": name}))
    report_programs([row for row in tpu_scale.rows_of(path) if row["case"] in names])
    if options.plot:
        plot(tpu_scale.rows_of(path), Path(options.plot))


COLUMNS = (
    ("peak_hbm_bytes", "peak GB", 1e9),
    ("matmul_flops", "matmul TFLOP", 1e12),
    ("bytes_accessed", "bytes GB", 1e9),
    ("hbm_bytes", "of HBM GB", 1e9),
    ("collective_bytes", "collectives GB", 1e9),
    ("wire_bytes", "sent GB", 1e9),
    ("code_bytes", "code MB", 1e6),
    ("compile_cpu_seconds", "compile CPU s", 1.0),
)


def bases_of(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The reference row of each column: the first row, or unscanned T5X for program size and compile time."""
    unscanned = next((row for row in rows if row["side"].startswith("T5X t5")), rows[0])
    return [unscanned if key in {"code_bytes", "compile_cpu_seconds"} else rows[0] for key, _, _ in COLUMNS]


def report(name: str, case: Case, rows: list[dict[str, Any]]) -> None:
    """Prints a case as a Markdown table; in brackets is the ratio to the row from `bases_of`."""
    print(f"\n{name}: T5 1.1 {case.size}, {case.batch} windows, {case.topology}; per chip and step")
    print("| step | " + " | ".join(title for _, title, _ in COLUMNS) + " |")
    print("|---" * (len(COLUMNS) + 1) + "|")
    for row in rows:
        cells = [
            f"{row[key] / unit:.3g}" + ("" if row is base else f" ({row[key] / max(base[key], 1e-9):.2f}×)")
            for (key, _, unit), base in zip(COLUMNS, bases_of(rows))
        ]
        print(f"| {row['side']} | " + " | ".join(cells) + " |")


def time_compilations(name: str, case: Case, rounds: int, has_t5x: bool) -> None:
    """Compiles T5X's unscanned side and ours, with and without compiler options, alternately; prints shortest times."""
    plain = {dataclasses.replace(side, program="") for side in case.sides if side.engine == "ours" and side.program}
    sides = [side for side in case.sides if side.engine == "ours" and dataclasses.replace(side, program="") in plain]
    if has_t5x:
        sides.insert(0, next(side for side in case.sides if side.engine == "t5x" and not side.scan))
    else:
        print(f"{name}: T5X's side is left out, T5X is not installed (docs/t5x.md); ratios are to the first of ours")
    seconds: dict[Side, list[float]] = {side: [] for side in sides}
    for _ in range(rounds):
        for side in sides:
            seconds[side].append(compiled_alone(case, side)["compile_cpu_seconds"])
    print(f"\n{name}: processor seconds to compile, {rounds} rounds in turn")
    print("| step | least | ratio | all |")
    print("|---" * 4 + "|")
    for side, all_ in seconds.items():
        print(
            f"| {side.name} | {min(all_):.1f} | {min(all_) / min(seconds[sides[0]]):.2f} | {', '.join(map(str, all_))} |"
        )


def report_programs(rows: list[dict[str, Any]]) -> None:
    """Prints the effect of the compiler options: ratios to the same side of the same case without them."""
    columns = {"code_bytes": "code", "compile_cpu_seconds": "compile", "expected_cycles": "expected cycles"}
    print("\nprograms: what the options of gin/compiler change")
    print("| case | step | " + " | ".join(columns.values()) + " | bytes | sent |")
    print("|---" * (len(columns) + 4) + "|")
    for row in rows:
        plain, _, program = row["side"].rpartition(", ")
        base = next((r for r in rows if (r["case"], r["side"]) == (row["case"], plain)), None)
        if base is not None and program in PROGRAMS:
            ratios = [f"{row[key] / base[key]:.2f}" for key in (*columns, "bytes_accessed", "wire_bytes")]
            print(f"| {row['case']} | {row['side']} | " + " | ".join(ratios) + " |")


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Plots every side's ratio to the row of its case from `bases_of`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    cases = list(dict.fromkeys(row["case"] for row in rows))
    figure, axes = pyplot.subplots(1, len(cases), figsize=(5.2 * len(cases), 5.2), sharey=True, squeeze=False)
    for axis, name in zip(axes[0], cases):
        mine = [row for row in rows if row["case"] == name]
        width = 0.8 / len(mine)
        for number, row in enumerate(mine):
            ratios = [row[key] / max(base[key], 1e-9) for (key, _, _), base in zip(COLUMNS, bases_of(mine))]
            axis.bar([x + number * width for x in range(len(ratios))], ratios, width, label=row["side"])
        axis.axhline(1.0, color="grey", linewidth=0.5)
        titles = [title.rsplit(" ", 1)[0].replace(" ", "\n") for _, title, _ in COLUMNS]
        axis.set_xticks([x + 0.4 - width / 2 for x in range(len(COLUMNS))], titles, fontsize=7)
        axis.set_title(f"{name} ({mine[0]['topology']})", fontsize=9)
        axis.legend(fontsize=6, loc="upper center", bbox_to_anchor=(0.5, -0.15))
    axes[0][0].set_ylabel("ratio to T5X")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
