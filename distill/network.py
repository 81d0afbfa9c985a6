"""The T5 family in Flax Linen: T5 1.0, T5 1.1 / Flan-T5, mT5, umT5 and ByT5 are values of one :class:`T5Config`.

Parameters have T5X's names and shapes. Who sees whom follows from the tokens (id 0 is padding) or, in packed batches, from
the segment ids; positions enter only through relative distances, so packed rows need no positions.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int

from distill.array_types import AnyArray
from distill.attention import (
    KEPT,
    Attention,
    FeedForward,
    KeyValue,
    RelativeBias,
    RMSNorm,
    Segments,
    TokenEmbedder,
    residual,
)
from distill.dense import PRODUCT, Dense, copies_by_shard
from distill.t5_config import T5Config

__all__ = ["PAD_ID", "T5Config", "Transformer"]

PAD_ID = 0


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


def _norm(config: T5Config) -> RMSNorm:
    return RMSNorm(config.layer_norm_epsilon, jnp.dtype(config.dtype))


def _relative_bias(config: T5Config, bidirectional: bool) -> RelativeBias:
    return RelativeBias(
        num_heads=config.num_heads,
        num_buckets=config.relative_attention_num_buckets,
        max_distance=config.relative_attention_max_distance,
        bidirectional=bidirectional,
    )


def _dropout(config: T5Config) -> nn.Dropout:
    # One draw for all positions of a row, as the first T5 did.
    return nn.Dropout(config.dropout_rate, broadcast_dims=(-2,))


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each behind a norm and a residual."""

    config: T5Config

    def setup(self):
        if self.config.relative_bias_per_layer:
            self.relpos_bias = _relative_bias(self.config, bidirectional=True)
        self.pre_attention_layer_norm = _norm(self.config)
        self.attention = _attention(self.config)
        self.pre_mlp_layer_norm = _norm(self.config)
        self.mlp = _feed_forward(self.config)
        self.dropout = _dropout(self.config)

    def __call__(self, x, segments: Segments, bias, deterministic):
        """[batch, length, embed] → the same, and None (what a scan over layers would stack)."""
        if self.config.relative_bias_per_layer:
            bias = self.relpos_bias(x.shape[1], x.shape[1])
        y = self.pre_attention_layer_norm(x)
        y = self.attention(y, y, segments, bias, deterministic=deterministic)
        x = checkpoint_name(residual(x + self.dropout(y, deterministic=deterministic)), KEPT)
        y = self.mlp(self.pre_mlp_layer_norm(x), deterministic=deterministic)
        x = x + self.dropout(y, deterministic=deterministic)
        return residual(x), None


class DecoderLayer(nn.Module):
    """Causal self-attention, attention to the encoder's output, feed-forward, each behind a norm and a residual."""

    config: T5Config

    def setup(self):
        if self.config.relative_bias_per_layer:
            self.relpos_bias = _relative_bias(self.config, bidirectional=False)
        self.pre_self_attention_layer_norm = _norm(self.config)
        self.self_attention = _attention(self.config)
        self.pre_cross_attention_layer_norm = _norm(self.config)
        self.encoder_decoder_attention = _attention(self.config)
        self.pre_mlp_layer_norm = _norm(self.config)
        self.mlp = _feed_forward(self.config)
        self.dropout = _dropout(self.config)

    def __call__(self, x, encoded, segments: Segments, cross_segments: Segments, bias, deterministic):
        """[batch, length, embed] → the same, and None (what a scan over layers would stack).

        ``encoded`` is [batch, inputs, embed], or copies of it (:func:`copies_by_shard`).
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

    def step(self, x, position, cached: KeyValue, cross: KeyValue, cross_mask, bias):
        """One position of many hypotheses. ``x`` is [rows · hypotheses, 1, embed], ``cross`` has one entry a row.

        Returns:
          ``x`` after the layer and the cache with this position written.
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
        # Hypotheses of a row read the same encoder output, so they stand as queries beside each other.
        rows = cross.key.shape[0]
        y = y.reshape(rows, -1, self.config.embed_dim)
        y = self.encoder_decoder_attention.with_key_value(y, cross, cross_mask)
        x = x + y.reshape(x.shape)
        return x + self.mlp(self.pre_mlp_layer_norm(x)), cached

    def cross_key_value(self, encoded) -> KeyValue:
        """The keys and values of the encoder's output, which no decoding step changes."""
        return self.encoder_decoder_attention.key_value(encoded)


