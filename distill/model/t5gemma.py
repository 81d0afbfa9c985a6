"""The T5Gemma family in Flax Linen: one :class:`T5GemmaConfig` describes T5Gemma or T5Gemma 2.

The interface is that of :class:`distill.model.network.Transformer`. Decoder inputs start with 0, as for T5; the network
replaces id 0 by ``decoder_start_id``. Positions are derived from segment ids: they restart in every segment of a packed
row. The network is text only.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from distill.array_types import AnyArray
from distill.model.attention import KeyValue, Segments, TokenEmbedder
from distill.model.grouped_attention import capped, rotation, segment_positions
from distill.model.layers import dropout, rematerialised, scanned
from distill.model.network import PAD_ID, ModelInputs, check_unscanned, decoder_segments, encoder_segments
from distill.model.t5gemma_config import StackConfig, T5GemmaConfig
from distill.model.t5gemma_layers import DecoderLayer, EncoderLayer, Rotations, norm
from distill.sharding.dense import Dense, copies_by_shard

__all__ = ["StackConfig", "T5GemmaConfig", "T5GemmaTransformer", "cache_shapes"]


def cache_shapes(config: T5GemmaConfig, rows: int, length: int) -> tuple[tuple[int, int, int, int], ...]:
    """Returns the shape [rows, kv heads, slots, head_dim] of every decoder layer's cache for ``length`` positions.

    A local layer has one slot per token of its window, a global layer one per position.
    """
    shape = config.decoder
    kept = min(length, config.window("decoder").before + 1)
    places = (kept if local else length for local in _locals(shape))
    return tuple((rows, shape.num_kv_heads, number, shape.head_dim) for number in places)


def _locals(shape: StackConfig) -> tuple[bool, ...]:
    """Which layers of a stack are local."""
    return tuple(shape.is_local(index) for index in range(shape.num_layers))


def _rotations(config: T5GemmaConfig, shape: StackConfig, positions: Int[Array, "batch length"]) -> Rotations:
    near = rotation(positions, shape.head_dim, config.rope_base_local, config.rope_scale_local)
    if config.version == 1:
        return Rotations(near, near)
    return Rotations(near, rotation(positions, shape.head_dim, config.rope_base_global, config.rope_scale_global))


def _positions(
    tokens: Int[AnyArray, "batch length"], segment_ids: Int[AnyArray, "batch length"] | None
) -> Int[Array, "batch_or_1 length"]:
    if segment_ids is None:
        return jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
    return segment_positions(segment_ids)


class Encoder(nn.Module):
    """The encoder's layers, from the scaled embeddings to the final norm."""

    config: T5GemmaConfig

    def setup(self) -> None:
        config = self.config
        layer = rematerialised(EncoderLayer, config, num_arguments=5)
        if config.scan_layers:
            self.encoder = scanned(layer, config, config.encoder.num_layers, num_broadcast=3, num_per_layer=1)
        else:
            self.layers = [layer(config) for _ in range(config.encoder.num_layers)]
        self.encoder_norm = norm(config)
        self.dropout = dropout(config)

    def __call__(
        self,
        embedded: Float[Array, "batch length embed"],
        segments: Segments,
        positions: Int[Array, "batch_or_1 length"],
        deterministic: bool,
    ) -> Float[Array, "batch length embed"]:
        """[batch, length, embed] → the same shape."""
        kinds, rotations = _locals(self.config.encoder), _rotations(self.config, self.config.encoder, positions)
        x = self.dropout(embedded, deterministic=deterministic)
        if self.config.scan_layers:
            x, _ = self.encoder(x, jnp.asarray(kinds), segments, rotations, deterministic)
        else:
            for local, layer in zip(kinds, self.layers):
                x, _ = layer(x, local, segments, rotations, deterministic)
        return self.dropout(self.encoder_norm(x), deterministic=deterministic)


