"""The cross-entropy of one chunk of target positions, and its gradients while the chunk's logits exist."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

# Of hidden states, kernel (None if it is frozen) and weights.
Gradients = tuple[jax.Array, jax.Array | None, jax.Array]


class TokenStats(NamedTuple):
    """Per-token by-products of the loss; no gradients flow through them.

    Attributes:
      cross_entropy: [batch, length] float32, in nats, with label smoothing and without z-loss.
      correct: [batch, length] bool, whether the target is the argmax.
    """

    cross_entropy: Float[Array, "batch length"]
    correct: Bool[Array, "batch length"]


def chunk_of_positions(
    hidden: jax.Array,
    targets: jax.Array,
    weights: jax.Array,
    *,
    kernel: jax.Array,
    z_loss: float,
    label_smoothing: float,
    logit_cap: float | None,
    with_gradients: bool,
    of_kernel: bool,
    exchanged: tuple[str, ...],
    held: tuple[str, ...],
) -> tuple[jax.Array, TokenStats, Any, Any, Any]:
    """Returns loss, stats, and gradients of hidden states, kernel and weights, of one chunk of target positions.

    The vocabulary is sharded over the mesh axes ``exchanged`` and ``held``; ``kernel`` holds this device's columns. The
    rows are sharded over ``exchanged`` too, and replicated over ``held``. The returned loss is that of all rows over
    ``exchanged``; all other values are those of this device's rows or columns.

    Args:
      hidden: [batch, length, embed].
      targets: [batch, length] int32, ids in [0, vocab).
      weights: [batch, length] float32.
      kernel: [embed, columns].
      z_loss, label_smoothing, logit_cap: see :func:`distill.sharding.cross_entropy.weighted_cross_entropy`.
      with_gradients: whether gradients are computed; without, they are None.
      of_kernel: whether the kernel has a gradient, [embed, columns] float32.
      exchanged, held: mesh axes, see above.
    """
    gather, own = _exchange(exchanged, hidden.shape[0])
    hidden, targets, weights = gather(hidden), gather(targets), gather(weights)
    over = (*exchanged, *held)
    add = functools.partial(jax.lax.psum, axis_name=over) if over else lambda x: x
    columns = kernel.shape[1]
    vocab = columns * math.prod(jax.lax.axis_size(axis) for axis in over)
    targets = targets - jax.lax.axis_index(over) * columns if over else targets
    logits = jnp.einsum("bld,dv->blv", hidden, kernel.astype(hidden.dtype), preferred_element_type=jnp.float32)
    if logit_cap is not None:
        logits = jnp.tanh(logits / logit_cap) * logit_cap
    maximum = logits.max(axis=-1, keepdims=True)
    maximum = jax.lax.stop_gradient(jax.lax.pmax(maximum, over) if over else maximum)
    exponentials = jnp.exp(logits - maximum)
    target_logit = jnp.take_along_axis(logits, jnp.clip(targets, 0, columns - 1)[..., None], axis=-1)
    target_logit = jnp.where((targets >= 0) & (targets < columns), target_logit[..., 0], 0.0)
    total, target_logit = add((exponentials.sum(axis=-1, keepdims=True), target_logit))
    log_z = (jnp.log(total) + maximum)[..., 0]

    off = label_smoothing / (vocab - 1)
    on = 1.0 - label_smoothing
    cross_entropy = log_z - (on - off) * target_logit
    if label_smoothing:
        # Subtract the minimum, so that a perfect prediction has loss 0.
        cross_entropy = cross_entropy - off * add(logits.sum(axis=-1))
        cross_entropy = cross_entropy + _smoothed_minimum(on, off, vocab)
    token_loss = cross_entropy + z_loss * jnp.square(log_z) if z_loss else cross_entropy
    loss = jnp.sum(weights * token_loss)
    stats = TokenStats(cross_entropy=own(cross_entropy), correct=own(target_logit >= maximum[..., 0]))
    if not with_gradients:
        return loss, stats, None, None, None

    scale = (weights * (1.0 + 2.0 * z_loss * log_z))[..., None]
    is_target = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 2) == targets[..., None]
    wanted = jnp.where(is_target, on, off) if label_smoothing else is_target.astype(jnp.float32)
    d_logits = exponentials * (scale / total) - weights[..., None] * wanted
    if logit_cap is not None:
        d_logits = d_logits * (1.0 - jnp.square(logits / logit_cap))
    d_logits = d_logits.astype(hidden.dtype)
    d_hidden = jnp.einsum("blv,dv->bld", d_logits, kernel.astype(hidden.dtype))
    if held:
        d_hidden = jax.lax.psum(d_hidden, held)
    if exchanged:
        d_hidden = jax.lax.psum_scatter(d_hidden, exchanged, scatter_dimension=0, tiled=True)
    d_kernel = None
    if of_kernel:
        d_kernel = jnp.einsum("bld,blv->dv", hidden, d_logits, preferred_element_type=jnp.float32)
    return loss, stats, d_hidden, d_kernel, own(token_loss)


def _exchange(axes: tuple[str, ...], rows: int) -> tuple[Callable, Callable]:
    """Functions that all-gather an array's rows over mesh axes ``axes``, and that take this device's ``rows`` again."""
    if not axes:
        return (lambda x: x,) * 2
    return (
        lambda x: jax.lax.all_gather(x, axes, axis=0, tiled=True),
        lambda x: jax.lax.dynamic_slice_in_dim(x, jax.lax.axis_index(axes) * rows, rows),
    )


def _smoothed_minimum(on: float, off: float, vocab: int) -> float:
    """The negative entropy of the smoothed target. Requires 0 < off < on."""
    return on * math.log(on) + (vocab - 1) * off * math.log(off)
