"""Operations of a compiled program: XLA's own count, with the turns of loops."""

import jax
import jax.numpy as jnp
import pytest

from distill.precompile import step_costs
from distill.training.timing import StepCosts

X = jax.ShapeDtypeStruct((32, 64), jnp.float32)
W = jax.ShapeDtypeStruct((64, 64), jnp.float32)
PRODUCT = 2 * 32 * 64 * 64


def compiled(function):
    return jax.jit(function).lower(X, W).compile()


def test_a_loop_counts_every_turn():
    once = compiled(lambda x, w: x @ w)
    assert step_costs.measure(once, 1).flops == pytest.approx(PRODUCT, rel=0.01)
    assert step_costs.measure(once, 1).flops == pytest.approx(once.cost_analysis()["flops"])
    looped = compiled(lambda x, w: jax.lax.scan(lambda h, _: (jnp.tanh(h @ w), None), x, length=9)[0])
    assert looped.cost_analysis()["flops"] < 2 * PRODUCT  # XLA counts the body once
    assert step_costs.measure(looped, 4).flops == pytest.approx(4 * 9 * PRODUCT, rel=0.05)
    assert step_costs.measure(looped, 1).peak_flops is None  # a CPU


def test_a_program_that_cannot_be_counted_is_reported(caplog):
    class Unreadable:
        def cost_analysis(self):
            return {"flops": 1.0}

        def as_text(self):
            return "no HLO"

    assert step_costs.measure(Unreadable(), 1) == StepCosts()
    assert "the operations of the step are not counted" in caplog.text
