"""One decoding step of all hypotheses, with a key/value cache: what greedy, sampled and beam search share.

The encoder runs once, its output is projected to keys and values once, and all hypotheses of a row read the same copy.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from distill.model import int8
from distill.model.attention import KeyValue
from distill.model.configs import NetworkConfig
from distill.model.network import PAD_ID
from distill.model.networks import decoding_cache_shapes, final_logit_cap, network_of
from distill.model.parameters import Params, in_compute_dtype, unstack_layers
from distill.model.t5gemma_config import T5GemmaConfig
from distill.sharding import partitioning
from distill.sharding.dense import stored

STATIC = ("config", "max_decode_len", "num_return", "eos_id", "prompt", "weights")
"""Arguments of every search that are static under jit."""


class Decoded(NamedTuple):
    """The result of decoding. n is ``num_return``; its axis is absent if n is 1.

    Attributes:
      tokens: [batch, (n,) length] int32, including the end token, then 0.
      log_probs: [batch, (n,)] float32, the sum of the tokens' log-probabilities under the network, including the end
        token's (no temperature, no truncation, no length penalty). ``-inf`` marks an empty entry: a beam search over
        very few tokens may find fewer than n hypotheses.
    """

    tokens: Int[Array, "*batch length"]
    log_probs: Float[Array, "*batch"]


# Decodes one position of all hypotheses: (tokens [batch * n], position, caches) → (float32 log-probabilities, caches).
Step = Callable[[jax.Array, jax.Array, tuple[KeyValue, ...]], tuple[jax.Array, tuple[KeyValue, ...]]]


def prepare(
    config: NetworkConfig,
    params: Params,
    tokens: jax.Array,
    segment_ids: jax.Array,
    hypotheses: int,
    length: int,
    prompt: tuple[int, ...],
    weights: str,
) -> tuple[Step, int, tuple[KeyValue, ...]]:
    """Runs the encoder, and the decoder over the prompt except its last token.

    Args:
      config, params, prompt, weights: see :func:`distill.model.decoding.generate`.
      tokens: [batch, inputs] int32.
      segment_ids: [batch, inputs] int32, 0 is padding.
      hypotheses: per row.
      length: tokens to decode at most.

    Returns:
      The decoding step, the first token to feed, and caches for ``length`` tokens of ``hypotheses`` per row.
    """
    params, config = unstack_layers(params, config)
    if weights == "int8":
        params = int8.with_int8_weights(params, config)
    params, dtype = in_compute_dtype(params, config), jnp.dtype(config.dtype)
    network = network_of(config)

    def call(method: str, *args: Any) -> Any:
        return network.apply({"params": params}, *args, method=method)

    crosses = call("cross_key_values", call("encode", tokens, segment_ids))
    visible = segment_ids != 0
    rows = tokens.shape[0] * hypotheses
    shapes = decoding_cache_shapes(config, rows, len(prompt) + length)
    empty = {shape: _empty_cache(shape, dtype, evenly=isinstance(config, T5GemmaConfig)) for shape in shapes}
    caches = tuple(KeyValue(empty[shape], empty[shape]) for shape in shapes)
    *given, first = (PAD_ID, *prompt)
    for position, token in enumerate(given):
        last = jnp.full((rows,), token, jnp.int32)
        _, caches = call("decode_step", last, jnp.int32(position), caches, crosses, visible)

    # XLA's CPU compiler computes such logits once per operation that reads them, and rounds them differently in those that
    # subtract: no logit would then equal the maximum in the greedy maximum.
    ends_in_a_product = weights == "int8" or final_logit_cap(config) is not None

    def step(
        last: jax.Array, position: jax.Array, caches: tuple[KeyValue, ...]
    ) -> tuple[jax.Array, tuple[KeyValue, ...]]:
        at = position + len(prompt)
        hidden, caches = call("decode_step", last, at, caches, crosses, visible)
        logits = call("logits", hidden)[:, 0]
        if ends_in_a_product and partitioning.platform() == "cpu":
            logits = stored(logits)
        return jax.nn.log_softmax(logits, axis=-1), caches

    return step, first, caches


def _empty_cache(shape: tuple[int, int, int, int], dtype: jnp.dtype, evenly: bool) -> jax.Array:
    """Zeros, with heads sharded; with ``evenly``, only if the devices divide them, as few key heads may be fewer."""
    heads = None if evenly and shape[1] % partitioning.ways("heads") else "heads"
    return nn.with_logical_constraint(jnp.zeros(shape, dtype), ("batch", heads, None, "kv"))
