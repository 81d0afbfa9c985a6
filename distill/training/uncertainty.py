"""Weights of the two tasks that are learned from their uncertainty (Kendall et al. 2018, arXiv 1705.07115).

A task's loss ``L`` becomes ``exp(-s) · L + s / 2``, where ``s = log σ²`` is a learned number: the paper's form for
classification, ``L / σ² + log σ``. At the optimum, ``exp(s) = 2 L``. The two numbers are a part of the optimizer's
state, so they are sharded, saved and restored with it.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from distill import validation
from distill.array_types import AnyArray
from distill.tasks import task_ids
from distill.training.optimizers import Optimizer


class UncertaintyState(NamedTuple):
    """The state of an optimizer with learned task weights.

    Attributes:
      log_variances: float32 [2], ``s`` of the label task and of the rationale task.
      moments: the state of the Adam that learns them.
      inner: the state of the optimizer of the parameters.
    """

    log_variances: Any
    moments: Any
    inner: Any


class WeighingOptimizer(Optimizer):
    """An optimizer that also learns the weights of the two tasks; see :func:`learned`."""


def learned(optimizer: Optimizer, learning_rate: float = 1e-2) -> WeighingOptimizer:
    """Returns ``optimizer`` with the two numbers in its state; a run with it uses the learned weights.

    Its transform has one more argument, ``update(…, task_losses=…)``: float32 [2], the weighted losses
    ``exp(-s) · L`` of :func:`weighted_losses`.

    Args:
      optimizer: trains the parameters.
      learning_rate: of the Adam that learns the log variances, which start at 0, that is with equal weights.

    Raises:
      ValueError: ``learning_rate`` is not positive.
    """
    validation.check_range("uncertainty.learned.learning_rate", learning_rate, "> 0")
    inner = optax.with_extra_args_support(optimizer.transform)
    adam = optax.adam(learning_rate)

    def init(params: optax.Params) -> UncertaintyState:
        start = jnp.zeros(2, jnp.float32)
        return UncertaintyState(start, adam.init(start), inner.init(params))

    def update(
        updates: optax.Updates,
        state: UncertaintyState,
        params: optax.Params | None = None,
        *,
        task_losses: Float[AnyArray, "2"],
        **extra: Any,
    ) -> tuple[optax.Updates, UncertaintyState]:
        # The derivative of exp(-s) · L + s / 2. A task that the batch lacks has the loss 0, and its s is not pulled.
        gradient = jnp.where(task_losses > 0.0, 0.5 - task_losses, 0.0)
        change, moments = adam.update(gradient, state.moments)
        updates, inner_state = inner.update(updates, state.inner, params, **extra)
        return updates, UncertaintyState(optax.apply_updates(state.log_variances, change), moments, inner_state)

    return WeighingOptimizer(optax.GradientTransformationExtraArgs(init, update), optimizer.learning_rate)


def coefficients(state: UncertaintyState) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Returns the weights of the label task and of the rationale task, ``exp(-s)``."""
    label, rationale = jnp.exp(-state.log_variances)
    return label, rationale


def weighted_losses(
    weights: Float[Array, "batch length"],
    ids: Int[Array, "batch length"],
    cross_entropy: Float[Array, "batch length"],
) -> Float[Array, "2"]:
    """Returns ``Σ w · CE`` of the label task and of the rationale task; summed over micro-batches.

    Args:
      weights: token weights that contain the tasks' coefficients.
      ids: the task of each token.
      cross_entropy: of each token.
    """
    tasks = (task_ids.LABEL, task_ids.RATIONALE)
    return jnp.stack([jnp.sum(weights * cross_entropy, where=ids == task) for task in tasks])
