"""A parser of optimised HLO text: computations, instructions, and shapes with layouts.

The text is that of ``compiled.as_text()``. The parser reads only what the analysis needs; attributes stay text until
they are requested.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator

from distill.validation import quoted

BITS = {"pred": 8, "s2": 2, "u2": 2, "s4": 4, "u4": 4, "bf16": 16, "c64": 64, "c128": 128, "token": 0, "opaque": 0}
# Shapes give the memory by number. TPU programs keep small buffers in on-chip memory and everything else in HBM.
HBM, ON_CHIP = 0, 1


class HloError(ValueError):
    """HLO text that this parser does not understand."""


@dataclasses.dataclass(frozen=True)
class Shape:
    """The shape of an array or a tuple.

    Attributes:
      dtype: ``f32``, ``bf16``, …; ``tuple`` for a tuple.
      dims: sizes, in logical order.
      minor_to_major: the layout: dimension numbers, fastest first; empty if not given.
      tile: the outermost tile of the layout; empty if there is none.
      memory_space: 0 is HBM, 1 the on-chip vector memory; others are scalar memory, host memory and flags.
      elements: the members of a tuple.
    """

    dtype: str
    dims: tuple[int, ...] = ()
    minor_to_major: tuple[int, ...] = ()
    tile: tuple[int, ...] = ()
    memory_space: int = HBM
    elements: tuple["Shape", ...] = ()

    def leaves(self) -> Iterator["Shape"]:
        """The array shapes in it."""
        if self.dtype != "tuple":
            yield self
        for element in self.elements:
            yield from element.leaves()

    @property
    def size(self) -> int:
        """Number of elements of all leaves together."""
        return sum(math.prod(leaf.dims) for leaf in self.leaves())

    @property
    def bytes(self) -> int:
        """Bytes of all leaves, without padding."""
        return sum(-(-math.prod(leaf.dims) * bits(leaf.dtype) // 8) for leaf in self.leaves())

    @property
    def padded_bytes(self) -> int:
        """Bytes of all leaves in memory, padded to whole tiles."""
        total = 0
        for leaf in self.leaves():
            dims = [leaf.dims[i] for i in leaf.minor_to_major] or list(reversed(leaf.dims)) or [1]
            for position, tile in enumerate(reversed(leaf.tile)):
                if position < len(dims):
                    dims[position] = -(-dims[position] // tile) * tile
            total += -(-math.prod(dims) * bits(leaf.dtype) // 8)
        return total

    def __str__(self) -> str:
        if self.dtype == "tuple":
            return f"({', '.join(map(str, self.elements))})"
        return f"{self.dtype}[{','.join(map(str, self.dims))}]"


@functools.cache
def bits(dtype: str) -> int:
    """Returns the bits per element of ``dtype``. Raises HloError for an unknown type."""
    if dtype in BITS:
        return BITS[dtype]
    number = re.match(r"[suf](\d+)", dtype)
    if not number:
        raise HloError(f"unknown element type {dtype!r}")
    return int(number[1])


_ARRAY = re.compile(r"([a-z]\w*)\[([^\]]*)\](?:\{([^{}]*)\})?")
_COMMENT = re.compile(r"/\*.*?\*/")


@functools.lru_cache(maxsize=100_000)
def parse_shape(text: str) -> Shape:
    """Parses a shape such as ``(f32[8,128]{1,0:T(8,128)S(1)}, u32[])``."""
    text = _COMMENT.sub("", text).strip()
    if text.startswith("("):
        return Shape("tuple", elements=tuple(parse_shape(part) for part in split(text[1:-1])))
    match = _ARRAY.fullmatch(text)
    if not match:
        raise HloError(f"not a shape: {quoted(text)}")
    dims = tuple(int(size.removeprefix("<=")) for size in match[2].split(",") if size)
    order, _, rest = (match[3] or "").partition(":")
    tile, space = re.search(r"T\(([\d,*]+)\)", rest), re.search(r"S\((\d+)\)", rest)
    return Shape(
        match[1],
        dims,
        tuple(int(i) for i in order.split(",") if i),
        tuple(int(size) for size in tile[1].split(",") if size != "*") if tile else (),
        int(space[1]) if space else HBM,
    )


def split(text: str) -> list[str]:
    """Splits at the commas outside of brackets."""
    parts, depth, start = [], 0, 0
    for match in re.finditer(r"[(){}\[\],]", text):
        sign = match[0]
        if sign == ",":
            if depth == 0:
                parts.append(text[start : match.start()])
                start = match.end()
        else:
            depth += 1 if sign in "({[" else -1
    last = text[start:]
    return [*parts, last] if last.strip() else parts


def _closing(text: str, start: int) -> int:
    """Returns the index of the bracket that closes the one at ``start``."""
    depth = 0
    for match in re.compile(r"[()]").finditer(text, start):
        depth += 1 if match[0] == "(" else -1
        if depth == 0:
            return match.start()
    raise HloError(f"a bracket is never closed: {text[start : start + 80]!r}")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One instruction of a computation.

    Attributes:
      name: without ``%``.
      shape: shape of its result.
      opcode: ``fusion``, ``convolution``, …
      operands: names of its operands; empty for a ``constant`` or a ``parameter``.
      literal: the text between the brackets after the opcode.
      attributes: the text after the brackets, without metadata and backend configuration.
      op_name: the operation it comes from; empty if unknown.
      backend_config: text; empty if there is none.
      is_root: whether it is the result of the computation.
    """

    name: str
    shape: Shape
    opcode: str
    operands: tuple[str, ...]
    literal: str
    attributes: str
    op_name: str
    backend_config: str
    is_root: bool

    def attribute(self, name: str) -> str | None:
        """Returns the value of attribute ``name`` as text (without its brackets), or None if absent."""
        match = re.search(rf"(?:^|[ ,]){name}=(?:\{{((?:[^{{}}]|\{{[^{{}}]*\}})*)\}}|([^,]*))", self.attributes)
        if match is None:
            return None
        return match[1] if match[1] is not None else match[2].strip()

    def numbers(self, name: str) -> tuple[int, ...]:
        """Returns the value of attribute ``name`` as integers."""
        return tuple(int(n) for n in re.findall(r"-?\d+", self.attribute(name) or ""))

    def called(self, *names: str) -> tuple[str, ...]:
        """Returns the names of the computations that the attributes ``names`` refer to."""
        found: list[str] = []
        for name in names:
            found += (part.strip().removeprefix("%") for part in (self.attribute(name) or "").split(",") if part)
        return tuple(found)


