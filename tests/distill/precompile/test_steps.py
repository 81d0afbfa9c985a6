"""Steps compiled for TPU topologies, and the memory that a compiler's refusal names."""

import dataclasses

import jax
import pytest

from distill.api import configuration
from distill.data.packing import Layout
from distill.precompile import estimates, steps, topology
from distill.precompile.chips import GIB
from distill.sharding import partitioning
from distill.training.train import train
from tests.distill.precompile.tiny_run import RUN, needs_libtpu


@pytest.mark.parametrize(
    "message, needed",
    [
        ("Ran out of memory in memory space hbm. Used 22.50G of 15.75G hbm. Exceeded hbm capacity by 6.75G.", 22.5),
        ("the total memory required for HLO temporaries (31.50G) exceeds available HBM (15.75G).", 32.5),
    ],
)
def test_out_of_memory_messages_are_parsed(message, needed):
    assert steps.needed_of(message, GIB) == needed * GIB


def test_unknown_compiler_errors_are_shown():
    with pytest.raises(ValueError, match=r"cannot read the needed memory.*: no more"):
        steps.needed_of("no more", 0)


@needs_libtpu
@pytest.mark.slow
def test_a_tiny_run_compiles_for_a_tpu():
    target = topology.open_topology("v5e:2x2")
    assert (len(target.devices), target.chip.name) == (4, "v5e")
    run = dataclasses.replace(RUN, mesh=partitioning.MeshConfig(1, 2, 2))
    with jax.set_mesh(target.mesh(run.mesh)):
        assert partitioning.platform() == "tpu"  # so the program is that of TPUs, on this machine too
    found = steps.compile_step("decode", run, target)
    report_of = estimates.estimate(found, run, target.chip, 4)
    assert report_of["fits"] and report_of["flops"] > 0
    assert found.costs is not None and found.costs.bounded_loops and not found.costs.unknown_loops
    axes = {axis for c in found.costs.collectives for axis in c.axes}
    assert axes <= {"fsdp", "model"} and "model" in axes


@needs_libtpu
@pytest.mark.slow
@pytest.mark.parametrize("name", ["compact", "quick"])
def test_the_tpu_compiler_accepts_the_options_of_our_files(name):
    files = ["models/t5_1_1_tiny", "tasks/cqa", "runs/distill", "hardware/tpu_v5e_16", f"compiler/tpu_{name}"]
    given = ["MODEL_DIR = 'x'", "VOCABULARY_PATH = 'bytes'", "DATA_DIR = 'x'"]
    configuration.parse([f"gin/{file}.gin" for file in files], given)
    loop = configuration.arguments_of(train)["loop"]
    run = dataclasses.replace(RUN, mesh=partitioning.MeshConfig(1, 2, 2))
    target = topology.open_topology("v5e:2x2")
    runs = [
        dataclasses.replace(RUN.loop, compiler_options=one) for one in (None, loop.compiler_options, {"xla_foo": 1})
    ]
    plain, small, wrong = (dataclasses.replace(run, loop=loop) for loop in runs)
    # Twice: programs for a topology are neither read from nor written to JAX's persistent cache.
    found = [steps.compile_step("train", one, target) for one in (plain, small, plain)]
    assert found[2].code_bytes == found[0].code_bytes
    assert jax.config.jax_enable_compilation_cache
    assert found[1].code_bytes < found[0].code_bytes
    assert found[1].costs.matmul_flops == found[0].costs.matmul_flops
    with pytest.raises(ValueError, match=r"tpu compiler rejects COMPILER_OPTIONS .*No such compile option: 'xla_foo'"):
        steps.compile_step("train", wrong, target)


@needs_libtpu
@pytest.mark.slow
def test_running_out_of_memory_becomes_a_report():
    """Attention over a very long window: the logits alone exceed the memory of a v5e chip."""
    target = topology.open_topology("v5e:1x1")
    run = dataclasses.replace(RUN, layout=Layout(64, 8192, 32), mesh=partitioning.MeshConfig(1, 1, 1))
    found = steps.compile_step("train", run, target, explain=False)
    report_of = estimates.estimate(found, run, target.chip, 1)
    assert "RESOURCE_EXHAUSTED" in found.refused and not report_of["fits"]
    assert found.needed_bytes > target.chip.device_usable_bytes and report_of["margin_bytes"] < 0
    assert report_of["flops"] is None and report_of["suggestions"]
