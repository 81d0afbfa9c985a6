"""One program of each GPU attention kernel, interpreted: which blocks it reads, and what a NaN does."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas as pl

from distill.sharding import gpu_attention_kernels as kernels

TILE, DIM = kernels.Tile(16, 16, 4, 2), 16


def drawn(*shape):
    return jnp.asarray(np.random.default_rng(sum(shape)).normal(size=shape), jnp.float32)


def attended(visited, query, key):
    """Output and log-sum-exp, in units of log 2, of 16 queries and 48 keys of one segment."""
    segments = jnp.ones(16, jnp.int32), jnp.ones(48, jnp.int32)
    kernel = functools.partial(kernels.forward_kernel, TILE, False, False)
    shapes = [jax.ShapeDtypeStruct((16, DIM), jnp.float32), jax.ShapeDtypeStruct((16,), jnp.float32)]
    call = pl.pallas_call(kernel, out_shape=shapes, grid=(1,), interpret=True)
    return call(query, key, drawn(48, DIM), *segments, jnp.asarray(visited, jnp.int32))


@pytest.mark.parametrize("visited", [(0, 3), (1, 2)])
def test_the_forward_kernel_reads_the_blocks_of_its_range(visited):
    query, key = drawn(16, DIM), drawn(48, DIM) * 2
    mixed, lse = attended(visited, query, key)
    keys = slice(16 * visited[0], 16 * visited[1])
    logits = query @ key[keys].T
    np.testing.assert_allclose(lse * np.log(2), jax.nn.logsumexp(logits, axis=1), rtol=1e-5, atol=1e-5)
    wanted = jax.nn.softmax(logits, axis=1) @ drawn(48, DIM)[keys]
    np.testing.assert_allclose(mixed, wanted, rtol=1e-4, atol=1e-5)


def test_an_empty_range_yields_zero_and_a_nan_stays():
    query, key = drawn(16, DIM).at[3].set(jnp.nan), drawn(48, DIM)
    for array in attended((0, 0), query, key):
        np.testing.assert_array_equal(array, 0.0)
    mixed, lse = attended((0, 3), query, key)
    assert np.isnan(np.asarray(mixed[3])).all()
    assert np.isfinite(np.asarray(mixed[jnp.arange(16) != 3])).all()
    assert np.isnan(np.asarray(lse)).tolist() == [row == 3 for row in range(16)]


def test_the_bias_kernel_sums_the_rows_that_it_is_given():
    """Rows 2 and 0 of three; with two chunks, each chunk has one of them."""
    batch = 3
    query, key, value, d_mixed = (drawn(batch, 16, DIM) * scale for scale in (1.0, 0.5, 0.7, 0.3))
    bias, lse, delta = drawn(16, 16), drawn(batch, 16) + 9.0, drawn(batch, 16)
    segments = jnp.ones((batch, 16), jnp.int32)
    rows = jnp.asarray([2, 0, 0, 2], jnp.int32)
    whole = [
        pl.BlockSpec(array.shape, functools.partial(lambda n, *_: (0,) * n, array.ndim))
        for array in (query, key, value, segments, segments, rows, bias, d_mixed, lse, delta)
    ]
    parts = pl.pallas_call(
        functools.partial(kernels.d_bias_kernel, TILE, False, 2),
        grid=(1, 1, 1, 2),
        in_specs=whole,
        out_specs=pl.BlockSpec((None, 16, 16), lambda k, q, h, c: (c, 0, 0)),
        out_shape=jax.ShapeDtypeStruct((2, 16, 16), jnp.float32),
        interpret=True,
    )(query, key, value, segments, segments, rows, bias, d_mixed, lse, delta)
    for part, row in zip(parts, (2, 0)):
        weights = jnp.exp(query[row] @ key[row].T + bias - lse[row][:, None] * np.log(2))
        wanted = weights * (d_mixed[row] @ value[row].T - delta[row][:, None])
        np.testing.assert_allclose(part, wanted, rtol=1e-4, atol=1e-6)
