"""Bytes that one HLO instruction reads and writes, in HBM or in any memory."""

from collections.abc import Iterable

from distill.precompile.collectives import KINDS
from distill.precompile.hlo import HBM, Computation, Instruction, Module, Shape
from distill.precompile.operations import ELEMENTWISE, TRANSCENDENTAL, operand_shape, result_of_start

_FREE = """add-dependency after-all bitcast call conditional constant domain get-tuple-element opt-barrier parameter
partition-id replica-id tuple while"""
# Opcodes that refer to memory or order instructions, and move no bytes.
FREE = frozenset(_FREE.split())
FREE_CUSTOM_CALLS = frozenset(
    ("AllocateBuffer", "AssumeGatherIndicesInBound", "ConcatBitcast", "GatherScatterIndicesBitpacked", "Sharding")
)


def moved(module: Module, computation: Computation, instruction: Instruction) -> tuple[int, int]:
    """Returns the bytes that an instruction reads and writes at its boundary: in all memories, and in HBM alone.

    Args:
      module: the program.
      computation: the computation that contains ``instruction``; not a fused one.
      instruction: any instruction except a loop.
    """
    parts = _parts(module, computation, instruction)
    return sum(n for _, n in parts), sum(n for shape, n in parts if shape.memory_space == HBM)


def _parts(module: Module, computation: Computation, instruction: Instruction) -> list[tuple[Shape, int]]:
    """Each array that is read or written, and the number of its bytes that are."""

    def some(shape: Shape, amount: int | None = None) -> list[tuple[Shape, int]]:
        return [(leaf, leaf.bytes if amount is None else min(amount, leaf.bytes)) for leaf in shape.leaves()]

    def every(shapes: Iterable[Shape]) -> list[tuple[Shape, int]]:
        return [part for shape in shapes for part in some(shape)]

    opcode = instruction.opcode.removesuffix("-start")
    if instruction.opcode in FREE or opcode.endswith(("-done", "-update")):
        return []
    if opcode == "custom-call" and (instruction.attribute("custom_call_target") or "").strip('"') in FREE_CUSTOM_CALLS:
        return []
    shapes = [operand_shape(computation, instruction, n) for n in range(len(instruction.operands))]
    result = result_of_start(instruction) if instruction.opcode.endswith("-start") else instruction.shape
    if opcode == "fusion":
        inner = module.computations[instruction.called("calls")[0]]
        shares = _demand(module, inner)
        reads = [some(shape, round(shares.get(n, 0.0) * shape.bytes)) for n, shape in enumerate(shapes)]
        return [*(part for read in reads for part in read), *_written(module, inner, result)]
    if opcode in ("slice", "dynamic-slice", "gather"):
        return [*some(result), *some(shapes[0], result.bytes), *every(shapes[1:])]
    if opcode == "dynamic-update-slice":
        return [*some(result, shapes[1].bytes), *every(shapes[1:])]
    if opcode == "scatter":
        # Operands, indices, updates: the updated part is read and written, nothing else.
        half = len(shapes) // 2
        updated = [part for n, leaf in enumerate(result.leaves()) for part in some(leaf, shapes[half + 1 + n].bytes)]
        return [*updated, *updated, *every(shapes[half:])]
    return [*some(result), *every(shapes)]


def of_collective(fused: Computation, instruction: Instruction) -> tuple[int, int]:
    """Returns the bytes that a collective inside a fusion reads and writes, in all memories and in HBM."""
    shapes = [operand_shape(fused, instruction, n) for n in range(len(instruction.operands))]
    if not fused.name.startswith("all-reduce-scatter"):
        shapes.append(instruction.shape)
    leaves = [leaf for shape in shapes for leaf in shape.leaves()]
    return sum(leaf.bytes for leaf in leaves), sum(leaf.bytes for leaf in leaves if leaf.memory_space == HBM)


def _demand(module: Module, fused: Computation, share: float = 1.0) -> dict[int, float]:
    """Maps parameter numbers to the share of the parameter that a fusion reads, if ``share`` of its result is used.

    A parameter that is only sliced counts its slices. A parameter that is updated in place, passed through or sent by a
    collective (which is counted separately) counts nothing.
    """
    wanted = {fused.root: share}
    out: dict[int, float] = {}
    for instruction in reversed(fused.instructions.values()):
        part = min(1.0, wanted.get(instruction.name, 0.0))
        if part == 0.0:
            continue
        if instruction.opcode == "parameter":
            out[int(instruction.literal)] = part
            continue
        inner: dict[int, float] = {}
        if instruction.opcode == "fusion":
            inner = _demand(module, module.computations[instruction.called("calls")[0]], part)
        for number, operand in enumerate(instruction.operands):
            if instruction.opcode == "tuple" and fused.instructions[operand].opcode == "parameter":
                continue
            shape = fused.instructions[operand].shape
            more = (
                inner.get(number, 0.0) if instruction.opcode == "fusion" else _passed(instruction, number, shape, part)
            )
            wanted[operand] = wanted.get(operand, 0.0) + more
    return out


def _passed(instruction: Instruction, number: int, operand: Shape, part: float) -> float:
    """The share of an operand that is read if ``part`` of the instruction's result is used."""
    opcode = instruction.opcode
    if opcode in ("slice", "dynamic-slice", "gather") and number == 0:
        return part * instruction.shape.size / max(1, operand.size)
    if opcode in KINDS or (opcode == "dynamic-update-slice" and number == 0):
        return 0.0
    same = opcode in ELEMENTWISE or opcode in TRANSCENDENTAL or opcode in ("bitcast", "copy", "reshape", "transpose")
    return part if same and operand.size == instruction.shape.size else 1.0


def _written(module: Module, fused: Computation, result: Shape) -> list[tuple[Shape, int]]:
    """Each array of a fusion's result with the bytes that are written: only the update if it is updated in place."""
    leaves = list(result.leaves())
    root = fused.instructions[fused.root]
    roots = list(root.operands) if root.opcode == "tuple" and len(root.operands) == len(leaves) else [root.name]
    if len(roots) != len(leaves):
        return [(leaf, leaf.bytes) for leaf in leaves]
    return [(leaf, _update_bytes(module, fused, name, leaf.bytes)) for leaf, name in zip(leaves, roots)]


def _update_bytes(module: Module, fused: Computation, name: str, default: int) -> int:
    instruction = fused.instructions[name]
    while instruction.opcode == "bitcast":
        instruction = fused.instructions[instruction.operands[0]]
    if instruction.opcode == "parameter" or instruction.opcode in KINDS:
        return 0
    if instruction.opcode == "dynamic-update-slice":
        return operand_shape(fused, instruction, 1).bytes
    if instruction.opcode == "fusion" and instruction.shape.dtype != "tuple":
        inner = module.computations[instruction.called("calls")[0]]
        return _update_bytes(module, inner, inner.root, default)
    return default
