"""A network's parameters as a tree: initialisation, shapes, logical axes, and layers stacked for a scan or separate."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from distill.array_types import AnyArray
from distill.model.configs import NetworkConfig
from distill.model.network import ModelInputs
from distill.model.networks import network_of
from distill.model.t5gemma_config import T5GemmaConfig
from distill.sharding.dense import INT8_SCALE

Params = dict[str, Any]


def _init_boxed(config: NetworkConfig, rng: jax.Array) -> Params:
    tokens = jnp.ones((1, 2), jnp.int32)
    # Parameters do not depend on the attention kernel, and two tokens are too few for the Pallas kernel.
    return network_of(dataclasses.replace(config, attention="xla")).init(rng, ModelInputs(tokens, tokens))["params"]


@functools.cache
def _boxed_shapes(config: NetworkConfig) -> Params:
    """Shapes with the names of their axes. Tracing a deep network takes seconds: kept for each configuration."""
    return jax.eval_shape(lambda: _init_boxed(config, jax.random.key(0)))


def _is_box(leaf: Any) -> bool:
    return isinstance(leaf, nn.Partitioned)


def init_params(config: NetworkConfig, rng: jax.Array) -> Params:
    """Returns random float32 parameters as plain arrays, for T5 by T5X's initialisers. A pure function: jit it."""
    return nn.unbox(_init_boxed(config, rng))


@functools.cache
def initializer(config: NetworkConfig) -> Callable[[jax.Array], Params]:
    """Returns :func:`init_params` of a configuration: the same function each time, so that ``jax.jit`` traces it once."""
    return lambda rng: init_params(config, rng)


def param_shapes(config: NetworkConfig) -> Params:
    """Returns the parameter tree of ``jax.ShapeDtypeStruct``; nothing is computed."""
    return jax.tree.map(lambda box: box.value if _is_box(box) else box, _boxed_shapes(config), is_leaf=_is_box)


@functools.cache
def param_logical_axes(config: NetworkConfig) -> Params:
    """Returns the parameter tree with a ``PartitionSpec`` of logical axis names per leaf; nothing is computed.

    The result is kept for each configuration: do not modify it.

    Names: ``vocab``, ``embed``, ``joined_kv``, ``heads``, ``mlp``, ``relpos_buckets``, and ``layers`` if scanned.
    """
    return nn.get_partition_spec(_boxed_shapes(config))


def param_count(config: NetworkConfig) -> int:
    """Returns the number of parameters of a network; nothing is computed."""
    return sum(leaf.size for leaf in jax.tree.leaves(param_shapes(config)))


def flatten(params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters by their '/'-joined names."""
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    return {"/".join(part.key for part in path): leaf for path, leaf in leaves}


def unflatten(leaves: Mapping[str, Any]) -> Params:
    """The tree of parameters that :func:`flatten` flattened."""
    tree: Params = {}
    for name, leaf in leaves.items():
        *path, last = name.split("/")
        node = tree
        for key in path:
            node = node.setdefault(key, {})
        node[last] = leaf
    return tree


def output_kernel(params: Params, config: NetworkConfig) -> Float[AnyArray, "embed vocab"]:
    """Returns the float32 matrix that maps the output of :meth:`Transformer.hidden` to logits, before any soft cap."""
    if config.logits_via_embedding:
        own = "decoder_token_embedder"
        return params[own if own in params else "token_embedder"]["embedding"].T
    return params["decoder"]["logits_dense"]["kernel"]


def in_compute_dtype(params: Params, config: NetworkConfig) -> Params:
    """Casts once what the layers would cast at every step. Position biases, T5Gemma's norms, int8 weights and their scales
    stay as they are, because the layers use them so.

    A program that only decodes may keep the result instead of ``params``: the answers are the same, bit by bit.
    """
    dtype = jnp.dtype(config.dtype)
    kept = ("scale" if isinstance(config, T5GemmaConfig) else "rel_embedding", INT8_SCALE)
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf if path[-1].key in kept or leaf.dtype == jnp.int8 else leaf.astype(dtype), params
    )


def unstack_layers(params: Params, config: NetworkConfig) -> tuple[Params, NetworkConfig]:
    """Returns the same network with ``scan_layers=False``; unscanned parameters are returned unchanged."""
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


def stack_layers(params: Params, config: NetworkConfig) -> tuple[Params, NetworkConfig]:
    """Returns the same network with ``scan_layers=True``: the inverse of :func:`unstack_layers`."""
    if config.scan_layers:
        return params, config
    stacked = dict(params)
    for stack, num_layers in (("encoder", config.num_encoder_layers), ("decoder", config.num_decoder_layers)):
        rest = dict(params[stack])
        layers = [rest.pop(f"layers_{index}") for index in range(num_layers)]
        rest[stack] = jax.tree.map(lambda *leaves: jnp.stack(leaves, axis=1), *layers)
        stacked[stack] = rest
    return stacked, dataclasses.replace(config, scan_layers=True)
