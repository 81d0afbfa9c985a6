"""Operations of single instructions against counts by hand and by loops over every pair of elements."""

import itertools

import pytest

from distill.precompile import operations
from distill.precompile.hlo import Computation, parse_instruction


def computation(*lines):
    """A computation of these instructions; the last is the one that is counted."""
    found = Computation("main")
    for line in lines:
        instruction = parse_instruction(f"  {line}")
        assert instruction is not None
        found.instructions[instruction.name] = instruction
    return found, instruction


def test_a_dot_is_two_operations_per_product():
    dot = computation(
        "%a = f32[3,4,5]{2,1,0} parameter(0)",
        "%b = f32[3,5,6]{2,1,0} parameter(1)",
        "%dot = f32[3,4,6]{2,1,0} dot(%a, %b), lhs_batch_dims={0}, rhs_batch_dims={0}, "
        "lhs_contracting_dims={2}, rhs_contracting_dims={1}",
    )
    assert operations.dot_flops(*dot) == 2 * 3 * 4 * 5 * 6


def test_a_matmul_written_as_a_convolution():
    convolution = computation(
        "%a = f32[8,16]{1,0} parameter(0)",
        "%b = f32[16,32]{1,0} parameter(1)",
        "%c = f32[8,32]{1,0} convolution(%a, %b), dim_labels=bf_io->bf",
    )
    assert operations.convolution_flops(*convolution) == 2 * 8 * 16 * 32


@pytest.mark.parametrize(
    "size, kernel, low, high, stride, base, window",
    [
        (10, 3, 0, 0, 1, 1, 1),
        (10, 3, 1, 1, 1, 1, 1),
        (10, 3, 2, 1, 2, 1, 1),
        (6, 3, 0, 0, 1, 2, 1),
        (9, 2, 3, 0, 1, 1, 3),
    ],
)
def test_padding_and_holes_do_not_count(size, kernel, low, high, stride, base, window):
    spread, reach = (size - 1) * base + 1, (kernel - 1) * window + 1
    output = (spread + low + high - reach) // stride + 1
    pairs = 0
    for o, k in itertools.product(range(output), range(kernel)):
        place = o * stride + k * window - low
        pairs += 0 <= place < spread and place % base == 0
    convolution = computation(
        f"%a = f32[2,{size},4]{{2,1,0}} parameter(0)",
        f"%b = f32[{kernel},4,5]{{2,1,0}} parameter(1)",
        f"%c = f32[2,{output},5]{{2,1,0}} convolution(%a, %b), window={{size={kernel} stride={stride} "
        f"pad={low}_{high} lhs_dilate={base} rhs_dilate={window}}}, dim_labels=b0f_0io->b0f",
    )
    assert operations.convolution_flops(*convolution) == 2 * 2 * 4 * 5 * pairs


def test_unknown_labels_are_an_error():
    convolution = computation(
        "%a = f32[8,16]{1,0} parameter(0)", "%c = f32[8,32]{1,0} convolution(%a, %a), dim_labels=bf"
    )
    with pytest.raises(ValueError, match="convolution c has unknown dim_labels 'bf'"):
        operations.convolution_flops(*convolution)


def test_a_reduction_applies_its_function_once_less_than_it_has_elements():
    reduce = computation(
        "%a = f32[3,7]{1,0} parameter(0)",
        "%zero = f32[] constant(0)",
        "%sum = f32[3]{0} reduce(%a, %zero), dimensions={1}, to_apply=%add",
    )
    assert operations.reduce_applications(*reduce) == 3 * 6
    window = computation(
        "%a = f32[8,9]{1,0} parameter(0)",
        "%zero = f32[] constant(0)",
        "%sum = f32[8,7]{1,0} reduce-window(%a, %zero), window={size=1x3}, to_apply=%add",
    )
    assert operations.reduce_applications(*window) == 8 * 7 * 2


@pytest.mark.parametrize(
    "line, expected",
    [
        ("%s = (f32[2]{0}, f32[8]{0}) all-gather-start(%a), dimensions={0}", "f32[8]"),
        ("%s = (f32[4]{0}, f32[4]{0}) all-reduce-start(%a, %b), to_apply=%add", "(f32[4], f32[4])"),
        ("%s = (f32[4]{0}, f32[4]{0}, u32[]) copy-start(%a)", "f32[4]"),
        ("%s = f32[4]{0} all-reduce-start(%a), to_apply=%add", "f32[4]"),
    ],
)
def test_the_result_of_an_asynchronous_start(line, expected):
    assert str(operations.result_of_start(parse_instruction(f"  {line}"))) == expected


def test_estimates_of_the_backend():
    line = '  %f = f32[2]{0} fusion(%a), calls=%c, backend_config={"estimated_cycles":"123","x":1}'
    assert operations.expected_cycles(parse_instruction(line)) == 123.0
    kernel = (
        "  %k = f32[2]{0} custom-call(%a), "
        'backend_config={"cost_estimate": {"flops": 1024, "transcendentals": -1, "bytes_accessed": "2.5e3"}}'
    )
    assert operations.kernel_estimate(parse_instruction(kernel)) == {
        "flops": 1024.0, "transcendentals": 0.0, "bytes_accessed": 2500.0,
    }  # fmt: skip
    bare = parse_instruction("  %k = f32[2]{0} custom-call(%a)")
    assert (operations.expected_cycles(bare), operations.kernel_estimate(bare)) == (0.0, {})
