"""The steps of a run, lowered from abstract shapes and compiled for a topology."""

import dataclasses
import math
import re
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from flax import linen as nn
from jax.sharding import Mesh

from distill.data.packing import Layout, Packer
from distill.inference.decoder import DecodeConfig, Decoder
from distill.model.configs import NetworkConfig
from distill.precompile import costs
from distill.precompile.chips import CHIPS
from distill.precompile.topology import ROOMIEST, Topology, open_topology, roomiest, silenced, uncached
from distill.sharding import partitioning, xla_options
from distill.training.losses import TwoTaskLoss
from distill.training.optimizers import Optimizer, restricted
from distill.training.state import TrainState, abstract_state, shardings_of
from distill.training.step import jit_step, make_train_step
from distill.training.train import LoopConfig

STEPS = ("train", "decode")


@dataclasses.dataclass(frozen=True)
class Run:
    """The parts of a training run's configuration that its compiled steps depend on.

    Attributes:
      model, loss, optimizer, loop, mesh, rules: arguments of :func:`distill.training.train.train`.
      layout: the shape of a batch.
      decode: how validation decodes; None if the run does not validate.
    """

    model: NetworkConfig
    loss: TwoTaskLoss
    optimizer: Optimizer
    loop: LoopConfig
    layout: Layout
    decode: DecodeConfig | None = None
    mesh: partitioning.MeshConfig = partitioning.MeshConfig()
    rules: partitioning.Rules = partitioning.DEFAULT_RULES

    @classmethod
    def from_arguments(cls, given: Mapping[str, Any]) -> "Run":
        """Returns the run of :func:`distill.training.train.train` with the arguments ``given``."""
        validation = given.get("validation")
        chosen = {name: given[name] for name in ("mesh", "rules") if name in given}
        shared = {name: given[name] for name in ("model", "loss", "optimizer", "loop")}
        shared["optimizer"] = restricted(shared["optimizer"], shared["loop"].trainable)
        decode = None if validation is None else validation.decode
        return cls(**shared, layout=given["data"].layout, decode=decode, **chosen)


@dataclasses.dataclass(frozen=True)
class CompiledStep:
    """A step compiled for the devices of a topology. Bytes are per device.

    Attributes:
      name: ``train`` or ``decode``.
      arguments: bytes of the arguments, by kind.
      peak_bytes: HBM of the step: its arguments, those results that do not alias arguments, and one block of
        temporaries; or the compiler's peak, if that is more. The program's code is not included.
      temporary_bytes: HBM in addition to arguments and results.
      code_bytes: size of the program.
      costs: operations, bytes and collectives; None if there is no program to count.
      seconds: time to trace and to compile.
      text: the program as HLO text; empty if there is none.
      refused: the compiler's message if memory does not suffice.
    """

    name: str
    arguments: Mapping[str, int]
    peak_bytes: int
    temporary_bytes: int
    code_bytes: int
    costs: costs.Costs | None
    seconds: float
    text: str = ""
    refused: str = ""

    @property
    def needed_bytes(self) -> int:
        """HBM that the step needs, including its code."""
        return self.peak_bytes + self.code_bytes


def compile_step(name: str, run: Run, topology: Topology, *, explain: bool = True) -> CompiledStep:
    """Compiles one step of a run ahead of time, without executing anything.

    Args:
      name: ``train`` or ``decode``.
      run: the run.
      topology: the topology to compile for.
      explain: if the compiler reports that memory does not suffice, compile for the same number of devices of v5p,
        which have six times v5e's memory, so that there is a program to analyse.

    Raises:
      ValueError: a mesh or a batch that does not match the topology, or a step that the run does not have.
    """
    mesh = topology.mesh(run.mesh)
    rng = jax.random.key(run.loop.seed + 1)
    started = time.monotonic()
    ema = run.loop.ema_decay is not None
    state = abstract_state(run.model, run.optimizer, mesh, run.rules, ema=ema)
    with jax.set_mesh(mesh), nn.logical_axis_rules(list(run.rules)), silenced(), uncached():
        if name == "train":
            lowered, arguments = _lower_train(run, mesh, state, rng)
        else:
            lowered, arguments = _lower_decode(run, mesh, state)
        try:
            compiled, text = compile_to_text(lowered)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            refused = str(error)
        else:
            memory: Any = compiled.memory_analysis()
            return CompiledStep(
                name,
                arguments,
                max(memory.peak_memory_in_bytes, allocated_bytes(memory)),
                memory.temp_size_in_bytes,
                memory.generated_code_size_in_bytes,
                costs.analyse(text, dict(mesh.shape)),
                time.monotonic() - started,
                text,
            )
    needed, seconds = needed_of(refused, sum(arguments.values())), time.monotonic() - started
    step = CompiledStep(name, arguments, needed, needed - sum(arguments.values()), 0, None, seconds, refused=refused)
    if not explain or topology.chip.device_usable_bytes >= CHIPS[ROOMIEST].device_usable_bytes:
        return step
    other = compile_step(name, run, open_topology(roomiest(len(topology.devices))), explain=False)
    # The memory needed is from the compiler's message; costs and buffers are those of the program for the other chip.
    return dataclasses.replace(step, costs=other.costs, text=other.text, code_bytes=other.code_bytes)


