"""Parts of the attention kernels, interpreted: a bias by distance as positions, its transpose, heads in lanes, chunks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas as pl

from distill.sharding import attention_kernels as kernels

HEADS, QUERIES, KEYS = 2, 16, 112  # as many distances as lanes


def called(kernel, shape, *arrays):
    """The output of an interpreted kernel of one grid step."""
    return pl.pallas_call(kernel, out_shape=jax.ShapeDtypeStruct(shape, jnp.float32), interpret=True)(*arrays)


def by_hand(by_distance):
    """[heads, queries, keys] from [heads, 1, queries + keys]: index d is distance d + 1 - queries."""
    query, key = np.mgrid[:QUERIES, :KEYS]
    return np.asarray(by_distance)[:, 0, key - query + QUERIES - 1]


def test_a_bias_by_distance_is_laid_out_by_position():
    by_distance = np.random.default_rng(0).normal(size=(HEADS, 1, QUERIES + KEYS)).astype(np.float32)
    got = called(kernels._lay_out, (HEADS, QUERIES, KEYS), by_distance)
    np.testing.assert_array_equal(got, by_hand(by_distance))


def test_folding_sums_over_all_positions_of_a_distance():
    """The transpose: ⟨fold(p), d⟩ = ⟨p, lay_out(d)⟩ for every d."""
    rng = np.random.default_rng(1)
    by_position = rng.normal(size=(HEADS, QUERIES, KEYS)).astype(np.float32)
    got = called(kernels._fold, (HEADS, 1, QUERIES + KEYS), by_position)
    wanted = np.zeros((HEADS, QUERIES + KEYS), np.float32)
    query, key = np.mgrid[:QUERIES, :KEYS]
    for head in range(HEADS):
        np.add.at(wanted[head], key - query + QUERIES - 1, by_position[head])
    np.testing.assert_allclose(got[:, 0], wanted, rtol=1e-5, atol=1e-5)
    assert not np.any(got[:, 0, -1])  # no pair of positions has the last distance


@pytest.mark.parametrize("head_dim", [32, 64, 128])
def test_the_heads_of_a_group_fill_the_lanes_without_overlap(head_dim):
    masks = [np.asarray(kernels.lanes_of(head, head_dim)) for head in range(kernels.LANES // head_dim)]
    assert np.all(np.sum(masks, axis=0) == 1)
    assert np.flatnonzero(masks[-1])[0] == kernels.LANES - head_dim
    x = jnp.ones((3, kernels.LANES), jnp.bfloat16)
    kept = kernels._only(jnp.asarray(masks[0]), x)
    assert kept.dtype == x.dtype and float(kept.sum()) == 3 * head_dim


@pytest.mark.parametrize("length", [128, 256, 384, 512, 1024])
def test_chunks_cover_the_queries_once(length):
    chunks = kernels._chunks(length)
    assert [start for start, _ in chunks] == list(np.cumsum([0, *(rows for _, rows in chunks)])[:-1])
    assert sum(rows for _, rows in chunks) == length
    assert all(rows % kernels.LANES == 0 and rows <= 256 for _, rows in chunks)


@pytest.mark.parametrize("causal", [False, True])
def test_queries_see_keys_of_their_segment(causal):
    rng = np.random.default_rng(2)
    segments = np.sort(rng.integers(0, 3, size=16)).astype(np.int32)
    settings = kernels.Settings(1, 128, causal, False, False)
    got = kernels._visible(settings, segments[None, :, None], segments[None, None, :], 8, 8)
    wanted = segments[8:, None] == segments[None, :]
    if causal:
        wanted &= np.arange(8, 16)[:, None] >= np.arange(16)
    np.testing.assert_array_equal(got, wanted)
    assert 0 < wanted.sum() < wanted.size
