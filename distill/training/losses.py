"""The two-task loss of Distilling Step-by-Step, expressed as token weights.

``L = L_label + λ · L_rationale`` (Hsieh et al. 2023, arXiv 2305.02301, eq. 4) is computed in two steps. First, every
target token of the global batch gets a weight ``w = mask · c_k / N``, where ``k`` is its task and ``N`` the sum of the
masks that the normaliser adds up; with ``task_examples``, ``mask`` is first divided by the sum of its example. Then the
loss is the sum ``Σ w · CE`` (:mod:`distill.sharding.cross_entropy`). A sum can be split anywhere, so packing,
micro-batches and sharding do not change the result.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from distill import validation
from distill.tasks import task_ids
from distill.training.schedules import Schedule, linear_lambda

__all__ = [
    "NORMALIZERS", "Schedule", "TwoTaskLoss", "alpha_from_lambda", "lambda_from_alpha", "linear_lambda",
    "task_token_weights",
]  # fmt: skip

Coefficients = tuple[Float[Array, ""], Float[Array, ""]]
NORMALIZERS = ("task_tokens", "task_examples", "all_tokens")


@dataclasses.dataclass(frozen=True)
class TwoTaskLoss:
    """The weights of the two tasks in the loss.

    Set ``lam`` (λ in the paper's text: ``L_label + λ · L_rationale``) or ``alpha`` (α in the paper's code:
    ``α · L_label + (1 - α) · L_rationale``). With ``λ = (1 - α) / α`` they agree up to the overall factor α.
    If neither is set, λ = 1.

    Attributes:
      lam: λ ≥ 0, or a schedule from the step (int32 scalar) to λ, see :mod:`distill.training.schedules`.
      alpha: α in [0, 1], instead of ``lam``.
      normalizer: the divisor of a task's summed loss. ``task_tokens``: the weights of the task's target tokens in the
        global batch, summed (without weights their number, as in the paper's code). ``task_examples``: each example's loss
        is averaged over its tokens, then over the task's examples. ``all_tokens``: one mean over the tokens of both tasks
        (a plain T5 mixture).
      z_loss: coefficient of ``log²Z``, which keeps the softmax normaliser near 1 (as in T5X); 0 disables it.
      label_smoothing: probability mass moved from the target to the other ``V - 1`` tokens, evenly (as in T5X).
      mutual_information: the coefficient β of :mod:`distill.training.mutual_information`; None leaves the term out.

    Raises:
      ValueError: both ``lam`` and ``alpha``, a value out of range, or an unknown normalizer.
    """

    lam: float | Schedule | None = None
    alpha: float | None = None
    normalizer: str = "task_tokens"
    z_loss: float = 0.0
    label_smoothing: float = 0.0
    mutual_information: float | None = None

    def __post_init__(self) -> None:
        if self.lam is not None and self.alpha is not None:
            raise ValueError(f"TwoTaskLoss takes at most one of lam and alpha; got lam={self.lam}, alpha={self.alpha}")
        validation.check_range("TwoTaskLoss.alpha", self.alpha, "in [0, 1] or None")
        validation.check_range("TwoTaskLoss.lam", self.lam, "≥ 0 or None")
        validation.check("TwoTaskLoss.normalizer", self.normalizer, NORMALIZERS)
        validation.check_range("TwoTaskLoss.label_smoothing", self.label_smoothing, "in [0, 1)")
        validation.check_range("TwoTaskLoss.mutual_information", self.mutual_information, "a finite number ≥ 0 or None")
        validation.check_range("TwoTaskLoss.z_loss", self.z_loss, "≥ 0")

    def coefficients(self, step: Int[Array, ""]) -> Coefficients:
        """Returns ``(c_label, c_rationale)`` at ``step``, float32 scalars."""
        if callable(self.lam):
            return jnp.float32(1.0), jnp.asarray(self.lam(step), jnp.float32)
        if self.alpha is not None:
            return jnp.float32(self.alpha), jnp.float32(1.0 - self.alpha)
        return jnp.float32(1.0), jnp.float32(1.0 if self.lam is None else self.lam)

    def constants(self) -> Coefficients | None:
        """Returns the coefficients if they are the same at every step; None with a schedule.

        A step that gets them as an argument is one compiled program for all values.
        """
        return None if callable(self.lam) else self.coefficients(jnp.int32(0))


def lambda_from_alpha(alpha: float) -> float:
    """Returns λ = (1 - α) / α, which gives the same minimum as the α-weighted loss.

    Raises:
      ValueError: ``alpha`` is not in (0, 1].
    """
    validation.check_range("to have a λ, α", alpha, "in (0, 1]")
    return (1.0 - alpha) / alpha


def alpha_from_lambda(lam: float) -> float:
    """Returns α = 1 / (1 + λ), the inverse of :func:`lambda_from_alpha`. Raises ValueError for λ < 0."""
    validation.check_range("λ", lam, "≥ 0")
    return 1.0 / (1.0 + lam)


def task_token_weights(
    loss_weights: Float[Array, "batch length"],
    ids: Int[Array, "batch length"],
    coefficients: Coefficients,
    normalizer: str = "task_tokens",
    segment_ids: Int[Array, "batch length"] | None = None,
) -> Float[Array, "batch length"]:
    """Returns a weight per target token such that ``Σ weight · CE`` is the two-task loss of the whole batch.

    Args:
      loss_weights: float32; 0 on padding, the row's weight (usually 1) elsewhere.
      ids: the task of each token (``tasks.task_ids``): 0 padding, 1 label, 2 rationale.
      coefficients: ``(c_label, c_rationale)``, float32 scalars.
      normalizer: one of ``NORMALIZERS``.
      segment_ids: the example that each token of a packed row belongs to, from 1; None means one example per row. Only
        ``task_examples`` uses it.

    Returns:
      float32 weights. A task that is absent from the batch contributes 0, without a division by 0.

    Raises:
      ValueError: an unknown ``normalizer``.
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
    """Returns 1/total, or 0 where total is 0."""
    return jnp.where(total > 0.0, 1.0 / jnp.where(total > 0.0, total, 1.0), 0.0)


def _per_example_mean(weights: jax.Array, segment_ids: jax.Array | None) -> jax.Array:
    """Scales the weights so that an example's tokens sum to its own weight divided by the weights of all examples."""
    if segment_ids is None:
        segment_ids = jnp.ones(weights.shape, jnp.int32)
    counted = weights > 0.0
    # All tokens of an example have its row weight, so (sum of weights) / (number of tokens) is that weight again.
    same = (segment_ids[:, :, None] == segment_ids[:, None, :]) & counted[:, None, :]
    tokens = jnp.sum(same, axis=-1, dtype=jnp.float32)
    share = jnp.where(counted, weights * _reciprocal(tokens), 0.0)
    return share * _reciprocal(share.sum())
