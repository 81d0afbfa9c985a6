"""How arrays lie in a TPU's memory, where the compiler's own choice is a bad one."""

from collections.abc import Sequence

import flax.linen as nn
import jax
from jax.experimental.layout import Layout, with_layout_constraint


def laid_out(x: jax.Array, order: Sequence[int]) -> jax.Array:
    """``x``, with its dimensions in a TPU's memory in ``order``, the outermost first.

    Compilers do not see through this: where how ``x`` lies over a mesh is not said before and after it, each device would
    hold all of ``x``. So it is left out without a mesh and rules that say it, as within T5X, and on other platforms.
    """
    if jax.sharding.get_abstract_mesh().empty or not nn.get_logical_axis_rules():
        return x
    layout = Layout(tuple(order))
    return jax.lax.platform_dependent(x, tpu=lambda x: with_layout_constraint(x, layout), default=lambda x: x)


def row_major(x: jax.Array) -> jax.Array:
    """``x`` with the last dimension innermost, and so on: :func:`laid_out`."""
    return laid_out(x, range(x.ndim))


def outermost(x: jax.Array, dimension: int) -> jax.Array:
    """``x`` with ``dimension`` outermost, and the others in their order: :func:`laid_out`."""
    return laid_out(x, [dimension, *(other for other in range(x.ndim) if other != dimension)])
