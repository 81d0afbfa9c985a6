"""Layers of the T5 family, encoder and decoder: rematerialised, and stacked into one scan."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int

from distill.array_types import AnyArray
from distill.model.attention import (
    KEPT,
    Attention,
    FeedForward,
    KeyValue,
    PositionBias,
    RelativeBias,
    RMSNorm,
    Segments,
    residual,
)
from distill.model.config import T5Config
from distill.model.configs import NetworkConfig
from distill.sharding.dense import PRODUCT


def _attention(config: T5Config) -> Attention:
    return Attention(
        num_heads=config.num_heads,
        head_dim=config.head_dim,
        embed_dim=config.embed_dim,
        dropout_rate=config.dropout_rate,
        dtype=jnp.dtype(config.dtype),
        kernel=config.attention,
    )


def _feed_forward(config: T5Config) -> FeedForward:
    return FeedForward(
        mlp_dim=config.mlp_dim,
        embed_dim=config.embed_dim,
        activations=config.mlp_activations,
        dropout_rate=config.dropout_rate,
        dtype=jnp.dtype(config.dtype),
    )


def norm(config: T5Config) -> RMSNorm:
    """The normalisation before every part of a layer and after the last layer."""
    return RMSNorm(config.layer_norm_epsilon, jnp.dtype(config.dtype))


def relative_bias(config: T5Config, bidirectional: bool) -> RelativeBias:
    """The position bias of self-attention; ``bidirectional`` in the encoder."""
    return RelativeBias(
        num_heads=config.num_heads,
        num_buckets=config.relative_attention_num_buckets,
        max_distance=config.relative_attention_max_distance,
        bidirectional=bidirectional,
    )


def dropout(config: NetworkConfig) -> nn.Dropout:
    """Dropout with one mask for all positions of a row, as in the original T5."""
    return nn.Dropout(config.dropout_rate, broadcast_dims=(-2,))


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each with a pre-norm and a residual connection."""

    config: T5Config

    def setup(self) -> None:
        if self.config.relative_bias_per_layer:
            self.relpos_bias = relative_bias(self.config, bidirectional=True)
        self.pre_attention_layer_norm = norm(self.config)
        self.attention = _attention(self.config)
        self.pre_mlp_layer_norm = norm(self.config)
        self.mlp = _feed_forward(self.config)
        self.dropout = dropout(self.config)

    def __call__(
        self, x: Float[Array, "batch length embed"], segments: Segments, bias: PositionBias | None, deterministic: bool
    ) -> tuple[Float[Array, "batch length embed"], None]:
        """[batch, length, embed] → the same shape, and None (the per-layer output of a scan)."""
        if self.config.relative_bias_per_layer:
            bias = self.relpos_bias(x.shape[1], x.shape[1])
        y = self.pre_attention_layer_norm(x)
        y = self.attention(y, y, segments, bias, deterministic=deterministic)
        x = checkpoint_name(residual(x + self.dropout(y, deterministic=deterministic)), KEPT)
        y = self.mlp(self.pre_mlp_layer_norm(x), deterministic=deterministic)
        x = x + self.dropout(y, deterministic=deterministic)
        return residual(x), None


