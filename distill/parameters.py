"""A network's parameters as a tree: fresh ones, their shapes and axes, and layers stacked for a scan or apart."""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from distill.array_types import AnyArray
from distill.network import T5Config, Transformer

Params = dict[str, Any]


def _init_boxed(config: T5Config, rng: jax.Array) -> Params:
    tokens = jnp.ones((1, 2), jnp.int32)
    # Parameters do not depend on the way of attending, and two tokens are no work for a kernel.
    return Transformer(dataclasses.replace(config, attention="xla")).init(rng, tokens, tokens)["params"]


def init_params(config: T5Config, rng: jax.Array) -> Params:
    """Fresh float32 parameters by T5X's initialisers, as plain arrays. Pure: jit it, with out_shardings if wanted."""
    return nn.unbox(_init_boxed(config, rng))


def param_shapes(config: T5Config) -> Params:
    """The parameter tree as ``jax.ShapeDtypeStruct``; nothing is computed."""
    return jax.eval_shape(lambda: init_params(config, jax.random.key(0)))


@functools.cache
def param_logical_axes(config: T5Config) -> Params:
    """The parameter tree with a ``PartitionSpec`` of logical axis names for each leaf; nothing is computed.

    Tracing a deep network takes seconds and many ask, so each configuration's tree is made once: read it, do not change it.

    Names: ``vocab``, ``embed``, ``joined_kv``, ``heads``, ``mlp``, ``relpos_buckets``, and ``layers`` where scanned.
    """
    return nn.get_partition_spec(jax.eval_shape(lambda: _init_boxed(config, jax.random.key(0))))


def param_count(config: T5Config) -> int:
    """How many parameters a network has; nothing is computed."""
    return sum(leaf.size for leaf in jax.tree.leaves(param_shapes(config)))


def output_kernel(params: Params, config: T5Config) -> Float[AnyArray, "embed vocab"]:
    """The matrix that turns :meth:`Transformer.hidden` into logits, float32."""
    if config.logits_via_embedding:
        return params["token_embedder"]["embedding"].T
    return params["decoder"]["logits_dense"]["kernel"]


def unstack_layers(params: Params, config: T5Config) -> tuple[Params, T5Config]:
    """The same network with ``scan_layers=False``; parameters that are not stacked pass as they are."""
    if not config.scan_layers:
        return params, config
    unstacked = dict(params)
    for stack, num_layers in (("encoder", config.num_encoder_layers), ("decoder", config.num_decoder_layers)):
        rest = dict(params[stack])
        stacked = rest.pop(stack)
        for index in range(num_layers):
            rest[f"layers_{index}"] = jax.tree.map(lambda leaf, index=index: leaf[:, index], stacked)
        unstacked[stack] = rest
    return unstacked, dataclasses.replace(config, scan_layers=False)


def stack_layers(params: Params, config: T5Config) -> tuple[Params, T5Config]:
    """The inverse of :func:`unstack_layers`: the same network with ``scan_layers=True``."""
    if config.scan_layers:
        return params, config
    stacked = dict(params)
    for stack, num_layers in (("encoder", config.num_encoder_layers), ("decoder", config.num_decoder_layers)):
        rest = dict(params[stack])
        layers = [rest.pop(f"layers_{index}") for index in range(num_layers)]
        rest[stack] = jax.tree.map(lambda *leaves: jnp.stack(leaves, axis=1), *layers)
        stacked[stack] = rest
    return stacked, dataclasses.replace(config, scan_layers=True)
