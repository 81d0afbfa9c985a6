"""Hugging Face's configuration files and tensor names for every family of networks."""

from collections.abc import Mapping
from typing import Any

from distill import validation
from distill.checkpoints.huggingface import config as t5_config
from distill.checkpoints.huggingface import gemma_config, gemma_names
from distill.checkpoints.huggingface import names as t5_names
from distill.checkpoints.huggingface.names import Entry
from distill.model.config import T5Config
from distill.model.configs import NetworkConfig, family
from distill.validation import quoted


def entries(config: NetworkConfig) -> list[Entry]:
    """Every parameter of ``config``, with the tensor it is read from and written to."""
    return list(t5_names.entries(config) if isinstance(config, T5Config) else gemma_names.entries(config))


def zeros(config: NetworkConfig) -> dict[str, tuple[int, ...]]:
    """Returns the shapes, by name, of tensors of zeros that ``transformers`` expects in addition to the parameters."""
    return {} if isinstance(config, T5Config) else gemma_names.zeros(config)


def config_from_hf(fields: Mapping[str, Any], where: str = "config.json", **overrides: Any) -> NetworkConfig:
    """Returns the configuration of a parsed ``config.json`` of any family.

    Raises:
      ValueError: a model of another family, a field of the wrong type or size, or a setting that is not supported.
    """
    known = (*t5_config.MODEL_TYPES, *gemma_config.MODEL_TYPES)
    model_type = fields.get("model_type")
    if not isinstance(model_type, str) or model_type not in known:
        hint = validation.did_you_mean(str(model_type)[:80], known)
        raise ValueError(f"{where}: model_type must be one of {sorted(known)}; got {quoted(model_type)}{hint}")
    read = gemma_config.config_from_hf if model_type in gemma_config.MODEL_TYPES else t5_config.config_from_hf
    return read(fields, where, **overrides)


def config_to_hf(config: NetworkConfig, model_type: str | None = None) -> dict[str, Any]:
    """The fields of a ``config.json`` for ``config``, the inverse of :func:`config_from_hf`.

    Args:
      config: the configuration to describe.
      model_type: as for :func:`distill.checkpoints.huggingface.config.config_to_hf`; None for T5Gemma.

    Raises:
      ValueError: no such model has this configuration.
    """
    if isinstance(config, T5Config):
        return t5_config.config_to_hf(config, model_type)
    settings = gemma_config.config_to_hf(config)
    if model_type not in (None, settings["model_type"]):
        raise ValueError(f"model_type of a {family(config)} must be {settings['model_type']!r}; got {model_type!r}")
    return settings