@dataclasses.dataclass
class Computation:
    """A named list of instructions, in order.

    Attributes:
      name: without ``%``.
      instructions: instructions by name.
      root: name of the instruction that is the result.
    """

    name: str
    instructions: dict[str, Instruction] = dataclasses.field(default_factory=dict)
    root: str = ""

    @functools.cached_property
    def users(self) -> dict[str, list[Instruction]]:
        """Maps an instruction's name to the instructions that read it."""
        users: dict[str, list[Instruction]] = {}
        for instruction in self.instructions.values():
            for operand in dict.fromkeys(instruction.operands):
                users.setdefault(operand, []).append(instruction)
        return users

    @functools.cached_property
    def parameters(self) -> dict[int, Instruction]:
        """Maps parameter numbers to the parameters."""
        return {int(i.literal): i for i in self.instructions.values() if i.opcode == "parameter"}


@dataclasses.dataclass
class Module:
    """A program: its ``computations`` by name, the name of its ``entry``, and ``num_partitions``, its devices."""

    computations: dict[str, Computation]
    entry: Computation
    num_partitions: int


_LINE = re.compile(r"\s*(ROOT )?%?([\w.\-]+) = ")
_HEADER = re.compile(r"(ENTRY )?%?([\w.\-]+) (?:\(.*\) -> .*)?\{\s*$")
_OPCODE = re.compile(r"\s*([a-z][\w\-]*)\(")
_OP_NAME = re.compile(r'op_name="((?:[^"\\]|\\.)*)"')


def parse(text: str) -> Module:
    """Parses a module.

    Raises:
      HloError: the text is no module, or has a line that cannot be parsed.
    """
    computations: dict[str, Computation] = {}
    entry = current = None
    partitions = 1
    for line in text.splitlines():
        if line.startswith("HloModule"):
            found = re.search(r"num_partitions=(\d+)", line)
            partitions = int(found[1]) if found else 1
        elif line.startswith("}"):
            current = None
        elif current is not None:
            instruction = parse_instruction(line)
            if instruction is not None:
                current.instructions[instruction.name] = instruction
                if instruction.is_root:
                    current.root = instruction.name
        elif (header := _HEADER.match(line)) is not None:
            current = computations[header[2]] = Computation(header[2])
            entry = current if header[1] else entry
    if entry is None:
        raise HloError("no ENTRY computation: this is not the text of a compiled program")
    return Module(computations, entry, partitions)


def parse_instruction(line: str) -> Instruction | None:
    """Parses one line of a computation; None if it holds no instruction."""
    head = _LINE.match(line)
    if head is None:
        return None
    start = head.end()
    end = _closing(line, start) + 1 if line[start] == "(" else line.index(" ", start)
    opcode = _OPCODE.match(line, end)
    if opcode is None:
        raise HloError(f"no operation in {quoted(line.strip(), 120)}")
    close = _closing(line, opcode.end() - 1)
    inside, rest = line[opcode.end() : close], line[close + 1 :]
    named = opcode[1] not in ("constant", "parameter")
    attributes = rest.partition(", backend_config=")[0].partition(", metadata=")[0].lstrip(", ")
    op_name = _OP_NAME.search(rest)
    return Instruction(
        head[2],
        parse_shape(line[start:end]),
        opcode[1],
        # Older printers write an operand's shape before its name.
        tuple(part.split()[-1].removeprefix("%") for part in split(_COMMENT.sub("", inside))) if named else (),
        inside,
        attributes,
        op_name[1].replace("\\'", "'") if op_name else "",
        rest.partition(", backend_config=")[2],
        bool(head[1]),
    )