def compile_to_text(lowered: jax.stages.Lowered) -> tuple[jax.stages.Compiled, str]:
    """Compiles, and returns the program's text too.

    The text is read from the compiler, because JAX 0.10 cannot read back some programs for v5p, v6e and tpu7x: those
    that offload gathers to the sparse cores.

    Raises:
      jax.errors.JaxRuntimeError: memory does not suffice, or the compiler fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        compiled = lowered.compile(compiler_options={"xla_dump_to": folder, "xla_dump_hlo_as_text": True})
        try:
            return compiled, str(compiled.as_text())
        except jax.errors.JaxRuntimeError:
            dumped = sorted(Path(folder).glob("*.after_codegen.txt"), key=lambda path: path.stat().st_size)
            if not dumped:
                raise
            return compiled, dumped[-1].read_text(encoding="utf-8")


def allocated_bytes(memory: Any) -> int:
    """Returns the bytes of HBM that are allocated for a program before it starts."""
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return memory.argument_size_in_bytes + max(0, results) + memory.temp_size_in_bytes


def _lower_train(run: Run, mesh: Mesh, state: TrainState, rng: jax.Array) -> tuple[jax.stages.Lowered, dict[str, int]]:
    partitioning.check_batch(run.layout.windows, mesh, run.loop.num_microbatches)
    row = Packer(dataclasses.replace(run.layout, windows=1)).emit()
    sharding = partitioning.batch_sharding(mesh)
    batch = {
        name: jax.ShapeDtypeStruct((run.layout.windows, *array.shape[1:]), array.dtype, sharding=sharding)
        for name, array in row.items()
    }
    step = jit_step(
        make_train_step(run.model, run.loss, run.optimizer, **run.loop.step_options()),
        shardings_of(state),
        mesh,
        xla_options.accepted(run.loop.compiler_options, mesh),
    )
    constants = jax.tree.map(lambda value: _abstract(value, mesh), jax.eval_shape(run.loss.constants))
    lowered = step.lower(state, batch, _abstract(rng, mesh), constants)
    kinds = {"parameters": state.params, "optimizer state": state.opt_state}
    if state.ema_params is not None:
        kinds["averaged parameters"] = state.ema_params
    return lowered, {name: sharded_bytes(tree) for name, tree in {**kinds, "batch": batch}.items()}


def _lower_decode(run: Run, mesh: Mesh, state: TrainState) -> tuple[jax.stages.Lowered, dict[str, int]]:
    if run.decode is None:
        raise ValueError("the run does not validate, so it has no decode step; set --steps=train")
    lowered, tokens = Decoder(run.model, mesh, run.decode).lower(state.eval_params, run.decode.max_input_len)
    return lowered, {"parameters": sharded_bytes(state.eval_params), "batch": sharded_bytes(tokens)}


def _abstract(array: jax.Array, mesh: Mesh) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=partitioning.replicated(mesh))


def sharded_bytes(tree: Any) -> int:
    """Returns the bytes per device of a tree of arrays or shapes with shardings."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        total += math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    return total


_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40, "P": 2**50}


def needed_of(message: str, arguments: int) -> int:
    """Returns the bytes of HBM that a program needs, from the compiler's out-of-memory message.

    Args:
      message: in one of two forms: "Used … of … hbm", or one that gives only the temporaries.
      arguments: bytes of the arguments, which are added to the temporaries.

    Raises:
      ValueError: the message gives no amount.
    """
    used = re.search(r"[Uu]sed ([\d.]+)([KMGTP]?)i?B? of [\d.]+[KMGTP]?i?B? hbm", message)
    temporaries = re.search(r"required for HLO temporaries \(([\d.]+)([KMGTP]?)i?B?\)", message)
    found = used or temporaries
    if found is None:
        raise ValueError(f"cannot read the needed memory from the compiler's message: {message[:400]}")
    return int(float(found[1]) * _UNITS[found[2]]) + (0 if used else arguments)
