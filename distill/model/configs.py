"""The configuration of a network of any family, and how it is read back from JSON."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from distill.model.config import T5Config
from distill.model.t5gemma_config import StackConfig, T5GemmaConfig

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
            raise TypeError(f"{name} must be an object; got {fields.get(name)!r:.80}")
        stacks[name] = StackConfig(**fields[name])
    return T5GemmaConfig(**{**fields, **stacks, **overrides})


def family(config: NetworkConfig) -> str:
    """Returns the name of the family of ``config``: ``T5``, ``T5Gemma`` or ``T5Gemma 2``."""
    if isinstance(config, T5Config):
        return "T5"
    return "T5Gemma" if config.version == 1 else "T5Gemma 2"


def to_json(config: NetworkConfig) -> dict[str, Any]:
    """Returns the fields of ``config`` for JSON; :func:`from_json` reads them."""
    return dataclasses.asdict(config)
