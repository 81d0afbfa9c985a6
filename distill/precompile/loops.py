"""Trip counts of the ``while`` loops of an HLO program, derived from the counter, its bound and its step."""

import dataclasses
import re
from typing import Any

from distill.precompile.hlo import Computation, Instruction, Module


@dataclasses.dataclass(frozen=True)
class Trips:
    """The trip count of a loop.

    Attributes:
      count: number of iterations; 1 if unknown.
      exact: False if the loop may end earlier (decoding stops when every row has ended).
      known: False if no bound was found.
    """

    count: int
    exact: bool = True
    known: bool = True


# The symbolic value of a scalar: a constant, carried value n, that value plus a constant, or a test of two scalars.
Scalar = tuple[Any, ...] | None
_SAME = {"copy", "convert", "bitcast", "reshape", "copy-start", "copy-done"}
_FLIPPED = {"LT": "GT", "LE": "GE", "GT": "LT", "GE": "LE"}


def trips(module: Module, within: Computation, loop: Instruction) -> Trips:
    """Returns the trip count of ``loop``, an instruction of computation ``within``.

    The compiler's ``known_trip_count`` is used if it is printed. Otherwise the condition must compare a carried counter
    with a constant, alone or as one of several tests joined by ``and``.
    """
    stated = re.search(r'"?known_trip_count"?\s*:\s*\{\s*"?n"?\s*:\s*"?(\d+)', loop.backend_config)
    if stated:
        return Trips(int(stated[1]))
    condition = module.computations[loop.called("condition")[0]]
    body = module.computations[loop.called("body")[0]]
    tests = _conjuncts(_scalar(module, condition, condition.root, None))
    for test in tests:
        bound = _bound(module, within, loop, body, test)
        if bound is not None:
            return Trips(bound, exact=len(tests) == 1)
    return Trips(1, exact=False, known=False)


def _conjuncts(scalar: Scalar) -> list[Scalar]:
    if scalar is not None and scalar[0] == "and":
        return [*_conjuncts(scalar[1]), *_conjuncts(scalar[2])]
    return [scalar]


def _bound(module: Module, within: Computation, loop: Instruction, body: Computation, test: Scalar) -> int | None:
    if test is None or test[0] != "compare":
        return None
    _, direction, left, right = test
    if left is None or right is None:
        return None
    if left[0] != "carried" or (right[0] == "carried" and _is_invariant(module, body, left[1])):
        left, right, direction = right, left, _FLIPPED.get(direction, direction)
    if left[0] != "carried":
        return None
    limit = right
    if right[0] == "carried" and _is_invariant(module, body, right[1]):
        limit = _initial(module, within, loop, right[1])
    start = _initial(module, within, loop, left[1])
    step = _carried_out(module, body, left[1])
    if limit is None or limit[0] != "constant":
        return None
    first = start[1] if start is not None and start[0] == "constant" else 0
    stride = step[2] if step is not None and step[0] == "add" and step[1] == left[1] else 1
    if direction in ("GT", "GE"):
        first, last, stride = -first, -limit[1], -stride
    else:
        last = limit[1]
    if stride <= 0:
        return None
    span = last - first + (1 if direction in ("LE", "GE") else 0)
    if direction == "NE" and span % stride:
        return None
    return max(0, -(-span // stride)) if direction != "EQ" else None


def _initial(module: Module, within: Computation, loop: Instruction, index: int) -> Scalar:
    """The initial value of a carried value."""
    start = within.instructions.get(loop.operands[0])
    while start is not None and start.opcode in _SAME:
        start = within.instructions.get(start.operands[0])
    if start is None or start.opcode != "tuple":
        return None
    return _scalar(module, within, start.operands[index], None)


def _carried_out(module: Module, body: Computation, index: int) -> Scalar:
    """A carried value after one iteration."""
    root = body.instructions[body.root]
    return _scalar(module, body, root.operands[index], None) if root.opcode == "tuple" else None


def _is_invariant(module: Module, body: Computation, index: int) -> bool:
    return _carried_out(module, body, index) == ("carried", index)


def _scalar(module: Module, computation: Computation, name: str, arguments: list[Scalar] | None) -> Scalar:
    """The symbolic value of ``name``. ``arguments`` are those of a fused computation, None for the loop's own."""
    instruction = computation.instructions.get(name)
    if instruction is None:
        return None
    opcode, operands = instruction.opcode, instruction.operands

    def operand(number: int) -> Scalar:
        return _scalar(module, computation, operands[number], arguments)

    if opcode == "constant":
        return ("constant", int(instruction.literal)) if re.fullmatch(r"-?\d+", instruction.literal) else None
    if opcode == "parameter":
        number = int(instruction.literal)
        return ("state",) if arguments is None else arguments[number] if number < len(arguments) else None
    if opcode == "get-tuple-element":
        return ("carried", *instruction.numbers("index")) if operand(0) == ("state",) else None
    if opcode in _SAME:
        return operand(0)
    if opcode in ("fusion", "call"):
        inner = module.computations[instruction.called("calls", "to_apply")[0]]
        return _scalar(module, inner, inner.root, [operand(n) for n in range(len(operands))])
    if opcode == "compare":
        return ("compare", instruction.attribute("direction"), operand(0), operand(1))
    if opcode == "and":
        return ("and", operand(0), operand(1))
    if opcode in ("add", "subtract"):
        return _sum(operand(0), operand(1), 1 if opcode == "add" else -1)
    return None


def _sum(left: Scalar, right: Scalar, sign: int) -> Scalar:
    if left is None or right is None:
        return None
    if sign > 0 and left[0] == "constant":
        left, right = right, left
    if right[0] != "constant":
        return None
    if left[0] == "constant":
        return ("constant", left[1] + sign * right[1])
    if left[0] == "carried":
        return ("add", left[1], sign * right[1])
    if left[0] == "add":
        return ("add", left[1], left[2] + sign * right[1])
    return None
