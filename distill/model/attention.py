"""The layers of T5: dense projections without bias, RMS norms, relative position biases, attention, feed-forward.

All parameters are float32 and have logical axis names. Each layer computes in its ``dtype``. Parameters have the names
and shapes of T5X's modules, so T5X checkpoints need no renaming.
"""

import functools
import logging
import math
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int

from distill.array_types import AnyArray
from distill.sharding import attention_choice, partitioning
from distill.sharding.attention_kernels import MASKED
from distill.sharding.cudnn_attention import cudnn_attention
from distill.sharding.dense import INT8_SCALE, Dense, jointly, parameter
from distill.sharding.embedding import lookup
from distill.sharding.fused_attention import fused_attention
from distill.sharding.gpu_attention import gpu_attention

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": functools.partial(nn.gelu, approximate=True),
    "gelu_exact": functools.partial(nn.gelu, approximate=False),
    "relu": nn.relu,
    "silu": nn.silu,
    "linear": lambda x: x,
}
# Checkpoint name of the values that ``remat_policy="elementwise"`` saves for the backward pass.
KEPT = "kept"

_fan_in_normal = nn.initializers.variance_scaling(1.0, "fan_in", "normal")


class KeyValue(NamedTuple):
    """Keys and values of one attention layer, with heads before length: a decoding step needs no transpose.

    Attributes:
      key: [batch, heads, length, kv], in the compute dtype.
      value: [batch, heads, length, kv], in the compute dtype.
    """

    key: Float[Array, "batch heads length kv"]
    value: Float[Array, "batch heads length kv"]


class Segments(NamedTuple):
    """Segment ids for masking: a query attends to the keys with its own segment id.

    Attributes:
      query: [batch, query] int32, the segment of each query.
      key: [batch, key] int32, the segment of each key.
    """

    query: Int[AnyArray, "batch query"]
    key: Int[AnyArray, "batch key"]


class PositionBias(NamedTuple):
    """A relative position bias, float32, in the two forms that attention kernels read.

    Attributes:
      full: [1, heads, query, key].
      by_shard: [shards, heads, query + key], by distance from 1 - query to key, an equal copy per shard of the batch;
        the Pallas kernel reads it.
    """

    full: Float[Array, "1 heads query key"]
    by_shard: Float[Array, "shards heads distances"]


@functools.cache
def _tell_once(message: str) -> None:
    logging.warning("%s", message)


def residual(x: Float[Array, "batch length embed"]) -> Float[Array, "batch length embed"]:
    """Constrains a residual-stream array to the sharding of ``batch`` and ``residual_length``."""
    ways = partitioning.ways("residual_length")
    if x.shape[1] % ways:
        if x.shape[1] > 1:
            _tell_once(f"sequence parallelism is off for {x.shape[1]} positions: {ways} devices do not divide them")
        return nn.with_logical_constraint(x, ("batch", "length", "embed"))
    return nn.with_logical_constraint(x, ("batch", "residual_length", "embed"))


class RMSNorm(nn.Module):
    """T5's layer norm ``x / sqrt(mean(x²) + ε) · scale``: no mean subtracted, no bias, ``mean(x²)`` in float32."""

    epsilon: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "batch length embed"]) -> Float[Array, "batch length embed"]:
        """Returns the normalised ``x`` in ``dtype``."""
        scale = parameter(self, "scale", nn.initializers.ones, (x.shape[-1],), ("embed",))
        x = x.astype(jnp.float32)
        mean_square = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
        normed = (x * jax.lax.rsqrt(mean_square + self.epsilon)).astype(self.dtype)
        return residual(normed * jnp.expand_dims(scale.astype(self.dtype), tuple(range(x.ndim - 1))))


