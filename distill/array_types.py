"""The array types of annotations: the arrays that a function called outside of ``jax.jit`` accepts."""

import jax
import numpy as np

AnyArray = jax.Array | np.ndarray
"""An array on a device or on the host."""
