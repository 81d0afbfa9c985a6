"""The Pallas kernel of Gemma's attention against plain attention: interpreted, on a mesh, and compiled for TPUs."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from distill.model.attention import Segments
from distill.model.grouped_attention import Reach, Sight, attend, attend_fused, visible
from distill.model.network import ModelInputs
from distill.model.networks import network_of
from distill.model.parameters import param_shapes
from distill.model.t5gemma_config import StackConfig, T5GemmaConfig
from distill.precompile import topology
from distill.sharding import partitioning
from distill.sharding.windowed_attention import Near, Settings, why_not, windowed_attention
from tests.distill.precompile.tiny_run import needs_libtpu

BATCH, FAR = 2, 2**31 - 1


def draw(shape, seed, scale=1.0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape) * scale, jnp.float32)


def segments(length, seed, last=4):
    return jnp.asarray(np.sort(np.random.default_rng(seed).integers(0, last, (BATCH, length))), jnp.int32)


@functools.partial(jax.jit, static_argnames=("kernel", "own", "cap", "causal", "near"))
def values_and_gradients(arrays, ids, keep, window, *, kernel, own, cap, causal, near=None):
    """Of the kernel or of plain attention; ``ids`` are those of queries for own and merged keys, and of keys."""
    scale = 0.4
    (heads, width), kv_heads = arrays[0].shape[2:], arrays[1].shape[2]

    def fused(query, key, value):
        flat = (x.reshape(*x.shape[:2], -1) for x in (query, key, value))
        settings = Settings(width, heads // kv_heads, own, scale, cap, near)
        dropped = None if keep is None else keep.reshape(BATCH, heads, 1, -1)
        reach = jnp.stack([window[0], jnp.int32(0) if causal else window[1]])
        return windowed_attention(*flat, dropped, jnp.stack(ids[:2]), ids[2], reach, settings)

    def plain(query, key, value):
        mask = visible(Segments(ids[0], ids[2][:, :own]), causal=causal, window=Reach(*window))
        mask = jnp.concatenate([mask, visible(Segments(ids[1], ids[2][:, own:]))], axis=2)
        return attend(query, key, value, mask, scale=scale, cap=cap, keep=keep)

    def loss(*arrays):
        mixed = (fused if kernel else plain)(*arrays)
        return jnp.sum(mixed * draw(mixed.shape, 7)), mixed

    return jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)(*arrays)


def problem(queries, keys, heads, kv_heads, width, own=None):
    """Queries, keys and values; segment ids, of which one has no key and one no query; the number of own keys."""
    arrays = (draw((BATCH, queries, heads, width), 1, 0.5), draw((BATCH, keys, kv_heads, width), 2))
    arrays += (draw((BATCH, keys, kv_heads, width), 3),)
    own = keys if own is None else own
    first = segments(queries, 4).at[0, 0].set(9)
    own_keys = first if own == queries else segments(own, 5)
    return arrays, (first, jnp.minimum(first, 1), jnp.concatenate([own_keys, segments(keys - own, 6, 2)], axis=1)), own


def check_equal(got, wanted):
    def close(a, b):
        assert np.isfinite(a).all()
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * max(1.0, np.abs(b).max()))

    jax.tree.map(close, got, wanted)


CASES = {
    "global encoder": (problem(256, 256, 2, 1, 128), (FAR, FAR), {}),
    "local encoder, heads of 64": (problem(128, 128, 2, 2, 64), (3, 4), {}),
    "causal, capped, local": (problem(128, 128, 4, 2, 128), (40, 0), {"causal": True, "cap": 2.0}),
    "cross-attention, capped": (problem(128, 256, 2, 2, 64), (FAR, FAR), {"cap": 2.0}),
    "merged, shared encoder": (problem(128, 384, 2, 1, 256, own=128), (20, 0), {"causal": True}),
}


def check_case(name, with_keep=False):
    (arrays, ids, own), window, rest = CASES[name]
    heads, kv_heads, keys = arrays[0].shape[2], arrays[1].shape[2], arrays[1].shape[1]
    shape = (BATCH, kv_heads, heads // kv_heads, 1, keys)
    kept = jnp.asarray(np.random.default_rng(8).random(shape) < 0.8, jnp.float32) / 0.8
    fixed = {"own": own, "cap": None, "causal": False} | rest
    window = tuple(jnp.int32(distance) for distance in window)
    run = functools.partial(values_and_gradients, arrays, ids, kept if with_keep else None, window, **fixed)
    return run


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_equal_plain_attention(name):
    """Also with dropout, in one case, and for queries that see no key."""
    run = check_case(name, with_keep="merged" in name)
    check_equal(run(kernel=True), run(kernel=False))


def test_on_a_mesh_every_device_computes_its_own_rows_and_heads():
    """A key head that is smaller than the mesh's axis of heads is repeated, one per device."""
    (arrays, ids, own), window, _ = CASES["merged, shared encoder"]
    arrays = tuple(jnp.tile(x, (2, 1, 1, 1)) for x in arrays)
    ids = [jnp.tile(x, (2, 1)) for x in ids]
    first, merged = Segments(ids[0], ids[2][:, :own]), Segments(ids[1], ids[2][:, own:])
    sight = Sight(first, Reach(*map(jnp.int32, window)), True, merged)

    def run(attend_by):
        def loss(arrays):
            mixed = attend_by(*arrays)
            return jnp.sum(mixed * draw(mixed.shape, 7)), mixed

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(arrays)

    wanted = run(lambda *arrays: attend(*arrays, sight.mask(), scale=0.4))
    mesh = partitioning.MeshConfig(2, 2, 2).build(jax.devices()[:8])
    with jax.set_mesh(mesh), nn.logical_axis_rules(list(partitioning.DEFAULT_RULES)):
        assert "cannot be sharded evenly" in why_not(2, 128, 128, 2, 128, jnp.float32, 1)
        got = run(lambda *arrays: attend_fused(*arrays, sight, scale=0.4))
    check_equal(got, wanted)


