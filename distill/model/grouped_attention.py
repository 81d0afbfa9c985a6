"""Attention of the Gemma family: grouped query heads, rotary positions, soft caps, sliding windows, merged keys.

Positions restart in every segment of a packed row. In merged attention (T5Gemma 2) queries are rotated and encoder keys
are not, so the result depends on the absolute position of a target in its own segment.
"""

from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from distill.array_types import AnyArray
from distill.model.attention import KeyValue, Segments, residual
from distill.model.t5gemma_config import Window
from distill.sharding import partitioning
from distill.sharding.attention_kernels import MASKED
from distill.sharding.dense import parameter
from distill.sharding.windowed_attention import Near, Settings, windowed_attention

# Farther than any key.
FARTHEST = np.int32(2**31 - 1)


class CenteredRMSNorm(nn.Module):
    """Gemma's norm ``x / sqrt(mean(x²) + ε) · (1 + scale)`` over the last axis, in float32.

    Attributes:
      epsilon: ε.
      dtype: dtype of the result.
      axis: logical axis name of the normalised axis.
    """

    epsilon: float
    dtype: jnp.dtype
    axis: str = "embed"

    @nn.compact
    def __call__(self, x: Float[Array, "batch length *heads width"]) -> Float[Array, "batch length *heads width"]:
        """Returns the normalised ``x`` in ``dtype``."""
        scale = parameter(self, "scale", nn.initializers.zeros, (x.shape[-1],), (self.axis,))
        x = x.astype(jnp.float32)
        mean_square = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
        factor = jnp.expand_dims(1.0 + scale, tuple(range(x.ndim - 1)))
        normed = (x * jax.lax.rsqrt(mean_square + self.epsilon) * factor).astype(self.dtype)
        return residual(normed) if x.ndim == 3 else normed


class Reach(NamedTuple):
    """The farthest keys that a query attends to: a :class:`Window` whose values may be traced.

    Attributes:
      before: the largest distance of a key before the query.
      after: the largest distance of a key after the query.
    """

    before: int | Int[Array, ""]
    after: int | Int[Array, ""]


class Rotation(NamedTuple):
    """The angles of rotary position embeddings (Su et al. 2021, arXiv 2104.09864), float32.

    Attributes:
      cos, sin: [batch, length, head_dim / 2], of position times frequency; batch is 1 if all rows have the same positions.
    """

    cos: Float[Array, "batch length half"]
    sin: Float[Array, "batch length half"]


def segment_positions(segment_ids: Int[AnyArray, "batch length"]) -> Int[Array, "batch length"]:
    """Returns each token's position in its segment, from 0. Segment ids increase along a row; 0 is padding.

    >>> segment_positions(np.array([[1, 1, 1, 2, 2, 0]])).tolist()
    [[0, 1, 2, 0, 1, 2]]
    """
    ids = jnp.asarray(segment_ids, jnp.int32)
    index = jnp.broadcast_to(jnp.arange(ids.shape[1], dtype=jnp.int32)[None], ids.shape)
    largest = jax.lax.cummax(ids, axis=1)
    before = jnp.pad(largest[:, :-1], ((0, 0), (1, 0)))
    return index - jax.lax.cummax(jnp.where(largest > before, index, 0), axis=1)


def rotation(positions: Int[Array, "batch length"], head_dim: int, base: float, scale: float) -> Rotation:
    """Returns the angles of ``positions / scale`` for frequencies ``base ** (-2i / head_dim)``."""
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    frequencies = (np.float32(1.0) / np.float32(base) ** exponents / np.float32(scale)).astype(np.float32)
    angles = positions.astype(jnp.float32)[..., None] * frequencies[None, None]
    return Rotation(jnp.cos(angles), jnp.sin(angles))


def rotated(x: Float[Array, "batch length heads kv"], by: Rotation) -> Float[Array, "batch length heads kv"]:
    """Rotates the pairs (i, i + head_dim / 2) of every head in float32, and casts the result to the dtype of ``x``."""
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    cos, sin = by.cos[:, :, None], by.sin[:, :, None]
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


def capped(logits: Float[Array, "..."], cap: float | None) -> Float[Array, "..."]:
    """Returns ``cap · tanh(logits / cap)``, or ``logits`` unchanged if ``cap`` is None."""
    return logits if cap is None else jnp.tanh(logits / cap) * cap


def visible(
    segments: Segments, *, causal: bool = False, window: Window | Reach | None = None
) -> Bool[Array, "batch query key"]:
    """Returns which keys each query attends to: keys of its segment, within ``window`` and, if ``causal``, not later."""
    mask = segments.query[:, :, None] == segments.key[:, None, :]
    queries, keys = (jnp.arange(one.shape[1], dtype=jnp.int32) for one in segments)
    distance = (queries[:, None] - keys[None, :])[None]
    if causal:
        mask = mask & (distance >= 0)
    if window is not None:
        mask = mask & (distance <= window.before)
        mask = mask if causal else mask & (-distance <= window.after)
    return jnp.asarray(mask)


