"""The configuration of a T5Gemma checkpoint of google-deepmind/gemma, which has no configuration file: from its shapes."""

import re
from collections.abc import Mapping
from typing import Any

from distill.checkpoints.gemma_flax.names import PADDED_ROWS, ROWS, TABLE
from distill.checkpoints.huggingface.config import check_fields
from distill.checkpoints.weights import shape_text
from distill.model.t5gemma_config import StackConfig, T5GemmaConfig

Shapes = Mapping[str, tuple[int, ...]]
_MAX_LAYERS = 2**10
_LAYER = re.compile(r"(encoder|decoder)/layer_(0|[1-9]\d{0,4})/")


def infer_config(where: str, shapes: Shapes, **overrides: Any) -> T5GemmaConfig:
    """Returns the configuration of arrays of these ``shapes``, by the names of :mod:`distill.checkpoints.gemma_flax.names`.

    Shapes do not determine the soft caps, the window, which layers are global, the scale of attention, ε and the decoder's
    first token. These are those of all published T5Gemma models, which ``gemma/research/t5gemma/config.py`` states.

    Args:
      where: the checkpoint's name in errors.
      shapes: the shape of every array.
      **overrides: fields of the configuration to set.

    Raises:
      ValueError: the arrays are of another family, which is named, or are not those of a network.
    """
    check_fields(T5GemmaConfig, overrides)
    check_family(where, shapes)
    tables = {stack: _shape(where, shapes, f"{stack}/{TABLE}", 2) for stack in ("encoder", "decoder")}
    rows = {shape[0] for shape in tables.values()}
    if len(rows) > 1:
        raise ValueError(
            f"{where} is not a T5Gemma checkpoint: its token tables have {sorted(rows)} rows; expected the same"
        )
    values: dict[str, Any] = {
        "version": 1,
        "vocab_size": ROWS if rows == {PADDED_ROWS} else rows.pop(),
        "encoder": _stack(where, shapes, "encoder", tables["encoder"][1]),
        "decoder": _stack(where, shapes, "decoder", tables["decoder"][1]),
        "attention_logit_cap": 50.0,
        "final_logit_cap": 30.0,
    }
    try:
        return T5GemmaConfig(**{**values, **overrides})
    except ValueError as error:
        raise ValueError(f"{where} is not a T5Gemma checkpoint: {error}") from error


def check_family(where: str, shapes: Shapes) -> None:
    """Raises ValueError that names the family of arrays that are not T5Gemma's."""
    stacks = {name.split("/")[0] for name in shapes}
    if not {"encoder", "decoder"} & stacks:
        raise ValueError(
            f"{where} is a decoder-only Gemma checkpoint; students are encoder-decoder networks: take one of T5Gemma, such "
            "as t5gemma-b-b-ul2, and a model file gin/models/t5gemma_*.gin"
        )
    norms = any("/_query_norm/" in name for name in shapes)
    if norms or ("decoder" in stacks and not any("/cross_attn/" in name for name in shapes)):
        difference = "it has norms of queries and keys" if norms else "its decoder has no cross-attention"
        raise ValueError(
            f"{where} is not a T5Gemma checkpoint: {difference}; T5Gemma 2 is read from Hugging Face folders"
        )


def transposed_gates(where: str, shapes: Shapes) -> dict[str, bool]:
    """For ``encoder`` and ``decoder``, whether ``gating_einsum`` has the inner width before the outer one.

    Raises:
      ValueError: both widths are the same, so the shape does not determine it.
    """
    result = {}
    for stack in ("encoder", "decoder"):
        first = f"{stack}/layer_0/mlp"
        linear, gates = shapes.get(f"{first}/linear", ()), shapes.get(f"{first}/gating_einsum", ())
        if len(linear) == 2 and linear[0] == linear[1]:
            raise ValueError(
                f"{where}: the order of the axes of {first}/gating_einsum cannot be determined, because its inner and "
                f"outer width are both {linear[0]}; convert the checkpoint to a Hugging Face folder"
            )
        result[stack] = gates[1:] == linear
    return result


def _stack(where: str, shapes: Shapes, stack: str, width: int) -> StackConfig:
    layers = [int(match[2]) + 1 for name in shapes if (match := _LAYER.match(name)) and match[1] == stack]
    number = max(layers, default=0)
    if not 1 <= number <= _MAX_LAYERS:
        raise ValueError(
            f"{where} is not a T5Gemma checkpoint: it has {number} {stack} layers; expected 1 to {_MAX_LAYERS}"
        )
    first = f"{stack}/layer_0"
    heads, head_dim, _ = _shape(where, shapes, f"{first}/attn/attn_vec_einsum/w", 3)
    separate = f"{first}/attn/kv_einsum/w"
    try:
        return StackConfig(
            num_layers=number,
            embed_dim=width,
            mlp_dim=_shape(where, shapes, f"{first}/mlp/linear", 2)[0],
            num_heads=heads,
            num_kv_heads=_shape(where, shapes, separate, 4)[1] if separate in shapes else heads,
            head_dim=head_dim,
            query_pre_attn_scalar=float(head_dim),
            sliding_window=4096,
            global_every=2,
        )
    except ValueError as error:
        raise ValueError(f"{where} is not a T5Gemma checkpoint: {stack}: {error}") from error


def _shape(where: str, shapes: Shapes, name: str, rank: int) -> tuple[int, ...]:
    found = shapes.get(name)
    if found is None or len(found) != rank:
        got = "there is none" if found is None else f"got {shape_text(found)}"
        raise ValueError(f"{where} is not a T5Gemma checkpoint: {name} must have {rank} axes; {got}")
    return found
