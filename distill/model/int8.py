"""Weights of decoding in int8: every decoded token reads all of them, so their bytes bound the speed on accelerators.

Symmetric quantization with one scale per output channel: ``q = round(w / s)`` with ``s = max|w| / 127`` over the input
axis (Wu et al. 2020, arXiv 2004.09602, §3.1.2 and §3.2). Only weights are quantized. A layer multiplies its input by
``q`` in the compute dtype, which holds all int8 numbers exactly, accumulates in float32 and multiplies the result by
``s``. The kernels of all dense layers are quantized, and the token table that logits are computed with. Norms, position
biases, adapters and a table that is only looked up are not.

Qwix 0.1.8 was tried in its place. It replaces parameters and ``jnp.einsum`` while a module runs. It cannot cast a quantized
kernel, which these layers do before their product, and its ``einsum`` drops ``preferred_element_type``, which makes the
logits float32.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int8

from distill.array_types import AnyArray
from distill.model.configs import NetworkConfig
from distill.model.parameters import Params, in_compute_dtype, param_logical_axes
from distill.sharding import partitioning
from distill.sharding.dense import INT8_SCALE

WEIGHTS = ("compute", "int8")
_LARGEST = 127


def quantized(
    weight: Float[AnyArray, "inputs ..."], axis: int = 0
) -> tuple[Int8[Array, "inputs ..."], Float[Array, "..."]]:
    """Returns ``q`` and ``s`` with ``|weight - q · s| ≤ s / 2``.

    Args:
      weight: finite numbers. A channel of zeros has the scale 0.
      axis: the input axis; all other axes are channels, or layers.

    Returns:
      int8 in [-127, 127] of the weight's shape, and float32 scales of its shape with 1 at ``axis``.
    """
    weight = jnp.asarray(weight, jnp.float32)
    scale = jnp.max(jnp.abs(weight), axis=axis, keepdims=True) / _LARGEST
    whole = jnp.round(weight / jnp.where(scale == 0.0, 1.0, scale))
    return jnp.clip(whole, -_LARGEST, _LARGEST).astype(jnp.int8), scale


def with_int8_weights(params: Mapping[str, Any], config: NetworkConfig) -> dict[str, Any]:
    """Returns parameters whose large weights are int8 beside their scales, ``int8_scale``; for decoding only.

    Args:
      params: the network's; layers may be stacked. Weights that are int8 already stay.
      config: of the network.
    """

    def replaced(node: Mapping[str, Any], name: str, axis: int) -> dict[str, Any]:
        whole, scale = quantized(node[name], axis)
        return {**node, name: whole, INT8_SCALE: scale}

    return _mapped(params, config, replaced)


def int8_logical_axes(axes: Mapping[str, Any], config: NetworkConfig) -> dict[str, Any]:
    """Returns the logical axes of :func:`with_int8_weights` from those of the float32 parameters.

    A scale is sharded as its weight is, except along the input axis.
    """

    def beside(node: Mapping[str, Any], name: str, axis: int) -> dict[str, Any]:
        own = tuple(None if place == axis else one for place, one in enumerate(node[name]))
        return {**node, INT8_SCALE: PartitionSpec(*own)}

    return _mapped(axes, config, beside)


def _mapped(
    tree: Mapping[str, Any], config: NetworkConfig, change: Callable[[Mapping[str, Any], str, int], dict[str, Any]]
) -> dict[str, Any]:
    """``tree`` with ``change(node, name of the weight, its input axis)`` for every node that holds a large weight."""

    def walk(node: Any) -> Any:
        if not isinstance(node, Mapping):
            return node
        if "kernel" in node:
            return dict(node) if INT8_SCALE in node else change(node, "kernel", 0)
        return {name: walk(one) for name, one in node.items()}

    out = walk(tree)
    if config.logits_via_embedding:
        table = "decoder_token_embedder" if "decoder_token_embedder" in out else "token_embedder"
        if INT8_SCALE not in out[table]:
            out[table] = change(out[table], "embedding", 1)
    return out


def placed(params: Params, config: NetworkConfig, mesh: Mesh, rules: partitioning.Rules) -> Params:
    """Returns ``params`` as decoding reads them with int8 weights, sharded over ``mesh``; the rest in the compute dtype.

    Args:
      params: float32 arrays on the mesh. They are not changed.
      config: of the network.
      mesh: the devices.
      rules: logical axis → mesh axis.
    """

    def convert(params: Params) -> Params:
        return in_compute_dtype(with_int8_weights(params, config), config)

    axes = int8_logical_axes(param_logical_axes(config), config)
    shardings = partitioning.param_shardings(jax.eval_shape(convert, params), axes, mesh, rules)
    return jax.jit(convert, out_shardings=shardings)(params)