def _layer_class(layer: type[nn.Module], config: T5Config, num_arguments: int):
    """``layer`` with the configuration's recomputation; the last of its arguments, ``deterministic``, is static."""
    if config.remat_policy == "none":
        return layer
    policy = None
    if config.remat_policy == "elementwise":
        policy = jax.checkpoint_policies.save_only_these_names(KEPT)
    elif config.remat_policy == "minimal":
        policy = jax.checkpoint_policies.save_only_these_names(PRODUCT)
    # Inside a scan the loop itself already keeps the compiler from undoing the recomputation.
    return nn.remat(layer, policy=policy, prevent_cse=not config.scan_layers, static_argnums=(num_arguments,))


def _scanned(layer, config: T5Config, length: int, num_broadcast: int) -> nn.Module:
    return nn.scan(
        layer,
        variable_axes={"params": 1},
        split_rngs={"params": True, "dropout": True},
        in_axes=(nn.broadcast,) * num_broadcast,
        length=length,
        metadata_params={nn.PARTITION_NAME: "layers"},
    )(config)


class Encoder(nn.Module):
    """The encoder's layers, between the embedding and the last norm."""

    config: T5Config

    def setup(self):
        config = self.config
        layer = _layer_class(EncoderLayer, config, num_arguments=4)
        if not config.relative_bias_per_layer:
            self.relpos_bias = _relative_bias(config, bidirectional=True)
        if config.scan_layers:
            self.encoder = _scanned(layer, config, config.num_encoder_layers, num_broadcast=3)
        else:
            self.layers = [layer(config) for _ in range(config.num_encoder_layers)]
        self.encoder_norm = _norm(config)
        self.dropout = _dropout(config)

    def __call__(self, embedded, segments: Segments, deterministic: bool):
        """[batch, length, embed] → the same."""
        length = embedded.shape[1]
        bias = None if self.config.relative_bias_per_layer else self.relpos_bias(length, length)
        x = self.dropout(embedded, deterministic=deterministic)
        if self.config.scan_layers:
            x, _ = self.encoder(x, segments, bias, deterministic)
        else:
            for layer in self.layers:
                x, _ = layer(x, segments, bias, deterministic)
        return self.dropout(self.encoder_norm(x), deterministic=deterministic)


class Decoder(nn.Module):
    """The decoder's layers, between the embedding and the logits."""

    config: T5Config

    def setup(self):
        config = self.config
        layer = _layer_class(DecoderLayer, config, num_arguments=6)
        if not config.relative_bias_per_layer:
            self.relpos_bias = _relative_bias(config, bidirectional=False)
        if config.scan_layers:
            self.decoder = _scanned(layer, config, config.num_decoder_layers, num_broadcast=5)
        else:
            self.layers = [layer(config) for _ in range(config.num_decoder_layers)]
        self.decoder_norm = _norm(config)
        self.dropout = _dropout(config)
        if not config.logits_via_embedding:
            self.logits_dense = Dense(config.vocab_size, ("embed", "vocab"), jnp.dtype(config.dtype))

    def __call__(self, embedded, encoded, segments: Segments, cross_segments: Segments, deterministic: bool):
        """[batch, length, embed] → the same, after the last norm."""
        length = embedded.shape[1]
        bias = None if self.config.relative_bias_per_layer else self.relpos_bias(length, length)
        x = self.dropout(embedded, deterministic=deterministic)
        if not deterministic:
            encoded = copies_by_shard(encoded, self.config.num_heads * self.config.head_dim)
        if self.config.scan_layers:
            x, _ = self.decoder(x, encoded, segments, cross_segments, bias, deterministic)
        else:
            for layer in self.layers:
                x, _ = layer(x, encoded, segments, cross_segments, bias, deterministic)
        return self.dropout(self.decoder_norm(x), deterministic=deterministic)

    def step(self, embedded, position, caches, crosses, cross_mask):
        """One position through all layers; ``caches`` and ``crosses`` hold one :class:`KeyValue` a layer."""
        key_length = caches[0].key.shape[2]
        bias = None if self.config.relative_bias_per_layer else self.relpos_bias.at(position, key_length)
        x, written = embedded, []
        for layer, cached, cross in zip(self.layers, caches, crosses):
            x, cached = layer.step(x, position, cached, cross, cross_mask, bias)
            written.append(cached)
        return self.decoder_norm(x), tuple(written)

    def cross_key_values(self, encoded):
        """One :class:`KeyValue` a layer."""
        return tuple(layer.cross_key_value(encoded) for layer in self.layers)

    def logits(self, hidden):
        """float32 logits [batch, length, vocab] by the separate kernel."""
        return self.logits_dense(hidden, out_dtype=jnp.float32)


