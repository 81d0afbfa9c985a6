"""Embedding lookup and its gradient against plain indexing: on one device, in chunks and on meshes."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.sharding import embedding, partitioning


def by_hand(vocab_size, tokens, d_rows):
    total = np.zeros((vocab_size, d_rows.shape[-1]), np.float64)
    inside = (tokens >= 0) & (tokens < vocab_size)
    np.add.at(total, tokens[inside], d_rows[inside].astype(np.float64))
    return total


def gradient(table, tokens, weights, dtype="float32"):
    tokens = jnp.asarray(tokens)
    rows, pull = jax.vjp(lambda table: embedding.lookup(table, tokens, jnp.dtype(dtype)), jnp.asarray(table))
    return rows, pull(jnp.asarray(weights, dtype))[0]


# Batch, length, rows of the table, and tokens per chunk: one chunk, several, and a last one that is not full.
SHAPES = [(1, 1, 1, 1), (6, 9, 12, 54), (6, 9, 12, 19), (4, 6, 7, 8), (5, 3, 1, 2), (1, 9, 12, 1), (2, 5, 3, 40)]


@settings(max_examples=25)
@given(st.sampled_from(SHAPES), st.integers(0, 2**32 - 1))
def test_the_gradient_sums_tokens_by_row(shape, seed):
    batch, length, vocab_size, chunk = shape
    rng = np.random.default_rng(seed)
    tokens = rng.integers(-2, vocab_size + 2, (batch, length))
    table, weights = rng.normal(size=(vocab_size, 3)).astype(np.float32), rng.normal(size=(batch, length, 3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedding, "_CHUNK", chunk)
        rows, d_table = gradient(table, tokens, weights)
    inside = (tokens >= 0) & (tokens < vocab_size)
    np.testing.assert_array_equal(np.asarray(rows)[inside], table[tokens[inside]])
    assert np.isnan(np.asarray(rows)[~inside]).all()
    np.testing.assert_allclose(d_table, by_hand(vocab_size, tokens, weights), rtol=1e-5, atol=1e-5)


def test_bfloat16_rows_have_a_float32_gradient():
    tokens = np.zeros((1, 4096), np.int32)
    rows, d_table = gradient(np.ones((2, 1), np.float32), tokens, np.ones((1, 4096, 1)), "bfloat16")
    assert rows.dtype == jnp.bfloat16
    assert d_table.dtype == jnp.float32
    # In bfloat16 the sum would stop growing at 256.
    assert d_table[0, 0] == 4096


@pytest.mark.parametrize("mesh", [(8, 1, 1), (2, 1, 4), (2, 2, 2), (1, 8, 1)])
def test_sharded_lookups_equal_plain_indexing(mesh, monkeypatch):
    monkeypatch.setattr(embedding, "_CHUNK", 7)
    rng = np.random.default_rng(0)
    table, tokens = rng.normal(size=(64, 24)).astype(np.float32), rng.integers(0, 64, (16, 10))
    weights = rng.normal(size=(2, 16, 10, 24)).astype(np.float32)
    devices = partitioning.MeshConfig(*mesh).build()
    spec = partitioning.spec_for(("vocab", "embed"), table.shape, devices, partitioning.DEFAULT_RULES)
    place = jax.sharding.NamedSharding(devices, spec)
    rows = partitioning.batch_sharding(devices)

    # Two lookups in one table, as by encoder and decoder.
    def loss(table, tokens):
        read = (embedding.lookup(table, ids, jnp.dtype("float32")) for ids in (tokens, tokens[::-1]))
        return sum(jnp.sum(one * weight) for one, weight in zip(read, weights))

    with jax.set_mesh(devices), nn.logical_axis_rules(list(partitioning.DEFAULT_RULES)):
        got = jax.jit(jax.grad(loss), out_shardings=place)(jax.device_put(table, place), jax.device_put(tokens, rows))
    wanted = by_hand(64, tokens, weights[0]) + by_hand(64, tokens[::-1], weights[1])
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