class Decoder(nn.Module):
    """The decoder's layers, from the scaled embeddings to the final norm, and the output kernel if it is not tied."""

    config: T5GemmaConfig

    def setup(self) -> None:
        config = self.config
        layer = rematerialised(DecoderLayer, config, num_arguments=7)
        if config.scan_layers:
            self.decoder = scanned(layer, config, config.decoder.num_layers, num_broadcast=5, num_per_layer=1)
        else:
            self.layers = [layer(config) for _ in range(config.decoder.num_layers)]
        self.decoder_norm = norm(config)
        self.dropout = dropout(config)
        if not config.logits_via_embedding:
            self.logits_dense = Dense(config.vocab_size, ("embed", "vocab"), jnp.dtype(config.dtype))

    def __call__(
        self,
        embedded: Float[Array, "batch length embed"],
        encoded: Float[Array, "batch inputs width"],
        segments: Segments,
        cross_segments: Segments,
        positions: Int[Array, "batch_or_1 length"],
        deterministic: bool,
    ) -> Float[Array, "batch length embed"]:
        """[batch, length, embed] → the same shape, after the final norm."""
        shape = self.config.decoder
        kinds, rotations = _locals(shape), _rotations(self.config, shape, positions)
        x = self.dropout(embedded, deterministic=deterministic)
        if not deterministic and not self.config.merged:
            encoded = copies_by_shard(encoded, shape.num_kv_heads * shape.head_dim)
        if self.config.scan_layers:
            x, _ = self.decoder(x, jnp.asarray(kinds), encoded, segments, cross_segments, rotations, deterministic)
        else:
            for local, layer in zip(kinds, self.layers):
                x, _ = layer(x, local, encoded, segments, cross_segments, rotations, deterministic)
        return self.dropout(self.decoder_norm(x), deterministic=deterministic)

    def step(
        self,
        embedded: Float[Array, "rows_times_hypotheses 1 embed"],
        position: Int[Array, ""],
        caches: tuple[KeyValue, ...],
        crosses: tuple[KeyValue, ...],
        cross_mask: Bool[AnyArray, "rows inputs"],
    ) -> tuple[Float[Array, "rows_times_hypotheses 1 embed"], tuple[KeyValue, ...]]:
        """Decodes one position through all layers; ``caches`` and ``crosses`` hold one :class:`KeyValue` per layer."""
        rotations = _rotations(self.config, self.config.decoder, position[None, None])
        x, written = embedded, []
        for local, layer, cached, cross in zip(_locals(self.config.decoder), self.layers, caches, crosses):
            x, cached = layer.step(x, position, cached, cross, cross_mask, rotations.of(local))
            written.append(cached)
        return self.decoder_norm(x), tuple(written)

    def cross_key_values(self, encoded: Float[Array, "batch inputs width"]) -> tuple[KeyValue, ...]:
        """Returns one :class:`KeyValue` per layer."""
        return tuple(layer.cross_key_value(encoded) for layer in self.layers)

    def logits(self, hidden: Float[Array, "batch length embed"]) -> Float[Array, "batch length vocab"]:
        """Returns float32 logits [batch, length, vocab], computed by the separate kernel, without the cap."""
        return self.logits_dense(hidden, out_dtype=jnp.float32)