class TokenEmbedder(nn.Module):
    """The token table, float32 [vocab_size, embed_dim]. Its gradient is accumulated in float32 for any ``dtype``.

    Attributes:
      vocab_size: rows of the table.
      embed_dim: width of a row.
      dtype: dtype of the embeddings.
      stddev: standard deviation of the initial table.
    """

    vocab_size: int
    embed_dim: int
    dtype: jnp.dtype
    stddev: float = 1.0

    def setup(self) -> None:
        shape = (self.vocab_size, self.embed_dim)
        self.embedding = parameter(self, "embedding", nn.initializers.normal(self.stddev), shape, ("vocab", "embed"))

    def __call__(self, tokens: Int[AnyArray, "batch length"]) -> Float[Array, "batch length embed"]:
        """Returns the embeddings of ``tokens`` in ``dtype``. An id outside [0, vocab_size) yields NaN."""
        rows, scale = lookup(self.embedding, tokens, self.dtype), self._int8_scale()
        if scale is None:
            return rows
        scales = jnp.take(scale, jnp.where(tokens < 0, self.vocab_size, tokens), axis=0)  # NaN outside of the table
        return (rows.astype(jnp.float32) * scales).astype(self.dtype)

    def attend(self, hidden: Float[Array, "batch length embed"]) -> Float[Array, "batch length vocab"]:
        """Returns float32 logits ``hidden @ embeddingᵀ``."""
        logits = jnp.einsum(
            "bld,vd->blv", hidden, self.embedding.astype(hidden.dtype), preferred_element_type=jnp.float32
        )
        scale = self._int8_scale()
        return logits if scale is None else logits * scale[None, None, :, 0]

    def _int8_scale(self) -> Float[AnyArray, "vocab 1"] | None:
        """The scales of the rows of an int8 table, see :mod:`distill.model.int8`; None if the table is not int8."""
        return self.get_variable("params", INT8_SCALE) if self.has_variable("params", INT8_SCALE) else None


def relative_position_bucket(
    distance: Int[Array, "..."], *, bidirectional: bool, num_buckets: int, max_distance: int
) -> Int[Array, "..."]:
    """Returns the bucket of each relative position ``key position - query position``.

    See Raffel et al. 2020, arXiv 1910.10683, §2.1. Half of the buckets hold one small distance each. The other half
    grow logarithmically up to ``max_distance``, and the last one holds all larger distances. Bidirectional attention
    uses half of all buckets for keys after the query; causal attention puts those keys in bucket 0.

    Returns:
      int32, in [0, num_buckets), of the shape of ``distance``.
    """
    bucket = jnp.zeros_like(distance)
    if bidirectional:
        num_buckets //= 2
        bucket = jnp.where(distance > 0, num_buckets, 0)
        distance = jnp.abs(distance)
    else:
        distance = jnp.maximum(-distance, 0)
    exact = num_buckets // 2
    # The first distance of each logarithmic bucket, computed on the host, so that no device logarithm rounds a
    # boundary.
    starts = _bucket_starts(exact, num_buckets, max_distance)
    beyond = sum((distance >= start).astype(jnp.int32) for start in starts)
    return bucket + jnp.where(distance < exact, distance, exact + beyond)


@functools.cache
def _bucket_starts(exact: int, num_buckets: int, max_distance: int) -> tuple[int, ...]:
    """The first distance of each logarithmic bucket after the first, which starts at ``exact``."""
    distances = np.arange(exact, max_distance + 1)
    # The 1e-9 keeps a distance that is exactly on a boundary in the upper bucket.
    fraction = np.log(distances / exact) / math.log(max_distance / exact) + 1e-9
    buckets = np.minimum((fraction * (num_buckets - exact)).astype(int), num_buckets - exact - 1)
    return tuple(int(distances[np.argmax(buckets >= b)]) for b in range(1, num_buckets - exact))


class RelativeBias(nn.Module):
    """T5's position information: a learned scalar per head and relative-position bucket, added to the logits."""

    num_heads: int
    num_buckets: int
    max_distance: int
    bidirectional: bool

    def setup(self) -> None:
        self.rel_embedding = parameter(
            self,
            "rel_embedding",
            nn.initializers.variance_scaling(1.0, "fan_avg", "uniform"),
            (self.num_heads, self.num_buckets),
            ("heads", "relpos_buckets"),
        )

    def _by_distance(self, distance: Int[Array, " distances"]) -> Float[Array, "heads distances"]:
        buckets = relative_position_bucket(
            distance,
            bidirectional=self.bidirectional,
            num_buckets=self.num_buckets,
            max_distance=self.max_distance,
        )
        # One small matmul. The gradient of a gather would scatter-add every position into a few dozen buckets.
        return jnp.matmul(self.rel_embedding, jax.nn.one_hot(buckets, self.num_buckets, axis=0, dtype=jnp.float32))

    def __call__(self, query_length: int, key_length: int) -> PositionBias:
        """Returns the bias of all pairs of a query and a key position."""
        by_distance = self._by_distance(jnp.arange(1 - query_length, key_length + 1, dtype=jnp.int32))
        full = by_position(by_distance, query_length, key_length)[None]
        by_shard = jnp.broadcast_to(by_distance, (partitioning.ways("batch"), *by_distance.shape))
        return PositionBias(
            nn.with_logical_constraint(full, (None, "heads", None, None)),
            nn.with_logical_constraint(by_shard, ("batch", "heads", None)),
        )

    def at(self, query_position: Int[Array, ""], key_length: int) -> Float[Array, "1 heads 1 key"]:
        """Returns the bias of one (traced) query position and all key positions, float32."""
        distances = jnp.arange(key_length, dtype=jnp.int32) - query_position
        return self._by_distance(distances)[None, :, None, :]


