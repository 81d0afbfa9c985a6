"""The GPU attention kernels, interpreted, against plain attention; their lowering for CUDA; their use in the network."""

import functools
import logging
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from abstract_meshes import mesh_of
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.model import attention
from distill.model.network import ModelInputs, T5Config, Transformer
from distill.model.parameters import init_params
from distill.sharding import attention_choice, gpu_attention, partitioning
from distill.sharding.attention_kernels import MASKED
from distill.sharding.gpu_attention import Tiles, why_not
from distill.sharding.gpu_attention_kernels import Tile

HEADS, DIM = 2, 16
SMALL_TILES = Tiles(*[Tile(16, 16, 4, 2)] * 4)


def problem(batch, query_length, key_length, *, bias=True, segments=3, dtype=jnp.float32, heads=HEADS):
    rng = np.random.default_rng(0)

    def draw(*shape):
        return jnp.asarray(rng.normal(size=shape), dtype)

    def draw_segments(length):
        # The first row is padding alone.
        return jnp.asarray(np.sort(rng.integers(0, segments, (batch, length))), jnp.int32).at[0].set(0)

    query, key, value = (draw(batch, length, heads, DIM) for length in (query_length, key_length, key_length))
    added = draw(heads, query_length, key_length).astype(jnp.float32) if bias else None
    return (0.5 * query, key, value, added), (draw_segments(query_length), draw_segments(key_length))


def plain(query, key, value, bias, queries, keys, *, causal):
    """The formula of ``Attention``, except that a query without any visible key yields 0."""
    logits = jnp.einsum("bqhd,bkhd->bhqk", query, key, preferred_element_type=jnp.float32)
    logits = logits if bias is None else logits + bias[None]
    mask = (queries[:, :, None] == keys[:, None, :])[:, None]
    if causal:
        mask = mask & jnp.tri(query.shape[1], key.shape[1], dtype=bool)[None, None]
    probabilities = jax.nn.softmax(jnp.where(mask, logits, MASKED), axis=-1)
    probabilities = jnp.where(mask.any(-1, keepdims=True), probabilities, 0.0).astype(value.dtype)
    return jnp.einsum("bhqk,bkhd->bqhd", probabilities, value)


@functools.partial(jax.jit, static_argnums=(0, 1))
def values_and_gradients(attend, causal, arrays, segments):
    def loss(arrays):
        mixed = attend(*arrays, *segments, causal=causal)
        weights = np.random.default_rng(9).normal(size=mixed.shape).astype(np.float32)
        return jnp.sum(mixed.astype(jnp.float32) * weights), mixed

    (_, mixed), gradients = jax.value_and_grad(loss, has_aux=True)(arrays)
    return mixed, gradients


interpreted = functools.partial(gpu_attention.gpu_attention, interpret=True)
interpreted_small = functools.partial(interpreted, tiles=SMALL_TILES)


def check_equal(got, wanted, tolerance=1e-5):
    def check(a, b):
        assert a.dtype == b.dtype
        a, b = (np.asarray(x, np.float32) for x in (a, b))
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * np.abs(b).max())

    jax.tree.map(check, got, wanted)


@pytest.mark.parametrize(
    ("batch", "lengths", "bias", "segments", "causal"),
    [
        (2, (96, 96), True, 4, True),
        (2, (64, 128), False, 3, False),
    ],
)
def test_values_and_gradients_equal_plain_attention(batch, lengths, bias, segments, causal):
    given_ = problem(batch, *lengths, bias=bias, segments=segments)
    check_equal(values_and_gradients(interpreted, causal, *given_), values_and_gradients(plain, causal, *given_))


def test_bfloat16_values_and_gradients_equal_plain_attention():
    given_ = problem(2, 64, 32, dtype=jnp.bfloat16)
    check_equal(values_and_gradients(interpreted, False, *given_), values_and_gradients(plain, False, *given_), 0.03)


