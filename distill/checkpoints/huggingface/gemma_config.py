"""Hugging Face's ``config.json`` of T5Gemma and T5Gemma 2 ↔ :class:`T5GemmaConfig`.

The reference, also for defaults, is the modules ``t5gemma`` and ``t5gemma2`` of ``transformers``.
"""

from collections.abc import Mapping
from typing import Any

from distill.checkpoints.huggingface.config import check_fields, check_trainable
from distill.model.t5gemma_config import StackConfig, T5GemmaConfig
from distill.validation import quoted

MODEL_TYPES = {"t5gemma": "T5GemmaForConditionalGeneration", "t5gemma2": "T5Gemma2ForConditionalGeneration"}
_LOCAL, _GLOBAL = "sliding_attention", "full_attention"
# Field there → field of StackConfig, and the largest accepted value.
_SIZES = {
    "num_hidden_layers": ("num_layers", 2**10),
    "hidden_size": ("embed_dim", 2**17),
    "intermediate_size": ("mlp_dim", 2**20),
    "num_attention_heads": ("num_heads", 2**12),
    "num_key_value_heads": ("num_kv_heads", 2**12),
    "head_dim": ("head_dim", 2**14),
}
_ACTIVATION = "gelu_pytorch_tanh"
_GLOBAL_EVERY = {1: 2, 2: 6}
_ROPE_BASES = {1: (10_000.0, 10_000.0), 2: (10_000.0, 1_000_000.0)}
_MAX_POSITIONS = {1: 8192, 2: 131_072}
# The smallest vision tower that transformers builds. An exported model has one with random weights, and never runs it.
_NO_VISION = {
    "model_type": "siglip_vision_model", "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
    "num_attention_heads": 1, "image_size": 32, "patch_size": 8,
}  # fmt: skip


def config_from_hf(fields: Mapping[str, Any], where: str = "config.json", **overrides: Any) -> T5GemmaConfig:
    """Returns the :class:`T5GemmaConfig` of a parsed ``config.json``.

    Args:
      fields: the parsed file, of model type ``t5gemma`` or ``t5gemma2``.
      where: the file's name in errors.
      **overrides: fields of the configuration to set, such as ``dtype="bfloat16"``.

    Raises:
      ValueError: a field of the wrong type or size, or a setting that is not supported; names it.
    """
    check_trainable(fields, where)
    check_fields(T5GemmaConfig, overrides)
    version = 1 if fields["model_type"] == "t5gemma" else 2
    encoder, decoder = _section(fields, "encoder", where), _section(fields, "decoder", where)
    prefix = "encoder"
    if version == 2:
        encoder, prefix = _section(encoder, "text_config", f"{where}: encoder"), "encoder.text_config"
    both = ((encoder, f"{where}: {prefix}"), (decoder, f"{where}: decoder"))
    stacks = [_stack(one, version, name) for one, name in both]
    for one, name in both:
        _check_features(one, name)
    ropes = [_ropes(one, version, name) for one, name in both]
    values: dict[str, Any] = {
        "version": version,
        "vocab_size": _same(both, "vocab_size", 256_000 if version == 1 else 262_208, where),
        "encoder": stacks[0],
        "decoder": stacks[1],
        "layer_norm_epsilon": _same(both, "rms_norm_eps", 1e-6, where),
        "attention_logit_cap": _same(both, "attn_logit_softcapping", 50.0 if version == 1 else None, where),
        "final_logit_cap": decoder.get("final_logit_softcapping", 30.0 if version == 1 else None),
        "logits_via_embedding": fields.get("tie_word_embeddings", True),
        "decoder_start_id": decoder.get("bos_token_id", 2),
        "dropout_rate": fields.get("dropout_rate", 0.0),
    }
    if ropes[0] != ropes[1]:
        raise ValueError(
            f"{where}: rotary embeddings of encoder and decoder must be the same; got {ropes[0]} and {ropes[1]}"
        )
    names = ("rope_base_local", "rope_scale_local", "rope_base_global", "rope_scale_global")
    values.update(zip(names, (*ropes[0][0], *ropes[0][1])))
    for name in ("layer_norm_epsilon", "attention_logit_cap", "final_logit_cap", "dropout_rate"):
        if values[name] is not None:
            values[name] = _number(values[name], name, where)
    if not isinstance(values["logits_via_embedding"], bool):
        raise ValueError(
            f"{where}: tie_word_embeddings must be true or false; got {quoted(values['logits_via_embedding'])}"
        )
    try:
        return T5GemmaConfig(**{**values, **overrides})
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _section(fields: Mapping[str, Any], name: str, where: str) -> Mapping[str, Any]:
    value = fields.get(name)
    if not isinstance(value, Mapping):
        raise ValueError(f"{where}: {name} must be an object; got {quoted(value)}")
    return value