class Transformer(nn.Module):
    """A T5 network. Parameters under ``params``; dropout draws from the rng ``dropout``."""

    config: T5Config

    def setup(self):
        config = self.config
        self.token_embedder = TokenEmbedder(config.vocab_size, config.embed_dim, jnp.dtype(config.dtype))
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def encode(
        self,
        encoder_input_tokens: Int[AnyArray, "batch inputs"],
        encoder_segment_ids: Int[AnyArray, "batch inputs"] | None = None,
        *,
        deterministic: bool = True,
    ) -> Float[Array, "batch inputs embed"]:
        """The encoder's output, in the compute dtype. What it holds at padding positions means nothing."""
        segments = _encoder_segments(encoder_input_tokens, encoder_segment_ids)
        return self.encoder(self.token_embedder(encoder_input_tokens), segments, deterministic)

    def decode_hidden(
        self,
        encoded: Float[AnyArray, "batch inputs embed"],
        encoder_input_tokens: Int[AnyArray, "batch inputs"],
        decoder_input_tokens: Int[AnyArray, "batch targets"],
        encoder_segment_ids: Int[AnyArray, "batch inputs"] | None = None,
        decoder_segment_ids: Int[AnyArray, "batch targets"] | None = None,
        *,
        decoder_cross_segment_ids: Int[AnyArray, "batch targets"] | None = None,
        deterministic: bool = True,
    ) -> Float[Array, "batch targets embed"]:
        """What :func:`output_kernel` turns into logits: the decoder's output after its last norm, scaled if tied.

        A target attends to the targets before it in its ``decoder_segment_ids`` segment, and to the inputs of that number,
        or of its number in ``decoder_cross_segment_ids`` where given: several target sequences may then share an input.

        Raises:
          ValueError: if only one of encoder and decoder segment ids is given, or cross segment ids without them.
        """
        segments = _decoder_segments(
            encoder_input_tokens,
            decoder_input_tokens,
            encoder_segment_ids,
            decoder_segment_ids,
            decoder_cross_segment_ids,
        )
        embedded = self.token_embedder(decoder_input_tokens)
        return self._scaled(self.decoder(embedded, encoded, *segments, deterministic))

    def hidden(
        self,
        encoder_input_tokens: Int[AnyArray, "batch inputs"],
        decoder_input_tokens: Int[AnyArray, "batch targets"],
        encoder_segment_ids: Int[AnyArray, "batch inputs"] | None = None,
        decoder_segment_ids: Int[AnyArray, "batch targets"] | None = None,
        *,
        decoder_cross_segment_ids: Int[AnyArray, "batch targets"] | None = None,
        deterministic: bool = True,
    ) -> Float[Array, "batch targets embed"]:
        """:meth:`encode`, then :meth:`decode_hidden`, with all tokens read at once: the table's gradient is made once."""
        seen = _decoder_segments(
            encoder_input_tokens,
            decoder_input_tokens,
            encoder_segment_ids,
            decoder_segment_ids,
            decoder_cross_segment_ids,
        )
        tokens = jnp.concatenate([encoder_input_tokens, decoder_input_tokens], axis=1)
        inputs, targets = jnp.split(self.token_embedder(tokens), [encoder_input_tokens.shape[1]], axis=1)
        encoded = self.encoder(inputs, _encoder_segments(encoder_input_tokens, encoder_segment_ids), deterministic)
        return self._scaled(self.decoder(targets, encoded, *seen, deterministic))

    def __call__(
        self,
        encoder_input_tokens: Int[AnyArray, "batch inputs"],
        decoder_input_tokens: Int[AnyArray, "batch targets"],
        encoder_segment_ids: Int[AnyArray, "batch inputs"] | None = None,
        decoder_segment_ids: Int[AnyArray, "batch targets"] | None = None,
        *,
        decoder_cross_segment_ids: Int[AnyArray, "batch targets"] | None = None,
        deterministic: bool = True,
    ) -> Float[Array, "batch targets vocab"]:
        """float32 logits of every target position."""
        hidden = self.hidden(
            encoder_input_tokens,
            decoder_input_tokens,
            encoder_segment_ids,
            decoder_segment_ids,
            decoder_cross_segment_ids=decoder_cross_segment_ids,
            deterministic=deterministic,
        )
        return self.logits(hidden)

    def logits(self, hidden: Float[Array, "batch targets embed"]) -> Float[Array, "batch targets vocab"]:
        """float32 logits of what :meth:`hidden`, :meth:`decode_hidden` or :meth:`decode_step` returned."""
        if self.config.logits_via_embedding:
            logits = self.token_embedder.attend(hidden)
        else:
            logits = self.decoder.logits(hidden)
        return nn.with_logical_constraint(logits, ("batch", "length", "vocab"))

    def cross_key_values(self, encoded: Float[AnyArray, "batch inputs embed"]) -> tuple[KeyValue, ...]:
        """Every decoder layer's keys and values of the encoder's output. Unscanned layers only."""
        self._check_unscanned()
        return self.decoder.cross_key_values(encoded)

    def decode_step(
        self,
        tokens: Int[AnyArray, "rows_times_hypotheses"],
        position: Int[AnyArray, ""],
        caches: tuple[KeyValue, ...],
        crosses: tuple[KeyValue, ...],
        encoder_mask: Bool[AnyArray, "rows inputs"],
    ) -> tuple[Float[Array, "rows_times_hypotheses 1 embed"], tuple[KeyValue, ...]]:
        """One decoding step: the hidden state after ``tokens`` at ``position``, and the caches with it written.

        A row may have several hypotheses (beams), neighbours in ``tokens``; they share the row's entry in ``crosses``
        and ``encoder_mask``. Unscanned layers only: see :func:`unstack_layers`.
        """
        self._check_unscanned()
        embedded = self.token_embedder(tokens[:, None])
        hidden, caches = self.decoder.step(embedded, position, caches, crosses, encoder_mask[:, None, None, :])
        return self._scaled(hidden), caches

    def _scaled(self, hidden):
        return hidden * self.config.embed_dim**-0.5 if self.config.logits_via_embedding else hidden

    def _check_unscanned(self):
        if self.config.scan_layers:
            raise ValueError(
                "step-by-step decoding wants scan_layers=False; pass the parameters through unstack_layers"
            )


