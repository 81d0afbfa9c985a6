"""The configuration of a T5Gemma or T5Gemma 2 network: the shapes of its two stacks and how it is computed."""

import dataclasses
from typing import NamedTuple

from distill import validation
from distill.model.config import ATTENTIONS, DTYPES, REMAT_POLICIES
from distill.validation import quoted

VERSIONS = (1, 2)


class Window(NamedTuple):
    """The keys that a query of a local layer attends to.

    Attributes:
      before: the largest distance of a key before the query.
      after: the largest distance of a key after the query.
    """

    before: int
    after: int


@dataclasses.dataclass(frozen=True)
class StackConfig:
    """The shape of the encoder or of the decoder.

    Attributes:
      num_layers: layers.
      embed_dim: width of the residual stream.
      mlp_dim: inner width of the feed-forward block.
      num_heads: query heads.
      num_kv_heads: heads of keys and values, a divisor of ``num_heads``; each serves ``num_heads / num_kv_heads`` query
        heads (Ainslie et al. 2023, arXiv 2305.13245).
      head_dim: width of one head, even.
      query_pre_attn_scalar: attention logits are multiplied by its inverse square root.
      sliding_window: the window of local layers, in tokens; see :meth:`T5GemmaConfig.window`.
      global_every: every ``global_every``-th layer is global; all others are local. 1 makes all layers global.

    Raises:
      ValueError: a value out of range.
    """

    num_layers: int
    embed_dim: int
    mlp_dim: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    query_pre_attn_scalar: float
    sliding_window: int
    global_every: int

    def __post_init__(self) -> None:
        for name in (
            *("num_layers", "embed_dim", "mlp_dim", "num_heads", "num_kv_heads", "head_dim", "sliding_window"),
            "global_every",
        ):
            validation.check_range(f"StackConfig.{name}", getattr(self, name), "an integer ≥ 1")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"StackConfig.num_kv_heads must divide num_heads={self.num_heads}; got {self.num_kv_heads}"
            )
        if self.head_dim % 2:
            raise ValueError(f"StackConfig.head_dim must be even, rotary embeddings rotate pairs; got {self.head_dim}")
        validation.check_range("StackConfig.query_pre_attn_scalar", self.query_pre_attn_scalar, "> 0")

    def is_local(self, index: int) -> bool:
        """Whether layer ``index``, from 0, attends within the sliding window only."""
        return (index + 1) % self.global_every != 0


