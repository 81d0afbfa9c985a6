"""Collectives: groups in every notation, mesh axes, and the bytes on a ring."""

import pytest

from distill.precompile import collectives
from distill.precompile.hlo import Computation, parse_instruction

MESH = {"data": 2, "fsdp": 2, "model": 2}


@pytest.mark.parametrize(
    "text, expected",
    [
        ("replica_groups={{0,1},{2,3}}, use_global_device_ids=true", [[0, 1], [2, 3]]),
        ("replica_groups={}", [[0, 1, 2, 3]]),
        ("channel_id=1", [[0, 1, 2, 3]]),
        ("replica_groups=[2,2]<=[4]", [[0, 1], [2, 3]]),
        ("replica_groups=[2,2]<=[2,2]T(1,0)", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['x'=2,'y'=2] {'y'}", [[0, 1], [2, 3]]),
        ("replica_groups=mesh['x'=2,'y'=2] {'x'}", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['x'=2,'y'=2] {'x','y'}", [[0, 1, 2, 3]]),
        ("replica_groups=mesh['x'=4] {'x':(2)2}", [[0, 1], [2, 3]]),
        ("replica_groups=mesh['x'=4] {'x':(1)2}", [[0, 2], [1, 3]]),
    ],
)
def test_groups(text, expected):
    assert collectives.replica_groups(text, 4) == expected


def test_an_unknown_notation_is_an_error():
    with pytest.raises(ValueError, match="unknown replica groups: '<other>"):
        collectives.replica_groups("replica_groups=<other>", 4)


@pytest.mark.parametrize(
    "groups, expected",
    [
        ([[0, 1], [2, 3], [4, 5], [6, 7]], ("model",)),
        ([[0, 2], [1, 3], [4, 6], [5, 7]], ("fsdp",)),
        ([[0, 2, 4, 6], [1, 3, 5, 7]], ("data", "fsdp")),
        ([list(range(8))], ("data", "fsdp", "model")),
        ([[0], [1]], ("?",)),
        ([[0, 8]], ("?",)),
    ],
)
def test_axes(groups, expected):
    assert collectives.mesh_axes(groups, MESH) == expected
    assert collectives.mesh_axes(groups, None) == ("?",)


@pytest.mark.parametrize(
    "kind, operand, result, expected",
    [
        ("all-reduce", 800, 800, 1200.0),  # a reduce-scatter and an all-gather
        ("all-gather", 200, 800, 600.0),
        ("reduce-scatter", 800, 200, 600.0),
        ("all-to-all", 800, 800, 600.0),
        ("collective-broadcast", 800, 800, 600.0),
        ("collective-permute", 800, 800, 800),
    ],
)
def test_bytes_on_a_ring_of_four(kind, operand, result, expected):
    assert collectives.wire_bytes(kind, 4, operand, result) == expected


def read(line, **arguments):
    computation = Computation("main")
    for text in ("  %a = f32[16]{0} parameter(0)", f"  {line}"):
        instruction = parse_instruction(text)
        computation.instructions[instruction.name] = instruction
    return collectives.read(computation, instruction, **{"num_partitions": 8, "mesh": MESH, **arguments})


def test_an_all_gather_over_two_axes():
    line = (
        "%g = f32[64]{0} all-gather(%a), replica_groups=[2,4]<=[4,2]T(1,0), dimensions={0}, "
        'metadata={op_name="jit(step)/gather"}'
    )
    found = read(line)
    assert found == collectives.Collective("all-gather", ("data", "fsdp"), 4, 1, 64, 256, 192.0, "jit(step)/gather")
    assert found.times(3).wire_bytes == 576.0 and found.times(3).count == 3 and found.times(3).group_size == 4


def test_an_asynchronous_gather_counts_its_result_alone():
    found = read("%g = (f32[16]{0}, f32[32]{0}) all-gather-start(%a), replica_groups=[4,2]<=[8], dimensions={0}")
    assert (found.kind, found.axes, found.result_bytes, found.wire_bytes) == ("all-gather", ("model",), 128, 64.0)


def test_a_permutation_follows_its_pairs():
    found = read("%p = f32[16]{0} collective-permute(%a), source_target_pairs={{0,4},{4,0},{1,1}}")
    assert (found.axes, found.group_size, found.wire_bytes) == (("data",), 2, 64)


@pytest.mark.parametrize(
    "line",
    ["%n = f32[16]{0} negate(%a)", "%r = f32[16]{0} all-reduce(%a), replica_groups=[8,1]<=[8], to_apply=%add",
     "%d = f32[16]{0} all-reduce-done(%a)"],
)  # fmt: skip
def test_what_sends_nothing_is_no_collective(line):
    assert read(line) is None
