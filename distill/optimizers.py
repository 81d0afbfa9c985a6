"""Optimizers and learning-rate schedules: Optax with the settings of T5 and of the paper."""

import dataclasses

import jax
import jax.numpy as jnp
import optax


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """A gradient transformation, and its schedule so that the learning rate can be logged.

    Attributes:
      transform: applied to summed gradients.
      learning_rate: from the step (int32 scalar) to the learning rate.
    """

    transform: optax.GradientTransformation
    learning_rate: optax.Schedule


LearningRate = float | optax.Schedule


def _schedule(learning_rate: LearningRate) -> optax.Schedule:
    if callable(learning_rate):
        return learning_rate
    if not learning_rate > 0.0:
        raise ValueError(f"learning_rate must be > 0; got {learning_rate}")
    return optax.constant_schedule(learning_rate)


def _clipped(transform: optax.GradientTransformation, clip_norm: float | None) -> optax.GradientTransformation:
    if clip_norm is None:
        return transform
    if not clip_norm > 0.0:
        raise ValueError(f"clip_norm must be > 0 or None; got {clip_norm}")
    return optax.chain(optax.clip_by_global_norm(clip_norm), transform)


def adafactor(
    learning_rate: LearningRate = 1e-3,
    *,
    decay_rate: float = 0.8,
    clip_norm: float | None = None,
    weight_decay: float | None = None,
    min_dim_size_to_factor: int = 128,
) -> Optimizer:
    """Adafactor (Shazeer & Stern 2018, arXiv 1804.04235) as T5 fine-tunes with it.

    Updates are relative to the parameter's scale and clipped at root mean square 1; there is no momentum. The second
    moment decays by ``1 - t^-decay_rate``.
    """
    schedule = _schedule(learning_rate)
    # The chain that optax.adafactor makes, and its state, but for the one stage of our own.
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
    """Multiplies each array's update by the array's root mean square, at least ``min_scale``.

    The values of ``optax.scale_by_param_block_rms``, which can be differentiated at 0 and for that adds up the squares of
    every parameter twice. Nothing differentiates an optimizer here, so they are added up once.
    """

    def update(updates, state, params=None):
        if params is None:
            raise ValueError("scale_by_param_block_rms scales by the parameters; update() was given none")

        def scaled(one, param):
            return one * jnp.maximum(jnp.sqrt(jnp.mean(jnp.square(param))), min_scale)

        return jax.tree.map(scaled, updates, params), state

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
    """AdamW; the defaults are those of the paper's code (the Hugging Face trainer's: no decay, clipping at norm 1).

    Args:
      learning_rate: a number or a schedule.
      b1, b2: decay of the first and second moment.
      eps: added to the root of the second moment.
      weight_decay: decoupled, as a share of the learning rate; not on vectors (norms) where ``relative``.
      clip_norm: the gradient's global norm is clipped to this; None does not clip.
      relative: scale each array's update by the array's own root mean square, as Adafactor does. Small T5s, whose
        embeddings and kernels are of very different sizes, train much faster so.
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
    """Linear warm-up to ``peak`` over ``warmup_steps``, then linear decay to 0 at ``steps`` (the paper's, warm-up 0)."""
    if not 0 <= warmup_steps < steps:
        raise ValueError(f"linear_decay needs 0 ≤ warmup_steps < steps; got {warmup_steps=}, {steps=}")
    decay = optax.linear_schedule(peak, 0.0, steps - warmup_steps)
    if warmup_steps == 0:
        return decay
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup_steps), decay], [warmup_steps])


def cosine_decay(peak: float, steps: int, warmup_steps: int = 0, final: float = 0.0) -> optax.Schedule:
    """Linear warm-up to ``peak``, then half a cosine down to ``final`` at ``steps``."""
    if not 0 <= warmup_steps < steps:
        raise ValueError(f"cosine_decay needs 0 ≤ warmup_steps < steps; got {warmup_steps=}, {steps=}")
    return optax.warmup_cosine_decay_schedule(0.0 if warmup_steps else peak, peak, warmup_steps, steps, final)


def inverse_square_root(peak: float, warmup_steps: int = 10_000) -> optax.Schedule:
    """``peak · sqrt(warmup / max(step, warmup))``: constant, then falling as T5's pretraining does (arXiv 1910.10683)."""
    if warmup_steps < 1:
        raise ValueError(f"inverse_square_root needs warmup_steps ≥ 1; got {warmup_steps}")

    def schedule(step):
        step = jnp.maximum(jnp.asarray(step, jnp.float32), float(warmup_steps))
        return peak * jnp.sqrt(warmup_steps / step)

    return schedule
