"""Operations, bytes and collectives of HLO programs."""

import jax
import jax.numpy as jnp
import pytest

from distill.precompile import collectives
from distill.precompile.costs import analyse

SCANNED = """HloModule scanned, num_partitions=8

%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %r = f32[] add(%a, %b)
}

%pick (stack: f32[5,16,16], i: s32[]) -> f32[1,16,16] {
  %stack = f32[5,16,16]{2,1,0} parameter(0)
  %i = s32[] parameter(1)
  %z = s32[] constant(0)
  ROOT %slice = f32[1,16,16]{2,1,0} dynamic-slice(%stack, %i, %z, %z), dynamic_slice_sizes={1,16,16}
}

%inner_body (p: (s32[], f32[8,16])) -> (s32[], f32[8,16]) {
  %p = (s32[], f32[8,16]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %x = f32[8,16]{1,0} get-tuple-element(%p), index=1
  %one = s32[] constant(1)
  %next = s32[] add(%i, %one)
  %y = f32[8,16]{1,0} all-reduce(%x), channel_id=2, replica_groups=[4,2]<=[8], to_apply=%sum
  ROOT %t = (s32[], f32[8,16]{1,0}) tuple(%next, %y)
}

%inner_condition (p: (s32[], f32[8,16])) -> pred[] {
  %p = (s32[], f32[8,16]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %c = s32[] constant(3)
  ROOT %x = pred[] compare(%i, %c), direction=LT
}

%body (p: (s32[], f32[8,16], f32[5,16,16])) -> (s32[], f32[8,16], f32[5,16,16]) {
  %p = (s32[], f32[8,16]{1,0}, f32[5,16,16]{2,1,0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %x = f32[8,16]{1,0} get-tuple-element(%p), index=1
  %stack = f32[5,16,16]{2,1,0} get-tuple-element(%p), index=2
  %one = s32[] constant(1)
  %next = s32[] add(%i, %one)
  %w = f32[1,16,16]{2,1,0} fusion(%stack, %i), kind=kLoop, calls=%pick
  %m = f32[16,16]{1,0} bitcast(%w)
  %y = f32[8,16]{1,0} dot(%x, %m), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %zero = s32[] constant(0)
  %init = (s32[], f32[8,16]{1,0}) tuple(%zero, %y)
  %loop = (s32[], f32[8,16]{1,0}) while(%init), condition=%inner_condition, body=%inner_body
  %z = f32[8,16]{1,0} get-tuple-element(%loop), index=1
  ROOT %t = (s32[], f32[8,16]{1,0}, f32[5,16,16]{2,1,0}) tuple(%next, %z, %stack)
}

%condition (p: (s32[], f32[8,16], f32[5,16,16])) -> pred[] {
  %p = (s32[], f32[8,16]{1,0}, f32[5,16,16]{2,1,0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %c = s32[] constant(5)
  ROOT %x = pred[] compare(%i, %c), direction=LT
}

ENTRY %main (x: f32[8,16], stack: f32[5,16,16]) -> f32[8,16] {
  %x = f32[8,16]{1,0} parameter(0)
  %stack = f32[5,16,16]{2,1,0} parameter(1)
  %zero = s32[] constant(0)
  %init = (s32[], f32[8,16]{1,0}, f32[5,16,16]{2,1,0}) tuple(%zero, %x, %stack)
  %loop = (s32[], f32[8,16]{1,0}, f32[5,16,16]{2,1,0}) while(%init), condition=%condition, body=%body
  ROOT %out = f32[8,16]{1,0} get-tuple-element(%loop), index=1
}
"""
MESH = {"data": 2, "fsdp": 2, "model": 2}


def program(*lines: str, extra: str = "", partitions: int = 8) -> str:
    """A module whose entry has these instructions."""
    body = "\n  ".join(lines)
    return f"HloModule m, num_partitions={partitions}\n{extra}\nENTRY %main () -> f32[] {{\n  {body}\n}}\n"