@settings(max_examples=15)
@given(st.lists(st.integers(0, 3), min_size=96, max_size=96), st.lists(st.integers(0, 3), min_size=64, max_size=64))
def test_any_segments_sorted_or_not_give_plain_attention(queries, keys):
    """Also segments without a counterpart: a query that sees no key, a key that no query sees, a block of both."""
    arrays, _ = problem(2, 48, 32)
    segments = jnp.asarray(queries, jnp.int32).reshape(2, 48), jnp.asarray(keys, jnp.int32).reshape(2, 32)
    got = values_and_gradients(interpreted_small, False, arrays, segments)
    check_equal(got, values_and_gradients(plain, False, arrays, segments))


def test_a_query_without_visible_key_yields_zero_and_no_gradient():
    arrays, (queries, keys) = problem(2, 48, 32)
    queries = queries.at[:, :20].set(9)
    mixed, (d_query, d_key, _, d_bias) = values_and_gradients(interpreted_small, False, arrays, (queries, keys))
    for array in (mixed[:, :20], d_query[:, :20], d_bias[:, :20]):
        np.testing.assert_array_equal(array, 0.0)
    assert np.isfinite(np.asarray(d_key)).all()


def test_the_kernels_skip_blocks_that_share_no_segment():
    """A NaN in the values of a block would reach the result of any query that visits the block."""
    (query, key, value, bias), _ = problem(2, 48, 32)
    by_block = jnp.repeat(jnp.arange(3, dtype=jnp.int32), 16)[None].repeat(2, axis=0)
    segments = by_block, by_block[:, :32]
    results = [
        values_and_gradients(interpreted_small, False, (query, key, spoilt, bias), segments)
        for spoilt in (value.at[:, 16:].set(np.nan), value)
    ]
    spoilt, clean = ((mixed, gradients[0], gradients[3][:, :, :16]) for mixed, gradients in results)
    for got, wanted in zip(spoilt, clean):
        np.testing.assert_array_equal(got[:, :16], wanted[:, :16])
        np.testing.assert_array_equal(got[:, 32:], wanted[:, 32:])
    assert all(np.isnan(np.asarray(got[:, 16:32])).all() for got in spoilt[:2])


def test_on_a_mesh_every_device_computes_its_own_rows_and_heads():
    given_ = problem(4, 32, 32, heads=4)
    wanted = values_and_gradients(plain, True, *given_)
    mesh = partitioning.MeshConfig(2, 2, 2).build(jax.devices()[:8])
    with jax.set_mesh(mesh), nn.logical_axis_rules(list(partitioning.DEFAULT_RULES)):
        assert "cannot be sharded" in why_not(2, 32, 32, 4, DIM)
        got = values_and_gradients(interpreted, True, *given_)
    check_equal(got, wanted)


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ((4, 90, 128, 3, 64), "lengths 90 and 128 are no multiples of 16"),
        ((4, 128, 128, 4, 48), "heads of 48"),
        ((4, 2048, 128, 4, 64), "exceed 1024"),
        ((2**14, 1024, 16, 1, 128), "32-bit offset"),
    ],
)
def test_unsupported_shapes_have_a_reason(shape, reason):
    assert reason in why_not(*shape)
    assert why_not(128, 512, 96, 12, 64) is None


def test_a_jax_without_the_triton_backend_is_a_reason(monkeypatch):
    monkeypatch.setattr(gpu_attention, "plgpu", None)
    assert why_not(128, 512, 96, 12, 64) == f"JAX {jax.__version__} has no Triton backend for Pallas"
    with pytest.raises(ValueError, match="no Triton backend"):
        (query, key, value, bias), ids = problem(2, 32, 32)
        gpu_attention.gpu_attention(query, key, value, bias, *ids, causal=False)


def test_an_unsupported_shape_raises_its_reason():
    arrays, segments = problem(1, 24, 32)
    with pytest.raises(ValueError, match="lengths 24 and 32"):
        interpreted(*arrays, *segments, causal=False)


def traced_for_cuda(function, *arguments):
    """The jaxpr of ``function`` and its StableHLO, lowered for a GPU; none is needed."""
    with jax.sharding.use_abstract_mesh(mesh_of("gpu")):
        traced = jax.jit(function).trace(*arguments)
        return traced.jaxpr.jaxpr, traced.lower(lowering_platforms=("cuda",)).as_text()