def _stack(fields: Mapping[str, Any], version: int, where: str) -> StackConfig:
    sizes = {ours: _integer(fields, theirs, largest, where) for theirs, (ours, largest) in _SIZES.items()}
    try:
        return StackConfig(
            **sizes,
            query_pre_attn_scalar=_number(fields.get("query_pre_attn_scalar", 256), "query_pre_attn_scalar", where),
            sliding_window=_integer({"sliding_window": 4096, **fields}, "sliding_window", 2**24, where),
            global_every=_global_every(fields, sizes["num_layers"], version, where),
        )
    except ValueError as error:
        raise ValueError(f"{where}: {error}" if not str(error).startswith(where) else str(error)) from error


def _global_every(fields: Mapping[str, Any], num_layers: int, version: int, where: str) -> int:
    """Returns n if every n-th layer is global."""
    usual = _integer(
        {"sliding_window_pattern": _GLOBAL_EVERY[version], **fields}, "sliding_window_pattern", 2**10, where
    )
    types = fields.get("layer_types")
    if types is None:
        return usual
    if not isinstance(types, list) or len(types) != num_layers or set(types) - {_LOCAL, _GLOBAL}:
        raise ValueError(
            f"{where}: layer_types must be {num_layers} of {_LOCAL!r} and {_GLOBAL!r}; got {quoted(types, 120)}"
        )
    every = types.index(_GLOBAL) + 1 if _GLOBAL in types else max(usual, num_layers + 1)
    if types != [_GLOBAL if (index + 1) % every == 0 else _LOCAL for index in range(num_layers)]:
        raise ValueError(
            f"{where}: layer_types must have a {_GLOBAL!r} layer at equal distances; got {quoted(types, 200)}"
        )
    return every


def _check_features(fields: Mapping[str, Any], where: str) -> None:
    """Raises ValueError for a feature that the network does not have."""
    activation = fields.get("hidden_activation", _ACTIVATION)
    if activation != _ACTIVATION:
        raise ValueError(f"{where}: hidden_activation must be {_ACTIVATION!r}; got {quoted(activation)}")
    if fields.get("attention_bias", False) is not False:
        raise ValueError(f"{where}: attention_bias must be false; got {quoted(fields['attention_bias'])}")
    if fields.get("use_bidirectional_attention"):
        raise ValueError(
            f"{where}: use_bidirectional_attention must be false; got {quoted(fields['use_bidirectional_attention'])}"
        )
    if fields.get("pad_token_id", 0) != 0:
        raise ValueError(f"{where}: pad_token_id must be 0 here; got {quoted(fields['pad_token_id'])}")
    ends = fields.get("eos_token_id", 1)
    if 1 not in (ends if isinstance(ends, list) else [ends]):
        raise ValueError(f"{where}: eos_token_id must be 1, or a list with 1, here; got {quoted(ends)}")


def _ropes(fields: Mapping[str, Any], version: int, where: str) -> tuple[tuple[float, float], tuple[float, float]]:
    """Returns base and scale of the rotary embeddings of local and of global layers, from new or old field names."""
    given = fields.get("rope_parameters")
    local, everywhere = _ROPE_BASES[version]
    far: Any
    near: Any
    if given is None:
        local = fields.get("rope_local_base_freq", local) if version == 2 else fields.get("rope_theta", local)
        scaling = fields.get("rope_scaling")
        far = {"rope_theta": fields.get("rope_theta", everywhere), **(scaling if isinstance(scaling, Mapping) else {})}
        near = {"rope_theta": local} if version == 2 else far
    elif not isinstance(given, Mapping):
        raise ValueError(f"{where}: rope_parameters must be an object; got {quoted(given)}")
    else:
        far, near = (given.get(_GLOBAL), given.get(_LOCAL)) if version == 2 else (given, given)
    result = []
    for one, base in ((near, local), (far, everywhere)):
        one = {} if one is None else one
        if not isinstance(one, Mapping):
            raise ValueError(f"{where}: rope_parameters must hold objects; got {quoted(one)}")
        kind = one.get("rope_type", one.get("type", "default"))
        if kind not in ("default", "linear"):
            raise ValueError(f"{where}: rope_type must be 'default' or 'linear'; got {quoted(kind)}")
        scale = _number(one.get("factor", 1.0), "factor of rope_parameters", where) if kind == "linear" else 1.0
        result.append((_number(one.get("rope_theta", base), "rope_theta", where), scale))
    return result[0], result[1]