def test_bodies_of_nested_loops_count_times_their_trip_count():
    product, once = 2 * 8 * 16 * 16, analyse(SCANNED, MESH, count_trips=False)
    found = analyse(SCANNED, MESH)
    assert (once.matmul_flops, found.matmul_flops) == (product, 5 * product)
    (all_reduce,) = found.collectives
    assert (all_reduce.kind, all_reduce.axes, all_reduce.count) == ("all-reduce", ("model",), 15)
    assert found.collective_bytes == 15 * 8 * 16 * 4
    assert found.wire_bytes == 15 * 8 * 16 * 4  # 2 (n - 1) / n is 1 for two chips
    assert not found.bounded_loops and not found.unknown_loops


def test_expected_cycles_are_the_compilers_times_the_trip_count():
    said = SCANNED.replace(
        "rhs_contracting_dims={0}", 'rhs_contracting_dims={0}, backend_config={"estimated_cycles":"7"}'
    )
    assert analyse(said).expected_cycles == 5 * 7
    assert analyse(SCANNED).expected_cycles == 0


def test_a_fusion_that_slices_its_operand_reads_the_slice():
    found = analyse(SCANNED)
    weights = 16 * 16 * 4
    row = 8 * 16 * 4
    # One iteration: the slice in and out with its index, the product, three all-reduces; counters and tests are scalars.
    turn = (2 * weights + 4) + (weights + 2 * row) + 3 * 2 * row
    scalars = (3 * 4) + (4 + 4 + 1) + 3 * (3 * 4) + 3 * (4 + 4 + 1)
    assert found.bytes_accessed == 5 * (turn + scalars)


@pytest.mark.parametrize(
    "result, line, flops",
    [
        # A plain product; one over a window of one; a batch of eight products as a dilated convolution.
        ("32,4", "convolution(%rows, %w), dim_labels=bf_io->bf", 2 * 32 * 16 * 4),
        ("8,32,4", "convolution(%x, %w1), window={size=1}, dim_labels=0bf_io0->0bf", 2 * 8 * 32 * 16 * 4),
        (
            "8,32,4",
            "convolution(%x, %w8), window={size=8 stride=7 lhs_dilate=8}, dim_labels=0bf_0io->0bf",
            2 * 8 * 32 * 16 * 4,
        ),
        # Padding does not count: two of the three taps fall outside once each.
        ("8,32,4", "convolution(%x, %w3), window={size=3 pad=1_1}, dim_labels=0bf_0io->0bf", 2 * 32 * 16 * 4 * 22),
        # One input position under eight taps: heads of one product, as TPU programs write them.
        (
            "8,32,4",
            "convolution(%x1, %w8), window={size=8 pad=7_7 rhs_reversal=1}, dim_labels=0bf_0io->0bf",
            2 * 8 * 32 * 16 * 4,
        ),
        # Groups divide the features.
        (
            "8,32,4",
            "convolution(%x, %wg), window={size=1}, dim_labels=0bf_io0->0bf, feature_group_count=4",
            2 * 8 * 32 * 4 * 4,
        ),
    ],
)
def test_convolutions_count_pairs_of_input_and_kernel_elements(result, line, flops):
    text = program(
        "%rows = f32[32,16]{1,0} parameter(0)",
        "%w = f32[16,4]{1,0} parameter(1)",
        "%x = f32[8,32,16]{2,1,0} parameter(2)",
        "%x1 = f32[1,32,16]{2,1,0} parameter(3)",
        "%w1 = f32[16,4,1]{1,0,2} parameter(4)",
        "%w3 = f32[3,16,4]{2,1,0} parameter(5)",
        "%w8 = f32[8,16,4]{2,1,0} parameter(6)",
        "%wg = f32[4,4,1]{2,1,0} parameter(7)",
        f"ROOT %y = f32[{result}] {line}",
    )
    assert analyse(text).matmul_flops == flops


