"""Collectives of a compiled program: their participants, mesh axes and the bytes that each chip sends."""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence

import numpy as np

from distill.precompile.hlo import Computation, Instruction
from distill.precompile.operations import operand_shape, result_of_start
from distill.validation import quoted

KINDS = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-broadcast",
    "collective-permute",
    "ragged-all-to-all",
    "reduce-scatter",
)


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective of the program. Bytes are per chip and step, summed over all iterations of its loops.

    Attributes:
      kind: one of :data:`KINDS`.
      axes: the mesh axes it runs along, such as ``("data", "fsdp")``; ``("?",)`` if its groups follow no mesh axis.
      group_size: chips per group.
      count: executions per step.
      operand_bytes, result_bytes: bytes of its operands and of its results.
      wire_bytes: bytes that each chip sends if the collective runs on a ring.
      op_name: the operation it comes from.
    """

    kind: str
    axes: tuple[str, ...]
    group_size: int
    count: float
    operand_bytes: float
    result_bytes: float
    wire_bytes: float
    op_name: str = ""

    def times(self, turns: float) -> "Collective":
        """Returns the same collective, executed ``turns`` times as often."""
        scaled = {
            name: getattr(self, name) * turns for name in ("count", "operand_bytes", "result_bytes", "wire_bytes")
        }
        return dataclasses.replace(self, **scaled)


def kind_of(instruction: Instruction) -> str | None:
    """Returns the kind of collective that an instruction is, or starts; None for any other instruction."""
    base = instruction.opcode.removesuffix("-start")
    return base if base in KINDS else None


def read(
    computation: Computation, instruction: Instruction, num_partitions: int, mesh: Mapping[str, int] | None
) -> Collective | None:
    """Returns the collective that ``instruction`` is; None for other instructions and for groups of one chip.

    Args:
      computation: the computation that contains ``instruction``.
      instruction: any instruction.
      num_partitions: number of devices of the program.
      mesh: mesh axis → size, in order. Partition p is device p of the mesh in row-major order.
    """
    kind = kind_of(instruction)
    if kind is None:
        return None
    started = instruction.opcode.endswith("-start")
    result = (result_of_start(instruction) if started else instruction.shape).bytes
    operand = sum(operand_shape(computation, instruction, n).bytes for n in range(len(instruction.operands)))
    if kind == "collective-permute":
        pairs = instruction.attribute("source_target_pairs") or ""
        numbers = [int(n) for n in re.findall(r"\d+", pairs)]
        groups = [list(pair) for pair in zip(numbers[::2], numbers[1::2]) if pair[0] != pair[1]]
    else:
        groups = replica_groups(instruction.attributes, num_partitions)
    size = max((len(group) for group in groups), default=1)
    if size <= 1:
        return None
    return Collective(
        kind,
        mesh_axes(groups, mesh),
        size,
        1,
        operand,
        result,
        wire_bytes(kind, size, operand, result),
        instruction.op_name,
    )


def wire_bytes(kind: str, size: int, operand: float, result: float) -> float:
    """Returns the bytes that each of ``size`` chips sends if the collective runs on a ring."""
    share = (size - 1) / size
    if kind == "all-reduce":
        return 2 * share * operand
    if kind in ("all-gather", "collective-broadcast"):
        return share * result
    return operand if kind == "collective-permute" else share * operand


def scattered(collective: Collective, fused: Computation, instruction: Instruction) -> Collective:
    """``collective``; as a reduce-scatter if it is an all-reduce of which a fusion keeps only this chip's slice."""
    if collective.kind != "all-reduce" or not fused.name.startswith("all-reduce-scatter"):
        return collective
    slices = [user.shape.bytes for user in fused.users.get(instruction.name, ()) if user.opcode == "dynamic-slice"]
    sent = wire_bytes("reduce-scatter", collective.group_size, collective.operand_bytes, 0.0)
    return dataclasses.replace(collective, kind="reduce-scatter", result_bytes=sum(slices), wire_bytes=sent)