class Sight(NamedTuple):
    """Which keys the queries of one attention layer see.

    Attributes:
      segments: of the queries and the first keys.
      reach: the farthest of the first keys; None: any.
      causal: whether a query sees no first key after its own position.
      merged: segments of the queries and of the keys after the first, which are seen at any distance; None: no such keys.
      near: the window of the stack's local layers, if this may be one; for the kernel, which then reads fewer keys.
    """

    segments: Segments
    reach: Window | Reach | None = None
    causal: bool = False
    merged: Segments | None = None
    near: Near | None = None

    def mask(self) -> Bool[Array, "batch query key"]:
        """Returns which keys each query sees."""
        own = visible(self.segments, causal=self.causal, window=self.reach)
        return own if self.merged is None else jnp.concatenate([own, visible(self.merged)], axis=2)


def attend_fused(
    query: Float[Array, "batch query heads kv"],
    key: Float[Array, "batch key kv_heads kv"],
    value: Float[Array, "batch key kv_heads kv"],
    sight: Sight,
    *,
    scale: float,
    cap: float | None = None,
    keep: Float[Array, "batch kv_heads group 1 key"] | None = None,
) -> Float[Array, "batch query joined"]:
    """:func:`attend` by the kernel of :mod:`distill.sharding.windowed_attention`, with the mask of ``sight``."""
    first = sight.segments
    ids = (first,) if sight.merged is None else (first, sight.merged)
    queries = jnp.stack([jnp.asarray(one.query, jnp.int32) for one in ids])
    keys = jnp.concatenate([jnp.asarray(one.key, jnp.int32) for one in ids], axis=1)
    before, after = (FARTHEST, FARTHEST) if sight.reach is None else sight.reach
    reach = jnp.stack([jnp.asarray(one, jnp.int32) for one in (before, 0 if sight.causal else after)])
    if (copies := partitioning.ways("heads") // key.shape[2]) > 1:  # a key head per device
        key, value = jnp.repeat(key, copies, axis=2), jnp.repeat(value, copies, axis=2)
    group = query.shape[2] // key.shape[2]
    settings = Settings(query.shape[3], group, first.key.shape[1], scale, cap, sight.near)
    joined = [x.reshape(*x.shape[:2], -1) for x in (query, key, value)]
    dropped = None if keep is None else keep.reshape(keep.shape[0], query.shape[2], 1, keep.shape[-1])
    return windowed_attention(*joined, dropped, queries, keys, reach, settings)


def attend(
    query: Float[Array, "batch query heads kv"],
    key: Float[Array, "batch key kv_heads kv"],
    value: Float[Array, "batch key kv_heads kv"],
    mask: Bool[Array, "batch query key"],
    *,
    scale: float,
    cap: float | None = None,
    keep: Float[Array, "batch kv_heads group 1 key"] | None = None,
) -> Float[Array, "batch query joined"]:
    """``softmax(capped(scale · query · keyᵀ))`` over the visible keys, times the values; logits and softmax are float32.

    Query head h reads key head ``h // (heads / kv_heads)``. ``keep`` multiplies the probabilities (dropout).
    """
    batch, length, heads, width = query.shape
    kv_heads = key.shape[2]
    grouped = query.reshape(batch, length, kv_heads, heads // kv_heads, width)
    logits = jnp.einsum("bqkgd,bskd->bkgqs", grouped, key, preferred_element_type=jnp.float32)
    logits = capped(logits * scale, cap)
    probabilities = jax.nn.softmax(jnp.where(mask[:, None, None], logits, MASKED), axis=-1).astype(value.dtype)
    if keep is not None:
        probabilities = probabilities * keep.astype(value.dtype)
    mixed = jnp.einsum("bkgqs,bskd->bqkgd", probabilities, value)
    return mixed.reshape(batch, length, heads * width)


def attend_cached(
    query: Float[Array, "hypotheses heads kv"],
    parts: Sequence[tuple[KeyValue, Bool[AnyArray, "_ _"]]],
    *,
    scale: float,
    cap: float | None = None,
) -> Float[Array, "hypotheses joined"]:
    """Attends from one position to the visible keys of all ``parts``, in one softmax.

    A part has one entry per hypothesis, or one entry per row, which all hypotheses of the row read. A mask has as many
    rows as its part, or one.
    """
    hypotheses, heads, width = query.shape
    logits = []
    for cached, mask in parts:
        rows, kv_heads, length, _ = cached.key.shape
        grouped = query.reshape(rows, hypotheses // rows, kv_heads, heads // kv_heads, width)
        part = jnp.einsum("rhkgd,rksd->rhkgs", grouped, cached.key, preferred_element_type=jnp.float32)
        part = jnp.where(jnp.asarray(mask)[:, None, None, None], capped(part * scale, cap), MASKED)
        logits.append(part.reshape(hypotheses, heads, length))
    whole = jax.nn.softmax(jnp.concatenate(logits, axis=-1), axis=-1).astype(parts[0][0].value.dtype)
    total, start = jnp.zeros((hypotheses, heads * width), whole.dtype), 0
    for cached, _ in parts:
        rows, kv_heads, length, _ = cached.value.shape
        part = whole[..., start : start + length].reshape(rows, hypotheses // rows, kv_heads, heads // kv_heads, length)
        mixed = jnp.einsum("rhkgs,rksd->rhkgd", part, cached.value)
        total, start = total + mixed.reshape(total.shape), start + length
    return total