def test_an_update_in_place_counts_the_update():
    fused = """
%write (stack: f32[5,16], row: f32[1,16], i: s32[]) -> f32[5,16] {
  %stack = f32[5,16]{1,0} parameter(0)
  %same = f32[5,16]{1,0} copy(%stack)
  %row = f32[1,16]{1,0} parameter(1)
  %i = s32[] parameter(2)
  %z = s32[] constant(0)
  ROOT %u = f32[5,16]{1,0} dynamic-update-slice(%same, %row, %i, %z)
}
"""
    lines = (
        "%stack = f32[5,16]{1,0} parameter(0)",
        "%row = f32[1,16]{1,0:S(1)} parameter(1)",
        "%i = s32[]{:S(2)} parameter(2)",
        "ROOT %x = f32[5,16]{1,0} fusion(%stack, %row, %i), kind=kLoop, calls=%write",
    )
    found = analyse(program(*lines, extra=fused))
    assert found.bytes_accessed == 64 + 64 + 4
    assert found.hbm_bytes == 64  # the row and its index are in on-chip memory


def test_asynchronous_copies_and_slices_count_once():
    found = analyse(
        program(
            "%x = f32[4,256]{1,0} parameter(0)",
            "%s = ((f32[4,256]{1,0}), f32[2,256]{1,0:S(1)}, s32[]{:S(2)}) slice-start(%x), slice={[0:2], [0:256]}",
            "%d = f32[2,256]{1,0:S(1)} slice-done(%s)",
            "%c = (f32[2,256]{1,0}, f32[2,256]{1,0:S(1)}, u32[]{:S(2)}) copy-start(%d)",
            "ROOT %e = f32[2,256]{1,0} copy-done(%c)",
        )
    )
    assert found.bytes_accessed == 4 * 2 * 256 * 4
    assert found.hbm_bytes == 2 * 2 * 256 * 4


def test_a_kernel_counts_its_own_cost_estimate():
    config = (
        'backend_config={"custom_call_config":{"body":"x","cost_estimate":'
        '{"flops":"1000","transcendentals":"30","bytes_accessed":"77"}}}'
    )
    found = analyse(
        program(
            "%x = f32[4,256]{1,0} parameter(0)",
            f'ROOT %k = f32[4,256]{{1,0}} custom-call(%x), custom_call_target="tpu_custom_call", {config}',
        )
    )
    assert (found.flops, found.matmul_flops, found.transcendentals, found.bytes_accessed) == (1000, 1000, 30, 77)
    silent = analyse(
        program(
            "%x = f32[4,256]{1,0} parameter(0)",
            'ROOT %k = f32[4,256]{1,0} custom-call(%x), custom_call_target="tpu_custom_call", backend_config={}',
        )
    )
    assert (silent.flops, silent.bytes_accessed) == (0, 2 * 4096)


@pytest.mark.parametrize(
    "groups, axes",
    [
        ("{{0,1},{2,3},{4,5},{6,7}}", ("model",)),
        ("{{0,4},{1,5},{2,6},{3,7}}", ("data",)),
        ("[4,2]<=[2,2,2]T(0,2,1)", ("fsdp",)),
        ("[2,4]<=[4,2]T(1,0)", ("data", "fsdp")),
        ("{}", ("data", "fsdp", "model")),
        ("[1,8]<=[8]", ("data", "fsdp", "model")),
        ("mesh['x'=8] {'x'}", ("data", "fsdp", "model")),
        ("mesh['x'=2,'y'=4] {'x'}", ("data",)),
        ("mesh['x'=8] {'x':(2)2}", ("fsdp",)),
        ("mesh['x'=8] {'x':(1)2,'x':(4)2}", ("data", "model")),
        ("mesh['x'=4,'y'=2], device_ids=(0,1,2,3,4,5,6,7) {'y'}", ("model",)),
        ("mesh['x'=2,'y'=4], device_ids=([2,4]<=[4,2]T(1,0)) {'y'}", ("data", "fsdp")),
        ("mesh['x'=2,'y'=1,'z'=4], device_ids=([2,2,2]T(1,0,2)) {'x'}", ("fsdp",)),
    ],
)
def test_replica_groups_of_every_form_name_their_mesh_axes(groups, axes):
    found = collectives.replica_groups(f"channel_id=1, replica_groups={groups}, use_global_device_ids=true", 8)
    assert sorted(n for group in found for n in group) == list(range(8))
    assert collectives.mesh_axes(found, MESH) == axes


