"""The Pallas kernels of :mod:`distill.sharding.fused_attention`: one row, and the heads that fill 128 lanes, at a time."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

# Logit of masked positions. It is finite, so that a row without any visible key stays finite too.
MASKED = -1e10
LANES, SUBLANES = 128, 8
# Query rows whose logits are in registers and VMEM at once.
_QUERY_CHUNK = 256


@runtime_checkable
class Ref(Protocol):
    """A Pallas reference, or a view of one; Pallas exports no type of both."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> jnp.dtype: ...

    @property
    def at(self) -> Any: ...

    def __getitem__(self, index: Any, /) -> jax.Array: ...

    def __setitem__(self, index: Any, value: jax.Array, /) -> None: ...


class Settings(NamedTuple):
    """Static settings of both kernels.

    Attributes:
      heads: heads per grid step.
      head_dim: width of one head.
      causal: whether a query attends only to keys at or before its own position.
      has_bias, has_keep: whether the inputs contain a position bias and dropout factors.
    """

    heads: int
    head_dim: int
    causal: bool
    has_bias: bool
    has_keep: bool


def dot(a: jax.Array, b: jax.Array, contract: tuple[int, int]) -> jax.Array:
    """Returns the float32 product of two matrices over axis ``contract[0]`` of ``a`` and ``contract[1]`` of ``b``."""
    return jax.lax.dot_general(a, b, (((contract[0],), (contract[1],)), ((), ())), preferred_element_type=jnp.float32)


def _split(
    settings: Settings, refs: Sequence[Ref]
) -> tuple[Ref, Ref, Ref, Ref, Ref, Ref | None, Ref | None, list[Ref]]:
    """Splits the references into the inputs that every kernel has (None if absent) and the rest."""
    (query, key, value), refs = _take_projections(refs)
    query_segments, key_segments, *rest = refs
    bias = rest.pop(0) if settings.has_bias else None
    keep = rest.pop(0) if settings.has_keep else None
    return query, key, value, query_segments, key_segments, bias, keep, rest


def _take_projections(refs: Sequence[Ref]) -> tuple[list[Ref], list[Ref]]:
    """Query, key and value, [1, length, lanes] each, from the first one or two references, and the other references."""
    first, *rest = refs
    arrays = [first] if first.shape[0] == 3 else [first, rest.pop(0)]
    return [array.at[index] for array in arrays for index in range(array.shape[0])], rest