class T5GemmaTransformer(nn.Module):
    """A T5Gemma network. Its parameters are in the collection ``params``; dropout uses the rng stream ``dropout``."""

    config: T5GemmaConfig

    def setup(self) -> None:
        config, dtype = self.config, jnp.dtype(self.config.dtype)

        def table(width: int) -> TokenEmbedder:
            return TokenEmbedder(config.vocab_size, width, dtype, stddev=width**-0.5)

        self.token_embedder = table(config.encoder.embed_dim)
        if config.version == 1:
            self.decoder_token_embedder = table(config.decoder.embed_dim)
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def encode(
        self,
        encoder_input_tokens: Int[AnyArray, "batch inputs"],
        encoder_segment_ids: Int[AnyArray, "batch inputs"] | None = None,
        *,
        deterministic: bool = True,
    ) -> Float[Array, "batch inputs width"]:
        """Returns the encoder's output in the compute dtype. Values at padding positions are undefined."""
        embedded = _scaled(self.token_embedder(encoder_input_tokens))
        return self._encoded(embedded, encoder_input_tokens, encoder_segment_ids, deterministic)

    def decode_hidden(
        self, encoded: Float[Array, "batch inputs width"], inputs: ModelInputs, *, deterministic: bool = True
    ) -> Float[Array, "batch targets embed"]:
        """Returns the decoder's output after the final norm: the input of :meth:`logits`.

        Raises:
          ValueError: as :meth:`distill.model.network.Transformer.decode_hidden`.
        """
        embedded = _scaled(self._decoder_table(self._started(inputs.decoder_input_tokens)))
        return self._decoded(embedded, encoded, inputs, deterministic)

    def hidden(self, inputs: ModelInputs, *, deterministic: bool = True) -> Float[Array, "batch targets embed"]:
        """:meth:`encode`, then :meth:`decode_hidden`; one lookup for all tokens if both stacks share a token table."""
        decoder_segments(inputs)  # refuses incomplete segment ids before the encoder runs
        sources = inputs.encoder_input_tokens
        if self.config.version == 1:
            encoded = self.encode(sources, inputs.encoder_segment_ids, deterministic=deterministic)
            return self.decode_hidden(encoded, inputs, deterministic=deterministic)
        tokens = jnp.concatenate([sources, self._started(inputs.decoder_input_tokens)], axis=1)
        embedded = _scaled(self.token_embedder(tokens))
        left, right = jnp.split(embedded, [sources.shape[1]], axis=1)
        encoded = self._encoded(left, sources, inputs.encoder_segment_ids, deterministic)
        return self._decoded(right, encoded, inputs, deterministic)

    def __call__(self, inputs: ModelInputs, *, deterministic: bool = True) -> Float[Array, "batch targets vocab"]:
        """Returns float32 logits of all target positions."""
        return self.logits(self.hidden(inputs, deterministic=deterministic))

    def logits(self, hidden: Float[Array, "batch targets embed"]) -> Float[Array, "batch targets vocab"]:
        """Returns float32 logits from the output of :meth:`hidden`, :meth:`decode_hidden` or :meth:`decode_step`."""
        if self.config.logits_via_embedding:
            logits = self._decoder_table.attend(hidden)
        else:
            logits = self.decoder.logits(hidden)
        logits = nn.with_logical_constraint(logits, ("batch", "length", "vocab"))
        return capped(logits, self.config.final_logit_cap)

    def cross_key_values(self, encoded: Float[Array, "batch inputs width"]) -> tuple[KeyValue, ...]:
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
        ``crosses`` and ``encoder_mask``. Caches have the shapes of :func:`cache_shapes`.

        Raises:
          ValueError: layers are scanned; use :func:`distill.model.parameters.unstack_layers`.
        """
        check_unscanned(self.config)
        embedded = _scaled(self._decoder_table(self._started(tokens[:, None])))
        return self.decoder.step(embedded, position, caches, crosses, encoder_mask)

    @property
    def _decoder_table(self) -> TokenEmbedder:
        return self.decoder_token_embedder if self.config.version == 1 else self.token_embedder

    def _started(self, tokens: Int[AnyArray, "batch length"]) -> Int[Array, "batch length"]:
        """Decoder inputs with id 0, which starts every target, replaced by the tokenizer's BOS."""
        return jnp.where(tokens == PAD_ID, self.config.decoder_start_id, tokens)

    def _encoded(
        self,
        embedded: Float[Array, "batch inputs width"],
        tokens: Int[AnyArray, "batch inputs"],
        segment_ids: Int[AnyArray, "batch inputs"] | None,
        deterministic: bool,
    ) -> Float[Array, "batch inputs width"]:
        segments = encoder_segments(tokens, segment_ids)
        return self.encoder(embedded, segments, _positions(tokens, segment_ids), deterministic)

    def _decoded(
        self,
        embedded: Float[Array, "batch targets embed"],
        encoded: Float[Array, "batch inputs width"],
        inputs: ModelInputs,
        deterministic: bool,
    ) -> Float[Array, "batch targets embed"]:
        positions = _positions(inputs.decoder_input_tokens, inputs.decoder_segment_ids)
        return self.decoder(embedded, encoded, *decoder_segments(inputs), positions, deterministic)


def _scaled(embedded: Float[Array, "batch length embed"]) -> Float[Array, "batch length embed"]:
    """Embeddings times √embed_dim, rounded to the compute dtype as in pretraining."""
    return embedded * jnp.asarray(embedded.shape[-1] ** 0.5, embedded.dtype)
