"""The network of a configuration, for every family."""

from distill.model.config import T5Config
from distill.model.configs import NetworkConfig
from distill.model.network import Transformer
from distill.model.t5gemma import T5GemmaTransformer, cache_shapes

Network = Transformer | T5GemmaTransformer
"""A network of any family. All have the methods of :class:`distill.model.network.Transformer`."""


def network_of(config: NetworkConfig) -> Network:
    """Returns the network of ``config``."""
    return Transformer(config) if isinstance(config, T5Config) else T5GemmaTransformer(config)


def final_logit_cap(config: NetworkConfig) -> float | None:
    """Returns the soft cap of the vocabulary's logits: they are ``cap · tanh(logits / cap)``. None if there is none."""
    return None if isinstance(config, T5Config) else config.final_logit_cap


def decoding_cache_shapes(config: NetworkConfig, rows: int, length: int) -> tuple[tuple[int, int, int, int], ...]:
    """Returns the shape of the keys and of the values that each decoder layer keeps while ``length`` tokens are decoded.

    Args:
      config: the configuration of the network.
      rows: rows times hypotheses.
      length: number of positions.

    Returns:
      [rows, key heads, cached positions, head_dim] per layer.
    """
    if isinstance(config, T5Config):
        return ((rows, config.num_heads, length, config.head_dim),) * config.num_decoder_layers
    return cache_shapes(config, rows, length)
