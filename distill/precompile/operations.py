"""The operations of one HLO instruction, by the conventions of XLA's own cost analysis."""

import math
import re

from distill.precompile.hlo import Computation, Instruction, Shape

_ELEMENTWISE = """abs add and bitcast-convert ceil clamp compare convert count-leading-zeros divide floor imag is-finite map
maximum minimum multiply negate not or popcnt real reduce-precision remainder round-nearest-afz round-nearest-even select
shift-left shift-right-arithmetic shift-right-logical sign subtract xor"""
_TRANSCENDENTAL = """atan2 cbrt cosine erf exponential exponential-minus-one log log-plus-one logistic power rng
rng-bit-generator rsqrt sine sqrt tan tanh"""
# Opcodes with one operation per element of the result, and transcendental ones, which are counted separately.
ELEMENTWISE, TRANSCENDENTAL = frozenset(_ELEMENTWISE.split()), frozenset(_TRANSCENDENTAL.split())


def operand_shape(computation: Computation, instruction: Instruction, number: int) -> Shape:
    """Returns the shape of operand ``number`` of an instruction."""
    return computation.instructions[instruction.operands[number]].shape


def dot_flops(computation: Computation, dot: Instruction) -> int:
    """Returns 2 × elements of the result × size of the contraction."""
    left = operand_shape(computation, dot, 0)
    return 2 * dot.shape.size * math.prod(left.dims[i] for i in dot.numbers("lhs_contracting_dims"))


def convolution_flops(computation: Computation, convolution: Instruction) -> int:
    """Returns 2 × the number of (input element, kernel element) pairs; padding and holes of dilation do not count.

    TPU programs write most matmuls as convolutions, and batched ones as dilated convolutions.
    """
    left, right = operand_shape(computation, convolution, 0), operand_shape(computation, convolution, 1)
    labels = convolution.attribute("dim_labels") or ""
    match = re.fullmatch(r"(\w+)_(\w+)->(\w+)", labels)
    if not match:
        raise ValueError(f"convolution {convolution.name} has unknown dim_labels {labels!r}")
    inputs, kernel, output = match.groups()
    fields = dict(part.split("=") for part in (convolution.attribute("window") or "").split())
    pairs = 1
    for number, spatial in enumerate(sorted(c for c in inputs if c.isdigit())):
        low = int(fields["pad"].split("x")[number].split("_")[0]) if "pad" in fields else 0
        strides = [
            int(fields[name].split("x")[number]) if name in fields else 1
            for name in ("stride", "lhs_dilate", "rhs_dilate")
        ]
        sizes = left.dims[inputs.index(spatial)], right.dims[kernel.index(spatial)]
        pairs *= _meetings(*sizes, convolution.shape.dims[output.index(spatial)], low, *strides)
    groups = [(convolution.numbers(f"{name}_group_count") or (1,))[0] for name in ("feature", "batch")]
    features = left.dims[inputs.index("f")] // groups[0]
    batch = left.dims[inputs.index("b")] // groups[1]
    return 2 * features * batch * convolution.shape.dims[output.index("f")] * pairs


def _meetings(inputs: int, kernel: int, output: int, low: int, stride: int, base: int, window: int) -> int:
    """The (output position, kernel position) pairs along one dimension that fall on an input element."""
    if (stride, base) == (1, 1):
        starts = (low - k * window for k in range(kernel))
        return sum(max(0, min(inputs + start, output) - max(start, 0)) for start in starts)
    places = (o * stride - low + k * window for o in range(output) for k in range(kernel))
    return sum(place % base == 0 and 0 <= place // base < inputs for place in places)


def reduce_applications(computation: Computation, instruction: Instruction) -> int:
    """Returns how often a reduction applies its function."""
    result = next(instruction.shape.leaves()).size
    if instruction.opcode == "reduce":
        return max(0, operand_shape(computation, instruction, 0).size - result)
    window = dict(part.split("=") for part in (instruction.attribute("window") or "size=1").split())
    sizes = [int(n) for n in window["size"].split("x")]
    wide = [dim for dim, size in enumerate(sizes) if size > 1]
    dims = next(instruction.shape.leaves()).dims
    if len(wide) == 1 and sizes[wide[0]] == 2 * dims[wide[0]] - 1:
        # A window that covers everything from every position: TPU programs write a broadcast reduction this way.
        return result - result // dims[wide[0]]
    return (math.prod(sizes) - 1) * result


def result_of_start(instruction: Instruction) -> Shape:
    """Returns the part of an asynchronous start's shape that is its result."""
    shape, base = instruction.shape, instruction.opcode.removesuffix("-start")
    if base == "all-reduce" or shape.dtype != "tuple" or not shape.elements:
        return shape
    return shape.elements[0 if base == "copy" or len(shape.elements) == 1 else 1]


def expected_cycles(instruction: Instruction) -> float:
    """Returns the cycles that the TPU compiler estimates for an instruction, or 0 without an estimate."""
    found = re.search(r'"estimated_cycles"\s*:\s*"?(\d+)', instruction.backend_config)
    return float(found[1]) if found else 0.0


def kernel_estimate(instruction: Instruction) -> dict[str, float]:
    """Returns the ``cost_estimate`` of a Pallas kernel, or an empty dict if it has none."""
    found = re.search(r'"cost_estimate"\s*:\s*\{([^{}]*)\}', instruction.backend_config)
    pairs = re.findall(r'"(\w+)"\s*:\s*"?(-?[\d.eE+-]+)', found[1]) if found else []
    return {name: max(0.0, float(value)) for name, value in pairs}
