"""Checks that arrays are finite before they are saved."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

REMEDY = "train in another MODEL_DIR with a lower LEARNING_RATE"
OR_FLOAT32 = " or DTYPE=float32"
OR_SKIP = ", or go on in this one with ON_NONFINITE='skip'"


def remedy(dtype: str) -> str:
    """What helps a run whose activations have ``dtype``, for messages."""
    return REMEDY if dtype == "float32" else REMEDY + OR_FLOAT32


class NonFinite(FloatingPointError):
    """An array of the state holds nan or infinity."""


@jax.jit
def _finite(leaves: list[jax.Array]) -> jax.Array:
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves])


def check(tree: Any, step: int, kept: str, dtype: str) -> None:
    """Raises :class:`NonFinite` if an array of ``tree`` holds nan or infinity.

    Args:
      tree: arrays. Integer arrays are skipped.
      step: for the message.
      kept: the newest checkpoint in words, for the message.
      dtype: of the activations, for :func:`remedy`.
    """
    leaves = [
        (path, leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        if jnp.issubdtype(leaf.dtype, jnp.floating)
    ]
    if not leaves:
        return
    good = np.asarray(_finite([leaf for _, leaf in leaves]))
    if not good.all():
        path = jax.tree_util.keystr(leaves[int(np.argmin(good))][0], simple=True, separator="/")
        raise NonFinite(
            f"{path} holds nan or infinity at step {step} ({int((~good).sum())} of {len(leaves)} arrays); {kept}; "
            f"{remedy(dtype)}"
        )