def _lay_out(by_distance: Ref, by_position: Ref) -> None:
    """Writes ``by_position[head, q, k] = by_distance[head, 0, k - q + queries - 1]``, tile by tile."""
    heads, queries, keys = by_position.shape
    width = queries + keys
    for head in range(heads):
        # Row q of a tile is row 0 of the tile, rolled right by q.
        rows = pltpu.roll(jnp.broadcast_to(by_distance[head], (SUBLANES, width)), keys + 1, 1)
        rows = _sheared(rows, 1)

        def write(tile: jax.Array, _: jax.Array, head: int = head, rows: jax.Array = rows) -> int:
            first = pl.multiple_of(tile * SUBLANES, SUBLANES)
            by_position[head, pl.ds(first, SUBLANES), :] = pltpu.roll(rows, first, 1)[:, :keys]
            return 0

        jax.lax.fori_loop(0, queries // SUBLANES, write, 0)


def _fold(by_position: Ref, by_distance: Ref) -> None:
    """The transpose of :func:`_lay_out`: ``by_distance[head, 0, d]`` is the sum of ``by_position`` over distance d."""
    heads, queries, keys = by_position.shape
    width = queries + keys
    for head in range(heads):

        def add(tile: jax.Array, total: jax.Array, head: int = head) -> jax.Array:
            first = pl.multiple_of(tile * SUBLANES, SUBLANES)
            rows = by_position[head, pl.ds(first, SUBLANES), :]
            rows = jnp.concatenate([rows, jnp.zeros((SUBLANES, queries), jnp.float32)], axis=1)
            return total + pltpu.roll(rows, queries - 1 - first, 1)

        total = jax.lax.fori_loop(0, queries // SUBLANES, add, jnp.zeros((SUBLANES, width), jnp.float32))
        # Row q of the sum must be rolled left by q.
        by_distance[head] = jnp.sum(_sheared(total, width - 1), axis=0, keepdims=True)


def _sheared(tile: jax.Array, step: int) -> jax.Array:
    """Rolls row q of ``tile`` by q · ``step``: by 1, 2 and 4 steps for the bits of q (v4 has no roll with a stride)."""
    row = jax.lax.broadcasted_iota(jnp.int32, tile.shape, 0)
    for bit in (1, 2, 4):
        tile = jnp.where(row & bit > 0, pltpu.roll(tile, bit * step % tile.shape[1], 1), tile)
    return tile


def _visible(settings: Settings, query_segments: Ref, key_segments: Ref, start: int, rows: int) -> jax.Array:
    visible = query_segments[0, start : start + rows, :] == key_segments[0]
    if settings.causal:
        query_at = start + jax.lax.broadcasted_iota(jnp.int32, visible.shape, 0)
        visible = visible & (query_at >= jax.lax.broadcasted_iota(jnp.int32, visible.shape, 1))
    return visible


def _probabilities(
    settings: Settings, head: int, query: Ref, keys: jax.Array, bias: Ref | None, here: slice, visible: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The lane mask of one head, its queries with all other lanes 0, and its probabilities, float32.

    Contracting all 128 lanes is exact because the lanes of other heads are 0.
    """
    lanes = lanes_of(head, settings.head_dim)
    queries = _only(lanes, query[0, here, :])
    logits = dot(queries, keys, (1, 1))
    if bias is not None:
        logits = logits + bias[head, here, :]
    logits = jnp.where(visible, logits, MASKED)
    exponentials = jnp.exp(logits - jnp.max(logits, axis=1, keepdims=True))
    return lanes, queries, exponentials / jnp.sum(exponentials, axis=1, keepdims=True)


def lanes_of(head: int | jax.Array, head_dim: int) -> jax.Array:
    """Returns which of 128 lanes belong to head ``head`` of several heads side by side, [1, 128] bool."""
    lane = jax.lax.broadcasted_iota(jnp.int32, (1, LANES), 1)
    return (lane >= head * head_dim) & (lane < (head + 1) * head_dim)


def _only(lanes: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.where(lanes, x, jnp.zeros((), x.dtype))


def _chunks(length: int) -> list[tuple[int, int]]:
    rows = min(_QUERY_CHUNK, length)
    rows = rows if length % rows == 0 else LANES
    return [(start, rows) for start in range(0, length, rows)]


def forward_kernel(settings: Settings, *refs: Ref) -> None:
    """Writes the weighted values of one row and head group, [1, query, lanes], from the inputs in the order of `_split`."""
    query, key, value, query_segments, key_segments, by_distance, keep, (mixed, *scratch) = _split(settings, refs)
    keys, values = key[0], value[0]
    bias: Any = scratch[0] if scratch else None
    if by_distance is not None:

        @pl.when(pl.program_id(1) == 0)
        def before_first_row() -> None:
            _lay_out(by_distance, bias)

    for start, rows in _chunks(query.shape[1]):
        here = slice(start, start + rows)
        visible = _visible(settings, query_segments, key_segments, start, rows)
        total = jnp.zeros((rows, LANES), jnp.float32)
        for head in range(settings.heads):
            lanes, _, probabilities = _probabilities(settings, head, query, keys, bias, here, visible)
            if keep is not None:
                probabilities = probabilities * keep[0, head]
            total = total + _only(lanes, dot(probabilities.astype(values.dtype), values, (1, 0)))
        mixed[0, here, :] = total.astype(mixed.dtype)


def backward_kernel(settings: Settings, *refs: Ref) -> None:
    """Writes the gradients of the projections, and of the bias by distance after a device's last row.

    Its inputs are those of :func:`forward_kernel` and the gradient of the weighted values.
    """
    query, key, value, query_segments, key_segments, by_distance, keep, rest = _split(settings, refs)
    d_mixed, *rest = rest
    (d_query, d_key, d_value), rest = _take_projections(rest)
    d_by_distance: Any
    bias: Any
    d_bias: Any
    d_by_distance, bias, d_bias = rest or (None, None, None)
    keys, values = key[0], value[0]
    d_keys = jnp.zeros(keys.shape, jnp.float32)
    d_values = jnp.zeros(values.shape, jnp.float32)
    if by_distance is not None:

        @pl.when(pl.program_id(1) == 0)
        def _() -> None:
            _lay_out(by_distance, bias)
            d_bias[...] = jnp.zeros_like(d_bias)

    for start, rows in _chunks(query.shape[1]):
        here = slice(start, start + rows)
        visible = _visible(settings, query_segments, key_segments, start, rows)
        d_queries = jnp.zeros((rows, LANES), jnp.float32)
        for head in range(settings.heads):
            lanes, queries, probabilities = _probabilities(settings, head, query, keys, bias, here, visible)
            d_out = _only(lanes, d_mixed[0, here, :])
            kept = probabilities if keep is None else probabilities * keep[0, head]
            d_values = d_values + dot(kept.astype(d_out.dtype), d_out, (0, 0))
            d_probabilities = dot(d_out, values, (1, 1))
            if keep is not None:
                d_probabilities = d_probabilities * keep[0, head]
            mean = jnp.sum(d_probabilities * probabilities, axis=1, keepdims=True)
            d_logits = jnp.where(visible, probabilities * (d_probabilities - mean), 0.0)
            if d_bias is not None:
                d_bias[head, here, :] += d_logits
            d_logits = d_logits.astype(queries.dtype)
            d_queries = d_queries + _only(lanes, dot(d_logits, keys, (1, 0)))
            d_keys = d_keys + dot(d_logits, queries, (0, 0))
        d_query[0, here, :] = d_queries.astype(d_query.dtype)
    d_key[0] = d_keys.astype(d_key.dtype)
    d_value[0] = d_values.astype(d_value.dtype)
    if by_distance is not None:

        @pl.when(pl.program_id(1) == pl.num_programs(1) - 1)
        def _() -> None:
            _fold(d_bias, d_by_distance)