def _given(value) -> str:
    return "absent" if value is None else "given"


def _encoder_segments(
    tokens: Int[AnyArray, "batch inputs"], segment_ids: Int[AnyArray, "batch inputs"] | None
) -> Segments:
    """Who sees whom in the encoder."""
    return _everywhere(tokens.shape[1], tokens) if segment_ids is None else Segments(segment_ids, segment_ids)


def _decoder_segments(
    encoder_input_tokens: Int[AnyArray, "batch inputs"],
    decoder_input_tokens: Int[AnyArray, "batch targets"],
    encoder_segment_ids: Int[AnyArray, "batch inputs"] | None,
    decoder_segment_ids: Int[AnyArray, "batch targets"] | None,
    decoder_cross_segment_ids: Int[AnyArray, "batch targets"] | None,
) -> tuple[Segments, Segments]:
    """Who sees whom in the decoder, and what of the encoder's output."""
    if encoder_segment_ids is not None and decoder_segment_ids is not None:
        crossing = decoder_segment_ids if decoder_cross_segment_ids is None else decoder_cross_segment_ids
        return Segments(decoder_segment_ids, decoder_segment_ids), Segments(crossing, encoder_segment_ids)
    if encoder_segment_ids is None and decoder_segment_ids is None and decoder_cross_segment_ids is None:
        ones = jnp.ones(decoder_input_tokens.shape, jnp.int32)
        return Segments(ones, ones), _everywhere(decoder_input_tokens.shape[1], encoder_input_tokens)
    raise ValueError(
        "a packed batch has both encoder_segment_ids and decoder_segment_ids; got "
        f"encoder_segment_ids {_given(encoder_segment_ids)}, decoder_segment_ids {_given(decoder_segment_ids)}, "
        f"decoder_cross_segment_ids {_given(decoder_cross_segment_ids)}"
    )


def _everywhere(query_length: int, key_tokens: Int[AnyArray, "batch key"]) -> Segments:
    """Unpacked: every query sees all keys but padding."""
    real = (key_tokens != PAD_ID).astype(jnp.int32)
    return Segments(jnp.ones((real.shape[0], query_length), jnp.int32), real)
