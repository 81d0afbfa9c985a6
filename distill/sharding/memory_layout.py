"""Layouts of arrays in TPU memory, for the places where the compiler's own choice is slow."""

from collections.abc import Sequence

import flax.linen as nn
import jax
from jax.experimental.layout import Layout, with_layout_constraint


def laid_out(x: jax.Array, order: Sequence[int]) -> jax.Array:
    """Returns ``x``, constrained on TPUs to the memory layout ``order``: its dimensions from outermost to innermost.

    The constraint blocks sharding propagation: unless ``x`` has a sharding constraint before and after it, every device
    holds all of ``x``. So this does nothing without a mesh and logical axis rules (as within T5X), or on other
    platforms.
    """
    if jax.sharding.get_abstract_mesh().empty or not nn.get_logical_axis_rules():
        return x
    layout = Layout(tuple(order))
    return jax.lax.platform_dependent(x, tpu=lambda x: with_layout_constraint(x, layout), default=lambda x: x)


def row_major(x: jax.Array) -> jax.Array:
    """Returns ``x`` in row-major layout, the last dimension innermost: see :func:`laid_out`."""
    return laid_out(x, range(x.ndim))


def outermost(x: jax.Array, dimension: int) -> jax.Array:
    """Returns ``x`` with ``dimension`` outermost and the others in order: see :func:`laid_out`."""
    return laid_out(x, [dimension, *(other for other in range(x.ndim) if other != dimension)])