STACK = StackConfig(2, 32, 48, 2, 1, 128, 128.0, 9, 2)
FAMILIES = {
    1: T5GemmaConfig(1, 64, STACK, STACK, attention_logit_cap=5.0),
    2: T5GemmaConfig(2, 64, STACK, STACK, rope_base_global=1e5),
}


@pytest.mark.parametrize(("version", "scan"), [(1, False), (2, True)])
def test_gradients_of_a_packed_network_are_the_same_with_either_attention(version, scan):
    """Rematerialised in version 2, whose local and global layers are one program in a scan."""
    config = FAMILIES[version]
    if scan:
        config = dataclasses.replace(config, scan_layers=True, remat_policy="elementwise")
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: 0.2 * rng.normal(size=leaf.shape).astype(np.float32), param_shapes(config))
    tokens = [rng.integers(3, 64, (2, 128)).astype(np.int32) for _ in range(2)]
    packed = [np.sort(rng.integers(1, 4, (2, 128))).astype(np.int32) for _ in range(2)]

    def gradients(attention):
        model = network_of(dataclasses.replace(config, attention=attention))

        def loss(params):
            rest = {"deterministic": False, "method": "hidden"}
            hidden = model.apply({"params": params}, ModelInputs(*tokens, *packed), **rest)
            return jnp.mean(hidden**3)

        traced = jax.jit(jax.value_and_grad(loss)).trace(params)
        assert ("windowed_attention_backward" in str(traced.jaxpr)) == (attention == "pallas")
        return traced.lower().compile()(params)

    check_equal(gradients("pallas"), gradients("xla"))


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ((4, 128, 128, 4, 48, "float32", 4), "4 query and 4 key heads of 48 on 1 devices do not fill 128 lanes"),
        ((4, 128, 128, 4, 64, "float32", 2), "4 query and 2 key heads of 64"),
        ((4, 128, 128, 3, 64, "float32", 3), "3 query and 3 key heads of 64"),
        ((4, 100, 128, 4, 128, "float32", 1), "lengths 100 and 128 are no multiples of 128"),
        ((4, 128, 32768, 4, 128, "float32", 1), "32768 keys per row do not fit in VMEM"),
    ],
)
def test_unsupported_shapes_have_a_reason(shape, reason):
    assert reason in why_not(*shape)
    batch, queries, keys, heads, width, dtype, kv_heads = shape
    arrays = [
        jnp.zeros((batch, n, h * width), dtype) for n, h in ((queries, heads), (keys, kv_heads), (keys, kv_heads))
    ]
    ids = jnp.ones((2, batch, queries), jnp.int32), jnp.ones((batch, keys), jnp.int32)
    with pytest.raises(ValueError, match=reason):
        windowed_attention(
            *arrays, None, *ids, jnp.zeros(2, jnp.int32), Settings(width, heads // kv_heads, keys, 1.0, None)
        )


@needs_libtpu
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "most"),
    [("v4:2x2x1", 1920), ("v5e:1x1", 5760), ("v5p:2x2x1", 5760), ("v6e:1x1", 5760), ("tpu7x:2x2x1", 5760)],
)
def test_merged_attention_compiles_for_every_chip(name, most):
    """That of T5Gemma 2 270M, forward and backward, to as many keys as fit; no array of logits is in HBM."""
    target = topology.open_topology(name)
    mesh = target.mesh(partitioning.MeshConfig(-1, 1, 1))
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    rows, queries, width = 2 * len(target.devices), 256, 256

    def of(dtype, *shape):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=whole)

    arrays = [of(jnp.bfloat16, rows, n, heads * width) for n, heads in ((queries, 4), (most, 1), (most, 1))]
    rest = of(jnp.int32, 2, rows, queries), of(jnp.int32, rows, most), of(jnp.int32, 2)

    def gradients(query, key, value, *rest):
        run = functools.partial(windowed_attention, settings=Settings(width, 4, queries, width**-0.5, None))
        mixed, pull = jax.vjp(lambda *arrays: run(*arrays, None, *rest), query, key, value)
        return mixed, pull(mixed)

    placed = jax.set_mesh(mesh), nn.logical_axis_rules(list(partitioning.DEFAULT_RULES))
    with placed[0], placed[1], topology.silenced(), topology.uncached():
        assert "fit in VMEM" in why_not(rows, queries, most + 128, 4, width, jnp.bfloat16, 1)
        program = jax.jit(gradients).lower(*arrays, *rest).compile().as_text()
    assert all(f"windowed_attention_{way}" in program for way in ("forward", "backward"))
    assert f"{queries},{most}]" not in program


