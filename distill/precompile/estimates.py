"""Bounds from the costs of a compiled step: time, utilisation, throughput and price; and suggestions to make it fit."""

import dataclasses
import re
from typing import Any

from distill.model.config import REMAT_POLICIES
from distill.precompile import hlo
from distill.precompile.chips import GIB, Chip
from distill.precompile.costs import Costs
from distill.precompile.model_flops import step_flops
from distill.precompile.operations import result_of_start
from distill.precompile.steps import CompiledStep, Run
from distill.precompile.topology import ROOMIEST


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Lower bounds of a step's time, per device.

    Attributes:
      compute, memory, network: seconds for the operations at the chip's peak, for the HBM bytes and for the sent bytes
        at full bandwidth. A step can overlap the three, so the largest is the bound.
    """

    compute: float
    memory: float
    network: float

    @property
    def seconds(self) -> float:
        """The bound."""
        return max(self.compute, self.memory, self.network)

    @property
    def bound_by(self) -> str:
        """``compute``, ``memory`` or ``network``."""
        return max(("compute", "memory", "network"), key=lambda name: getattr(self, name))


def roofline(costs: Costs, chip: Chip) -> Roofline:
    """Returns the bounds of a step. Elementwise operations are left out: they run in parallel to the matrix unit."""
    return Roofline(
        costs.matmul_flops / chip.device_flops,
        costs.hbm_bytes / chip.device_hbm_bandwidth,
        costs.wire_bytes / chip.device_ici_bandwidth,
    )


@dataclasses.dataclass(frozen=True)
class Data:
    """Data set sizes, needed for figures per epoch.

    Attributes:
      examples_per_step: source rows per batch, or None if unknown.
      examples: source rows per epoch, or None if unknown.
    """

    examples_per_step: float | None = None
    examples: int | None = None


def estimate(
    step: CompiledStep, run: Run, chip: Chip, devices: int, data: Data = Data(), price: float | None = None
) -> dict[str, Any]:
    """Returns the JSON-ready report of one step. Bytes, operations and seconds are per device and step.

    Args:
      step: the compiled step.
      run: the run that the step belongs to.
      chip: the chip it is compiled for.
      devices: number of devices it runs on.
      data: data set sizes, for epochs per hour.
      price: price per chip and hour, for the cost of the run, or None.
    """
    usable = chip.device_usable_bytes
    out: dict[str, Any] = {
        "fits": not step.refused and step.needed_bytes <= usable,
        "peak_hbm_bytes": step.peak_bytes,
        "code_bytes": step.code_bytes,
        "usable_hbm_bytes": int(usable),
        "margin_bytes": int(usable) - step.needed_bytes,
        "hbm_bytes_by_kind": {**step.arguments, "temporaries": step.temporary_bytes, "program": step.code_bytes},
        "compile_seconds": round(step.seconds, 2),
    }
    if not out["fits"]:
        out["largest_buffers"] = [dataclasses.asdict(buffer) for buffer in largest_buffers(step.text)]
        out["suggestions"] = suggestions(step, run, devices)
    if step.costs is None:
        return out | dict.fromkeys(("flops", "bytes_accessed", "collective_bytes"))
    costs, bound = step.costs, roofline(step.costs, chip)
    out |= {
        "flops": costs.flops,
        "matmul_flops": costs.matmul_flops,
        "transcendentals": costs.transcendentals,
        "bytes_accessed": costs.bytes_accessed,
        "hbm_bytes_accessed": costs.hbm_bytes,
        "collective_bytes": costs.collective_bytes,
        "wire_bytes": costs.wire_bytes,
        "expected_cycles": costs.expected_cycles,
        "collectives": [
            {
                "kind": kind,
                "axes": axes,
                "count": one.count,
                "group_size": one.group_size,
                "operand_bytes": one.operand_bytes,
                "result_bytes": one.result_bytes,
                "wire_bytes": one.wire_bytes,
            }
            for (kind, axes), one in costs.by_kind().items()
        ],
        "counted_on": ROOMIEST if step.refused else chip.name,
        "bounded_loops": list(costs.bounded_loops),
        "unknown_loops": list(costs.unknown_loops),
        "roofline": {**dataclasses.asdict(bound), "seconds": bound.seconds, "bound_by": bound.bound_by},
    }
    if step.name == "train":
        out |= _throughput(bound.seconds, run, chip, devices, data, price)
    elif run.decode is not None:
        out["rows_per_second_bound"] = run.decode.batch_size / bound.seconds
    return out


def _throughput(seconds: float, run: Run, chip: Chip, devices: int, data: Data, price: float | None) -> dict[str, Any]:
    layout, steps = run.layout, run.loop.train_steps
    model_flops = step_flops(run.model, run.layout, run.optimizer.trainable) / devices
    hours = seconds * steps / 3600
    out = {
        "model_flops": model_flops,
        "mfu_bound": model_flops / (seconds * chip.device_flops),
        "steps_per_second_bound": 1 / seconds,
        "tokens_per_second_bound": layout.windows * (layout.encoder_length + layout.decoder_length) / seconds,
        "run_hours_bound": hours,
    }
    each = data.examples_per_step
    if each is not None:
        out["examples_per_second_bound"] = each / seconds
        if data.examples is not None:
            out["epochs_per_hour_bound"] = 3600 * each / seconds / data.examples
    if price is not None:
        out["run_cost_bound"] = hours * price * devices / chip.devices
    return out


@dataclasses.dataclass(frozen=True)
class Buffer:
    """An array in HBM: its bytes including padding, its shape, and the operation that computes it."""

    bytes: int
    shape: str
    source: str


_HOLDS_NOTHING = frozenset(
    ("bitcast", "conditional", "constant", "dynamic-update-slice", "get-tuple-element", "tuple", "while")
)


def largest_buffers(text: str, number: int = 8) -> list[Buffer]:
    """Returns the largest arrays that a program's instructions write to HBM, and its largest arguments.

    They are not necessarily live at the same time.
    """
    if not text:
        return []
    module = hlo.parse(text)
    running: list[str] = [module.entry.name]
    found: dict[tuple[str, str], Buffer] = {}
    for name in running:
        for instruction in module.computations[name].instructions.values():
            running += (n for n in instruction.called("condition", "body") if n not in running)
            argument = instruction.opcode == "parameter" and name == module.entry.name
            if instruction.opcode in _HOLDS_NOTHING or instruction.opcode.endswith("-done"):
                continue
            if instruction.opcode == "parameter" and not argument:
                continue
            if "dynamic-update-slice" in instruction.name:
                continue  # writes into a buffer of another instruction
            shape = result_of_start(instruction) if instruction.opcode.endswith("-start") else instruction.shape
            for leaf in shape.leaves():
                if leaf.memory_space == hlo.HBM and leaf.padded_bytes >= 2**20:
                    source = _source(instruction.op_name) or _filled_by(module, name, instruction.name, leaf)
                    buffer = Buffer(leaf.padded_bytes, str(leaf), source)
                    found.setdefault((buffer.shape, buffer.source), buffer)
    return sorted(found.values(), key=lambda buffer: -buffer.bytes)[:number]


_COPIES = ("bitcast", "copy", "copy-done", "copy-start", "get-tuple-element")


def _filled_by(module: hlo.Module, name: str, made: str, leaf: hlo.Shape) -> str:
    """The source of an array without an op name: the array it copies, or the operation that fills it in a loop."""
    computation = module.computations[name]
    origin = computation.instructions[made]
    while origin.opcode in _COPIES and not origin.op_name and origin.operands:
        origin = computation.instructions[origin.operands[0]]
    if origin.op_name:
        return f"copy of {_source(origin.op_name)}"
    for other in module.computations.values():
        for writer in other.instructions.values():
            same = any((i.dtype, i.dims) == (leaf.dtype, leaf.dims) for i in writer.shape.leaves())
            if same and "dynamic-update-slice" in writer.name and writer.op_name:
                return f"{_source(writer.op_name)} (filled turn by turn)"
    return f"{name}/{made}"


def _source(op_name: str) -> str:
    """An operation's path in the model, without the names of JAX transformations around it."""
    text = re.sub(r"jit\(\w+\)/|closed_call/|while/body/|/while$", "", op_name)
    text = re.sub(r"jvp\(\w*Transformer\.hidden\)/", "", text).replace("transpose(", "backward of ", 1)
    return text.strip("/")