def _same(both: Any, name: str, default: Any, where: str) -> Any:
    """Returns the value of a field that must be equal in both stacks."""
    (first, _), (second, _) = both
    values = first.get(name, default), second.get(name, default)
    if values[0] != values[1]:
        raise ValueError(
            f"{where}: {name} of encoder and decoder must be the same; got {values[0]!r} and {values[1]!r}"
        )
    return values[0]


def _number(value: Any, name: str, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300:
        raise ValueError(f"{where}: {name} must be a number; got {quoted(value)}")
    return float(value)


def _integer(fields: Mapping[str, Any], name: str, largest: int, where: str) -> int:
    if name not in fields:
        raise ValueError(f"{where}: {name} is missing")
    value = fields[name]
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= largest:
        raise ValueError(f"{where}: {name} must be an integer in [1, {largest}]; got {quoted(value)}")
    return value


def config_to_hf(config: T5GemmaConfig) -> dict[str, Any]:
    """Returns the fields of a ``config.json`` for ``config``: the inverse of :func:`config_from_hf`."""
    encoder, decoder = (_section_of(config, stack) for stack in ("encoder", "decoder"))
    model_type = "t5gemma" if config.version == 1 else "t5gemma2"
    if config.version == 2:
        text = {**encoder, "model_type": "t5gemma2_text"}
        encoder = {"model_type": "t5gemma2_encoder", "text_config": text, "vision_config": _NO_VISION}
    ids = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": config.decoder_start_id}
    return {
        "architectures": [MODEL_TYPES[model_type]],
        "model_type": model_type,
        "encoder": encoder,
        "decoder": decoder,
        "vocab_size": config.vocab_size,
        "tie_word_embeddings": config.logits_via_embedding,
        "dropout_rate": config.dropout_rate,
        "attention_dropout": config.dropout_rate,
        "is_encoder_decoder": True,
        **ids,
    }


def _section_of(config: T5GemmaConfig, stack: str) -> dict[str, Any]:
    shape: StackConfig = getattr(config, stack)
    ropes = [
        {"rope_theta": base, "rope_type": "default"}
        if scale == 1.0
        else {"rope_theta": base, "rope_type": "linear", "factor": scale}
        for base, scale in (
            (config.rope_base_local, config.rope_scale_local),
            (config.rope_base_global, config.rope_scale_global),
        )
    ]
    kinds = [_LOCAL if shape.is_local(index) else _GLOBAL for index in range(shape.num_layers)]
    names = {1: "t5_gemma_module", 2: f"t5gemma2_{stack}"}
    return {
        "model_type": names[config.version],
        **{theirs: getattr(shape, ours) for theirs, (ours, _) in _SIZES.items()},
        "query_pre_attn_scalar": _plain(shape.query_pre_attn_scalar),
        "sliding_window": shape.sliding_window,
        "layer_types": kinds,
        "rope_parameters": ropes[0] if config.version == 1 else {_LOCAL: ropes[0], _GLOBAL: ropes[1]},
        "attn_logit_softcapping": config.attention_logit_cap,
        "final_logit_softcapping": config.final_logit_cap,
        "rms_norm_eps": config.layer_norm_epsilon,
        "hidden_activation": _ACTIVATION,
        "attention_bias": False,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": _MAX_POSITIONS[config.version],
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": config.decoder_start_id,
    }


def _plain(number: float) -> int | float:
    """Returns a whole number as int, the field's type in ``transformers``."""
    return int(number) if number == int(number) else number
