"""The T5 family in Flax Linen: T5 1.0, T5 1.1 / Flan-T5, mT5, umT5 and ByT5 are values of one :class:`T5Config`.

Parameters have T5X's names and shapes. Attention masks follow from the tokens (id 0 is padding) or, in packed batches,
from the segment ids. Positions enter only through relative distances, so packed rows need no position ids.
"""

from collections.abc import Mapping
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from distill.array_types import AnyArray
from distill.model.attention import (
    KeyValue,
    Segments,
    TokenEmbedder,
)
from distill.model.config import T5Config
from distill.model.configs import NetworkConfig
from distill.model.layers import DecoderLayer, EncoderLayer, dropout, norm, relative_bias, rematerialised, scanned
from distill.sharding.dense import Dense, copies_by_shard

__all__ = [
    "PAD_ID",
    "ModelInputs",
    "T5Config",
    "Transformer",
    "check_unscanned",
    "decoder_segments",
    "encoder_segments",
]

PAD_ID = 0


class Encoder(nn.Module):
    """The encoder's layers, from the embedded tokens to the final norm."""

    config: T5Config

    def setup(self) -> None:
        config = self.config
        layer = rematerialised(EncoderLayer, config, num_arguments=4)
        if not config.relative_bias_per_layer:
            self.relpos_bias = relative_bias(config, bidirectional=True)
        if config.scan_layers:
            self.encoder = scanned(layer, config, config.num_encoder_layers, num_broadcast=3)
        else:
            self.layers = [layer(config) for _ in range(config.num_encoder_layers)]
        self.encoder_norm = norm(config)
        self.dropout = dropout(config)

    def __call__(
        self, embedded: Float[Array, "batch length embed"], segments: Segments, deterministic: bool
    ) -> Float[Array, "batch length embed"]:
        """[batch, length, embed] → the same shape."""
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
    """The decoder's layers, from the embedded tokens to the final norm, and the output kernel if it is not tied."""

    config: T5Config

    def setup(self) -> None:
        config = self.config
        layer = rematerialised(DecoderLayer, config, num_arguments=6)
        if not config.relative_bias_per_layer:
            self.relpos_bias = relative_bias(config, bidirectional=False)
        if config.scan_layers:
            self.decoder = scanned(layer, config, config.num_decoder_layers, num_broadcast=5)
        else:
            self.layers = [layer(config) for _ in range(config.num_decoder_layers)]
        self.decoder_norm = norm(config)
        self.dropout = dropout(config)
        if not config.logits_via_embedding:
            self.logits_dense = Dense(config.vocab_size, ("embed", "vocab"), jnp.dtype(config.dtype))

    def __call__(
        self,
        embedded: Float[Array, "batch length embed"],
        encoded: Float[Array, "batch inputs embed"],
        segments: Segments,
        cross_segments: Segments,
        deterministic: bool,
    ) -> Float[Array, "batch length embed"]:
        """[batch, length, embed] → the same shape, after the final norm."""
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

    def step(
        self,
        embedded: Float[Array, "rows_times_hypotheses 1 embed"],
        position: Int[Array, ""],
        caches: tuple[KeyValue, ...],
        crosses: tuple[KeyValue, ...],
        cross_mask: Bool[AnyArray, "rows 1 1 inputs"],
    ) -> tuple[Float[Array, "rows_times_hypotheses 1 embed"], tuple[KeyValue, ...]]:
        """Decodes one position through all layers; ``caches`` and ``crosses`` hold one :class:`KeyValue` per layer."""
        key_length = caches[0].key.shape[2]
        bias = None if self.config.relative_bias_per_layer else self.relpos_bias.at(position, key_length)
        x, written = embedded, []
        for layer, cached, cross in zip(self.layers, caches, crosses):
            x, cached = layer.step(x, position, cached, cross, cross_mask, bias)
            written.append(cached)
        return self.decoder_norm(x), tuple(written)

    def cross_key_values(self, encoded: Float[Array, "batch inputs embed"]) -> tuple[KeyValue, ...]:
        """Returns one :class:`KeyValue` per layer."""
        return tuple(layer.cross_key_value(encoded) for layer in self.layers)

    def logits(self, hidden: Float[Array, "batch length embed"]) -> Float[Array, "batch length vocab"]:
        """Returns float32 logits [batch, length, vocab], computed by the separate kernel."""
        return self.logits_dense(hidden, out_dtype=jnp.float32)