@dataclasses.dataclass(frozen=True)
class T5GemmaConfig:
    """The shape of a T5Gemma network (Zhang et al. 2025, arXiv 2504.06225, 2512.14856) and how it is computed.

    Attributes:
      version: 1 is T5Gemma: the decoder has self-attention and cross-attention, and encoder and decoder each have a token
        table. 2 is T5Gemma 2: one softmax over decoder and encoder keys (*merged* attention), normalised queries and
        keys, and one token table for encoder, decoder and logits.
      vocab_size: rows of a token table, including padding rows.
      encoder: shape of the encoder.
      decoder: shape of the decoder. In version 2, both have the same ``embed_dim``.
      attention_logit_cap: attention logits become ``cap · tanh(logits / cap)``; None: no cap. Version 1 only.
      final_logit_cap: the same for the logits of the vocabulary.
      rope_base_local: base of the rotary position embeddings in local layers.
      rope_base_global: base in global layers; in version 1 the same as ``rope_base_local``.
      rope_scale_local: positions of local layers are divided by it (linear scaling).
      rope_scale_global: the same for global layers.
      logits_via_embedding: whether the decoder's token table also computes the logits; always in version 2.
      decoder_start_id: the first decoder input, the tokenizer's BOS. The data contain 0 there, as for all students; the
        network replaces it.
      layer_norm_epsilon: ε of the RMS norms.
      dropout_rate: the dropout rate, in [0, 1), of all dropout layers.
      dtype: compute dtype of activations, ``float32`` or ``bfloat16``; parameters are always float32.
      scan_layers: whether a stack's layers run as one ``lax.scan`` whose parameters are stacked along axis 1. Local and
        global layers have the same parameters; the scan passes each layer whether it is local.
      remat_policy: what the backward pass recomputes, see :class:`distill.model.config.T5Config`.
      attention: as for T5. ``pallas`` is the TPU kernel of :mod:`distill.sharding.windowed_attention`. ``cudnn`` and
        ``triton`` do not support windows, soft caps and grouped heads: ``xla`` computes attention then, after a warning.

    Raises:
      ValueError: a value out of range, an unknown name, or an unsupported combination.
    """

    version: int
    vocab_size: int
    encoder: StackConfig
    decoder: StackConfig
    attention_logit_cap: float | None = None
    final_logit_cap: float | None = None
    rope_base_local: float = 10_000.0
    rope_base_global: float = 10_000.0
    rope_scale_local: float = 1.0
    rope_scale_global: float = 1.0
    logits_via_embedding: bool = True
    decoder_start_id: int = 2
    layer_norm_epsilon: float = 1e-6
    dropout_rate: float = 0.0
    dtype: str = "float32"
    scan_layers: bool = False
    remat_policy: str = "none"
    attention: str = "xla"

    def __post_init__(self) -> None:
        if self.version not in VERSIONS:
            raise ValueError(f"T5GemmaConfig.version must be one of {VERSIONS}; got {self.version!r}")
        validation.check_range("T5GemmaConfig.vocab_size", self.vocab_size, "an integer ≥ 1")
        for name in ("encoder", "decoder"):
            if not isinstance(getattr(self, name), StackConfig):
                raise ValueError(f"T5GemmaConfig.{name} must be a StackConfig; got {quoted(getattr(self, name))}")
        validation.check("T5GemmaConfig.dtype", self.dtype, DTYPES)
        validation.check("T5GemmaConfig.remat_policy", self.remat_policy, REMAT_POLICIES)
        validation.check("T5GemmaConfig.attention", self.attention, ATTENTIONS)
        validation.check_range("T5GemmaConfig.dropout_rate", self.dropout_rate, "in [0, 1)")
        for name in (
            "layer_norm_epsilon",
            "rope_base_local",
            "rope_base_global",
            "rope_scale_local",
            "rope_scale_global",
        ):
            validation.check_range(f"T5GemmaConfig.{name}", getattr(self, name), "> 0")
        for name in ("attention_logit_cap", "final_logit_cap"):
            validation.check_range(f"T5GemmaConfig.{name}", getattr(self, name), "> 0 or None")
        validation.check_range(
            "T5GemmaConfig.decoder_start_id", self.decoder_start_id, "in [0, vocab_size)", vocab_size=self.vocab_size
        )
        self._check_version()

    def _check_version(self) -> None:
        if self.version == 1:
            bases = (self.rope_base_local, self.rope_scale_local), (self.rope_base_global, self.rope_scale_global)
            if bases[0] != bases[1]:
                raise ValueError(
                    "T5GemmaConfig: local and global layers of version 1 have the same rotary embeddings; got base and "
                    f"scale {bases[0]} and {bases[1]}"
                )
            return
        if self.encoder.embed_dim != self.decoder.embed_dim:
            raise ValueError(
                "T5GemmaConfig: encoder and decoder of version 2 share a token table, so their embed_dim must be the "
                f"same; got {self.encoder.embed_dim} and {self.decoder.embed_dim}"
            )
        if self.attention_logit_cap is not None:
            raise ValueError(
                f"T5GemmaConfig.attention_logit_cap must be None in version 2; got {self.attention_logit_cap}"
            )
        if not self.logits_via_embedding:
            raise ValueError("T5GemmaConfig.logits_via_embedding must be True in version 2; got False")

    @property
    def merged(self) -> bool:
        """Whether decoder layers have merged attention instead of self-attention and cross-attention."""
        return self.version == 2

    @property
    def embed_dim(self) -> int:
        """The width of the decoder, which is that of the logits' input."""
        return self.decoder.embed_dim

    @property
    def num_encoder_layers(self) -> int:
        """The number of encoder layers."""
        return self.encoder.num_layers

    @property
    def num_decoder_layers(self) -> int:
        """The number of decoder layers."""
        return self.decoder.num_layers

    def window(self, stack: str) -> Window:
        """Returns which keys a query of a local layer of ``encoder`` or ``decoder`` attends to.

        With ``sliding_window`` w, a query of the decoder attends to w keys up to its own. One of the encoder attends to
        keys at a distance of at most w on both sides in version 1, and to w keys in all in version 2.
        """
        shape: StackConfig = getattr(self, stack)
        width = shape.sliding_window
        if stack == "decoder":
            return Window(width - 1, 0)
        return Window(width, width) if self.version == 1 else Window((width + 1) // 2 - 1, width // 2)