def kernels_in(program):
    return sorted(re.findall(r'xla\.gpu\.triton.*?name = "gpu_attention_(\w+)"', program))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("bias", [True, False])
def test_the_kernels_lower_for_cuda(dtype, bias):
    arrays, segments = problem(2, 96, 128, bias=bias, dtype=dtype)
    attend = functools.partial(gpu_attention.gpu_attention, causal=True)
    _, program = traced_for_cuda(functools.partial(values_and_gradients, attend, True), arrays, segments)
    assert kernels_in(program) == sorted(["forward", "d_query", "d_key_value"] + ["d_bias"] * bias)


NETWORK = T5Config(32, 32, 2, 16, 32, 1, 1, dropout_rate=0.1, attention="triton", remat_policy="elementwise")


@functools.cache
def network():
    params = jax.jit(init_params, static_argnums=0)(NETWORK, jax.random.key(0))
    rng = np.random.default_rng(1)
    tokens = [rng.integers(2, 32, (2, length)).astype(np.int32) for length in (32, 16)]
    # Both examples of a row have targets and inputs.
    ids = [np.broadcast_to(np.repeat([1, 2], half), (2, 2 * half)).astype(np.int32) for half in (16, 8)]
    return params, ModelInputs(*tokens, *ids)


def gradients(config, params, inputs):
    def loss(params):
        rngs = {"dropout": jax.random.key(2)}
        logits = Transformer(config).apply({"params": params}, inputs, deterministic=False, rngs=rngs)
        return jnp.mean(jnp.square(logits))

    return jax.value_and_grad(loss)(params)


def kernels_used(jaxpr):
    """Names of the kernels with a result that the program reads; the compiler removes the others."""
    read = {id(variable) for equation in jaxpr.eqns for variable in equation.invars}
    read |= {id(variable) for variable in jaxpr.outvars}
    names = []
    for equation in jaxpr.eqns:
        if equation.primitive.name == "pallas_call":
            is_read = any(id(variable) in read for variable in equation.outvars)
            names += [equation.params["name"].removeprefix("gpu_attention_")] * is_read
        else:
            inner = [getattr(value, "jaxpr", value) for value in equation.params.values()]
            names += [name for one in inner if hasattr(one, "eqns") for name in kernels_used(one)]
    return sorted(names)


def test_the_network_uses_the_kernels_and_rematerialises_none(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    jaxpr, program = traced_for_cuda(functools.partial(gradients, NETWORK), *network())
    # Encoder, decoder and cross attention, of which the last has no bias.
    wanted = ["d_bias"] * 2 + ["d_key_value"] * 3 + ["d_query"] * 3 + ["forward"] * 3
    assert kernels_used(jaxpr) == wanted
    assert set(kernels_in(program)) == set(wanted)


def test_the_attention_layer_has_the_same_gradients_with_the_kernels(monkeypatch):
    """With dropout and causal; every query sees a key."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(attention, "gpu_attention", interpreted)
    (x, _, _, bias), (ids, _) = problem(2, 32, 32)
    x = x.reshape(2, 32, HEADS * DIM)

    def results(kernel):
        layer = attention.Attention(HEADS, DIM, HEADS * DIM, 0.3, jnp.dtype("float32"), kernel)

        def loss(variables, x, bias):
            segments, both = attention.Segments(ids, ids), attention.PositionBias(bias[None], jnp.zeros((1, HEADS, 64)))
            rngs = {"dropout": jax.random.key(1)}
            mixed = layer.apply(variables, x, x, segments, both, causal=True, deterministic=False, rngs=rngs)
            return jnp.sum(jnp.sin(mixed)), mixed

        start = layer.init(jax.random.key(0), x, x, attention.Segments(ids, ids))
        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))(start, x, bias)

    check_equal(results("triton"), results("xla"))


def test_without_a_gpu_the_network_uses_plain_attention_and_reports_it(caplog):
    attention_choice._log_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        program = str(jax.make_jaxpr(functools.partial(gradients, NETWORK))(*network()))
    assert "pallas_call" not in program
    told = [record.getMessage() for record in caplog.records if "Triton" in record.getMessage()]
    assert told == ["attention runs without the Triton kernels: they run on NVIDIA GPUs, not on cpu"]
