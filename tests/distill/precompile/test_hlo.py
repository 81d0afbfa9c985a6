"""The parser of HLO text."""

import pytest

from distill.precompile import hlo, loops

LINE = (
    "  ROOT %fusion.7 = (bf16[8,12]{1,0:T(8,128)(2,1)S(1)}, /*index=1*/f32[]{:T(128)}) fusion(%a.1, /*index=1*/%b), "
    "kind=kLoop, calls=%fused.1, metadata={op_name=\"jit(step)/w[\\'x\\']\" stack_frame_id=3}, "
    'backend_config={"flag_configs":[],"known":{"n":"3"}}'
)


def test_an_instruction_is_read_with_its_layouts_operands_and_metadata():
    found = hlo.parse_instruction(LINE)
    assert found is not None and found.is_root
    assert (found.name, found.opcode, found.operands) == ("fusion.7", "fusion", ("a.1", "b"))
    first, second = found.shape.elements
    assert (first.dtype, first.dims, first.minor_to_major, first.tile, first.memory_space) == (
        "bf16",
        (8, 12),
        (1, 0),
        (8, 128),
        hlo.ON_CHIP,
    )
    assert (second.dims, second.memory_space, second.bytes) == ((), hlo.HBM, 4)
    assert found.called("calls") == ("fused.1",)
    assert found.op_name == "jit(step)/w['x']"
    assert found.backend_config.startswith('{"flag')
    assert found.shape.bytes == 8 * 12 * 2 + 4


def test_attributes_may_be_bracketed_lists():
    found = hlo.parse_instruction(
        "  %x = f32[4]{0} conditional(%p, %a, %b), branch_computations={%one, %two}, dimensions={0,1}"
    )
    assert found is not None
    assert found.called("branch_computations") == ("one", "two")
    assert found.numbers("dimensions") == (0, 1)
    assert found.attribute("absent") is None


@pytest.mark.parametrize(
    "text, plain, padded",
    [
        ("f32[3,100]{1,0:T(8,128)}", 1200, 8 * 128 * 4),
        ("bf16[3,100]{0,1:T(8,128)(2,1)}", 600, 104 * 128 * 2),
        ("s4[7]", 4, 4),
        ("pred[]", 1, 1),
        ("token[]", 0, 0),
        ("(f32[2]{0}, (u8[3]{0}, f8e4m3fn[5]{0}))", 16, 16),
    ],
)
def test_bytes_of_shapes(text, plain, padded):
    shape = hlo.parse_shape(text)
    assert (shape.bytes, shape.padded_bytes) == (plain, padded)


@pytest.mark.parametrize("text", ["", "HloModule x\n", "some words"])
def test_text_without_a_program_raises(text):
    with pytest.raises(hlo.HloError, match="no ENTRY"):
        hlo.parse(text)


def test_unknown_element_types_raise():
    with pytest.raises(hlo.HloError, match="unknown element type 'q7'"):
        _ = hlo.parse_shape("q7[2]").bytes


def loop(condition: str, step: int = 1, start: int = 0, limit: int = 12, config: str = "") -> hlo.Module:
    """A module with one loop that carries (counter, limit, flag)."""
    return hlo.parse(f"""HloModule loop, num_partitions=1

%body (p: (s32[], s32[], pred[])) -> (s32[], s32[], pred[]) {{
  %p = (s32[], s32[], pred[]) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %n = s32[] get-tuple-element(%p), index=1
  %f = pred[] get-tuple-element(%p), index=2
  %k = s32[] constant({step})
  %next = s32[] add(%i, %k)
  ROOT %t = (s32[], s32[], pred[]) tuple(%next, %n, %f)
}}

%less (a: s32[], b: s32[]) -> pred[] {{
  %a = s32[] parameter(0)
  %b = s32[] parameter(1)
  ROOT %lt = pred[] compare(%a, %b), direction=LT
}}

%condition (p: (s32[], s32[], pred[])) -> pred[] {{
  %p = (s32[], s32[], pred[]) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %n = s32[] get-tuple-element(%p), index=1
  %f = pred[] get-tuple-element(%p), index=2
  %c = s32[] constant({limit})
  {condition}
}}

ENTRY %main (flag: pred[]) -> (s32[], s32[], pred[]) {{
  %flag = pred[] parameter(0)
  %zero = s32[] constant({start})
  %copied = s32[] copy(%zero)
  %bound = s32[] constant({limit})
  %init = (s32[], s32[], pred[]) tuple(%copied, %bound, %flag)
  ROOT %w = (s32[], s32[], pred[]) while(%init), condition=%condition, body=%body{config}
}}
""")


def trips(module: hlo.Module) -> loops.Trips:
    return loops.trips(module, module.entry, module.entry.instructions["w"])


@pytest.mark.parametrize(
    "condition, options, count",
    [
        ("ROOT %x = pred[] compare(%i, %c), direction=LT", {}, 12),
        ("ROOT %x = pred[] compare(%i, %c), direction=LE", {}, 13),
        ("ROOT %x = pred[] compare(%c, %i), direction=GT", {}, 12),
        ("ROOT %x = pred[] compare(%i, %c), direction=NE", {"step": 3}, 4),
        ("ROOT %x = pred[] compare(%i, %c), direction=LT", {"step": 5, "start": 1}, 3),
        ("ROOT %x = pred[] compare(%i, %c), direction=GT", {"step": -2, "start": 9, "limit": 0}, 5),
        ("ROOT %x = pred[] compare(%i, %n), direction=LT", {}, 12),
        ("ROOT %x = pred[] fusion(%i, %n), kind=kLoop, calls=%less", {}, 12),
        ("ROOT %x = pred[] compare(%i, %c), direction=LT", {"start": 20}, 0),
    ],
)
def test_trip_counts_are_derived_from_the_condition(condition, options, count):
    assert trips(loop(condition, **options)) == loops.Trips(count)


def test_the_compilers_trip_count_is_used_if_printed():
    config = ', backend_config={"known_trip_count":{"n":"7"}}'
    assert trips(loop("ROOT %x = pred[] compare(%i, %c), direction=LT", config=config)) == loops.Trips(7)


def test_a_loop_that_may_end_early_is_counted_to_its_bound():
    module = loop("%y = pred[] compare(%i, %c), direction=LT\n  ROOT %x = pred[] and(%y, %f)")
    assert trips(module) == loops.Trips(12, exact=False)


def test_a_loop_without_a_bound_is_unknown():
    assert trips(loop("ROOT %x = pred[] copy(%f)")) == loops.Trips(1, exact=False, known=False)
