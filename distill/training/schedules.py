"""Schedules of λ, the weight of the rationale task: functions from the step to λ."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from distill import validation

_LAMBDA = "a finite number ≥ 0"

Schedule = Callable[[jax.Array], jax.Array]


def constant_lambda(value: float = 1.0) -> Schedule:
    """Returns a schedule that is ``value`` at every step. The run also logs λ, which a plain number does not.

    Raises:
      ValueError: ``value`` is negative.
    """
    validation.check_range("constant_lambda.value", value, _LAMBDA)
    return lambda step: jnp.full(step.shape, value, jnp.float32)


def linear_lambda(start: float, end: float, steps: int) -> Schedule:
    """Returns a schedule that changes λ linearly from ``start`` to ``end`` over ``steps`` steps, then holds ``end``.

    Raises:
      ValueError: ``steps`` is below 1, or a value of λ is negative.
    """
    validation.check_range("linear_lambda.start", start, _LAMBDA)
    validation.check_range("linear_lambda.end", end, _LAMBDA)
    validation.check_range("linear_lambda.steps", steps, "≥ 1")

    def schedule(step: jax.Array) -> jax.Array:
        return start + (end - start) * _done(step, steps)

    return schedule


def cosine_lambda(start: float, end: float, steps: int) -> Schedule:
    """Returns ``end + (start - end) · (1 + cos(π t)) / 2``, where ``t`` goes from 0 to 1 over ``steps`` steps.

    Raises:
      ValueError: ``steps`` is below 1, or a value of λ is negative.
    """
    validation.check_range("cosine_lambda.start", start, _LAMBDA)
    validation.check_range("cosine_lambda.end", end, _LAMBDA)
    validation.check_range("cosine_lambda.steps", steps, "≥ 1")

    def schedule(step: jax.Array) -> jax.Array:
        return end + (start - end) * 0.5 * (1.0 + jnp.cos(jnp.pi * _done(step, steps)))

    return schedule


def warmup_lambda(value: float, steps: int) -> Schedule:
    """Returns a schedule that raises λ linearly from 0 to ``value`` over ``steps`` steps, then holds ``value``.

    Raises:
      ValueError: ``steps`` is below 1, or ``value`` is negative.
    """
    validation.check_range("warmup_lambda.value", value, _LAMBDA)
    validation.check_range("warmup_lambda.steps", steps, "≥ 1")
    return linear_lambda(0.0, value, steps)


def _done(step: jax.Array, steps: int) -> jax.Array:
    return jnp.clip(step.astype(jnp.float32) / steps, 0.0, 1.0)