@needs_libtpu
@pytest.mark.slow
@pytest.mark.parametrize("name", ["v4:2x2x1", "v5e:1x1", "v5p:2x2x1", "v6e:1x1", "tpu7x:2x2x1"])
def test_a_scan_of_local_and_global_layers_compiles_for_every_chip(name):
    """The estimate counts the keys that local layers read."""
    target = topology.open_topology(name)
    mesh = target.mesh(partitioning.MeshConfig(-1, 1, 1))
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    rows, queries, keys, width = 2 * len(target.devices), 1024, 1536, 256

    def of(dtype, *shape):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=whole)

    arrays = [of(jnp.bfloat16, rows, n, heads * width) for n, heads in ((queries, 4), (keys, 1), (keys, 1))]
    rest = of(jnp.int32, 2, rows, queries), of(jnp.int32, rows, keys), of(jnp.int32, 2)

    def flops(near):
        settings = Settings(width, 4, queries, width**-0.5, 50.0, near)

        def gradients(query, key, value, *rest):
            run = functools.partial(windowed_attention, settings=settings)
            mixed, pull = jax.vjp(lambda *arrays: run(*arrays, None, *rest), query, key, value)
            return mixed, pull(mixed)

        return jax.jit(gradients).lower(*arrays, *rest).compile().cost_analysis()["flops"]

    placed = jax.set_mesh(mesh), nn.logical_axis_rules(list(partitioning.DEFAULT_RULES))
    with placed[0], placed[1], topology.silenced(), topology.uncached():
        assert flops(Near(255, 0, 0.5)) < 0.85 * flops(None)