def by_position(by_distance: Float[Array, "heads distances"], query_length: int, key_length: int) -> jax.Array:
    """[heads, query, key], where row q is ``by_distance`` shifted left by q.

    Copies of width w are written one after the other and read back in rows of width w - 1, so each row starts one
    element later than the row before. Forward and backward are dense; the gradient of a gather would be a scatter-add.
    """
    heads, width = by_distance.shape
    copies = jnp.broadcast_to(by_distance[:, None, :], (heads, query_length, width))
    flat = copies.reshape(heads, query_length * width)[:, : query_length * (width - 1)]
    return flat.reshape(heads, query_length, width - 1)[..., query_length - 1 :]


class Attention(nn.Module):
    """Multi-head attention without the factor 1/√d, which T5 folds into the query kernel's initialiser.

    Attributes:
      num_heads: attention heads.
      head_dim: width of one head.
      embed_dim: width of the output.
      dropout_rate: dropout of the attention probabilities.
      dtype: compute dtype; logits and softmax are float32.
      kernel: one of :data:`distill.model.config.ATTENTIONS`; see :mod:`distill.sharding.attention_choice`.
    """

    num_heads: int
    head_dim: int
    embed_dim: int
    dropout_rate: float
    dtype: jnp.dtype
    kernel: str = "xla"

    def setup(self) -> None:
        joined = self.num_heads * self.head_dim

        def query_init(*args: Any) -> jax.Array:
            return _fan_in_normal(*args) * self.head_dim**-0.5

        def into_heads(kernel_init: nn.initializers.Initializer) -> Dense:
            return Dense(joined, ("embed", "joined_kv"), self.dtype, kernel_init)

        self.query = into_heads(query_init)
        self.key = into_heads(_fan_in_normal)
        self.value = into_heads(_fan_in_normal)
        self.out = Dense(self.embed_dim, ("joined_kv", "embed"), self.dtype, _fan_in_normal)

    def _heads(self, x: Float[Array, "batch length joined"]) -> Float[Array, "batch length heads kv"]:
        x = x.reshape(*x.shape[:2], self.num_heads, self.head_dim)
        return nn.with_logical_constraint(x, ("batch", "length", "heads", "kv"))

    def key_value(self, x: Float[Array, "batch length embed"]) -> KeyValue:
        """Projects ``x`` to keys and values in the layout of the decoding cache."""
        key, value = (jnp.swapaxes(self._heads(project(x)), 1, 2) for project in (self.key, self.value))
        return KeyValue(key, value)

    def __call__(
        self,
        x: Float[Array, "batch query embed"],
        attended: Float[Array, "batch key embed"] | Float[Array, "shards batch key embed"],
        segments: Segments,
        bias: PositionBias | None = None,
        *,
        causal: bool = False,
        deterministic: bool = True,
    ) -> Float[Array, "batch query embed"]:
        """Attends from ``x`` to ``attended`` (``x`` itself, or copies of the encoder's output) within ``segments``.

        With ``causal``, a query attends only to keys at or before its own position.
        """
        project = functools.partial(jointly, training=not deterministic)
        if attended is x:
            projections = [project((self.query, self.key, self.value), x)]
        else:
            projections = [project((self.query,), x), project((self.key, self.value), attended)]
        projections = [checkpoint_name(arrays, KEPT) for arrays in projections]
        query, key, value = (one for array in projections for one in array)
        keep = None if deterministic or self.dropout_rate == 0.0 else self._keep(x.shape[0], key.shape[1])
        kernel = attention_choice.choose(self.kernel, self._shapes(query, key))
        if kernel == "pallas":
            by_shard = bias and bias.by_shard
            stacked = tuple(jnp.stack(arrays) if isinstance(arrays, tuple) else arrays for arrays in projections)
            mixed = fused_attention(stacked, by_shard, keep, *segments, self.head_dim, causal)
            return self._output(mixed)
        query, key, value = self._heads(query), self._heads(key), self._heads(value)
        if kernel in ("cudnn", "triton"):
            if keep is not None:  # one draw per key, so scaling the values by it is the dropout of the probabilities
                value = value * jnp.transpose(keep, (0, 3, 1, 2)).astype(value.dtype)
            call = cudnn_attention if kernel == "cudnn" else gpu_attention
            full, ids = None if bias is None else bias.full[0], (jnp.asarray(one, jnp.int32) for one in segments)
            return self._output(call(query, key, value, full, *ids, causal=causal))
        logits = jnp.einsum("bqhd,bkhd->bhqk", query, key, preferred_element_type=jnp.float32)
        mask = (segments.query[:, :, None] == segments.key[:, None, :])[:, None]
        if causal:
            mask = mask & jnp.tri(x.shape[1], key.shape[1], dtype=bool)[None, None]
        probabilities = self._probabilities(logits, mask, None if bias is None else bias.full)
        if keep is not None:
            probabilities = probabilities * keep.astype(self.dtype)
        mixed = jnp.einsum("bhqk,bkhd->bqhd", probabilities, value)
        return self._output(mixed)

    def _shapes(
        self, query: Float[Array, "batch query joined"], key: Float[Array, "batch key joined"]
    ) -> attention_choice.Shapes:
        lengths = (query.shape[0], query.shape[1], key.shape[1])
        return attention_choice.Shapes(*lengths, self.num_heads, self.head_dim, self.dtype)

    def _keep(self, batch: int, key_length: int) -> Float[Array, "batch heads 1 key"]:
        # One draw for all queries, as the first T5 did: the random bits are then a query-length cheaper.
        keep_rate = 1.0 - self.dropout_rate
        kept = jax.random.bernoulli(self.make_rng("dropout"), keep_rate, (batch, self.num_heads, 1, key_length))
        return nn.with_logical_constraint(kept.astype(jnp.float32) / keep_rate, ("batch", "heads", None, None))

    def with_key_value(
        self,
        x: Float[Array, "batch query embed"],
        cached: KeyValue,
        mask: Bool[AnyArray, "batch_or_1 1 query_or_1 key"],
        bias: Float[Array, "1 heads query key"] | None = None,
    ) -> Float[Array, "batch query embed"]:
        """Attends from ``x`` to cached keys and values of :meth:`key_value` where ``mask`` is True, without dropout."""
        query = self._heads(self.query(x))
        logits = jnp.einsum("bqhd,bhkd->bhqk", query, cached.key, preferred_element_type=jnp.float32)
        probabilities = self._probabilities(logits, mask, bias)
        mixed = jnp.einsum("bhqk,bhkd->bqhd", probabilities, cached.value)
        return self._output(mixed)

    def _probabilities(
        self,
        logits: Float[Array, "batch heads query key"],
        mask: Bool[AnyArray, "batch_or_1 1 query_or_1 key"],
        bias: Float[Array, "1 heads query key"] | None,
    ) -> Float[Array, "batch heads query key"]:
        if bias is not None:
            logits = logits + bias
        return jax.nn.softmax(jnp.where(mask, logits, MASKED), axis=-1).astype(self.dtype)

    def _output(
        self, mixed: Float[Array, "batch query joined"] | Float[Array, "batch query heads kv"]
    ) -> Float[Array, "batch query embed"]:
        joined = mixed.reshape(*mixed.shape[:2], self.num_heads * self.head_dim)
        joined = nn.with_logical_constraint(joined, ("batch", "length", "joined_kv"))
        return residual(self.out(checkpoint_name(joined, KEPT)))


class FeedForward(nn.Module):
    """``wo(Π_i activation_i(wi_i(x)))``: one activation is T5 1.0's block, two are a gated unit (arXiv 2002.05202)."""

    mlp_dim: int
    embed_dim: int
    activations: tuple[str, ...]
    dropout_rate: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch length embed"], *, deterministic: bool = True
    ) -> Float[Array, "batch length embed"]:
        """Returns the block's output in ``dtype``. Dropout is off if ``deterministic``."""
        names = ["wi"] if len(self.activations) == 1 else [f"wi_{i}" for i in range(len(self.activations))]
        denses = [Dense(self.mlp_dim, ("embed", "mlp"), self.dtype, name=name) for name in names]
        parts = jointly(denses, x, training=not deterministic)
        active = [
            ACTIVATIONS[activation](part) for activation, part in zip(self.activations, checkpoint_name(parts, KEPT))
        ]
        inner = nn.with_logical_constraint(functools.reduce(operator.mul, active), ("batch", "length", "mlp"))
        inner = nn.Dropout(self.dropout_rate, broadcast_dims=(-2,))(inner, deterministic=deterministic)
        out = Dense(self.embed_dim, ("mlp", "embed"), self.dtype, name="wo")(inner)
        return residual(out)