class ModelInputs(NamedTuple):
    """The features of a batch that the network reads.

    Attributes:
      encoder_input_tokens: int32 [batch, inputs]; 0 is padding.
      decoder_input_tokens: int32 [batch, targets]; the targets shifted right, starting with 0.
      encoder_segment_ids: int32 [batch, inputs] of a packed batch, from 1; 0 is padding. None means one example per
        row.
      decoder_segment_ids: int32 [batch, targets], likewise.
      decoder_cross_segment_ids: int32 [batch, targets]: the encoder segment that each target attends to. None means the
        encoder segment with the target's own decoder segment id.
    """

    encoder_input_tokens: Int[AnyArray, "batch inputs"]
    decoder_input_tokens: Int[AnyArray, "batch targets"]
    encoder_segment_ids: Int[AnyArray, "batch inputs"] | None = None
    decoder_segment_ids: Int[AnyArray, "batch targets"] | None = None
    decoder_cross_segment_ids: Int[AnyArray, "batch targets"] | None = None

    @classmethod
    def of(cls, batch: Mapping[str, jax.Array]) -> "ModelInputs":
        """Selects these features from a batch; absent segment ids become None."""
        return cls(
            batch["encoder_input_tokens"],
            batch["decoder_input_tokens"],
            batch.get("encoder_segment_ids"),
            batch.get("decoder_segment_ids"),
            batch.get("decoder_cross_segment_ids"),
        )


class Transformer(nn.Module):
    """A T5 network. Its parameters are in the collection ``params``; dropout uses the rng stream ``dropout``."""

    config: T5Config

    def setup(self) -> None:
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
        """Returns the encoder's output in the compute dtype. Values at padding positions are undefined."""
        segments = encoder_segments(encoder_input_tokens, encoder_segment_ids)
        return self.encoder(self.token_embedder(encoder_input_tokens), segments, deterministic)

    def decode_hidden(
        self, encoded: Float[Array, "batch inputs embed"], inputs: ModelInputs, *, deterministic: bool = True
    ) -> Float[Array, "batch targets embed"]:
        """Returns the decoder's output after the final norm, scaled if tied: the input of :meth:`logits`.

        A target attends to the targets before it in its ``decoder_segment_ids`` segment. It also attends to the inputs
        of the encoder segment given by ``decoder_cross_segment_ids`` or, without those, by ``decoder_segment_ids``.
        With cross segment ids, several target sequences may share an input.

        Raises:
          ValueError: only one of encoder and decoder segment ids is given, or cross segment ids without them.
        """
        segments = decoder_segments(inputs)
        embedded = self.token_embedder(inputs.decoder_input_tokens)
        return self._scaled(self.decoder(embedded, encoded, *segments, deterministic))

    def hidden(self, inputs: ModelInputs, *, deterministic: bool = True) -> Float[Array, "batch targets embed"]:
        """:meth:`encode`, then :meth:`decode_hidden`, with one lookup for all tokens and so one table gradient."""
        seen = decoder_segments(inputs)
        encoder_tokens = inputs.encoder_input_tokens
        tokens = jnp.concatenate([encoder_tokens, inputs.decoder_input_tokens], axis=1)
        sources, targets = jnp.split(self.token_embedder(tokens), [encoder_tokens.shape[1]], axis=1)
        encoded = self.encoder(sources, encoder_segments(encoder_tokens, inputs.encoder_segment_ids), deterministic)
        return self._scaled(self.decoder(targets, encoded, *seen, deterministic))

    def __call__(self, inputs: ModelInputs, *, deterministic: bool = True) -> Float[Array, "batch targets vocab"]:
        """Returns float32 logits of all target positions."""
        return self.logits(self.hidden(inputs, deterministic=deterministic))

    def logits(self, hidden: Float[Array, "batch targets embed"]) -> Float[Array, "batch targets vocab"]:
        """Returns float32 logits from the output of :meth:`hidden`, :meth:`decode_hidden` or :meth:`decode_step`."""
        if self.config.logits_via_embedding:
            logits = self.token_embedder.attend(hidden)
        else:
            logits = self.decoder.logits(hidden)
        return nn.with_logical_constraint(logits, ("batch", "length", "vocab"))

    def cross_key_values(self, encoded: Float[Array, "batch inputs embed"]) -> tuple[KeyValue, ...]:
        """Returns each decoder layer's keys and values of the encoder's output; ValueError if layers are scanned."""
        check_unscanned(self.config)
        return self.decoder.cross_key_values(encoded)

    def decode_step(
        self,
        tokens: Int[AnyArray, " rows_times_hypotheses"],
        position: Int[Array, ""],
        caches: tuple[KeyValue, ...],
        crosses: tuple[KeyValue, ...],
        encoder_mask: Bool[AnyArray, "rows inputs"],
    ) -> tuple[Float[Array, "rows_times_hypotheses 1 embed"], tuple[KeyValue, ...]]:
        """Decodes one position: returns the hidden state after ``tokens`` at ``position``, and the updated caches.

        A row may have several hypotheses (beams), which are adjacent in ``tokens`` and share the row's entry in
        ``crosses`` and ``encoder_mask``.

        Raises:
          ValueError: layers are scanned; use :func:`distill.model.parameters.unstack_layers`.
        """
        check_unscanned(self.config)
        embedded = self.token_embedder(tokens[:, None])
        hidden, caches = self.decoder.step(embedded, position, caches, crosses, encoder_mask[:, None, None, :])
        return self._scaled(hidden), caches

    def _scaled(self, hidden: Float[Array, "batch length embed"]) -> Float[Array, "batch length embed"]:
        return hidden * self.config.embed_dim**-0.5 if self.config.logits_via_embedding else hidden


