"""Optimizers and schedules: T5's settings, Optax's values."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from distill.training import optimizers


@pytest.mark.parametrize("weight_decay", [None, 0.01])
def test_adafactor_equals_optax(weight_decay):
    """Values and state of ``optax.adafactor`` for large arrays (factored), small ones, and one that is almost 0."""
    ours = optimizers.adafactor(0.05, weight_decay=weight_decay).transform
    theirs = optax.adafactor(optax.constant_schedule(0.05), weight_decay_rate=weight_decay)
    random = np.random.default_rng(0)
    shapes = {"kernel": (130, 3, 140), "table": (200, 150), "scale": (16,), "zeros": (8, 8)}
    params = {name: jnp.asarray(random.normal(size=shape), jnp.float32) for name, shape in shapes.items()}
    params["zeros"] *= 1e-6
    both = [(params, ours.init(params)), (params, theirs.init(params))]
    for _ in range(3):
        gradients = {name: jnp.asarray(random.normal(size=shape), jnp.float32) for name, shape in shapes.items()}
        for index, transform in enumerate((ours, theirs)):
            before, state = both[index]
            updates, state = transform.update(gradients, state, before)
            both[index] = optax.apply_updates(before, updates), state
    assert jax.tree.structure(both[0]) == jax.tree.structure(both[1])
    for got, wanted in zip(jax.tree.leaves(both[0]), jax.tree.leaves(both[1])):
        np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-9)


def test_the_squares_of_parameters_are_summed_once():
    """Optax's own stage sums the squares of every parameter twice."""

    def squares(transform):
        params = {"w": jnp.ones((4, 4))}
        update = lambda u, p: transform.update(u, transform.init(p), p)[0]  # noqa: E731
        return str(jax.make_jaxpr(update)(params, params)).count("reduce_sum")

    assert squares(optimizers.scale_by_param_block_rms()) == 1
    assert squares(optax.scale_by_param_block_rms()) == 2


def test_scaling_by_parameters_requires_them():
    transform = optimizers.scale_by_param_block_rms()
    with pytest.raises(ValueError, match=r"requires the parameters: call update\(updates, state, params\)"):
        transform.update({"w": jnp.ones(3)}, transform.init({"w": jnp.ones(3)}))


def test_adafactor_takes_t5s_first_step():
    """Relative step: sign-like updates scaled by the learning rate and the parameter's root mean square."""
    optimizer = optimizers.adafactor(0.1)
    params = {"w": jnp.full((4,), 2.0)}
    state = optimizer.transform.init(params)
    updates, _ = optimizer.transform.update({"w": jnp.array([1.0, -1.0, 1.0, 1.0])}, state, params)
    np.testing.assert_allclose(updates["w"], -0.1 * 2.0 * np.array([1.0, -1.0, 1.0, 1.0]), rtol=1e-5)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (optimizers.linear_decay(1.0, 10), [1.0, 0.5, 0.0]),
        (optimizers.linear_decay(1.0, 10, warmup_steps=5), [0.0, 1.0, 0.0]),
        (optimizers.inverse_square_root(1.0, 5), [1.0, 1.0, 0.7071]),
        (optimizers.cosine_decay(1.0, 10), [1.0, 0.5, 0.0]),
    ],
)
def test_schedules(schedule, expected):
    np.testing.assert_allclose([float(schedule(step)) for step in (0, 5, 10)], expected, atol=1e-4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: optimizers.adamw(0.0), "learning_rate must be > 0; got 0.0"),
        (lambda: optimizers.adamw(1.0, clip_norm=-1.0), "clip_norm must be > 0 or None; got -1.0"),
        (lambda: optimizers.linear_decay(1.0, 5, 5), r"linear_decay.warmup_steps must be in \[0, steps=5\); got 5"),
        (lambda: optimizers.inverse_square_root(1.0, 0), "warmup_steps must be ≥ 1; got 0"),
    ],
)
def test_bad_optimizer_settings(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_gradients_are_clipped_first():
    """With ``eps`` 1, Adam's first update is ``-g / (|g| + 1)``: of [30, 40], clipped to norm 1, and a short one."""
    transform = optimizers.adamw(1.0, eps=1.0, clip_norm=1.0).transform
    for gradient, clipped in (([30.0, 40.0], [0.6, 0.8]), ([0.3, 0.4], [0.3, 0.4])):
        params = {"w": jnp.zeros(2)}
        with jax.numpy_dtype_promotion("standard"):  # as the training step calls it
            updates, _ = transform.update({"w": jnp.array(gradient)}, transform.init(params), params)
        np.testing.assert_allclose(updates["w"], [-g / (g + 1.0) for g in clipped], rtol=1e-5)


def test_steps_of_an_adapters_second_matrix_are_relative_to_its_first():
    """``B`` starts at 0; a step relative to itself would not move it."""
    params = {"mlp": {"kernel": jnp.full((2, 3), 5.0), "lora_a": jnp.full((2, 1), 0.5), "lora_b": jnp.zeros((1, 3))}}
    transform = optimizers.scale_by_param_block_rms()
    updates, _ = transform.update(jax.tree.map(jnp.ones_like, params), transform.init(params), params)
    got = {name: float(leaf.ravel()[0]) for name, leaf in updates["mlp"].items()}
    np.testing.assert_allclose([got["kernel"], got["lora_a"], got["lora_b"]], [5.0, 0.5, 0.5], rtol=1e-6)
