"""Bounds from costs, the report of a step, and topologies."""

import dataclasses
import importlib.util
import json

import jax
import jax.numpy as jnp
import pytest
import rich.console

from distill.data.packing import Layout
from distill.precompile import costs, estimates, report, topology
from distill.precompile.chips import CHIPS, GIB, parse_topology
from distill.sharding import partitioning
from tests.distill.precompile.tiny_run import RUN, TINY, needs_libtpu, step


@pytest.mark.parametrize(
    "name, chip, number", [("v5e:4x4", "v5e", 16), ("v4:2x2x2", "v4", 8), ("tpu7x:2x2x1", "tpu7x", 4)]
)
def test_topologies_are_parsed(name, chip, number):
    found, chips = parse_topology(name)
    assert (found.name, chips) == (chip, number)


@pytest.mark.parametrize(
    "name, message",
    [
        ("v5e", "GENERATION:AxB"),
        ("v5e:16", "GENERATION:AxB"),
        ("v6:4x4", "unknown TPU generation 'v6'.*did you mean"),
        ("v5e:0x4", "at least one chip"),
    ],
)
def test_other_topologies_are_rejected(name, message):
    with pytest.raises(ValueError, match=message):
        parse_topology(name)


def test_a_device_has_its_share_of_the_chip():
    v3 = CHIPS["v3"]
    assert v3.device_hbm_bytes == 16 * GIB
    assert v3.device_flops == pytest.approx(61.5e12)
    for chip in CHIPS.values():
        assert 0.9 * chip.device_hbm_bytes < chip.device_usable_bytes <= chip.device_hbm_bytes, chip.name


@pytest.mark.parametrize("config, shape", [((-1, 1, 1), (16, 1, 1)), ((2, -1, 2), (2, 4, 2)), ((4, 4, 1), (4, 4, 1))])
def test_the_mesh_fills_the_topology(config, shape):
    assert topology.mesh_shape(partitioning.MeshConfig(*config), 16, "v5e:4x4") == shape


@pytest.mark.parametrize("config", [(4, 4, 4), (2, 1, 1), (-1, 3, 1)])
def test_a_mesh_of_another_size_is_one_error(config):
    with pytest.raises(ValueError, match=r"does not fill --topology=v5e:4x4, which has 16 devices"):
        topology.mesh_shape(partitioning.MeshConfig(*config), 16, "v5e:4x4")


