"""Optimizers and learning-rate schedules: Optax with the settings of T5 and of the paper."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from distill import validation
from distill.sharding.dense import LORA_A, LORA_B
from distill.training.trainable import Trainable


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """A gradient transformation and its learning-rate schedule, which is kept so that it can be logged.

    Attributes:
      transform: applied to the summed gradients of the trained parameters.
      learning_rate: maps the step (int32 scalar) to the learning rate.
      trainable: which parameters are trained; None: all.
    """

    transform: optax.GradientTransformation
    learning_rate: optax.Schedule
    trainable: Trainable | None = None


LearningRate = float | Callable[[Any], Any]
"""A number, or an ``optax.Schedule``, spelled so that ``distill/api/source_rules.py`` reads it from the source."""


def restricted(optimizer: Optimizer, trainable: Trainable | None) -> Optimizer:
    """Returns ``optimizer`` with the choice of the trained parameters; with None, as given."""
    return optimizer if trainable is None else dataclasses.replace(optimizer, trainable=trainable)


def _schedule(learning_rate: LearningRate) -> optax.Schedule:
    if callable(learning_rate):
        return learning_rate
    validation.check_range("learning_rate", learning_rate, "> 0")
    return optax.constant_schedule(learning_rate)


def _clipped(transform: optax.GradientTransformation, clip_norm: float | None) -> optax.GradientTransformation:
    validation.check_range("clip_norm", clip_norm, "> 0 or None")
    return transform if clip_norm is None else optax.chain(optax.clip_by_global_norm(clip_norm), transform)


def adafactor(
    learning_rate: LearningRate = 1e-3,
    *,
    decay_rate: float = 0.8,
    clip_norm: float | None = None,
    weight_decay: float | None = None,
    min_dim_size_to_factor: int = 128,
) -> Optimizer:
    """Adafactor (Shazeer & Stern 2018, arXiv 1804.04235) with the settings of T5's fine-tuning.

    Updates are scaled by the root mean square of the parameter and clipped at root mean square 1. There is no momentum.
    The second moment decays by ``1 - t^-decay_rate``.

    Args:
      learning_rate: a number > 0 or a schedule.
      decay_rate: exponent of the second moment's decay.
      clip_norm: global norm to which gradients are clipped; None does not clip.
      weight_decay: share of each parameter that a step subtracts; None disables it.
      min_dim_size_to_factor: second moments are factored if the two largest dimensions are at least this size.

    Raises:
      ValueError: a learning rate or ``clip_norm`` that is not positive.
    """
    schedule = _schedule(learning_rate)
    # The stages and the state of optax.adafactor, except that scale_by_param_block_rms is our own.
    stages = [
        optax.scale_by_factored_rms(
            decay_rate=decay_rate, min_dim_size_to_factor=min_dim_size_to_factor, epsilon=1e-30
        ),
        optax.clip_by_block_rms(1.0),
        optax.scale_by_learning_rate(schedule, flip_sign=False),
        scale_by_param_block_rms(),
    ]
    if weight_decay is not None:
        stages.append(optax.add_decayed_weights(weight_decay))
    return Optimizer(_clipped(optax.chain(*stages, optax.scale(-1)), clip_norm), schedule)


def scale_by_param_block_rms(min_scale: float = 1e-3) -> optax.GradientTransformation:
    """Multiplies each array's update by the root mean square of the parameter, at least ``min_scale``.

    The update of an adapter's ``B``, which starts at 0, is multiplied by the root mean square of its ``A``.

    The result equals that of ``optax.scale_by_param_block_rms``. Optax's version is differentiable at 0, for which it
    sums the squares of every parameter twice. No one differentiates the optimizer here, so this version sums them once.
    """

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        if params is None:
            raise ValueError("scale_by_param_block_rms requires the parameters: call update(updates, state, params)")

        by_name = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}

        def scaled(path: tuple[Any, ...], one: jax.Array, param: jax.Array) -> jax.Array:
            name = jax.tree_util.keystr(path)
            param = by_name[name.replace(LORA_B, LORA_A)] if LORA_B in name else param
            return one * jnp.maximum(jnp.sqrt(jnp.mean(jnp.square(param))), min_scale)

        return jax.tree_util.tree_map_with_path(scaled, updates, params), state

    return optax.GradientTransformation(optax.init_empty_state, update)


def adamw(
    learning_rate: LearningRate = 5e-5,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    clip_norm: float | None = 1.0,
    relative: bool = False,
) -> Optimizer:
    """AdamW. The defaults are those of the paper's code (Hugging Face trainer: no weight decay, clipping at norm 1).

    Args:
      learning_rate: a number > 0 or a schedule.
      b1, b2: decay of the first and second moment.
      eps: added to the root of the second moment.
      weight_decay: decoupled, multiplied by the learning rate; not applied to vectors (norms) if ``relative``.
      clip_norm: global norm to which gradients are clipped; None does not clip.
      relative: scale each array's update by the root mean square of the parameter, as Adafactor does. Small T5s have
        embeddings and kernels of very different scales and train much faster with it.

    Raises:
      ValueError: a learning rate or ``clip_norm`` that is not positive.
    """
    schedule = _schedule(learning_rate)
    if not relative:
        transform = optax.adamw(schedule, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay)
        return Optimizer(_clipped(transform, clip_norm), schedule)
    transform = optax.chain(
        optax.scale_by_adam(b1, b2, eps),
        scale_by_param_block_rms(),
        optax.add_decayed_weights(weight_decay, lambda params: jax.tree.map(lambda p: p.ndim > 1, params)),
        optax.scale_by_learning_rate(schedule),
    )
    return Optimizer(_clipped(transform, clip_norm), schedule)


def linear_decay(peak: float, steps: int, warmup_steps: int = 0) -> optax.Schedule:
    """Linear warm-up to ``peak``, then linear decay to 0 at ``steps``. The paper uses ``warmup_steps=0``.

    Raises:
      ValueError: unless 0 ≤ ``warmup_steps`` < ``steps``.
    """
    validation.check_range("linear_decay.steps", steps, "≥ 1")
    validation.check_range("linear_decay.warmup_steps", warmup_steps, "in [0, steps)", steps=steps)
    decay = optax.linear_schedule(peak, 0.0, steps - warmup_steps)
    if warmup_steps == 0:
        return decay
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup_steps), decay], [warmup_steps])


def cosine_decay(peak: float, steps: int, warmup_steps: int = 0, final: float = 0.0) -> optax.Schedule:
    """Linear warm-up to ``peak`` over ``warmup_steps``, then cosine decay to ``final`` at ``steps``.

    Raises:
      ValueError: unless 0 ≤ ``warmup_steps`` < ``steps``.
    """
    validation.check_range("cosine_decay.steps", steps, "≥ 1")
    validation.check_range("cosine_decay.warmup_steps", warmup_steps, "in [0, steps)", steps=steps)
    return optax.warmup_cosine_decay_schedule(0.0 if warmup_steps else peak, peak, warmup_steps, steps, final)


def inverse_square_root(peak: float, warmup_steps: int = 10_000) -> optax.Schedule:
    """``peak · sqrt(warmup / max(step, warmup))``: constant, then the decay of T5's pretraining (arXiv 1910.10683).

    Raises:
      ValueError: ``warmup_steps`` is below 1.
    """
    validation.check_range("inverse_square_root.warmup_steps", warmup_steps, "≥ 1")

    def schedule(step: jax.typing.ArrayLike) -> jax.Array:
        step = jnp.maximum(jnp.asarray(step, jnp.float32), float(warmup_steps))
        return peak * jnp.sqrt(warmup_steps / step)

    return schedule