class DecoderLayer(nn.Module):
    """Causal self-attention, cross-attention and feed-forward, each with a pre-norm and a residual connection."""

    config: T5Config

    def setup(self) -> None:
        if self.config.relative_bias_per_layer:
            self.relpos_bias = relative_bias(self.config, bidirectional=False)
        self.pre_self_attention_layer_norm = norm(self.config)
        self.self_attention = _attention(self.config)
        self.pre_cross_attention_layer_norm = norm(self.config)
        self.encoder_decoder_attention = _attention(self.config)
        self.pre_mlp_layer_norm = norm(self.config)
        self.mlp = _feed_forward(self.config)
        self.dropout = dropout(self.config)

    def __call__(
        self,
        x: Float[Array, "batch length embed"],
        encoded: Float[Array, "batch inputs embed"] | Float[Array, "shards batch inputs embed"],
        segments: Segments,
        cross_segments: Segments,
        bias: PositionBias | None,
        deterministic: bool,
    ) -> tuple[Float[Array, "batch length embed"], None]:
        """[batch, length, embed] → the same shape, and None (the per-layer output of a scan).

        ``encoded`` is [batch, inputs, embed], or copies of it per shard (:func:`copies_by_shard`).
        """
        if self.config.relative_bias_per_layer:
            bias = self.relpos_bias(x.shape[1], x.shape[1])
        y = self.pre_self_attention_layer_norm(x)
        y = self.self_attention(y, y, segments, bias, causal=True, deterministic=deterministic)
        x = checkpoint_name(residual(x + self.dropout(y, deterministic=deterministic)), KEPT)
        y = self.pre_cross_attention_layer_norm(x)
        y = self.encoder_decoder_attention(y, encoded, cross_segments, deterministic=deterministic)
        x = checkpoint_name(residual(x + self.dropout(y, deterministic=deterministic)), KEPT)
        y = self.mlp(self.pre_mlp_layer_norm(x), deterministic=deterministic)
        x = x + self.dropout(y, deterministic=deterministic)
        return residual(x), None

    def step(
        self,
        x: Float[Array, "rows_times_hypotheses 1 embed"],
        position: Int[Array, ""],
        cached: KeyValue,
        cross: KeyValue,
        cross_mask: Bool[AnyArray, "rows 1 1 inputs"],
        bias: Float[Array, "1 heads 1 key"] | None,
    ) -> tuple[Float[Array, "rows_times_hypotheses 1 embed"], KeyValue]:
        """Decodes one position. ``x`` is [rows · hypotheses, 1, embed]; ``cross`` has one entry per row.

        Returns:
          The layer's output, and the cache with this position written.
        """
        key_length = cached.key.shape[2]
        if self.config.relative_bias_per_layer:
            bias = self.relpos_bias.at(position, key_length)
        y = self.pre_self_attention_layer_norm(x)
        new = self.self_attention.key_value(y)
        cached = KeyValue(
            *(jax.lax.dynamic_update_slice_in_dim(old, one, position, axis=2) for old, one in zip(cached, new))
        )
        seen = (jnp.arange(key_length, dtype=jnp.int32) <= position)[None, None, None, :]
        x = x + self.self_attention.with_key_value(y, cached, seen, bias)
        y = self.pre_cross_attention_layer_norm(x)
        # Hypotheses of a row attend to the same encoder output, so they become query positions of that row.
        rows = cross.key.shape[0]
        y = y.reshape(rows, -1, self.config.embed_dim)
        y = self.encoder_decoder_attention.with_key_value(y, cross, cross_mask)
        x = x + y.reshape(x.shape)
        return x + self.mlp(self.pre_mlp_layer_norm(x)), cached

    def cross_key_value(self, encoded: Float[Array, "batch inputs embed"]) -> KeyValue:
        """Returns the keys and values of the encoder's output, which are the same for all decoding steps."""
        return self.encoder_decoder_attention.key_value(encoded)


def rematerialised(layer: type[nn.Module], config: NetworkConfig, num_arguments: int) -> Callable[..., nn.Module]:
    """``layer`` with the configured rematerialisation; its last argument, ``deterministic``, is static."""
    if config.remat_policy == "none":
        return layer
    policy = None
    if config.remat_policy == "elementwise":
        policy = jax.checkpoint_policies.save_only_these_names(KEPT)
    elif config.remat_policy == "minimal":
        policy = jax.checkpoint_policies.save_only_these_names(PRODUCT)
    # Inside a scan, the loop already keeps the compiler from eliminating the recomputation.
    return nn.remat(layer, policy=policy, prevent_cse=not config.scan_layers, static_argnums=(num_arguments,))


def scanned(
    layer: Callable[..., nn.Module], config: NetworkConfig, length: int, num_broadcast: int, num_per_layer: int = 0
) -> nn.Module:
    """``length`` layers as one scan; their parameters are stacked along axis 1.

    Args:
      layer: a class of layers, see :func:`rematerialised`.
      config: of the network.
      length: number of layers.
      num_broadcast: number of the last arguments, which are the same for every layer.
      num_per_layer: number of arguments between the activations and those, which have a leading axis of layers.
    """
    return nn.scan(
        layer,
        variable_axes={"params": 1},
        split_rngs={"params": True, "dropout": True},
        in_axes=(*(0,) * num_per_layer, *(nn.broadcast,) * num_broadcast),
        length=length,
        metadata_params={nn.PARTITION_NAME: "layers"},
    )(config)