_IOTA = re.compile(r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_TRANSPOSED = re.compile(r"\[([\d,]+)\]T\(([\d,]+)\)")
_MESH = re.compile(r"mesh\[([^\]]*)\]\s*(.*?)\s*\{([^}]*)\}")


def replica_groups(attributes: str, num_partitions: int) -> list[list[int]]:
    """Parses ``replica_groups=…`` in any of its three forms: lists, iota and mesh axes.

    Raises:
      ValueError: an unknown form.
    """
    match = re.search(r"replica_groups=", attributes)
    if match is None:
        return [list(range(num_partitions))]
    text = attributes[match.end() :]
    if text.startswith("{"):
        listed = re.match(r"\{((?:\{[^{}]*\},?\s*)*)\}", text)
        groups = re.findall(r"\{([^{}]*)\}", listed[1]) if listed else []
        return [[int(n) for n in group.split(",") if n.strip()] for group in groups] or [list(range(num_partitions))]
    if (iota := _IOTA.match(text)) is not None:
        return _iota(iota).tolist()
    if (mesh := _MESH.match(text)) is not None:
        return _of_mesh(mesh[1], mesh[2], mesh[3])
    raise ValueError(f"unknown replica groups: {quoted(text)}")


def _iota(match: re.Match) -> np.ndarray:
    shape, source, order = ([int(n) for n in (group or "").split(",") if n] for group in match.groups())
    numbers = np.arange(math.prod(source)).reshape(source)
    return (numbers.transpose(order) if order else numbers).reshape(shape)


def _device_ids(text: str, number: int) -> np.ndarray:
    """The device ids of a mesh in order: a list, one of two iota forms, or 0, 1, 2, … if ``text`` is empty."""
    if (iota := _IOTA.search(text)) is not None:
        return _iota(iota)
    if (transposed := _TRANSPOSED.search(text)) is not None:
        shape, order = ([int(n) for n in group.split(",")] for group in transposed.groups())
        return np.arange(number).reshape(shape).transpose(order)
    return np.array([int(n) for n in re.findall(r"\d+", text)] or np.arange(number))


def _of_mesh(sizes: str, devices: str, axes: str) -> list[list[int]]:
    """Groups along ``axes`` of a mesh. An axis may be part of a mesh axis: ``'x':(2)4`` is 4 of x after its first 2."""
    names = [(name.strip().strip("'"), int(size)) for name, size in (part.split("=") for part in sizes.split(","))]
    dims = [size for _, size in names]
    ids = _device_ids(devices, math.prod(dims))
    pieces: list[tuple[int, bool]] = []
    matches = [
        re.fullmatch(r"'?([\w.\-]+)'?(?::\((\d+)\)(\d+))?", part.strip()) for part in axes.split(",") if part.strip()
    ]
    for name, size in names:
        parts = [(int(m[2] or 1), int(m[3] or size)) for m in matches if m is not None and m[1] == name]
        done = 1
        for before, width in sorted(parts):
            pieces += [(before // done, False), (width, True)]
            done = before * width
        pieces.append((size // done, False))
    grid = ids.reshape([size for size, _ in pieces])
    together = [i for i, (_, taken) in enumerate(pieces) if taken]
    apart = [i for i, (_, taken) in enumerate(pieces) if not taken]
    group = math.prod(pieces[i][0] for i in together)
    return grid.transpose(apart + together).reshape(-1, group).tolist()


def mesh_axes(groups: Sequence[Sequence[int]], mesh: Mapping[str, int] | None) -> tuple[str, ...]:
    """Returns the mesh axes along which the members of the groups differ."""
    if mesh is None:
        return ("?",)
    sizes = tuple(mesh.values())
    if any(n >= math.prod(sizes) for group in groups for n in group):
        return ("?",)
    varying: set[int] = set()
    for group in groups:
        places = np.array(np.unravel_index(np.array(group), sizes))
        varying |= set(np.flatnonzero((places != places[:, :1]).any(axis=1)).tolist())
    return tuple(name for number, name in enumerate(mesh) if number in varying) or ("?",)
