"""The two-task loss of distilling step-by-step, as token weights, and a cross-entropy that makes its own logits.

``L = L_label + λ · L_rationale`` (Hsieh et al. 2023, arXiv 2305.02301, eq. 4) is computed in two moves: every target
token gets one weight, ``w = mask · c_k / N_k`` for its task ``k``, from the whole global batch; the loss is then the
plain sum ``Σ w · CE``. Sums can be cut anywhere: packing, micro-batches and sharding all give the same number.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from distill import partitioning
from tasks import task_ids

NORMALIZERS = ("task_tokens", "task_examples", "all_tokens")
Schedule = Callable[[jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class TwoTaskLoss:
    """How much each task counts.

    Give ``lam`` (λ, the paper's text: ``L_label + λ · L_rationale``) or ``alpha`` (α, the paper's code:
    ``α · L_label + (1 - α) · L_rationale``). They agree up to the overall factor α when ``λ = (1 - α) / α``.
    With neither, λ = 1.

    Attributes:
      lam: λ ≥ 0, or a schedule from the step (int32 scalar) to λ.
      alpha: α in [0, 1], instead of ``lam``.
      normalizer: what a task's summed loss is divided by. ``task_tokens``: the task's target tokens in the global batch
        (what the paper's code does); ``task_examples``: mean over the task's examples of the example's token mean;
        ``all_tokens``: one pooled mean over both tasks (a plain T5 mixture).
      z_loss: coefficient of ``log²Z``, which keeps the softmax normaliser near 1 (as in T5X; 0 is off).
      label_smoothing: probability mass moved off the target, spread over the other ``V - 1`` tokens (as in T5X).
    """

    lam: float | Schedule | None = None
    alpha: float | None = None
    normalizer: str = "task_tokens"
    z_loss: float = 0.0
    label_smoothing: float = 0.0

    def __post_init__(self):
        if self.lam is not None and self.alpha is not None:
            raise ValueError(f"TwoTaskLoss wants at most one of lam and alpha; got lam={self.lam}, alpha={self.alpha}")
        if self.alpha is not None and not 0.0 <= self.alpha <= 1.0:
            raise ValueError(f"TwoTaskLoss.alpha must lie in [0, 1]; got {self.alpha}")
        if self.lam is not None and not callable(self.lam) and self.lam < 0.0:
            raise ValueError(f"TwoTaskLoss.lam must be ≥ 0; got {self.lam}")
        if self.normalizer not in NORMALIZERS:
            raise ValueError(f"TwoTaskLoss.normalizer must be one of {NORMALIZERS}; got {self.normalizer!r}")
        if not 0.0 <= self.label_smoothing < 1.0:
            raise ValueError(f"TwoTaskLoss.label_smoothing must lie in [0, 1); got {self.label_smoothing}")
        if self.z_loss < 0.0:
            raise ValueError(f"TwoTaskLoss.z_loss must be ≥ 0; got {self.z_loss}")

    def coefficients(self, step: Int[Array, ""]) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Returns ``(c_label, c_rationale)`` at ``step``, float32 scalars."""
        if self.alpha is not None:
            return jnp.float32(self.alpha), jnp.float32(1.0 - self.alpha)
        lam = self.lam(step) if callable(self.lam) else 1.0 if self.lam is None else self.lam
        return jnp.float32(1.0), jnp.asarray(lam, jnp.float32)


def lambda_from_alpha(alpha: float) -> float:
    """λ = (1 - α) / α, the λ with the same minimum as the α-weighted loss. Raises ValueError unless 0 < α ≤ 1."""
    if not 0.0 < alpha <= 1.0:
        raise ValueError(f"α must lie in (0, 1] to have a λ; got {alpha}")
    return (1.0 - alpha) / alpha


def alpha_from_lambda(lam: float) -> float:
    """α = 1 / (1 + λ), the inverse of :func:`lambda_from_alpha`. Raises ValueError for λ < 0."""
    if lam < 0.0:
        raise ValueError(f"λ must be ≥ 0; got {lam}")
    return 1.0 / (1.0 + lam)


def linear_lambda(start: float, end: float, steps: int) -> Schedule:
    """λ going linearly from ``start`` to ``end`` over ``steps`` steps, and staying there."""
    if steps < 1:
        raise ValueError(f"linear_lambda.steps must be ≥ 1; got {steps}")

    def schedule(step: jax.Array) -> jax.Array:
        done = jnp.clip(step.astype(jnp.float32) / steps, 0.0, 1.0)
        return start + (end - start) * done

    return schedule


def task_token_weights(
    loss_weights: Float[Array, "batch length"],
    ids: Int[Array, "batch length"],
    coefficients: tuple[Float[Array, ""], Float[Array, ""]],
    normalizer: str = "task_tokens",
    segment_ids: Int[Array, "batch length"] | None = None,
) -> Float[Array, "batch length"]:
    """One weight for every target token, such that ``Σ weight · CE`` is the two-task loss of the whole batch.

    Args:
      loss_weights: 0 on padding, the row's weight (usually 1) elsewhere, float32.
      ids: the task of each token (``tasks.task_ids``): 0 padding, 1 label, 2 rationale.
      coefficients: ``(c_label, c_rationale)``, float32 scalars.
      normalizer: one of ``NORMALIZERS``.
      segment_ids: which example of a packed row a token belongs to, from 1; None where a row is one example. Only
        ``task_examples`` looks at it.

    Returns:
      float32 weights. A task absent from the batch contributes nothing (and divides by nothing).
    """
    by_task = [
        jnp.where(ids == task, loss_weights, 0.0).astype(jnp.float32) for task in (task_ids.LABEL, task_ids.RATIONALE)
    ]
    if normalizer == "all_tokens":
        pooled = _reciprocal(by_task[0].sum() + by_task[1].sum())
        return (coefficients[0] * by_task[0] + coefficients[1] * by_task[1]) * pooled
    if normalizer == "task_tokens":
        label, rationale = (c * w * _reciprocal(w.sum()) for c, w in zip(coefficients, by_task))
        return label + rationale
    if normalizer == "task_examples":
        label, rationale = (c * _per_example_mean(w, segment_ids) for c, w in zip(coefficients, by_task))
        return label + rationale
    raise ValueError(f"normalizer must be one of {NORMALIZERS}; got {normalizer!r}")


def _reciprocal(total: Float[Array, "..."]) -> Float[Array, "..."]:
    """1/total, and 0 where total is 0."""
    return jnp.where(total > 0.0, 1.0 / jnp.where(total > 0.0, total, 1.0), 0.0)


def _per_example_mean(weights: jax.Array, segment_ids: jax.Array | None) -> jax.Array:
    """Scales each example's tokens to sum to its own weight over the sum of all the examples' weights."""
    if segment_ids is None:
        segment_ids = jnp.ones(weights.shape, jnp.int32)
    counted = weights > 0.0
    # An example's tokens all carry its row weight, so (sum of weights) / (number of tokens) is that weight back.
    same = (segment_ids[:, :, None] == segment_ids[:, None, :]) & counted[:, None, :]
    tokens = jnp.sum(same, axis=-1, dtype=jnp.float32)
    share = jnp.where(counted, weights * _reciprocal(tokens), 0.0)
    return share * _reciprocal(share.sum())


class TokenStats(NamedTuple):
    """Per-token by-products of the loss, without gradients.

    Attributes:
      cross_entropy: [batch, length] float32, in nats, with label smoothing and without z-loss.
      correct: [batch, length] bool, whether the target is the argmax.
    """

    cross_entropy: Float[Array, "batch length"]
    correct: Bool[Array, "batch length"]


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def weighted_cross_entropy(
    hidden: Float[Array, "batch length embed"],
    kernel: Float[Array, "embed vocab"],
    targets: Int[Array, "batch length"],
    weights: Float[Array, "batch length"],
    z_loss: float = 0.0,
    label_smoothing: float = 0.0,
    chunk_tokens: int = 0,
) -> tuple[Float[Array, ""], TokenStats]:
    """``Σ weights · (CE + z_loss · log²Z)`` straight from hidden states, without the [batch, length, vocab] logits.

    Logits exist for one chunk of target positions at a time. Since the loss is a weighted sum whose weights are known,
    the gradients of a chunk are taken in the forward pass, while its logits are at hand: the backward pass recomputes
    nothing and only scales (the idea of Liger kernels' fused linear cross-entropy, arXiv 2410.10989).

    Args:
      hidden: decoder output; its dtype is the dtype of the matmul's inputs. Accumulation is float32.
      kernel: the output projection. Its gradient is summed in float32 on each device; between devices it is summed in
        ``hidden``'s dtype.
      targets: target ids in [0, vocab).
      weights: token weights, float32; 0 skips a token.
      z_loss: coefficient of ``log²Z``.
      label_smoothing: as in :class:`TwoTaskLoss`.
      chunk_tokens: the most target positions (rows × length) whose logits exist at once on a device; 0 takes all at once.

    Returns:
      The loss, a float32 scalar, and :class:`TokenStats`.
    """
    loss, stats, _ = _chunked(hidden, kernel, targets, weights, z_loss, label_smoothing, chunk_tokens, False)
    return loss, stats


def _forward(hidden, kernel, targets, weights, z_loss, label_smoothing, chunk_tokens):
    loss, stats, gradients = _chunked(
        hidden, kernel, targets, weights, z_loss, label_smoothing, chunk_tokens, with_gradients=True
    )
    return (loss, stats), gradients


def _backward(z_loss, label_smoothing, chunk_tokens, gradients, cotangents):
    del z_loss, label_smoothing, chunk_tokens
    scale = cotangents[0]
    d_hidden, d_kernel, d_weights = gradients
    return (d_hidden * scale.astype(d_hidden.dtype), d_kernel * scale.astype(d_kernel.dtype), None, d_weights * scale)


weighted_cross_entropy.defvjp(_forward, _backward)


def _number_of_chunks(batch: int, length: int, chunk_tokens: int) -> int:
    """The least number of equal cuts of ``length`` that keeps a chunk at or below ``chunk_tokens`` positions."""
    if chunk_tokens <= 0:
        return 1
    for chunks in range(1, length + 1):
        if length % chunks == 0 and batch * (length // chunks) <= chunk_tokens:
            return chunks
    return length


def _chunked(hidden, kernel, targets, weights, z_loss, label_smoothing, chunk_tokens, with_gradients):
    """Loss, stats and gradients, each device making as many logits as its own rows have.

    They are those of its own rows, with the whole kernel (or the columns that ``vocab`` leaves it), whose gradient then
    meets those of the other devices once, after the last chunk and in the compute dtype. (Left to itself, the compiler
    would reduce it in float32, and, where ``embed`` is sharded, once for every chunk.) Or, where devices share a copy of
    the kernel and their rows are fewer than the vocabulary is large, those of all their rows with a share of the
    vocabulary each: then hidden states are exchanged, and neither the kernel nor its gradient. A batch that the mesh does
    not cut is left to the compiler.
    """
    run = functools.partial(
        _local_chunks,
        z_loss=z_loss,
        label_smoothing=label_smoothing,
        chunk_tokens=chunk_tokens,
        with_gradients=with_gradients,
    )
    batch = partitioning.axes_of("batch")
    if partitioning.ways("batch") == 1 or hidden.shape[0] % partitioning.ways("batch"):
        return run(hidden, kernel, targets, weights)
    sizes = jax.sharding.get_abstract_mesh().shape
    sharded = tuple(axis for axis in partitioning.axes_of("embed") if axis in batch and sizes[axis] > 1)
    pieces = math.prod(sizes[axis] for axis in sharded)
    tokens = hidden.shape[0] // partitioning.ways("batch") * hidden.shape[1]
    held = tuple(axis for axis in partitioning.axes_of("vocab") if axis not in batch and sizes[axis] > 1)
    held = held if kernel.shape[1] % math.prod(sizes[axis] for axis in held) == 0 else ()
    over = sharded if _is_vocabulary_split(pieces, tokens, kernel.shape[1]) else ()
    scatter = () if over or kernel.shape[0] % pieces else sharded
    # Cast before it is exchanged: it may be the float32 token table.
    dtype, kernel = kernel.dtype, kernel.astype(hidden.dtype)

    def local(hidden, kernel, targets, weights):
        loss, stats, gradients = run(hidden, kernel, targets, weights, exchanged=over, held=held)
        loss = jax.lax.psum(loss, tuple(axis for axis in batch if axis not in over))
        if gradients is None:
            return loss, stats, None
        d_hidden, d_kernel, d_weights = gradients
        if scatter:
            d_kernel = jax.lax.psum_scatter(d_kernel, scatter, scatter_dimension=0, tiled=True)
        d_kernel = jax.lax.psum(d_kernel, tuple(axis for axis in batch if axis not in (*over, *scatter)))
        return loss, stats, (d_hidden, d_kernel.astype(dtype), d_weights)

    rows, columns = PartitionSpec(batch), (*over, *held) or None
    stats_specs: Any = TokenStats(rows, rows)  # type: ignore[arg-type]
    gradient_specs = (rows, PartitionSpec(scatter or None, columns), rows) if with_gradients else None
    return jax.shard_map(
        local,
        in_specs=(rows, PartitionSpec(None, columns), rows, rows),
        out_specs=(PartitionSpec(), stats_specs, gradient_specs),
        check_vma=False,
    )(hidden, kernel, targets, weights)


def _is_vocabulary_split(pieces: int, tokens: int, vocab: int) -> bool:
    """Whether ``pieces`` devices with ``tokens`` target positions each split the vocabulary rather than gather the kernel.

    Counted in rows of ``embed`` numbers that each device sends: hidden states go out and their gradients come back; the
    kernel is gathered, and its gradient all-reduced, which is twice as much (the compiler does not make that a
    reduce-scatter).
    """
    model = partitioning.ways("vocab")
    return pieces > 1 and vocab % (pieces * model) == 0 and 2 * pieces * tokens <= 3 * vocab // model


def _local_chunks(
    hidden,
    kernel,
    targets,
    weights,
    *,
    z_loss,
    label_smoothing,
    chunk_tokens,
    with_gradients,
    exchanged: tuple[str, ...] = (),
    held: tuple[str, ...] = (),
):
    batch, length, _ = hidden.shape
    chunks = _number_of_chunks(batch, length, chunk_tokens)
    one_chunk = functools.partial(
        _one_chunk,
        kernel=kernel,
        z_loss=z_loss,
        label_smoothing=label_smoothing,
        with_gradients=with_gradients,
        exchanged=exchanged,
        held=held,
    )
    if chunks == 1:
        loss, stats, d_hidden, d_kernel, d_weights = one_chunk(hidden, targets, weights)
        return loss, stats, (d_hidden, d_kernel.astype(kernel.dtype), d_weights) if with_gradients else None

    def cut(x):
        return jnp.moveaxis(x.reshape(batch, chunks, length // chunks, *x.shape[2:]), 1, 0)

    def join(x):
        return jnp.moveaxis(x, 0, 1).reshape(batch, length, *x.shape[3:])

    def body(carry, xs):
        loss, d_kernel = carry
        part, stats, d_hidden, d_kernel_part, d_weights = one_chunk(*xs)
        d_kernel = d_kernel + d_kernel_part if with_gradients else d_kernel
        return (loss + part, d_kernel), (stats, d_hidden, d_weights)

    zero = jnp.zeros(kernel.shape if with_gradients else (), jnp.float32)
    (loss, d_kernel), (stats, d_hidden, d_weights) = jax.lax.scan(
        body, (jnp.float32(0.0), zero), (cut(hidden), cut(targets), cut(weights))
    )
    stats = jax.tree.map(join, stats)
    if not with_gradients:
        return loss, stats, None
    return loss, stats, (join(d_hidden), d_kernel.astype(kernel.dtype), join(d_weights))


def _one_chunk(hidden, targets, weights, *, kernel, z_loss, label_smoothing, with_gradients, exchanged, held):
    """The loss of some rows, and what else :func:`_local_chunks` returns for them.

    The vocabulary lies over the mesh axes ``exchanged`` and ``held``, and ``kernel`` is this device's columns. Over
    ``exchanged`` the rows lie, too, and are this device's: the loss is then that of all rows over these axes, and
    everything else is that of this device's rows or columns. Over ``held`` devices have the same rows.
    """
    gather, own = _exchange(exchanged, hidden.shape[0])
    hidden, targets, weights = gather(hidden), gather(targets), gather(weights)
    over = (*exchanged, *held)
    add = functools.partial(jax.lax.psum, axis_name=over) if over else lambda x: x
    columns = kernel.shape[1]
    vocab = columns * math.prod(jax.lax.axis_size(axis) for axis in over)
    targets = targets - jax.lax.axis_index(over) * columns if over else targets
    logits = jnp.einsum("bld,dv->blv", hidden, kernel.astype(hidden.dtype), preferred_element_type=jnp.float32)
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
        # Less its own minimum, so that a perfect prediction costs 0.
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
    d_logits = d_logits.astype(hidden.dtype)
    d_hidden = jnp.einsum("blv,dv->bld", d_logits, kernel.astype(hidden.dtype))
    if held:
        d_hidden = jax.lax.psum(d_hidden, held)
    if exchanged:
        d_hidden = jax.lax.psum_scatter(d_hidden, exchanged, scatter_dimension=0, tiled=True)
    d_kernel = jnp.einsum("bld,blv->dv", hidden, d_logits, preferred_element_type=jnp.float32)
    return loss, stats, d_hidden, d_kernel, own(token_loss)


def _exchange(axes: tuple[str, ...], rows: int) -> tuple[Callable, Callable]:
    """All devices' rows of an array over mesh axes ``axes``, and this device's ``rows`` of them again."""
    if not axes:
        return (lambda x: x,) * 2
    return (
        lambda x: jax.lax.all_gather(x, axes, axis=0, tiled=True),
        lambda x: jax.lax.dynamic_slice_in_dim(x, jax.lax.axis_index(axes) * rows, rows),
    )


def _smoothed_minimum(on: float, off: float, vocab: int) -> float:
    """The smoothed target's entropy, negated. Only called with 0 < off < on."""
    return on * math.log(on) + (vocab - 1) * off * math.log(off)