def check_unscanned(config: NetworkConfig) -> None:
    """Raises ValueError if layers are stacked, which a step of decoding cannot read."""
    if config.scan_layers:
        raise ValueError("step-by-step decoding requires scan_layers=False; pass the parameters through unstack_layers")


def _given(value: AnyArray | None) -> str:
    return "absent" if value is None else "given"


def encoder_segments(
    tokens: Int[AnyArray, "batch inputs"], segment_ids: Int[AnyArray, "batch inputs"] | None
) -> Segments:
    """Returns the segment ids that mask the encoder's self-attention."""
    return _everywhere(tokens.shape[1], tokens) if segment_ids is None else Segments(segment_ids, segment_ids)


def decoder_segments(inputs: ModelInputs) -> tuple[Segments, Segments]:
    """Returns the segment ids that mask the decoder's self-attention, and those that mask its cross-attention.

    Raises:
      ValueError: only one of encoder and decoder segment ids is given, or cross segment ids without them.
    """
    encoder, decoder = inputs.encoder_segment_ids, inputs.decoder_segment_ids
    cross = inputs.decoder_cross_segment_ids
    if encoder is not None and decoder is not None:
        return Segments(decoder, decoder), Segments(decoder if cross is None else cross, encoder)
    if encoder is None and decoder is None and cross is None:
        targets = inputs.decoder_input_tokens
        ones = jnp.ones(targets.shape, jnp.int32)
        return Segments(ones, ones), _everywhere(targets.shape[1], inputs.encoder_input_tokens)
    raise ValueError(
        "a packed batch needs both encoder_segment_ids and decoder_segment_ids; got "
        f"encoder_segment_ids {_given(encoder)}, decoder_segment_ids {_given(decoder)}, "
        f"decoder_cross_segment_ids {_given(cross)}"
    )


def _everywhere(query_length: int, key_tokens: Int[AnyArray, "batch key"]) -> Segments:
    """Segment ids of an unpacked batch: every query attends to all keys except padding."""
    real = (key_tokens != PAD_ID).astype(jnp.int32)
    return Segments(jnp.ones((real.shape[0], query_length), jnp.int32), real)
