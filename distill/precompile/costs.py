"""The costs of a compiled step per chip: operations, bytes and collectives, with loop bodies times their trip count.

XLA's own ``cost_analysis()`` counts a loop body once, so a stack of scanned layers costs as much as one layer. Here
each loop body is multiplied by its trip count. A Pallas kernel has the costs that its ``cost_estimate`` states.

With ``count_trips=False``, operations agree with XLA's within 0.01 % on the training steps of this repository. Bytes
are fewer, because XLA counts two things twice on TPUs: the concatenation of prefetched slices, which moves nothing, and
the source of every asynchronous copy. With these added, bytes agree with XLA's within 6 %.
"""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from distill.precompile import collectives, hlo, loops, operations, traffic
from distill.precompile.collectives import Collective


@dataclasses.dataclass(frozen=True)
class Costs:
    """Costs of one step on one chip.

    Attributes:
      flops: operations; a multiply-add is two, an elementwise operation is one per element, as in XLA.
      matmul_flops: the operations of dots and convolutions, and those that kernels state.
      transcendentals: elements of exp, log, sqrt, tanh and the like, not included in ``flops``.
      bytes_accessed: bytes that instructions and fusions read and write, in any memory.
      hbm_bytes: the bytes of ``bytes_accessed`` that are in HBM.
      expected_cycles: sum of the compiler's own estimates, which Pallas kernels and collectives do not have. It ranks
        programs for the same chip with the same kernels and collectives; it is not a time.
      collectives: one entry per collective of the program.
      bounded_loops: loops that may end early; they are counted up to their bound.
      unknown_loops: loops with unknown trip count; they are counted once.
    """

    flops: float = 0.0
    matmul_flops: float = 0.0
    transcendentals: float = 0.0
    bytes_accessed: float = 0.0
    hbm_bytes: float = 0.0
    expected_cycles: float = 0.0
    collectives: tuple[Collective, ...] = ()
    bounded_loops: tuple[str, ...] = ()
    unknown_loops: tuple[str, ...] = ()

    @property
    def collective_bytes(self) -> float:
        """The sum, over all collectives, of the larger of operand and result bytes."""
        return sum(max(c.operand_bytes, c.result_bytes) for c in self.collectives)

    @property
    def wire_bytes(self) -> float:
        """Bytes that each chip sends if all collectives run on rings."""
        return sum(c.wire_bytes for c in self.collectives)

    def by_kind(self) -> dict[tuple[str, str], Collective]:
        """Collectives summed by kind and axes, the largest first; axes are joined as in ``data+fsdp``."""
        out: dict[tuple[str, str], Collective] = {}
        for one in self.collectives:
            key = (one.kind, "+".join(one.axes))
            total = out.get(key, dataclasses.replace(one.times(0.0), op_name=""))
            names = ("count", "operand_bytes", "result_bytes", "wire_bytes")
            out[key] = dataclasses.replace(total, **{name: getattr(total, name) + getattr(one, name) for name in names})
        return dict(sorted(out.items(), key=lambda item: -item[1].wire_bytes))

    def times(self, turns: float) -> "Costs":
        """Returns the costs of ``turns`` executions."""
        numbers = {f.name: getattr(self, f.name) * turns for f in dataclasses.fields(self) if f.type is float}
        return dataclasses.replace(self, **numbers, collectives=tuple(c.times(turns) for c in self.collectives))


def total(parts: Iterable[Costs]) -> Costs:
    """The sum."""
    every = list(parts)
    sums: dict[str, Any] = {}
    for field in dataclasses.fields(Costs):
        values = [getattr(part, field.name) for part in every]
        sums[field.name] = sum(values) if field.type is float else tuple(item for value in values for item in value)
    return Costs(**sums)


def analyse(text: str | hlo.Module, mesh: Mapping[str, int] | None = None, *, count_trips: bool = True) -> Costs:
    """Returns the costs of a program given as optimised HLO text.

    Args:
      text: the result of ``compiled.as_text()``, or that parsed.
      mesh: mesh axis → size, in order, to name the axes of collectives.
      count_trips: False counts each loop body once, for comparison with XLA.

    Raises:
      HloError: the text cannot be parsed.
    """
    module = hlo.parse(text) if isinstance(text, str) else text
    return _Analysis(module, mesh, count_trips).program()


