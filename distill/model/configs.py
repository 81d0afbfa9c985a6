"""The configuration of a network of any family, and how it is read back from JSON."""

from collections.abc import Mapping
from typing import Any

from distill.model.config import T5Config
from distill.model.t5gemma_config import StackConfig, T5GemmaConfig
from distill.validation import quoted

NetworkConfig = T5Config | T5GemmaConfig
"""The configuration of a network of any family."""


def from_json(fields: Mapping[str, Any], **overrides: Any) -> NetworkConfig:
    """Returns the configuration whose ``dataclasses.asdict`` was written as JSON; ``overrides`` set fields.

    Raises:
      TypeError: a field is missing or unknown.
      ValueError: a value is out of range.
    """
    if "encoder" not in fields:
        return T5Config(**{**fields, **overrides})
    stacks: dict[str, Any] = {}
    for name in ("encoder", "decoder"):
        if not isinstance(fields.get(name), Mapping):
            raise TypeError(f"{name} must be an object; got {quoted(fields.get(name))}")
        stacks[name] = StackConfig(**fields[name])
    return T5GemmaConfig(**{**fields, **stacks, **overrides})


def family(config: NetworkConfig) -> str:
    """Returns the name of the family of ``config``: ``T5``, ``T5Gemma`` or ``T5Gemma 2``."""
    if isinstance(config, T5Config):
        return "T5"
    return "T5Gemma" if config.version == 1 else "T5Gemma 2"


def flat(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of a configuration as JSON with those of its stacks named ``encoder.…`` and ``decoder.…``.

    >>> flat({"vocab_size": 8, "encoder": {"num_layers": 2}})
    {'vocab_size': 8, 'encoder.num_layers': 2}
    """
    out: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, Mapping):
            out |= {f"{name}.{inner}": one for inner, one in value.items()}
        else:
            out[name] = value
    return out


def tensor_parallel_sizes(config: NetworkConfig) -> tuple[int, ...]:
    """Returns the sizes that the ``model`` axis of a mesh divides evenly: heads, inner widths and the vocabulary."""
    if isinstance(config, T5Config):
        return config.num_heads, config.mlp_dim, config.vocab_size
    stacks = (config.encoder, config.decoder)
    return *(stack.num_heads for stack in stacks), *(stack.mlp_dim for stack in stacks), config.vocab_size


def parameters_per_id(config: NetworkConfig) -> int:
    """Returns how many parameters one id of the vocabulary takes, in all tables and the output kernel."""
    kernel = 0 if config.logits_via_embedding else config.embed_dim
    if isinstance(config, T5GemmaConfig) and config.version == 1:
        return config.encoder.embed_dim + config.decoder.embed_dim + kernel
    return config.embed_dim + kernel
