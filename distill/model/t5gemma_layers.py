"""Layers of the T5Gemma family: attention, and encoder and decoder layers with a norm before and after each part."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int

from distill.array_types import AnyArray
from distill.model.attention import KEPT, FeedForward, KeyValue, Segments, residual
from distill.model.grouped_attention import (
    FARTHEST,
    CenteredRMSNorm,
    Reach,
    Rotation,
    Sight,
    attend,
    attend_cached,
    attend_fused,
    rotated,
)
from distill.model.layers import dropout
from distill.model.t5gemma_config import StackConfig, T5GemmaConfig, Window
from distill.sharding import attention_choice, partitioning
from distill.sharding.dense import Dense, jointly
from distill.sharding.windowed_attention import Near

_fan_in_normal = nn.initializers.variance_scaling(1.0, "fan_in", "normal")


def norm(config: T5GemmaConfig) -> CenteredRMSNorm:
    """The normalisation before and after every part of a layer, and after the last layer."""
    return CenteredRMSNorm(config.layer_norm_epsilon, jnp.dtype(config.dtype))


class GroupedAttention(nn.Module):
    """Grouped-query attention of one layer.

    Attributes:
      config: of the network.
      shape: of the layer's stack.
      causal: whether a query attends only to keys at or before its own position.
    """

    config: T5GemmaConfig
    shape: StackConfig
    causal: bool = False

    def setup(self) -> None:
        dtype, shape = jnp.dtype(self.config.dtype), self.shape

        def into_heads(heads: int) -> Dense:
            return Dense(heads * shape.head_dim, ("embed", "joined_kv"), dtype, _fan_in_normal)

        self.query = into_heads(shape.num_heads)
        self.key = into_heads(shape.num_kv_heads)
        self.value = into_heads(shape.num_kv_heads)
        self.out = Dense(shape.embed_dim, ("joined_kv", "embed"), dtype, _fan_in_normal)
        if self.config.version == 2:
            self.query_norm = CenteredRMSNorm(self.config.layer_norm_epsilon, dtype, "kv")
            self.key_norm = CenteredRMSNorm(self.config.layer_norm_epsilon, dtype, "kv")

    def _heads(self, x: Float[Array, "batch length joined"], heads: int) -> Float[Array, "batch length heads kv"]:
        x = x.reshape(*x.shape[:2], heads, self.shape.head_dim)
        axis = None if heads % partitioning.ways("heads") else "heads"
        return nn.with_logical_constraint(x, ("batch", "length", axis, "kv"))

    def queries(
        self, x: Float[Array, "batch length embed"], by: Rotation | None
    ) -> Float[Array, "batch length heads kv"]:
        """Returns the queries of ``x``: projected, normalised in version 2, and rotated if ``by`` is given."""
        query = self._heads(checkpoint_name(self.query(x), KEPT), self.shape.num_heads)
        query = self.query_norm(query) if self.config.version == 2 else query
        return query if by is None else rotated(query, by)

    def keys_values(
        self,
        x: Float[Array, "batch length embed"] | Float[Array, "shards batch length embed"],
        *,
        training: bool,
    ) -> tuple[Float[Array, "batch length heads kv"], Float[Array, "batch length heads kv"]]:
        """Returns the keys of ``x``, normalised in version 2 and not rotated, and its values."""
        key, value = checkpoint_name(jointly((self.key, self.value), x, training=training), KEPT)
        key, value = self._heads(key, self.shape.num_kv_heads), self._heads(value, self.shape.num_kv_heads)
        return self.key_norm(key) if self.config.version == 2 else key, value

    def __call__(
        self,
        x: Float[Array, "batch query embed"],
        by: Rotation,
        reach: Reach | None,
        segments: Segments,
        encoded: Float[Array, "batch inputs embed"] | None = None,
        cross_segments: Segments | None = None,
        *,
        deterministic: bool = True,
    ) -> Float[Array, "batch query embed"]:
        """Self-attention within ``segments`` and ``reach``; merged attention if the encoder's output is also given.

        In merged attention, the keys of ``x`` are rotated. The keys of ``encoded`` are not rotated, and are visible within
        ``cross_segments`` at any distance.
        """
        own = x.shape[1]
        attended = x if encoded is None else jnp.concatenate([x, encoded], axis=1)
        key, value = self.keys_values(attended, training=not deterministic)
        first = rotated(key[:, :own], by)
        key = first if encoded is None else jnp.concatenate([first, key[:, own:]], axis=1)
        sight = Sight(segments, reach, self.causal, cross_segments, self._near(reach))
        return self._attended(self.queries(x, by), key, value, sight, deterministic)

    def cross(
        self,
        x: Float[Array, "batch query embed"],
        encoded: Float[Array, "batch inputs width"] | Float[Array, "shards batch inputs width"],
        segments: Segments,
        *,
        deterministic: bool = True,
    ) -> Float[Array, "batch query embed"]:
        """Cross-attention of version 1, without positions, from ``x`` to the encoder's output within ``segments``."""
        key, value = self.keys_values(encoded, training=not deterministic)
        return self._attended(self.queries(x, None), key, value, Sight(segments), deterministic)

    def _attended(
        self,
        query: Float[Array, "batch query heads kv"],
        key: Float[Array, "batch key kv_heads kv"],
        value: Float[Array, "batch key kv_heads kv"],
        sight: Sight,
        deterministic: bool,
    ) -> Float[Array, "batch query embed"]:
        keep = None if deterministic or self.config.dropout_rate == 0.0 else self._keep(*key.shape[:2])
        (batch, length), shape, cap = query.shape[:2], self.shape, self.config.attention_logit_cap
        shapes = attention_choice.Shapes(
            batch, length, key.shape[1], shape.num_heads, shape.head_dim, query.dtype, shape.num_kv_heads
        )
        if attention_choice.choose(self.config.attention, shapes) == "pallas":
            return self._output(attend_fused(query, key, value, sight, scale=self._scale, cap=cap, keep=keep))
        return self._output(attend(query, key, value, sight.mask(), scale=self._scale, cap=cap, keep=keep))

    def _near(self, reach: Reach | None) -> Near | None:
        """The window of the stack's local layers; None if this layer is known to be global."""
        if reach is None:
            return None
        layers = range(self.shape.num_layers)
        share = 1.0 if isinstance(reach.before, int) else sum(map(self.shape.is_local, layers)) / len(layers)
        return Near(*self.config.window("decoder" if self.causal else "encoder"), share)

    @property
    def _scale(self) -> float:
        return self.shape.query_pre_attn_scalar**-0.5

    def _keep(self, batch: int, keys: int) -> Float[Array, "batch kv_heads group 1 key"]:
        # One draw for all queries, as in T5's attention.
        rate = 1.0 - self.config.dropout_rate
        groups = (self.shape.num_kv_heads, self.shape.num_heads // self.shape.num_kv_heads)
        kept = jax.random.bernoulli(self.make_rng("dropout"), rate, (batch, *groups, 1, keys))
        return kept.astype(jnp.float32) / rate

    def _output(self, mixed: Float[Array, "batch query joined"]) -> Float[Array, "batch query embed"]:
        mixed = nn.with_logical_constraint(mixed, ("batch", "length", "joined_kv"))
        return residual(self.out(checkpoint_name(mixed, KEPT)))

    def cached(self, x: Float[Array, "batch length embed"], by: Rotation | None) -> KeyValue:
        """Returns the keys and values of ``x`` in the layout of the decoding cache, keys rotated if ``by`` is given."""
        key, value = self.keys_values(x, training=False)
        key = key if by is None else rotated(key, by)
        return KeyValue(jnp.swapaxes(key, 1, 2), jnp.swapaxes(value, 1, 2))

    def step(
        self,
        x: Float[Array, "hypotheses 1 embed"],
        by: Rotation | None,
        *parts: tuple[KeyValue, Bool[AnyArray, "_ _"]],
    ) -> Float[Array, "hypotheses 1 embed"]:
        """Attends from one position to all ``parts``, see :func:`attend_cached`."""
        query = self.queries(x, by)[:, 0]
        mixed = attend_cached(query, parts, scale=self._scale, cap=self.config.attention_logit_cap)
        return self._output(mixed[:, None])


def _feed_forward(config: T5GemmaConfig, shape: StackConfig) -> FeedForward:
    return FeedForward(
        mlp_dim=shape.mlp_dim,
        embed_dim=shape.embed_dim,
        activations=("gelu", "linear"),
        dropout_rate=config.dropout_rate,
        dtype=jnp.dtype(config.dtype),
    )


# Whether a layer is local; an array, traced by the scan, if layers are scanned.
Local = bool | Bool[AnyArray, ""]


class Rotations(NamedTuple):
    """The rotations of local and of global layers."""

    near: Rotation
    far: Rotation

    def of(self, local: Local) -> Rotation:
        """Returns the rotation of a layer."""
        if isinstance(local, bool):
            return self.near if local else self.far
        return jax.tree.map(lambda near, far: jnp.where(local, near, far), self.near, self.far)


def reach(window: Window, local: Local) -> Reach | None:
    """Returns the farthest keys of a layer that has ``window`` if it is local; None if it is known to be global."""
    if isinstance(local, bool):
        return Reach(*window) if local else None
    return Reach(*(jnp.where(local, np.int32(distance), FARTHEST) for distance in window))


def _fed_forward(
    layer: "EncoderLayer | DecoderLayer", x: Float[Array, "batch length embed"], deterministic: bool
) -> Float[Array, "batch length embed"]:
    """The feed-forward block of a layer between its norms, added to ``x``."""
    y = layer.mlp(layer.pre_mlp_layer_norm(x), deterministic=deterministic)
    return residual(x + layer.dropout(layer.post_mlp_layer_norm(y), deterministic=deterministic))


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each with norms before and after it and a residual connection."""

    config: T5GemmaConfig

    def setup(self) -> None:
        config, shape = self.config, self.config.encoder
        self.pre_attention_layer_norm, self.post_attention_layer_norm = norm(config), norm(config)
        self.attention = GroupedAttention(config, shape)
        self.pre_mlp_layer_norm, self.post_mlp_layer_norm = norm(config), norm(config)
        self.mlp = _feed_forward(config, shape)
        self.dropout = dropout(config)

    def __call__(
        self,
        x: Float[Array, "batch length embed"],
        local: Local,
        segments: Segments,
        rotations: Rotations,
        deterministic: bool,
    ) -> tuple[Float[Array, "batch length embed"], None]:
        """[batch, length, embed] → the same shape, and None (the per-layer output of a scan)."""
        where = (rotations.of(local), reach(self.config.window("encoder"), local))
        y = self.attention(self.pre_attention_layer_norm(x), *where, segments, deterministic=deterministic)
        y = self.dropout(self.post_attention_layer_norm(y), deterministic=deterministic)
        x = checkpoint_name(residual(x + y), KEPT)
        return _fed_forward(self, x, deterministic), None


class DecoderLayer(nn.Module):
    """Self-attention and cross-attention, or merged attention, and feed-forward, each between two norms."""

    config: T5GemmaConfig

    def setup(self) -> None:
        config, shape = self.config, self.config.decoder
        self.pre_self_attention_layer_norm, self.post_self_attention_layer_norm = norm(config), norm(config)
        self.self_attention = GroupedAttention(config, shape, causal=True)
        if not config.merged:
            self.pre_cross_attention_layer_norm, self.post_cross_attention_layer_norm = norm(config), norm(config)
            self.encoder_decoder_attention = GroupedAttention(config, shape)
        self.pre_mlp_layer_norm, self.post_mlp_layer_norm = norm(config), norm(config)
        self.mlp = _feed_forward(config, shape)
        self.dropout = dropout(config)

    def __call__(
        self,
        x: Float[Array, "batch length embed"],
        local: Local,
        encoded: Float[Array, "batch inputs width"] | Float[Array, "shards batch inputs width"],
        segments: Segments,
        cross_segments: Segments,
        rotations: Rotations,
        deterministic: bool,
    ) -> tuple[Float[Array, "batch length embed"], None]:
        """[batch, length, embed] → the same shape, and None (the per-layer output of a scan)."""
        y = self.pre_self_attention_layer_norm(x)
        where = (rotations.of(local), reach(self.config.window("decoder"), local))
        merged = (encoded, cross_segments) if self.config.merged else ()
        y = self.self_attention(y, *where, segments, *merged, deterministic=deterministic)
        y = self.dropout(self.post_self_attention_layer_norm(y), deterministic=deterministic)
        x = checkpoint_name(residual(x + y), KEPT)
        if not self.config.merged:
            y = self.pre_cross_attention_layer_norm(x)
            y = self.encoder_decoder_attention.cross(y, encoded, cross_segments, deterministic=deterministic)
            y = self.dropout(self.post_cross_attention_layer_norm(y), deterministic=deterministic)
            x = checkpoint_name(residual(x + y), KEPT)
        return _fed_forward(self, x, deterministic), None

    def step(
        self,
        x: Float[Array, "rows_times_hypotheses 1 embed"],
        position: Int[Array, ""],
        cached: KeyValue,
        cross: KeyValue,
        cross_mask: Bool[AnyArray, "rows inputs"],
        by: Rotation,
    ) -> tuple[Float[Array, "rows_times_hypotheses 1 embed"], KeyValue]:
        """Decodes one position. ``x`` is [rows · hypotheses, 1, embed]; ``cross`` has one entry per row.

        If the target may be longer than the window, the cache of a local layer has one slot per token of the window: a
        position overwrites the one that has just left the window.

        Returns:
          The layer's output, and the cache with this position written.
        """
        places = cached.key.shape[2]
        y = self.pre_self_attention_layer_norm(x)
        new = self.self_attention.cached(y, by)
        cached = KeyValue(
            *(jax.lax.dynamic_update_slice_in_dim(old, one, position % places, axis=2) for old, one in zip(cached, new))
        )
        seen = (jnp.arange(places, dtype=jnp.int32) <= position)[None]
        parts = ((cached, seen), (cross, cross_mask)) if self.config.merged else ((cached, seen),)
        x = x + self.post_self_attention_layer_norm(self.self_attention.step(y, by, *parts))
        if not self.config.merged:
            y = self.encoder_decoder_attention.step(self.pre_cross_attention_layer_norm(x), None, (cross, cross_mask))
            x = x + self.post_cross_attention_layer_norm(y)
        return x + self.post_mlp_layer_norm(self.mlp(self.pre_mlp_layer_norm(x))), cached

    def cross_key_value(self, encoded: Float[Array, "batch inputs width"]) -> KeyValue:
        """Returns the keys and values of the encoder's output, which are the same for all decoding steps."""
        attention = self.self_attention if self.config.merged else self.encoder_decoder_attention
        return attention.cached(encoded, None)
