"""Names and shapes of T5Gemma's parameters in google-deepmind/gemma (``gemma/research/t5gemma``), and their conversion.

There, a kernel of attention has an axis of heads, and kernels that read the same input are one array: ``qkv_einsum`` if
self-attention has as many key heads as query heads, otherwise ``q_einsum`` and ``kv_einsum``; ``gating_einsum`` is the gate
and the other input kernel of the feed-forward block. Norms multiply by ``1 + scale``, as here.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from distill.model.t5gemma_config import StackConfig, T5GemmaConfig

# Rows of a published token table; the last 128 are padding that no piece of the tokenizer has.
PADDED_ROWS, ROWS = 256_128, 256_000


def _same(array: np.ndarray) -> np.ndarray:
    return array


def _into_heads(array: np.ndarray) -> np.ndarray:
    """[heads, width, head_dim] → [width, heads · head_dim]."""
    return array.transpose(1, 0, 2).reshape(array.shape[1], -1)


def _out_of_heads(array: np.ndarray) -> np.ndarray:
    """[heads, head_dim, width] → [heads · head_dim, width]."""
    return array.reshape(-1, array.shape[-1])


@dataclasses.dataclass(frozen=True)
class Entry:
    """One parameter here, and the array there that holds it.

    Attributes:
      name: '/'-joined name there, below the network's root.
      shape: of the whole array there.
      path: the '/'-joined name here, in a tree without scanned layers.
      converted: maps the array, or the part of it at ``index``, to the parameter.
      index: the parameter's index in the first axis there; None: the whole array.
    """

    name: str
    shape: tuple[int, ...]
    path: str
    converted: Callable[[np.ndarray], np.ndarray]
    index: int | None = None

    @property
    def is_table(self) -> bool:
        """Whether this is a token table, which may have padding rows."""
        return self.name.endswith("/" + TABLE)


TABLE = "embedder/input_embedding"
_TABLES = {"encoder": "token_embedder", "decoder": "decoder_token_embedder"}


def entries(config: T5GemmaConfig, transposed: Mapping[str, bool]) -> Iterator[Entry]:
    """Every parameter of ``config``, a T5Gemma with tied logits.

    Args:
      config: of the network.
      transposed: for ``encoder`` and ``decoder``, whether ``gating_einsum`` has the inner width before the outer one, as in
        the stacks of the 9B model.
    """
    for stack in ("encoder", "decoder"):
        shape: StackConfig = getattr(config, stack)
        yield Entry(f"{stack}/{TABLE}", (config.vocab_size, shape.embed_dim), f"{_TABLES[stack]}/embedding", _same)
        for layer in range(shape.num_layers):
            yield from _layer(config, stack, layer, transposed[stack])
        yield Entry(f"{stack}/final_norm/scale", (shape.embed_dim,), f"{stack}/{stack}_norm/scale", _same)


def _layer(config: T5GemmaConfig, stack: str, layer: int, transposed: bool) -> Iterator[Entry]:
    shape: StackConfig = getattr(config, stack)
    theirs, ours = f"{stack}/layer_{layer}", f"{stack}/layers_{layer}"
    own = "attention" if stack == "encoder" else "self_attention"
    parts = {"attention": own, "ffw": "mlp"} | ({"cross_attention": "cross_attention"} if stack == "decoder" else {})
    for part, name in parts.items():
        for place in ("pre", "post"):
            where = f"{ours}/{place}_{name}_layer_norm/scale"
            yield Entry(f"{theirs}/{place}_{part}_norm/scale", (shape.embed_dim,), where, _same)
    yield from _attention(shape, f"{theirs}/attn", f"{ours}/{own}", shape.embed_dim, joined=True)
    if stack == "decoder":
        cross = f"{ours}/encoder_decoder_attention"
        yield from _attention(shape, f"{theirs}/cross_attn", cross, config.encoder.embed_dim, joined=False)
    outer, inner = shape.embed_dim, shape.mlp_dim
    gates = (2, inner, outer) if transposed else (2, outer, inner)
    for index in range(2):
        where = f"{ours}/mlp/wi_{index}/kernel"
        yield Entry(f"{theirs}/mlp/gating_einsum", gates, where, np.transpose if transposed else _same, index)
    yield Entry(f"{theirs}/mlp/linear", (inner, outer), f"{ours}/mlp/wo/kernel", _same)


def _attention(shape: StackConfig, theirs: str, ours: str, attended: int, *, joined: bool) -> Iterator[Entry]:
    heads, width = shape.num_heads, shape.head_dim
    if joined and heads == shape.num_kv_heads:
        whole = (3, heads, shape.embed_dim, width)
        for index, name in enumerate(("query", "key", "value")):
            yield Entry(f"{theirs}/qkv_einsum/w", whole, f"{ours}/{name}/kernel", _into_heads, index)
    else:
        yield Entry(f"{theirs}/q_einsum/w", (heads, shape.embed_dim, width), f"{ours}/query/kernel", _into_heads)
        both = (2, shape.num_kv_heads, attended, width)
        for index, name in enumerate(("key", "value")):
            yield Entry(f"{theirs}/kv_einsum/w", both, f"{ours}/{name}/kernel", _into_heads, index)
    out = (heads, width, shape.embed_dim)
    yield Entry(f"{theirs}/attn_vec_einsum/w", out, f"{ours}/out/kernel", _out_of_heads)