def test_unknown_replica_groups_raise():
    with pytest.raises(ValueError, match="unknown replica groups"):
        collectives.replica_groups("replica_groups=<everyone>", 8)


@pytest.mark.parametrize(
    "line, kind, operand, result, wire",
    [
        ("f32[32]{0} all-gather(%x), replica_groups=[2,4]<=[8], dimensions={0}", "all-gather", 32, 128, 96),
        (
            "(f32[8]{0}, f32[32]{0}) all-gather-start(%x), replica_groups=[2,4]<=[8], dimensions={0}",
            "all-gather",
            32,
            128,
            96,
        ),
        ("f32[2]{0} reduce-scatter(%x), replica_groups=[2,4]<=[8], to_apply=%sum", "reduce-scatter", 32, 8, 24),
        ("f32[8]{0} all-reduce-start(%x), replica_groups=[2,4]<=[8], to_apply=%sum", "all-reduce", 32, 32, 48),
        ("f32[8]{0} all-to-all(%x), replica_groups=[2,4]<=[8], dimensions={0}", "all-to-all", 32, 32, 24),
        (
            "(f32[8]{0}, f32[8]{0}, u32[], u32[]) collective-permute-start(%x), source_target_pairs={{0,1},{1,0}}",
            "collective-permute",
            32,
            32,
            32,
        ),
    ],
)
def test_bytes_of_collectives(line, kind, operand, result, wire):
    (found,) = analyse(program("%x = f32[8]{0} parameter(0)", f"ROOT %y = {line}"), MESH).collectives
    assert (found.kind, found.operand_bytes, found.result_bytes, found.wire_bytes) == (kind, operand, result, wire)
    assert found.axes == (("model",) if kind == "collective-permute" else ("fsdp", "model"))


def test_a_collective_of_one_chip_is_none():
    text = program("%x = f32[8]{0} parameter(0)", "ROOT %y = f32[8]{0} all-reduce(%x), replica_groups={{0},{1}}")
    assert analyse(text).collectives == ()


FUSED = """
%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %r = f32[] add(%a, %b)
}
%start (x: f32[8]) -> (f32[8], f32[32]) {
  %x = f32[8]{0} parameter(0)
  %g = f32[32]{0} all-gather(%x), channel_id=5, replica_groups=[2,4]<=[8], dimensions={0}
  ROOT %t = (f32[8]{0}, f32[32]{0}) tuple(%x, %g)
}
%finish (x: f32[8], y: f32[32]) -> f32[32] {
  %x = f32[8]{0} parameter(0)
  %y = f32[32]{0} parameter(1)
  ROOT %g = f32[32]{0} all-gather(%x), channel_id=5, replica_groups=[2,4]<=[8], dimensions={0}
}
%all-reduce-scatter.1 (x: f32[32]) -> f32[8] {
  %x = f32[32]{0} parameter(0)
  %r = f32[32]{0} all-reduce(%x), channel_id=6, replica_groups=[2,4]<=[8], to_apply=%sum
  %z = s32[] constant(0)
  ROOT %s = f32[8]{0} dynamic-slice(%r, %z), dynamic_slice_sizes={8}
}
"""


def test_collectives_inside_fusions_count_once_per_channel():
    found = analyse(
        program(
            "%x = f32[8]{0} parameter(0)",
            "%a = (f32[8]{0}, f32[32]{0}) fusion(%x), kind=kCustom, calls=%start",
            "%b = f32[8]{0} get-tuple-element(%a), index=0",
            "%c = f32[32]{0} get-tuple-element(%a), index=1",
            "%d = f32[32]{0} fusion(%b, %c), kind=kCustom, calls=%finish",
            "ROOT %e = f32[8]{0} fusion(%d), kind=kCustom, calls=%all-reduce-scatter.1",
            extra=FUSED,
        ),
        MESH,
    )
    assert [(c.kind, c.operand_bytes, c.result_bytes, c.wire_bytes) for c in found.collectives] == [
        ("all-gather", 32, 128, 96),
        ("reduce-scatter", 128, 32, 96),
    ]
    assert found.bytes_accessed == (32 + 128) + (128 + 32)
    assert list(found.by_kind()) == [("all-gather", "fsdp+model"), ("reduce-scatter", "fsdp+model")]


