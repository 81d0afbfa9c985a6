"""Hugging Face's ``config.json`` of the T5 family ↔ :class:`T5Config`."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from distill import validation
from distill.model.config import T5Config
from distill.validation import quoted

MODEL_TYPES = {
    "t5": "T5ForConditionalGeneration",
    "mt5": "MT5ForConditionalGeneration",
    "umt5": "UMT5ForConditionalGeneration",
}
# Hugging Face's "gated-gelu" means the tanh approximation, though its "gelu" alone is exact.
_FEED_FORWARD = {
    "relu": ("relu",),
    "gelu": ("gelu_exact",),
    "gelu_new": ("gelu",),
    "silu": ("silu",),
    "gated-gelu": ("gelu", "linear"),
    "gated-gelu_new": ("gelu", "linear"),
    "gated-relu": ("relu", "linear"),
    "gated-silu": ("silu", "linear"),
}
# Field there → field here, its default there (None: required), and the largest accepted value.
_INTEGERS: dict[str, tuple[str, int | None, int]] = {
    "vocab_size": ("vocab_size", None, 2**24),
    "d_model": ("embed_dim", None, 2**17),
    "d_kv": ("head_dim", None, 2**14),
    "d_ff": ("mlp_dim", None, 2**20),
    "num_heads": ("num_heads", None, 2**12),
    "num_layers": ("num_encoder_layers", None, 2**10),
    "relative_attention_num_buckets": ("relative_attention_num_buckets", 32, 2**12),
    "relative_attention_max_distance": ("relative_attention_max_distance", 128, 2**20),
}
_NUMBERS = {"dropout_rate": ("dropout_rate", 0.1), "layer_norm_epsilon": ("layer_norm_epsilon", 1e-6)}
# Ids that this library assumes.
_IDS = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}


def config_from_hf(fields: Mapping[str, Any], where: str = "config.json", **overrides: Any) -> T5Config:
    """The :class:`T5Config` of a parsed ``config.json``.

    Args:
      fields: the parsed file. Fields that do not describe the network are ignored.
      where: the file's name in errors.
      **overrides: T5Config fields to set, such as ``scan_layers=True``.

    Raises:
      ValueError: for a model of another family, a field of the wrong type or size, or a setting with no counterpart.
    """
    model_type = fields.get("model_type")
    if not isinstance(model_type, str) or model_type not in MODEL_TYPES:
        hint = validation.did_you_mean(str(model_type)[:80], MODEL_TYPES)
        raise ValueError(f"{where}: model_type must be one of {sorted(MODEL_TYPES)}; got {quoted(model_type)}{hint}")
    check_trainable(fields, where)
    for name, wanted in _IDS.items():
        if fields.get(name) not in (None, wanted):
            raise ValueError(f"{where}: {name} must be {wanted} here; got {quoted(fields[name])}")

    values: dict[str, Any] = {}
    for theirs, (ours, default, largest) in _INTEGERS.items():
        values[ours] = _integer(fields, theirs, default, largest, where)
    decoder_layers = fields.get("num_decoder_layers")
    if decoder_layers is None:
        values["num_decoder_layers"] = values["num_encoder_layers"]
    else:
        values["num_decoder_layers"] = _integer(fields, "num_decoder_layers", None, 2**10, where)
    for theirs, (ours, number) in _NUMBERS.items():
        value = fields.get(theirs, number)
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300:
            raise ValueError(f"{where}: {theirs} must be a number; got {quoted(value)}")
        values[ours] = float(value)
    activation = fields.get("feed_forward_proj", "relu" if model_type == "t5" else "gated-gelu")
    if not isinstance(activation, str) or activation not in _FEED_FORWARD:
        raise ValueError(f"{where}: feed_forward_proj must be one of {sorted(_FEED_FORWARD)}; got {quoted(activation)}")
    values["mlp_activations"] = _FEED_FORWARD[activation]
    values["logits_via_embedding"] = scales_decoder_output(fields, where)
    values["relative_bias_per_layer"] = model_type == "umt5"

    check_fields(T5Config, overrides)
    try:
        return T5Config(**{**values, **overrides})
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def check_trainable(fields: Mapping[str, Any], where: str) -> None:
    """Raises ValueError if a ``config.json`` describes quantized weights or no encoder-decoder."""
    if fields.get("quantization_config") is not None:
        raise ValueError(f"{where}: quantized weights cannot be trained; got a quantization_config")
    if fields.get("is_encoder_decoder", True) is not True:
        raise ValueError(f"{where}: is_encoder_decoder must be true; got {quoted(fields['is_encoder_decoder'])}")


def check_fields(kind: type, overrides: Mapping[str, Any]) -> None:
    """Raises ValueError, with the nearest field, unless all ``overrides`` are fields of the dataclass ``kind``."""
    known = {field.name for field in dataclasses.fields(kind)}
    for name in overrides.keys() - known:
        raise ValueError(f"{kind.__name__} has no field {name!r}{validation.did_you_mean(name, known)}")


def _integer(fields: Mapping[str, Any], name: str, default: int | None, largest: int, where: str) -> int:
    if name not in fields and default is None:
        raise ValueError(f"{where}: {name} is missing")
    value = fields.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= largest:
        raise ValueError(f"{where}: {name} must be an integer in [1, {largest}]; got {quoted(value)}")
    return value


def scales_decoder_output(fields: Mapping[str, Any], where: str = "config.json") -> bool:
    """Whether the network multiplies the decoder's output by ``d_model ** -0.5`` before the logits, as T5 1.0 does.

    Files record this as ``tie_word_embeddings``; newer ones, in which that is always true, as ``scale_decoder_outputs``.
    mT5 never scales.
    """
    for name in ("tie_word_embeddings", "scale_decoder_outputs"):
        if not isinstance(fields.get(name, True), bool):
            raise ValueError(f"{where}: {name} must be true or false; got {quoted(fields[name])}")
    if fields.get("model_type") == "mt5":
        return False
    return fields.get("scale_decoder_outputs", fields.get("tie_word_embeddings", True))


def config_to_hf(config: T5Config, model_type: str | None = None) -> dict[str, Any]:
    """The fields of a ``config.json`` for ``config``, the inverse of :func:`config_from_hf`.

    Args:
      config: the configuration to describe.
      model_type: ``t5``, ``mt5`` or ``umt5``; by default ``umt5`` for a bias in every layer and ``t5`` otherwise. (mT5 is
        T5 1.1 with another vocabulary; the name only matters to code that reads it.)

    Raises:
      ValueError: no such model has this configuration.
    """
    if model_type is None:
        model_type = "umt5" if config.relative_bias_per_layer else "t5"
    if model_type not in MODEL_TYPES:
        raise ValueError(f"model_type must be one of {sorted(MODEL_TYPES)}; got {model_type!r}")
    if config.relative_bias_per_layer != (model_type == "umt5"):
        raise ValueError(
            f"model_type {model_type!r} has a position bias in {'every layer' if model_type == 'umt5' else 'one layer'}; "
            f"got relative_bias_per_layer={config.relative_bias_per_layer}"
        )
    if model_type == "mt5" and config.logits_via_embedding:
        raise ValueError("model_type 'mt5' never scales its decoder's output; got logits_via_embedding=True")
    names = {ours: theirs for theirs, ours in _FEED_FORWARD.items() if theirs != "gated-gelu_new"}
    if config.mlp_activations not in names:
        raise ValueError(
            f"mlp_activations must be one of {sorted(names)} for a T5 in that format; got {config.mlp_activations}"
        )
    return {
        "architectures": [MODEL_TYPES[model_type]],
        "model_type": model_type,
        **{theirs: getattr(config, ours) for theirs, (ours, _, _) in _INTEGERS.items()},
        "num_decoder_layers": config.num_decoder_layers,
        **{theirs: getattr(config, ours) for theirs, (ours, _) in _NUMBERS.items()},
        "feed_forward_proj": names[config.mlp_activations],
        # transformers 4 reads the first: whether table and head are one, and the decoder's output is scaled. transformers 5
        # reads from both whether it is scaled, and ties them wherever the file does not hold both.
        "tie_word_embeddings": config.logits_via_embedding,
        "scale_decoder_outputs": config.logits_via_embedding,
        "is_encoder_decoder": True,
        "use_cache": True,
        **_IDS,
    }
