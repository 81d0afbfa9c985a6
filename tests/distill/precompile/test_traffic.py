"""Bytes that single instructions read and write, counted by hand."""

import pytest

from distill.precompile import hlo, traffic


def moved(*lines, others=""):
    body = "\n".join(f"  {line}" for line in lines)
    module = hlo.parse(f"HloModule m\n{others}\nENTRY %main () -> f32[] {{\n{body}\n}}\n")
    *_, last = module.entry.instructions.values()
    return traffic.moved(module, module.entry, last)


A, B = "%a = f32[8,16]{1,0} parameter(0)", "%b = f32[8,16]{1,0} parameter(1)"
SIZE = 8 * 16 * 4
START = "%z = s32[] constant(0)"


@pytest.mark.parametrize(
    "line, expected",
    [
        ("ROOT %r = f32[8,16]{1,0} add(%a, %b)", 3 * SIZE),
        ("ROOT %r = f32[128]{0} bitcast(%a)", 0),
        ("ROOT %r = (f32[8,16]{1,0}, f32[8,16]{1,0}) tuple(%a, %b)", 0),
        ("ROOT %r = bf16[8,16]{1,0} convert(%a)", SIZE + SIZE // 2),
        # Only the rows that are sliced are read, only those that are updated are written.
        ("ROOT %r = f32[2,16]{1,0} slice(%a), slice={[0:2], [0:16]}", 2 * SIZE // 4),
        ("ROOT %r = f32[2,16]{1,0} dynamic-slice(%a, %z, %z), dynamic_slice_sizes={2,16}", 2 * SIZE // 4 + 8),
        ("ROOT %r = f32[8,16]{1,0} dynamic-update-slice(%a, %b, %z, %z)", 2 * SIZE + 8),
        ("ROOT %r = f32[8,16]{1,0} copy-done(%a)", 0),
        ('ROOT %r = f32[8,16]{1,0} custom-call(%a), custom_call_target="Sharding"', 0),
        ('ROOT %r = f32[8,16]{1,0} custom-call(%a), custom_call_target="kernel"', 2 * SIZE),
    ],
)
def test_bytes_of_single_instructions(line, expected):
    assert moved(A, B, START, line) == (expected, expected)


def test_on_chip_memory_is_not_hbm():
    on_chip = "%c = f32[8,16]{1,0:S(1)} parameter(2)"
    assert moved(A, on_chip, "ROOT %r = f32[8,16]{1,0} add(%a, %c)") == (3 * SIZE, 2 * SIZE)


FUSED = """
%fused (p: f32[8,16], q: f32[2,16], i: s32[]) -> f32[8,16] {
  %p = f32[8,16]{1,0} parameter(0)
  %q = f32[2,16]{1,0} parameter(1)
  %i = s32[] parameter(2)
  %e = f32[2,16]{1,0} exponential(%q)
  ROOT %u = f32[8,16]{1,0} dynamic-update-slice(%p, %e, %i, %i)
}
"""


def test_a_fusion_that_updates_in_place_moves_its_update_alone():
    update = 2 * 16 * 4
    lines = (A, "%q = f32[2,16]{1,0} parameter(1)", START)
    root = "ROOT %r = f32[8,16]{1,0} fusion(%a, %q, %z), kind=kLoop, calls=%fused"
    assert moved(*lines, root, others=FUSED) == (2 * update + 4, 2 * update + 4)


SLICED = """
%fused (p: f32[8,16]) -> f32[2,16] {
  %p = f32[8,16]{1,0} parameter(0)
  %s = f32[2,16]{1,0} slice(%p), slice={[0:2], [0:16]}
  ROOT %n = f32[2,16]{1,0} negate(%s)
}
"""


def test_a_fusion_reads_only_the_part_that_it_slices():
    root = "ROOT %r = f32[2,16]{1,0} fusion(%a), kind=kLoop, calls=%fused"
    assert moved(A, root, others=SLICED) == (2 * SIZE // 4, 2 * SIZE // 4)