ENCLOSING = """
%start (x: f32[8]) -> (f32[8], f32[32]) {
  %x = f32[8]{0} parameter(0)
  %g = f32[32]{0} all-gather(%x), channel_id=5, replica_groups=[2,4]<=[8], dimensions={0}
  ROOT %t = (f32[8]{0}, f32[32]{0}) custom-call(%g), custom_call_target="AsyncCollectiveStart"
}
%step (x: f32[8], y: f32[32]) -> f32[32] {
  %x = f32[8]{0} parameter(0)
  %y = f32[32]{0} parameter(1)
  ROOT %g = f32[32]{0} all-gather(%x), channel_id=5, replica_groups=[2,4]<=[8], dimensions={0}
}
%turn (p: (s32[], f32[8], f32[32])) -> (s32[], f32[8], f32[32]) {
  %p = (s32[], f32[8]{0}, f32[32]{0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %x = f32[8]{0} get-tuple-element(%p), index=1
  %y = f32[32]{0} get-tuple-element(%p), index=2
  %one = s32[] constant(1)
  %next = s32[] add(%i, %one)
  %z = f32[32]{0} fusion(%x, %y), kind=kCustom, calls=%step
  ROOT %t = (s32[], f32[8]{0}, f32[32]{0}) tuple(%next, %x, %z)
}
%again (p: (s32[], f32[8], f32[32])) -> pred[] {
  %p = (s32[], f32[8]{0}, f32[32]{0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %c = s32[] constant(12)
  ROOT %x = pred[] compare(%i, %c), direction=LT
}
"""


def test_a_collective_with_steps_in_a_loop_counts_once():
    found = analyse(
        program(
            "%x = f32[8]{0} parameter(0)",
            "%a = (f32[8]{0}, f32[32]{0}) fusion(%x), kind=kCustom, calls=%start",
            "%b = f32[8]{0} get-tuple-element(%a), index=0",
            "%c = f32[32]{0} get-tuple-element(%a), index=1",
            "%zero = s32[] constant(0)",
            "%init = (s32[], f32[8]{0}, f32[32]{0}) tuple(%zero, %b, %c)",
            "%loop = (s32[], f32[8]{0}, f32[32]{0}) while(%init), condition=%again, body=%turn",
            "%d = f32[32]{0} get-tuple-element(%loop), index=2",
            "ROOT %e = f32[32]{0} fusion(%b, %d), kind=kCustom, calls=%step",
            extra=ENCLOSING,
        ),
        MESH,
    )
    assert [(c.kind, c.count, c.wire_bytes) for c in found.collectives] == [("all-gather", 1, 96)]


def _layers(x, stack, scanned: bool):
    def layer(x, w):
        return jnp.tanh(x @ w) + x, None

    if scanned:
        return jax.lax.scan(layer, x, stack)[0].sum()
    for w in stack:
        x, _ = layer(x, w)
    return x.sum()


@pytest.mark.parametrize("gradient", [False, True])
def test_compiled_programs_agree_with_xla_where_there_are_no_loops_and_scanned_ones_with_unscanned(gradient):
    x, stack = jnp.zeros((64, 128)), jnp.zeros((6, 128, 128))
    found = {}
    for scanned in (False, True):
        function = jax.grad(_layers, argnums=(0, 1)) if gradient else _layers
        compiled = jax.jit(function, static_argnums=2).lower(x, stack, scanned).compile()
        found[scanned] = analyse(compiled.as_text())
        if not scanned:
            xla = compiled.cost_analysis()
            assert found[False].flops == pytest.approx(xla["flops"], rel=0.01)
            assert found[False].bytes_accessed == pytest.approx(xla["bytes accessed"], rel=0.1)
    assert found[True].flops == pytest.approx(found[False].flops, rel=0.02)
    assert not found[True].unknown_loops
