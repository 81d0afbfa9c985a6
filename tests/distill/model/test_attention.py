"""The layers of T5 against formulas in float64 NumPy, and relative-position buckets against literal values."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill.model.attention import (
    Attention,
    FeedForward,
    RelativeBias,
    RMSNorm,
    Segments,
    TokenEmbedder,
    relative_position_bucket,
)

BATCH, LENGTH, EMBED, HEADS, WIDTH = 2, 5, 6, 2, 3


@pytest.fixture(scope="module")
def x():
    return jnp.asarray(np.random.default_rng(1).normal(size=(BATCH, LENGTH, EMBED)), jnp.float32)


def attention(x, attended, params, mask, bias=0.0):
    """Multi-head attention without the factor 1/√d."""
    params = {name: np.asarray(params[name]["kernel"], np.float64) for name in params}
    x, attended = np.asarray(x, np.float64), np.asarray(attended, np.float64)
    split = [
        (source @ params[name]).reshape(*source.shape[:2], HEADS, WIDTH)
        for source, name in ((x, "query"), (attended, "key"), (attended, "value"))
    ]
    logits = np.einsum("bqhd,bkhd->bhqk", *split[:2]) + bias
    logits = np.where(mask[:, None], logits, -1e30)
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    mixed = np.einsum("bhqk,bkhd->bqhd", exponentials / exponentials.sum(-1, keepdims=True), split[2])
    return mixed.reshape(*x.shape[:2], HEADS * WIDTH) @ params["out"]


def layer(dropout_rate=0.0):
    return Attention(HEADS, WIDTH, EMBED, dropout_rate, jnp.dtype("float32"))


@pytest.mark.parametrize("causal", [False, True])
def test_self_attention_within_segments(x, causal):
    segments = np.asarray([[1, 1, 2, 2, 2], [1, 1, 1, 0, 0]], np.int32)
    mask = segments[:, :, None] == segments[:, None, :]
    if causal:
        mask = mask & np.tri(LENGTH, dtype=bool)
    variables = nn.unbox(layer().init(jax.random.key(0), x, x, Segments(segments, segments)))
    bias = RelativeBias(HEADS, 8, 16, not causal)
    bias_variables = bias.init(jax.random.key(1), LENGTH, LENGTH)
    position_bias = bias.apply(bias_variables, LENGTH, LENGTH)
    out = layer().apply(variables, x, x, Segments(segments, segments), position_bias, causal=causal)
    full = np.asarray(position_bias.full, np.float64)
    np.testing.assert_allclose(out, attention(x, x, variables["params"], mask, full), rtol=1e-4, atol=1e-5)


def test_cached_keys_and_values_give_the_same_as_attention(x):
    attended = x[:, :4]
    segments = Segments(np.ones((BATCH, LENGTH), np.int32), np.ones((BATCH, 4), np.int32))
    variables = layer().init(jax.random.key(0), x, attended, segments)
    cached = layer().apply(variables, attended, method="key_value")
    assert cached.key.shape == (BATCH, HEADS, 4, WIDTH)
    mask = np.ones((1, 1, 1, 4), bool)
    out = layer().apply(variables, x, cached, mask, method="with_key_value")
    np.testing.assert_allclose(out, layer().apply(variables, x, attended, segments), rtol=1e-5, atol=1e-6)


def test_dropout_needs_a_key_and_changes_the_output(x):
    segments = Segments(*[np.ones((BATCH, LENGTH), np.int32)] * 2)
    variables = layer().init(jax.random.key(0), x, x, segments)
    plain = layer(0.5).apply(variables, x, x, segments)
    np.testing.assert_array_equal(plain, layer().apply(variables, x, x, segments))
    dropped = layer(0.5).apply(variables, x, x, segments, deterministic=False, rngs={"dropout": jax.random.key(1)})
    assert not np.allclose(dropped, plain)


def test_the_norm_divides_by_the_root_of_the_mean_square():
    x = jnp.asarray([[[3.0, 4.0], [0.0, 0.0]]])
    out = RMSNorm(1e-6, jnp.dtype("float32")).apply({"params": {"scale": jnp.asarray([2.0, 1.0])}}, x)
    root = np.sqrt(12.5)
    np.testing.assert_allclose(out, [[[6.0 / root, 4.0 / root], [0.0, 0.0]]], rtol=1e-6)


def test_bidirectional_buckets():
    # 8 buckets up to 16: distances 0 and 1 exactly, 2-5 and 6 or more in steps; keys after the query from 4 on.
    distance = jnp.asarray([-100, -16, -6, -5, -2, -1, 0, 1, 2, 5, 6, 100], jnp.int32)
    buckets = relative_position_bucket(distance, bidirectional=True, num_buckets=8, max_distance=16)
    assert buckets.tolist() == [3, 3, 3, 2, 2, 1, 0, 5, 6, 6, 7, 7]


def test_causal_buckets():
    distance = jnp.asarray([5, 0, -1, -2, -3, -4, -5, -6, -7, -8, -11, -12, -16, -99], jnp.int32)
    buckets = relative_position_bucket(distance, bidirectional=False, num_buckets=8, max_distance=16)
    assert buckets.tolist() == [0, 0, 1, 2, 3, 4, 4, 5, 5, 6, 6, 7, 7, 7]


def test_a_bias_is_looked_up_by_bucket_and_the_same_for_one_position():
    table = jnp.arange(16, dtype=jnp.float32).reshape(2, 8)
    bias, variables = RelativeBias(2, 8, 16, True), {"params": {"rel_embedding": table}}
    full = np.asarray(bias.apply(variables, 3, 7).full)
    assert full.shape == (1, 2, 3, 7)
    for query in range(3):
        distance = jnp.arange(7, dtype=jnp.int32) - query
        buckets = relative_position_bucket(distance, bidirectional=True, num_buckets=8, max_distance=16)
        np.testing.assert_array_equal(full[0, :, query], np.asarray(table)[:, np.asarray(buckets)])
        one = bias.apply(variables, jnp.int32(query), 7, method="at")
        np.testing.assert_array_equal(one[:, :, 0], full[:, :, query])


def test_a_gated_block_multiplies_its_activations(x):
    block = FeedForward(7, EMBED, ("relu", "linear"), 0.0, jnp.dtype("float32"))
    variables = nn.unbox(block.init(jax.random.key(0), x))
    kernels = {name: np.asarray(one["kernel"], np.float64) for name, one in variables["params"].items()}
    assert set(kernels) == {"wi_0", "wi_1", "wo"}
    inner = np.maximum(np.asarray(x, np.float64) @ kernels["wi_0"], 0.0) * (np.asarray(x) @ kernels["wi_1"])
    np.testing.assert_allclose(block.apply(variables, x), inner @ kernels["wo"], rtol=1e-4, atol=1e-5)


def test_the_embedder_looks_tokens_up_and_multiplies_with_the_transposed_table():
    table = jnp.asarray([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    embedder, variables = TokenEmbedder(3, 2, jnp.dtype("float32")), {"params": {"embedding": table}}
    found = embedder.apply(variables, jnp.asarray([[2, 0]], jnp.int32))
    assert found.tolist() == [[[5.0, 6.0], [1.0, 2.0]]]
    logits = embedder.apply(variables, jnp.asarray([[[1.0, -1.0]]]), method="attend")
    assert logits.tolist() == [[[-1.0, -1.0, -1.0]]]
