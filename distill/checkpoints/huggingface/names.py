"""Which Hugging Face tensor is which parameter here, for every member of the T5 family."""

import dataclasses
from collections.abc import Iterator

from distill.model.config import T5Config

Path = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Entry:
    """One tensor, here and in Hugging Face's files.

    Attributes:
      name: Hugging Face's name.
      shape: its shape there.
      path: the parameter's place in a tree without scanned layers.
      transposed: whether the parameter is the tensor's transpose.
    """

    name: str
    shape: tuple[int, ...]
    path: Path
    transposed: bool = True

    def stacked(self) -> tuple[Path, int] | None:
        """The place in a tree with scanned layers and the index in its axis 1; None for parameters outside of layers."""
        stack, inner = self.path[0], self.path[1]
        if not inner.startswith("layers_"):
            return None
        return (stack, stack, *self.path[2:]), int(inner.removeprefix("layers_"))


SHARED = "shared.weight"
LM_HEAD = "lm_head.weight"
# Copies of the one token table, which some files also hold.
TABLE_COPIES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
# The first T5 checkpoints carry a position bias for cross-attention that no version of the network reads.
IGNORED = ("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",)


def entries(config: T5Config) -> Iterator[Entry]:
    """Every parameter of ``config``, with the tensor it is read from and written to.

    A network without tied embeddings reads its output kernel from ``lm_head.weight``.
    """
    table = (config.vocab_size, config.embed_dim)
    yield Entry(SHARED, table, ("token_embedder", "embedding"), transposed=False)
    yield from _stack(config, "encoder", config.num_encoder_layers)
    yield from _stack(config, "decoder", config.num_decoder_layers)
    if not config.logits_via_embedding:
        yield Entry(LM_HEAD, table, ("decoder", "logits_dense", "kernel"))


def _stack(config: T5Config, stack: str, num_layers: int) -> Iterator[Entry]:
    width = (config.embed_dim,)
    bias_shape = (config.relative_attention_num_buckets, config.num_heads)
    first_norm, attention = (
        ("pre_attention_layer_norm", "attention")
        if stack == "encoder"
        else ("pre_self_attention_layer_norm", "self_attention")
    )
    for index in range(num_layers):
        block, layer = f"{stack}.block.{index}.layer", (stack, f"layers_{index}")
        yield Entry(f"{block}.0.layer_norm.weight", width, (*layer, first_norm, "scale"), transposed=False)
        yield from _attention(config, f"{block}.0.SelfAttention", (*layer, attention))
        bias = f"{block}.0.SelfAttention.relative_attention_bias.weight"
        if config.relative_bias_per_layer:
            yield Entry(bias, bias_shape, (*layer, "relpos_bias", "rel_embedding"))
        elif index == 0:
            yield Entry(bias, bias_shape, (stack, "relpos_bias", "rel_embedding"))
        mlp = 1
        if stack == "decoder":
            mlp = 2
            norm = (*layer, "pre_cross_attention_layer_norm", "scale")
            yield Entry(f"{block}.1.layer_norm.weight", width, norm, transposed=False)
            yield from _attention(config, f"{block}.1.EncDecAttention", (*layer, "encoder_decoder_attention"))
        yield Entry(
            f"{block}.{mlp}.layer_norm.weight", width, (*layer, "pre_mlp_layer_norm", "scale"), transposed=False
        )
        yield from _feed_forward(config, f"{block}.{mlp}.DenseReluDense", (*layer, "mlp"))
    yield Entry(f"{stack}.final_layer_norm.weight", width, (stack, f"{stack}_norm", "scale"), transposed=False)


def _attention(config: T5Config, name: str, path: Path) -> Iterator[Entry]:
    joined = config.num_heads * config.head_dim
    for theirs, ours in (("q", "query"), ("k", "key"), ("v", "value")):
        yield Entry(f"{name}.{theirs}.weight", (joined, config.embed_dim), (*path, ours, "kernel"))
    yield Entry(f"{name}.o.weight", (config.embed_dim, joined), (*path, "out", "kernel"))


def _feed_forward(config: T5Config, name: str, path: Path) -> Iterator[Entry]:
    count = len(config.mlp_activations)
    for inner in ["wi"] if count == 1 else [f"wi_{i}" for i in range(count)]:
        yield Entry(f"{name}.{inner}.weight", (config.mlp_dim, config.embed_dim), (*path, inner, "kernel"))
    yield Entry(f"{name}.wo.weight", (config.embed_dim, config.mlp_dim), (*path, "wo", "kernel"))
