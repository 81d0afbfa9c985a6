"""The configuration of a T5 network: its shape and how it is computed."""

import dataclasses

from distill import validation

ACTIVATIONS = ("gelu", "gelu_exact", "linear", "relu", "silu")
DTYPES = ("float32", "bfloat16")
REMAT_POLICIES = ("none", "elementwise", "minimal", "full")
ATTENTIONS = ("auto", "xla", "pallas", "cudnn", "triton")


@dataclasses.dataclass(frozen=True)
class T5Config:
    """The shape of a network and how it is computed.

    Attributes:
      vocab_size: rows of the token table, including padding rows.
      embed_dim: width of the residual stream.
      num_heads: attention heads.
      head_dim: width of one head; ``num_heads * head_dim`` need not be ``embed_dim``.
      mlp_dim: inner width of the feed-forward block.
      num_encoder_layers: encoder layers.
      num_decoder_layers: decoder layers.
      mlp_activations: ``("gelu", "linear")`` for T5 1.1 and later, ``("relu",)`` for T5 1.0.
      dropout_rate: the dropout rate, in [0, 1), of all dropout layers.
      logits_via_embedding: whether the token table also computes the logits (T5 1.0), with hidden states scaled by
        ``embed_dim ** -0.5``; otherwise the logits have a separate kernel.
      relative_attention_num_buckets: buckets of relative positions, a multiple of 4.
      relative_attention_max_distance: distances from here on share the last bucket.
      relative_bias_per_layer: whether each layer has its own relative bias (umT5); otherwise one bias per stack.
      layer_norm_epsilon: ε of the RMS norms.
      dtype: compute dtype of activations, ``float32`` or ``bfloat16``; parameters are always float32.
      scan_layers: whether a stack's layers run as one ``lax.scan`` whose parameters are stacked along axis 1. Compile
        time then does not grow with depth.
      remat_policy: what the backward pass recomputes. ``none``: nothing. ``elementwise``: saves inputs and outputs of
        dense layers, so that no matmul with parameters is computed twice. ``minimal``: saves only the outputs of dense
        layers. ``full``: saves only each layer's input.
      attention: the implementation of attention in training: ``xla``; ``pallas`` for the TPU kernel of
        :mod:`distill.sharding.fused_attention`; ``cudnn`` or ``triton`` for NVIDIA GPUs, see
        :mod:`distill.sharding.cudnn_attention` and :mod:`distill.sharding.gpu_attention`; or ``auto``. See
        :mod:`distill.sharding.attention_choice`.

    Raises:
      ValueError: a value out of range, or an unknown name; the message lists the choices.
    """

    vocab_size: int
    embed_dim: int
    num_heads: int
    head_dim: int
    mlp_dim: int
    num_encoder_layers: int
    num_decoder_layers: int
    mlp_activations: tuple[str, ...] = ("gelu", "linear")
    dropout_rate: float = 0.1
    logits_via_embedding: bool = False
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    relative_bias_per_layer: bool = False
    layer_norm_epsilon: float = 1e-6
    dtype: str = "float32"
    scan_layers: bool = False
    remat_policy: str = "none"
    attention: str = "xla"

    def __post_init__(self) -> None:
        for name in (
            "vocab_size",
            "embed_dim",
            "num_heads",
            "head_dim",
            "mlp_dim",
            "num_encoder_layers",
            "num_decoder_layers",
        ):
            validation.check_range(f"T5Config.{name}", getattr(self, name), "an integer ≥ 1")
        object.__setattr__(self, "mlp_activations", tuple(self.mlp_activations))
        if not self.mlp_activations:
            raise ValueError("T5Config.mlp_activations must name at least one activation; got none")
        for activation in self.mlp_activations:
            validation.check("T5Config.mlp_activations", activation, ACTIVATIONS)
        validation.check("T5Config.dtype", self.dtype, DTYPES)
        validation.check("T5Config.remat_policy", self.remat_policy, REMAT_POLICIES)
        validation.check("T5Config.attention", self.attention, ATTENTIONS)
        validation.check_range("T5Config.dropout_rate", self.dropout_rate, "in [0, 1)")
        validation.check_range("T5Config.layer_norm_epsilon", self.layer_norm_epsilon, "> 0")
        buckets = self.relative_attention_num_buckets
        if buckets < 4 or buckets % 4:
            raise ValueError(f"T5Config.relative_attention_num_buckets must be a multiple of 4; got {buckets}")
        if self.relative_attention_max_distance <= buckets // 2:
            raise ValueError(
                f"T5Config.relative_attention_max_distance must exceed half of the {buckets} buckets, which hold one "
                f"distance each; got {self.relative_attention_max_distance}"
            )