def suggestions(step: CompiledStep, run: Run, devices: int) -> list[str]:
    """Returns configuration changes that lower the memory a step needs, the most promising first."""
    out = []
    arguments, used = sum(step.arguments.values()), step.needed_bytes
    data, fsdp, model = (size if size > 0 else 0 for size in run.mesh.sizes)
    if arguments > 0.4 * used and run.mesh.shape(devices)[0] > 1:
        out.append(
            f"shard parameters and optimizer state further: a larger fsdp axis in MESH (now {fsdp or 'the rest'})"
        )
    gather = run.decode.param_gather if step.name == "decode" and run.decode else run.loop.param_gather
    whole = f"PARAM_GATHER='layer': no full copies of parameters besides the shards (now {gather!r})"
    if step.name == "decode":
        out += [whole] if gather != "layer" and fsdp != 1 else []
        return [*out, "EVAL_BATCH_SIZE: decode fewer rows per batch", "MAX_INPUT_LEN: truncate inputs further"]
    if run.model.remat_policy == "none":
        others = ", ".join(repr(policy) for policy in REMAT_POLICIES if policy != "none")
        out.append(f"REMAT_POLICY: recompute activations in the backward pass; one of {others}")
    elif run.model.remat_policy != "full":
        out.append(f"REMAT_POLICY='full': keep only each layer's input (now {run.model.remat_policy!r})")
    if model > 1 and not run.loop.sequence_parallel:
        out.append("SEQUENCE_PARALLEL=True: shard positions between blocks over the model axis too")
    shards = max(1, devices // max(1, model))
    if run.layout.windows // shards > run.loop.num_microbatches:
        out.append(
            f"NUM_MICROBATCHES={2 * run.loop.num_microbatches}: halve the rows whose activations exist at once"
            f" (now {run.layout.windows // run.loop.num_microbatches})"
        )
    logits = run.layout.windows * run.layout.decoder_length // shards * run.model.vocab_size * 4
    if not run.loop.chunk_tokens and logits > GIB / 4:
        out.append(f"LOSS_CHUNK_TOKENS=4096: the logits of a whole batch are {logits / GIB:.1f} GiB per device")
    if not run.model.scan_layers:
        out.append("SCAN_LAYERS=True: a smaller program, with buffers for one layer at a time")
    if gather != "layer" and fsdp != 1:
        out.append(whole)
    if data != 1 or fsdp != 1:
        out.append("BATCH_SIZE: fewer rows in a batch")
    return out
