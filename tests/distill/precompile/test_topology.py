"""Meshes over a topology's devices, and the roomiest topology of a size."""

import os

import jax
import pytest

from distill.precompile import topology
from distill.precompile.chips import CHIPS, parse_topology
from distill.sharding.partitioning import MeshConfig


@pytest.mark.parametrize(
    "sizes, devices, expected",
    [((-1, 1, 1), 16, (16, 1, 1)), ((2, -1, 2), 16, (2, 4, 2)), ((1, 4, -1), 4, (1, 4, 1)), ((2, 2, 4), 16, (2, 2, 4))],
)
def test_one_axis_is_resolved(sizes, devices, expected):
    assert topology.mesh_shape(MeshConfig(*sizes), devices, "v5e:4x4") == expected


@pytest.mark.parametrize("sizes", [(1, 1, 1), (3, -1, 1), (4, 4, 2), (32, -1, 1)])
def test_a_mesh_that_does_not_fill_the_topology(sizes):
    with pytest.raises(ValueError, match=r"--topology=v5e:4x4, which has 16 devices"):
        topology.mesh_shape(MeshConfig(*sizes), 16, "v5e:4x4")


@pytest.mark.parametrize("devices", [1, 2, 3, 4, 8, 64])
def test_the_roomiest_topology_has_as_many_devices(devices):
    assert parse_topology(topology.roomiest(devices)) == (CHIPS["v5p"], devices)


def test_a_mesh_over_given_devices():
    mesh = topology.Topology("v5e:2x2", CHIPS["v5e"], 4, jax.devices()[:4]).mesh(MeshConfig(-1, 2, 1))
    assert dict(mesh.shape) == {"data": 2, "fsdp": 2, "model": 1}


def test_silenced_output_is_a_note_of_the_error(capfd):
    with pytest.raises(RuntimeError) as caught, topology.silenced():
        os.write(2, b"".join(b"line %d\n" % n for n in range(7)))
        raise RuntimeError("bad")
    assert caught.value.__notes__ == [f"line {n}" for n in range(2, 7)]
    with topology.silenced():
        os.write(2, b"unseen")
    os.write(2, b"seen")
    assert capfd.readouterr().err == "seen"


def test_the_cache_is_off_inside_and_as_before_after():
    before = jax.config.jax_enable_compilation_cache
    with topology.uncached():
        assert not jax.config.jax_enable_compilation_cache
    assert jax.config.jax_enable_compilation_cache == before
