"""Runs of equal settings get the same step; others, also by the code of a function or by what it refers to, do not."""

import dataclasses

import jax.numpy as jnp
import optax
from flax import linen as nn

import traced_steps
from distill.model.config import T5Config
from distill.training import optimizers
from distill.training.losses import TwoTaskLoss

MODEL = T5Config(8, 4, 1, 4, 4, 1, 1)


def factor(value):
    return optimizers.Optimizer(optax.stateless(lambda updates, _: updates * value), lambda step: jnp.float32(1.0))


def test_equal_settings_get_the_step_that_was_made_before(monkeypatch):
    made = []

    def make(*settings, **options):
        made.append((settings, options))
        return lambda: None

    step = traced_steps.kept(make)
    settings = MODEL, TwoTaskLoss(lam=0.5), optimizers.adamw(1e-2)
    first = step(*settings, num_microbatches=2, ema_decay=None)
    equal = dataclasses.replace(MODEL), TwoTaskLoss(lam=0.5), optimizers.adamw(1e-2)
    assert step(*equal, ema_decay=None, num_microbatches=2) is first
    schedules = [optimizers.linear_decay(1e-2, steps) for steps in (5, 6)]
    others = [
        (dataclasses.replace(MODEL, embed_dim=8), *settings[1:]),
        (MODEL, TwoTaskLoss(lam=0.25), settings[2]),
        *((*settings[:2], optimizers.adamw(*given)) for given in ((1e-3,), *zip(schedules))),
        *((*settings[:2], factor(value)) for value in (1.0, 2.0, 2)),
    ]
    for other in others:
        assert step(*other, num_microbatches=2, ema_decay=None) is step(*other, num_microbatches=2, ema_decay=None)
    assert len(made) == 1 + len(others)
    step(*settings, num_microbatches=1, ema_decay=None)
    with nn.logical_axis_rules([("batch", "data")]):
        assert step(*settings, num_microbatches=2, ema_decay=None) is not first
    assert len(made) == 3 + len(others)
    assert step(*settings[:2], factor(jnp.ones(2))) is not step(*settings[:2], factor(jnp.ones(2)))  # not comparable
    monkeypatch.setattr(traced_steps, "KEPT", 1)
    step(*settings)
    assert step(*settings, num_microbatches=2, ema_decay=None) is not first
