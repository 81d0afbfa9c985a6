"""Schedules of λ against the formulas in NumPy, and the λ that a run logs against the schedule."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill.model.network import T5Config
from distill.model.parameters import init_params
from distill.training import optimizers, schedules
from distill.training.losses import TwoTaskLoss
from distill.training.state import init_state
from distill.training.step import make_train_step, summarize

STEPS = np.arange(0, 15)


def values(schedule):
    return np.array([float(schedule(jnp.int32(step))) for step in STEPS])


def test_the_formulas():
    done = np.clip(STEPS / 10, 0, 1)
    np.testing.assert_allclose(values(schedules.constant_lambda(0.7)), 0.7, rtol=1e-6)
    np.testing.assert_allclose(values(schedules.linear_lambda(2.0, 0.5, 10)), 2.0 - 1.5 * done, rtol=1e-6)
    cosine = 0.5 + 1.5 * (1 + np.cos(np.pi * done)) / 2
    np.testing.assert_allclose(values(schedules.cosine_lambda(2.0, 0.5, 10)), cosine, rtol=1e-6)
    np.testing.assert_allclose(values(schedules.warmup_lambda(3.0, 10)), 3.0 * done, rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: schedules.cosine_lambda(1.0, 0.0, 0), r"cosine_lambda\.steps must be ≥ 1; got 0"),
        (lambda: schedules.linear_lambda(-1.0, 0.0, 5), r"linear_lambda\.start must be a finite number ≥ 0; got -1\.0"),
        (
            lambda: schedules.warmup_lambda(float("inf"), 5),
            r"warmup_lambda\.value must be a finite number ≥ 0; got inf",
        ),
        (lambda: schedules.constant_lambda(-0.1), r"constant_lambda\.value must be a finite number ≥ 0; got -0\.1"),
    ],
)
def test_values_that_are_no_schedule(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_log_holds_the_mean_of_the_schedule_over_its_steps():
    config = T5Config(
        vocab_size=16, embed_dim=8, num_heads=1, head_dim=8, mlp_dim=8, num_encoder_layers=1, num_decoder_layers=1
    )
    ids = jnp.array([[1, 1, 0], [2, 2, 2]], jnp.int32)
    batch = {
        "encoder_input_tokens": jnp.full((2, 3), 5, jnp.int32),
        "decoder_input_tokens": jnp.array([[0, 5, 0], [0, 6, 7]], jnp.int32),
        "decoder_target_tokens": jnp.array([[5, 1, 0], [6, 7, 1]], jnp.int32),
        "decoder_loss_weights": (ids > 0).astype(jnp.float32),
        "decoder_task_ids": ids,
    }
    schedule = schedules.cosine_lambda(2.0, 0.0, 6)
    optimizer = optimizers.adamw(1e-3)
    step = jax.jit(make_train_step(config, TwoTaskLoss(lam=schedule), optimizer))
    state, logged = init_state(jax.jit(init_params, static_argnums=0)(config, jax.random.key(0)), optimizer), []
    for _ in range(4):
        state, metrics = step(state, batch, jax.random.key(1))
        logged.append(metrics)
    mean = np.mean([(1 + np.cos(np.pi * at / 6)) for at in range(4)])
    summary = summarize(logged)
    np.testing.assert_allclose([summary["lambda"], summary["effective_lambda"]], [mean, mean], rtol=1e-5)
    plain = jax.eval_shape(make_train_step(config, TwoTaskLoss(lam=1.0), optimizer), state, batch, jax.random.key(1))[1]
    assert "lambda" not in plain  # the program of a constant λ is unchanged
