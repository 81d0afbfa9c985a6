"""The Pallas kernels of :mod:`distill.sharding.windowed_attention`: one row, key head and block of queries at a time.

All keys of the row and head are in VMEM. A kernel reads those that the block of queries can see: in a local layer, the
blocks of 128 keys that its window touches.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from distill.sharding.attention_kernels import LANES, MASKED, Ref, dot, lanes_of


class Near(NamedTuple):
    """The window of local layers.

    Attributes:
      before, after: the largest distance of a key before and after a query.
      share: the share of calls of the program whose ``reach`` is within the window. 1: all calls; the program then has no
        code for others. Between 0 and 1: each call decides, and the share is used for the estimate of costs.
    """

    before: int
    after: int
    share: float


class Settings(NamedTuple):
    """Static settings of the kernels.

    Attributes:
      head_dim: width of one head.
      group: query heads per key head.
      own: number of keys, from the first, that the window and ``query_segments[0]`` apply to; all keys after them are
        visible at any distance within ``query_segments[1]``.
      scale: factor of the logits.
      cap: logits become ``cap · tanh(logits / cap)``; None: no cap.
      near: the window of local layers; None: all keys are read.
    """

    head_dim: int
    group: int
    own: int
    scale: float
    cap: float | None
    near: Near | None = None


def _lanes(settings: Settings, head: jax.Array) -> Any:
    """The lanes of one head in a block of several heads side by side; all lanes if heads share the 128 lanes."""
    width = settings.head_dim
    return pl.ds(pl.multiple_of(head * width, LANES), width) if width % LANES == 0 else pl.ds(0, LANES)


def _part(settings: Settings, head: jax.Array, block: Ref) -> jax.Array:
    """One head of a block; if heads share its lanes, all lanes, with those of other heads 0."""
    part = block[0, :, _lanes(settings, head)]
    if settings.head_dim % LANES == 0:
        return part
    return jnp.where(lanes_of(head, settings.head_dim), part, jnp.zeros((), part.dtype))


def _put(settings: Settings, head: jax.Array, block: Ref, value: jax.Array) -> None:
    """Writes one head of a block, see :func:`_part`. Every head is written once."""
    value = value.astype(block.dtype)
    if settings.head_dim % LANES:
        value = jnp.where(lanes_of(head, settings.head_dim), value, block[0])
    block[0, :, _lanes(settings, head)] = value


def _blocks(positions: int) -> int:
    """``positions`` rounded up to whole blocks of 128 lanes."""
    return -(-positions // LANES) * LANES


def _near_keys(settings: Settings, rows: int) -> int | None:
    """The first keys that a block of ``rows`` queries reads in a local layer; None if that is all of them."""
    if settings.near is None or settings.own % LANES:
        return None
    number = _blocks(settings.near.before) + max(rows, LANES) + _blocks(settings.near.after)
    return number if number < settings.own else None


def keys_read(settings: Settings, rows: int, keys: int) -> float:
    """The keys that a block of ``rows`` queries reads, of ``keys`` per row, on average over all calls of the program."""
    number = _near_keys(settings, rows)
    if settings.near is None or number is None:
        return keys
    return keys - settings.near.share * (settings.own - number)


class _Keys(NamedTuple):
    """The keys that a grid step reads: some of the first ``own`` ones, and all keys after those.

    Attributes:
      start: the first key that is read, a multiple of 128.
      size: the number of keys from ``start``.
      own: see :class:`Settings`.
      query: the first query of the grid step.
    """

    start: int | jax.Array
    size: int
    own: int
    query: jax.Array

    def rows(self, block: Ref) -> jax.Array:
        """These rows of a block of keys or values, [1, key, width] → [size + keys after ``own``, width]."""
        if self.size == self.own:
            return block[0]
        first = block[0, pl.ds(self.start, self.size), :]
        if self.own == block.shape[1]:
            return first
        return jnp.concatenate([first, block[0, self.own :, :]], axis=0)

    def columns(self, block: Ref, *index: Any) -> jax.Array:
        """These columns of ``block[index]``, [1, key] → [1, size + keys after ``own``]."""
        if self.size == self.own:
            return block[*index]
        first = block[*index, :, pl.ds(self.start, self.size)]
        if self.own == block.shape[-1]:
            return first
        return jnp.concatenate([first, block[*index, :, self.own :]], axis=1)

    def add(self, total: Ref, rows: jax.Array) -> None:
        """Adds ``rows``, in the order of :meth:`rows`, to those rows of ``total``."""
        if self.size == self.own:
            total[...] += rows
            return
        total[pl.ds(self.start, self.size), :] += rows[: self.size]
        if self.own < total.shape[0]:
            total[self.own :, :] += rows[self.size :]


def _over_keys(settings: Settings, rows: int, reach: Ref, run: Callable[[_Keys], None]) -> None:
    """Calls ``run`` with the keys that this grid step reads: those near its queries if ``reach`` is within the window."""
    query = pl.program_id(2) * rows  # not inside of pl.when, which the interpreter does not support
    whole = _Keys(0, settings.own, settings.own, query)
    number, near = _near_keys(settings, rows), settings.near
    if near is None or number is None:
        run(whole)
        return
    start = jnp.clip(query // LANES * LANES - _blocks(near.before), 0, settings.own - number)
    window = _Keys(pl.multiple_of(start, LANES), number, settings.own, query)
    if near.share == 1.0:
        run(window)
        return
    fits = (reach[0] <= near.before) & (reach[1] <= near.after)
    pl.when(fits)(lambda: run(window))
    pl.when(jnp.logical_not(fits))(lambda: run(whole))


def _visible(settings: Settings, read: _Keys, reach: Ref, query_segments: Ref, key_segments: Ref) -> jax.Array:
    """Which of the keys that are read the queries of this grid step attend to, [query, key]."""
    segments = read.columns(key_segments, 0)
    rows, keys = query_segments.shape[2], segments.shape[1]
    seen = query_segments[0, 0] == segments
    column = jax.lax.broadcasted_iota(jnp.int32, (rows, keys), 1)
    at_query = jax.lax.broadcasted_iota(jnp.int32, (rows, keys), 0) + read.query
    distance = at_query - (column + read.start)
    seen = seen & (distance <= reach[0]) & (-distance <= reach[1])
    if read.size == keys:
        return seen
    merged = query_segments[1, 0] == segments
    own = column < read.size
    return (own & seen) | (~own & merged)


def _probabilities(
    settings: Settings, queries: jax.Array, keys: jax.Array, visible: jax.Array
) -> tuple[jax.Array, jax.Array | float]:
    """The probabilities of one head, float32, and the derivative of its logits by the product of query and key."""
    logits = dot(queries, keys, (1, 1)) * settings.scale
    slope: jax.Array | float = settings.scale
    if settings.cap is not None:
        tangent = jnp.tanh(logits / settings.cap)
        logits, slope = tangent * settings.cap, (1.0 - tangent * tangent) * settings.scale
    logits = jnp.where(visible, logits, MASKED)
    exponentials = jnp.exp(logits - jnp.max(logits, axis=1, keepdims=True))
    return exponentials / jnp.sum(exponentials, axis=1, keepdims=True), slope


def forward_kernel(settings: Settings, heads: int, has_keep: bool, *refs: Ref) -> None:
    """Writes the weighted values of one row, key head and query block.

    Args:
      settings: of the attention.
      heads: query heads per grid step.
      has_keep: whether the inputs contain dropout factors.
      *refs: the blocks of :func:`distill.sharding.windowed_attention.windowed_attention`'s arrays.
    """
    reach, query, key, value, query_segments, key_segments, *rest = refs
    keep = rest.pop(0) if has_keep else None
    (mixed,) = rest

    def run(read: _Keys) -> None:
        visible = _visible(settings, read, reach, query_segments, key_segments)
        keys, values = read.rows(key), read.rows(value)

        def attend(head: jax.Array, _: jax.Array) -> int:
            probabilities = _probabilities(settings, _part(settings, head, query), keys, visible)[0]
            if keep is not None:
                probabilities = probabilities * read.columns(keep, 0, head)
            _put(settings, head, mixed, dot(probabilities.astype(values.dtype), values, (1, 0)))
            return 0

        jax.lax.fori_loop(0, heads, attend, 0)

    _over_keys(settings, query.shape[1], reach, run)


def backward_kernel(settings: Settings, heads: int, has_keep: bool, *refs: Ref) -> None:
    """Writes the gradients of queries, and of keys and values after the last query block of a row and key head.

    Arguments are those of :func:`forward_kernel`.
    """
    reach, query, key, value, query_segments, key_segments, *rest = refs
    keep = rest.pop(0) if has_keep else None
    d_mixed, d_query, d_key, d_value, d_keys, d_values = rest

    @pl.when(pl.program_id(2) == 0)
    def before_first_block() -> None:
        d_keys[...] = jnp.zeros_like(d_keys)
        d_values[...] = jnp.zeros_like(d_values)

    def run(read: _Keys) -> None:
        visible = _visible(settings, read, reach, query_segments, key_segments)
        keys, values = read.rows(key), read.rows(value)

        def attend(head: jax.Array, _: jax.Array) -> int:
            queries, d_out = _part(settings, head, query), _part(settings, head, d_mixed)
            probabilities, slope = _probabilities(settings, queries, keys, visible)
            kept = None if keep is None else read.columns(keep, 0, head)
            weights = probabilities if kept is None else probabilities * kept
            read.add(d_values, dot(weights.astype(d_out.dtype), d_out, (0, 0)))
            d_probabilities = dot(d_out, values, (1, 1))
            if kept is not None:
                d_probabilities = d_probabilities * kept
            mean = jnp.sum(d_probabilities * probabilities, axis=1, keepdims=True)
            d_logits = jnp.where(visible, probabilities * (d_probabilities - mean) * slope, 0.0).astype(queries.dtype)
            _put(settings, head, d_query, dot(d_logits, keys, (1, 0)))
            read.add(d_keys, dot(d_logits, queries, (0, 0)))
            return 0

        jax.lax.fori_loop(0, heads, attend, 0)

    _over_keys(settings, query.shape[1], reach, run)

    @pl.when(pl.program_id(2) == pl.num_programs(2) - 1)
    def after_last_block() -> None:
        d_key[0] = d_keys[...].astype(d_key.dtype)
        d_value[0] = d_values[...].astype(d_value.dtype)