def test_without_libtpu_the_error_names_the_installation_command(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'distill-step-by-step\[precompile\]'"):
        topology.open_topology("v5e:4x4")


def test_estimates_of_a_step_that_fits():
    found = estimates.estimate(step(), RUN, CHIPS["v5e"], 16, estimates.Data(400, 800), price=2.0)
    assert found["fits"] and found["margin_bytes"] == int(15.75 * GIB) - 10 * GIB - GIB // 4
    assert (found["roofline"]["seconds"], found["roofline"]["bound_by"]) == (pytest.approx(1.0), "memory")
    assert found["roofline"]["compute"] == pytest.approx(0.5)
    assert found["tokens_per_second_bound"] == pytest.approx(8 * 96)
    assert found["epochs_per_hour_bound"] == pytest.approx(1800)
    assert found["run_hours_bound"] == pytest.approx(1.0)
    assert found["run_cost_bound"] == pytest.approx(32.0)  # 16 chips for an hour
    assert "suggestions" not in found
    json.dumps(found)


def test_estimates_price_chips_and_not_devices():
    assert estimates.estimate(step(), RUN, CHIPS["v3"], 16, price=2.0)["run_cost_bound"] == pytest.approx(
        8 * 2.0 * estimates.roofline(step().costs, CHIPS["v3"]).seconds
    )


def test_a_step_that_does_not_fit_names_buffers_and_remedies():
    text = """HloModule m, num_partitions=16
%body (p: (s32[], f32[4,1024,1024])) -> (s32[], f32[4,1024,1024]) {
  %p = (s32[], f32[4,1024,1024]{2,1,0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %x = f32[4,1024,1024]{2,1,0} get-tuple-element(%p), index=1
  %big = bf16[2048,1024]{1,0:T(8,128)(2,1)} negate(%x), metadata={op_name="jit(step)/encoder/mlp/wi"}
  %chip = f32[4096,4096]{1,0:S(1)} negate(%x), metadata={op_name="jit(step)/on_chip"}
  ROOT %t = (s32[], f32[4,1024,1024]{2,1,0}) tuple(%i, %x)
}
%condition (p: (s32[], f32[4,1024,1024])) -> pred[] {
  %p = (s32[], f32[4,1024,1024]{2,1,0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %c = s32[] constant(4)
  ROOT %lt = pred[] compare(%i, %c), direction=LT
}
ENTRY %main (w: f32[3,1024,1024]) -> f32[4,1024,1024] {
  %w = f32[3,1024,1024]{2,1,0} parameter(0), metadata={op_name="state.params['w']"}
  %z = s32[] constant(0)
  %a = f32[4,1024,1024]{2,1,0} custom-call(), custom_call_target="AllocateBuffer"
  %init = (s32[], f32[4,1024,1024]{2,1,0}) tuple(%z, %a)
  %loop = (s32[], f32[4,1024,1024]{2,1,0}) while(%init), condition=%condition, body=%body
  ROOT %out = f32[4,1024,1024]{2,1,0} get-tuple-element(%loop), index=1
}
"""
    found = estimates.estimate(step(peak_bytes=20 * GIB, text=text), RUN, CHIPS["v5e"], 16)
    assert not found["fits"] and found["margin_bytes"] < 0
    assert [(b["bytes"], b["shape"], b["source"]) for b in found["largest_buffers"]] == [
        (16 * 2**20, "f32[4,1024,1024]", "main/a"),
        (12 * 2**20, "f32[3,1024,1024]", "state.params['w']"),
        (4 * 2**20, "bf16[2048,1024]", "encoder/mlp/wi"),
    ]
    assert any(text.startswith("REMAT_POLICY") for text in found["suggestions"])
    assert any("SCAN_LAYERS=True" in text for text in found["suggestions"])
    console = rich.console.Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    report.render({"train": found}, "heading", console)
    printed = console.export_text()
    assert "does not fit; it needs 20.25 GiB of 15.75 GiB, 4.50 GiB too much" in printed
    assert "encoder/mlp/wi" in printed and "would help: REMAT_POLICY" in printed


def test_suggestions_leave_out_what_is_already_set():
    model = dataclasses.replace(TINY, remat_policy="full", scan_layers=True)
    run = dataclasses.replace(RUN, model=model, layout=Layout(16, 64, 32), mesh=partitioning.MeshConfig(1, 16, 1))
    found = estimates.suggestions(step(), run, 16)
    assert not any(word in text for text in found for word in ("REMAT", "SCAN", "NUM_MICRO", "PARAM_GATHER"))
    large = step(arguments={"parameters": 6 * GIB})
    for sizes, expected in (((1, -1, 1), False), ((1, 4, 4), False), ((-1, 8, 1), True), ((-1, 1, 16), False)):
        other = dataclasses.replace(run, mesh=partitioning.MeshConfig(*sizes))
        assert any("a larger fsdp axis" in text for text in estimates.suggestions(large, other, 16)) is expected
    run = dataclasses.replace(run, loop=dataclasses.replace(run.loop, param_gather="step"))
    assert any("PARAM_GATHER='layer'" in text for text in estimates.suggestions(step(), run, 16))
    parallel = "SEQUENCE_PARALLEL=True"
    assert not any(parallel in text for text in estimates.suggestions(step(), run, 16))
    run = dataclasses.replace(run, mesh=partitioning.MeshConfig(1, 4, 4))
    assert any(parallel in text for text in estimates.suggestions(step(), run, 16))
    run = dataclasses.replace(run, loop=dataclasses.replace(run.loop, sequence_parallel=True))
    assert not any(parallel in text for text in estimates.suggestions(step(), run, 16))


def test_the_printed_report_names_every_part():
    one = costs.Collective("all-reduce", ("data", "fsdp"), 16, 12, 1e9, 1e9, 2e9)
    found = estimates.estimate(
        step(costs=dataclasses.replace(step().costs, collectives=(one,), bounded_loops=("while",))),
        RUN,
        CHIPS["v5e"],
        16,
    )
    console = rich.console.Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    report.render({"train": found}, "v5e:4x4", console)
    printed = console.export_text()
    for part in ("5.50 GiB to spare", "optimizer state", "bound by memory", "data+fsdp", "utilisation", "end early"):
        assert part in printed, part


@needs_libtpu
@pytest.mark.slow
def test_scanned_layers_count_like_unscanned_ones_on_a_tpu():
    """Also: the costs of a program without loops equal XLA's."""
    device = topology.open_topology("v5e:1x1").devices[0]
    sharding = jax.sharding.SingleDeviceSharding(device)
    shapes = [jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=sharding) for shape in ((8, 256, 512), (4, 512, 512))]

    def loss(x, stack, scanned):
        def layer(x, w):
            return x + jnp.tanh(x @ w), None

        if scanned:
            x, _ = jax.lax.scan(layer, x, stack)
        else:
            for w in stack:
                x, _ = layer(x, w)
        return jax.nn.logsumexp(jnp.einsum("bqd,bkd->bqk", x, x).astype(jnp.float32))

    found = {}
    for scanned in (False, True):
        with topology.silenced():
            compiled = jax.jit(jax.grad(loss, argnums=(0, 1)), static_argnums=2).lower(*shapes, scanned).compile()
        found[scanned] = costs.analyse(compiled.as_text())
        once, xla = costs.analyse(compiled.as_text(), count_trips=False), compiled.cost_analysis()
        assert once.flops == pytest.approx(xla["flops"], rel=0.01)
        # XLA counts some bytes twice; see the module's docstring.
        assert 0.75 * xla["bytes accessed"] < once.bytes_accessed < 1.02 * xla["bytes accessed"]
    assert found[True].matmul_flops == pytest.approx(found[False].matmul_flops, rel=0.02)
    assert once.matmul_flops < 0.5 * found[True].matmul_flops