class _Analysis:
    def __init__(self, module: hlo.Module, mesh: Mapping[str, int] | None, count_trips: bool):
        self.module, self.mesh, self.count_trips = module, mesh, count_trips
        self._of = functools.cache(self._computation)
        self._fused = functools.cache(self._fused_once)
        self._started = _starts(module.computations.values())

    def program(self) -> Costs:
        return self._of(self.module.entry.name)

    def _computation(self, name: str) -> Costs:
        """Costs of a computation that is not fused: the program, a loop body or a branch."""
        computation = self.module.computations[name]
        parts = [self._instruction(computation, i) for i in computation.instructions.values()]
        return total((*parts, self._fused_collectives(computation)))

    def _fused_collectives(self, computation: hlo.Computation) -> Costs:
        """Collectives inside the fusions of a computation.

        TPU programs fuse a collective with other work that runs at the same time. Its start, its steps and its end are
        then instructions of several fusions with the same channel; together they are one collective. The steps may also
        be in a loop between start and end; the collective then counts at its start.
        """
        channels = {i.attribute("channel_id") for i in computation.instructions.values() if collectives.kind_of(i)}
        inside = list(self._inside_fusions(computation))
        channels |= self._started - _starts(inner for inner, _ in inside)
        found = []
        for inner, instruction in inside:
            channel = instruction.attribute("channel_id")
            if collectives.kind_of(instruction) is None or (channel is not None and channel in channels):
                continue
            channels.add(channel)
            one = collectives.read(inner, instruction, self.module.num_partitions, self.mesh)
            if one is not None:
                one = collectives.scattered(one, inner, instruction)
                moved, hbm = traffic.of_collective(inner, instruction)
                found.append(Costs(bytes_accessed=moved, hbm_bytes=hbm, collectives=(one,)))
        return total(found)

    def _inside_fusions(self, computation: hlo.Computation) -> Iterator[tuple[hlo.Computation, hlo.Instruction]]:
        for instruction in computation.instructions.values():
            if instruction.opcode.removesuffix("-start") == "fusion":
                inner = self.module.computations[instruction.called("calls")[0]]
                yield from ((inner, i) for i in inner.instructions.values())
                yield from self._inside_fusions(inner)

    def _instruction(self, computation: hlo.Computation, instruction: hlo.Instruction) -> Costs:
        opcode = instruction.opcode
        if opcode == "while":
            return self._loop(computation, instruction)
        if opcode == "conditional":
            names = instruction.called("branch_computations", "true_computation", "false_computation")
            return max((self._of(name) for name in names), key=lambda c: (c.flops, c.bytes_accessed))
        if opcode in ("call", "async-start"):
            return total(self._of(name) for name in instruction.called("to_apply", "calls"))
        if opcode.endswith(("-done", "-update")):
            return Costs()
        base = opcode.removesuffix("-start")
        kernel = operations.kernel_estimate(instruction) if base == "custom-call" else {}
        if kernel:
            flops, moved = kernel.get("flops", 0.0), kernel.get("bytes_accessed", 0.0)
            return Costs(flops, flops, kernel.get("transcendentals", 0.0), moved, moved)
        flops, products, transcendentals = self._arithmetic(computation, instruction)
        found = collectives.read(computation, instruction, self.module.num_partitions, self.mesh)
        moved, hbm = traffic.moved(self.module, computation, instruction)
        cycles = operations.expected_cycles(instruction)
        return Costs(flops, products, transcendentals, moved, hbm, cycles, (found,) if found else ())

    def _loop(self, computation: hlo.Computation, loop: hlo.Instruction) -> Costs:
        turn = total(self._of(name) for name in loop.called("condition", "body"))
        if not self.count_trips:
            return turn
        trips = loops.trips(self.module, computation, loop)
        label = (loop.op_name or loop.name,)
        bounded = label if trips.known and not trips.exact else ()
        return total(
            (turn.times(trips.count), Costs(bounded_loops=bounded, unknown_loops=() if trips.known else label))
        )

    def _fused_once(self, name: str) -> tuple[float, float, float]:
        """Operations, matmul operations and transcendentals of a fused or applied computation."""
        computation = self.module.computations[name]
        parts = [self._arithmetic(computation, i) for i in computation.instructions.values()]
        return sum(p[0] for p in parts), sum(p[1] for p in parts), sum(p[2] for p in parts)

    def _arithmetic(self, computation: hlo.Computation, instruction: hlo.Instruction) -> tuple[float, float, float]:
        opcode, size = instruction.opcode.removesuffix("-start"), instruction.shape.size
        if opcode == "fusion":
            return self._fused(instruction.called("calls")[0])
        if opcode in ("dot", "convolution"):
            count = operations.dot_flops if opcode == "dot" else operations.convolution_flops
            flops = float(count(computation, instruction))
            return flops, flops, 0.0
        if opcode in operations.ELEMENTWISE:
            return float(size), 0.0, 0.0
        if opcode in operations.TRANSCENDENTAL:
            return 0.0, 0.0, float(size)
        if opcode in ("reduce", "reduce-window"):
            applied = operations.reduce_applications(computation, instruction)
            flops, products, transcendentals = self._fused(instruction.called("to_apply")[0])
            return applied * flops, applied * products, applied * transcendentals
        if opcode == "all-reduce":
            return float(size), 0.0, 0.0
        return 0.0, 0.0, 0.0


def _starts(computations: Iterable[hlo.Computation]) -> set[str | None]:
    """The channels of the collectives that start in the fused ``computations``."""
    return {
        computation.instructions[operand].attribute("channel_id")
        for computation in computations
        for instruction in computation.instructions.values()
        if (instruction.attribute("custom_call_target") or "").strip('"') == "AsyncCollectiveStart"
        for operand in instruction.operands
        if collectives.kind_of(computation.instructions[operand])
    }
