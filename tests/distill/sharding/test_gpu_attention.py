"""The GPU attention kernels, interpreted, against plain attention; their lowering for CUDA; their use in the network."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill.sharding.attention_kernels import MASKED
from distill.sharding.gpu_attention import Tiles, gpu_attention, why_not
from distill.sharding.gpu_attention_kernels import Tile

HEADS, DIM = 2, 16


def problem(batch, query_length, key_length, *, dtype=jnp.float32, bias=True, segments=3, heads=HEADS, dim=DIM, seed=0):
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return jnp.asarray(rng.normal(size=shape), dtype)

    def draw_segments(length):
        return jnp.asarray(np.sort(rng.integers(0, segments, (batch, length))), jnp.int32)

    query, key, value = (draw(batch, length, heads, dim) for length in (query_length, key_length, key_length))
    added = draw(heads, query_length, key_length).astype(jnp.float32) if bias else None
    return (0.5 * query, key, value, added), (draw_segments(query_length), draw_segments(key_length))


def plain(query, key, value, bias, queries, keys, *, causal):
    """The formula of ``Attention``; a query without any visible key yields 0."""
    logits = jnp.einsum("bqhd,bkhd->bhqk", query, key, preferred_element_type=jnp.float32)
    logits = logits if bias is None else logits + bias[None]
    mask = (queries[:, :, None] == keys[:, None, :])[:, None]
    if causal:
        mask = mask & jnp.tri(query.shape[1], key.shape[1], dtype=bool)[None, None]
    probabilities = jax.nn.softmax(jnp.where(mask, logits, MASKED), axis=-1) * mask.any(-1, keepdims=True).astype(jnp.float32)
    return jnp.einsum("bhqk,bkhd->bqhd", probabilities.astype(value.dtype), value)


def values_and_gradients(attend, arrays, segments):
    @jax.jit
    def run(arrays):
        def loss(arrays):
            mixed = attend(*arrays, *segments)
            weights = np.random.default_rng(9).normal(size=mixed.shape)
            return jnp.sum(mixed * weights.astype(np.float32)), mixed

        return jax.value_and_grad(loss, has_aux=True)(arrays)

    (_, mixed), gradients = run(arrays)
    return mixed, gradients


def check_equal(arrays, segments, *, causal, **options):
    kernel = functools.partial(gpu_attention, causal=causal, interpret=True, **options)
    got = values_and_gradients(kernel, arrays, segments)
    wanted = values_and_gradients(functools.partial(plain, causal=causal), arrays, segments)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(b).max()), got, wanted)


@pytest.mark.parametrize(
    ("batch", "lengths", "bias", "segments", "causal"),
    [
        (3, (96, 96), True, 4, True),
        (2, (64, 128), False, 3, False),
        (2, (128, 32), True, 3, False),
        (2, (64, 64), True, 1, True),
    ],
)
def test_values_and_gradients_equal_plain_attention(batch, lengths, bias, segments, causal):
    check_equal(*problem(batch, *lengths, bias=bias, segments=segments), causal=causal)
