"""The Pallas kernels of :mod:`distill.sharding.gpu_attention`, for the Triton compiler.

Each program, a thread block of the GPU, owns one block of the output. It loops over the blocks of the other length, or
over the rows of the batch. Logits are in units of log 2, so that ``exp2`` replaces ``exp``.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from distill.sharding.attention_kernels import MASKED, Ref

_LOG2_E = math.log2(math.e)
# A largest logit below this bound belongs to a query without any visible key.
_INVISIBLE = 0.5 * MASKED * _LOG2_E


class Tile(NamedTuple):
    """Size of one kernel's logits in registers, and how Triton compiles the kernel.

    Attributes:
      query, key: positions per block, powers of two of at least 16.
      num_warps: warps of 32 threads per program.
      num_stages: depth of the pipeline that copies blocks to shared memory.
    """

    query: int
    key: int
    num_warps: int
    num_stages: int


def _dot(a: jax.Array, b: jax.Array, contract: tuple[int, int]) -> jax.Array:
    """``dot_general`` of two matrices, accumulated in float32; the products of float32 are exact, not TF32."""
    return jax.lax.dot_general(
        a,
        b,
        (((contract[0],), (contract[1],)), ((), ())),
        precision=jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None,
        preferred_element_type=jnp.float32,
    )


def _logits(
    rows: jax.Array,
    columns: jax.Array,
    bias: jax.Array | None,
    row_segments: jax.Array,
    column_segments: jax.Array,
    distance: jax.Array | None,
) -> jax.Array:
    """Masked logits [row, column] in units of log 2, float32.

    ``distance`` is the query position minus the key position if attention is causal, otherwise None.
    """
    logits = _dot(rows, columns, (1, 1))
    if bias is not None:
        logits = logits + bias
    mask = row_segments[:, None] == column_segments[None, :]
    if distance is not None:
        mask = mask & (distance >= 0)
    return jnp.where(mask, logits * _LOG2_E, MASKED * _LOG2_E)


def _distance(
    causal: bool, query_start: int | jax.Array, queries: int, key_start: int | jax.Array, keys: int, by_key: bool
) -> jax.Array | None:
    """Query position minus key position, [query, key] or, with ``by_key``, [key, query]; None if not ``causal``."""
    if not causal:
        return None
    at_query = query_start + jnp.arange(queries, dtype=jnp.int32)
    at_key = key_start + jnp.arange(keys, dtype=jnp.int32)
    return at_query[None, :] - at_key[:, None] if by_key else at_query[:, None] - at_key[None, :]


def _optional(has: bool, refs: Sequence[Ref]) -> tuple[Ref | None, Sequence[Ref]]:
    return (refs[0], refs[1:]) if has else (None, refs)


def forward_kernel(tile: Tile, causal: bool, has_bias: bool, *refs: Ref) -> None:
    """One block of queries: the weighted values and the log-sum-exp, by online softmax.

    References: query [query, kv], key and value [keys, kv], segments [query] and [keys], range [2] of key blocks, bias
    [query, keys]; outputs mixed [query, kv] and lse [query] float32. A query without any visible key yields 0.
    """
    query_ref, key_ref, value_ref, query_segment_ref, key_segment_ref, range_ref, *rest = refs
    bias_ref, (mixed_ref, lse_ref) = _optional(has_bias, rest)
    query, query_segments = query_ref[...], query_segment_ref[...]
    query_start = pl.program_id(0) * tile.query

    def visit(block: jax.Array, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        mixed, largest, total = carry
        keys = pl.ds(block * tile.key, tile.key)
        bias = None if bias_ref is None else bias_ref[:, keys]
        distance = _distance(causal, query_start, tile.query, block * tile.key, tile.key, by_key=False)
        logits = _logits(query, key_ref[keys, :], bias, query_segments, key_segment_ref[keys], distance)
        larger = jnp.maximum(largest, jnp.max(logits, axis=1))
        weights = jnp.exp2(logits - larger[:, None])
        shrink = jnp.exp2(largest - larger)
        value = value_ref[keys, :]
        mixed = mixed * shrink[:, None] + _dot(weights.astype(value.dtype), value, (1, 0))
        return mixed, larger, total * shrink + jnp.sum(weights, axis=1)

    start = (
        jnp.zeros(query_ref.shape, jnp.float32),
        jnp.full((tile.query,), MASKED * _LOG2_E, jnp.float32),
        jnp.zeros((tile.query,), jnp.float32),
    )
    mixed, largest, total = jax.lax.fori_loop(range_ref[0], range_ref[1], visit, start)
    # The GPU's maximum ignores NaN, the sum does not: a NaN is not hidden.
    is_blind = (largest <= _INVISIBLE) & (total >= 0.0)
    total = jnp.where(is_blind, 1.0, total)
    mixed_ref[...] = jnp.where(is_blind[:, None], 0.0, mixed / total[:, None]).astype(mixed_ref.dtype)
    lse_ref[...] = jnp.where(is_blind, 0.0, largest + jnp.log2(total))


def d_query_kernel(tile: Tile, causal: bool, has_bias: bool, *refs: Ref) -> None:
    """The gradient of one block of queries.

    References: those of :func:`forward_kernel`, with d_mixed [query, kv], lse [query] and delta [query] after the bias;
    output d_query [query, kv].
    """
    query_ref, key_ref, value_ref, query_segment_ref, key_segment_ref, range_ref, *rest = refs
    bias_ref, (d_mixed_ref, lse_ref, delta_ref, d_query_ref) = _optional(has_bias, rest)
    query, query_segments, d_mixed = query_ref[...], query_segment_ref[...], d_mixed_ref[...]
    lse, delta = lse_ref[...], delta_ref[...]
    query_start = pl.program_id(0) * tile.query

    def visit(block: jax.Array, d_query: jax.Array) -> jax.Array:
        keys = pl.ds(block * tile.key, tile.key)
        key = key_ref[keys, :]
        bias = None if bias_ref is None else bias_ref[:, keys]
        distance = _distance(causal, query_start, tile.query, block * tile.key, tile.key, by_key=False)
        logits = _logits(query, key, bias, query_segments, key_segment_ref[keys], distance)
        weights = jnp.exp2(logits - lse[:, None])
        d_logits = weights * (_dot(d_mixed, value_ref[keys, :], (1, 1)) - delta[:, None])
        return d_query + _dot(d_logits.astype(key.dtype), key, (1, 0))

    d_query = jax.lax.fori_loop(range_ref[0], range_ref[1], visit, jnp.zeros(query_ref.shape, jnp.float32))
    d_query_ref[...] = d_query.astype(d_query_ref.dtype)


def d_key_value_kernel(tile: Tile, causal: bool, has_bias: bool, *refs: Ref) -> None:
    """The gradients of one block of keys and values. Logits are transposed, [key, query], so that no dot needs to be.

    References: query [queries, kv], key and value [key, kv], segments [queries] and [key], range [2] of query blocks,
    bias [key, queries], d_mixed [queries, kv], lse and delta [queries]; outputs d_key and d_value [key, kv].
    """
    query_ref, key_ref, value_ref, query_segment_ref, key_segment_ref, range_ref, *rest = refs
    bias_ref, (d_mixed_ref, lse_ref, delta_ref, d_key_ref, d_value_ref) = _optional(has_bias, rest)
    key, value, key_segments = key_ref[...], value_ref[...], key_segment_ref[...]
    key_start = pl.program_id(0) * tile.key

    def visit(block: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        d_key, d_value = carry
        queries = pl.ds(block * tile.query, tile.query)
        query, d_mixed = query_ref[queries, :], d_mixed_ref[queries, :]
        bias = None if bias_ref is None else bias_ref[:, queries]
        distance = _distance(causal, block * tile.query, tile.query, key_start, tile.key, by_key=True)
        logits = _logits(key, query, bias, key_segments, query_segment_ref[queries], distance)
        weights = jnp.exp2(logits - lse_ref[queries][None, :])
        d_value = d_value + _dot(weights.astype(d_mixed.dtype), d_mixed, (1, 0))
        d_logits = weights * (_dot(value, d_mixed, (1, 1)) - delta_ref[queries][None, :])
        return d_key + _dot(d_logits.astype(query.dtype), query, (1, 0)), d_value

    zeros = jnp.zeros(key_ref.shape, jnp.float32)
    d_key, d_value = jax.lax.fori_loop(range_ref[0], range_ref[1], visit, (zeros, zeros))
    d_key_ref[...] = d_key.astype(d_key_ref.dtype)
    d_value_ref[...] = d_value.astype(d_value_ref.dtype)


def d_bias_kernel(tile: Tile, causal: bool, chunks: int, *refs: Ref) -> None:
    """The gradient of one tile of the bias, summed over every ``chunks``-th of the rows that see the tile.

    References, each with the whole batch first: query [query, kv], key and value [key, kv], segments [query] and [key];
    rows [batch + 1], the indices of the rows that see the tile and, last, their number; bias [query, key]; with the
    batch first: d_mixed [query, kv], lse and delta [query]; output d_bias [query, key].
    """
    query_ref, key_ref, value_ref, query_segment_ref, key_segment_ref, rows_ref, *rest = refs
    bias_ref, d_mixed_ref, lse_ref, delta_ref, d_bias_ref = rest
    bias, chunk = bias_ref[...], pl.program_id(3)
    query_start, key_start = pl.program_id(1) * tile.query, pl.program_id(0) * tile.key

    def visit(turn: jax.Array, d_bias: jax.Array) -> jax.Array:
        row = rows_ref[turn * chunks + chunk]
        query, key = query_ref[row, :, :], key_ref[row, :, :]
        distance = _distance(causal, query_start, tile.query, key_start, tile.key, by_key=False)
        logits = _logits(query, key, bias, query_segment_ref[row, :], key_segment_ref[row, :], distance)
        weights = jnp.exp2(logits - lse_ref[row, :][:, None])
        d_weights = _dot(d_mixed_ref[row, :, :], value_ref[row, :, :], (1, 1))
        return d_bias + weights * (d_weights - delta_ref[row, :][:, None])

    count = rows_ref[rows_ref.shape[0] - 1]
    turns = jax.lax.div(count - chunk + (chunks - 1), chunks)
    d_bias_ref[...] = jax.lax.fori_loop(0, turns, visit, jnp.zeros((tile.query, tile.key), jnp.float32))
