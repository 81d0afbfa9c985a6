"""Layout constraints: they are requested on TPUs only, and values do not change."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill.sharding import memory_layout, partitioning

X = np.arange(24.0, dtype=np.float32).reshape(2, 3, 4)


def program(fn, platform, mesh=True, rules=partitioning.DEFAULT_RULES):
    """The program that is lowered for a platform."""
    if not mesh:
        return jax.jit(fn).trace(X).lower(lowering_platforms=(platform,)).as_text()
    run = jax.jit(lambda x: fn(x))  # a new function: JAX caches traces made under other rules
    with jax.set_mesh(partitioning.MeshConfig(4, 2, 1).build()), nn.logical_axis_rules(list(rules)):
        return run.trace(X).lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize(
    ("fn", "innermost_first"),
    [
        (memory_layout.row_major, "[2, 1, 0]"),
        (lambda x: memory_layout.outermost(x, 1), "[2, 0, 1]"),
        (lambda x: memory_layout.outermost(x, 0), "[2, 1, 0]"),
    ],
)
def test_the_layout_is_requested_on_tpus(fn, innermost_first):
    text = program(fn, "tpu")
    assert text.count("@LayoutConstraint") == 1
    assert f"dense<{innermost_first}>" in text


@pytest.mark.parametrize("given", [("cpu", True, partitioning.DEFAULT_RULES), ("tpu", False, ()), ("tpu", True, ())])
def test_without_a_mesh_or_rules_nothing_changes(given):
    assert "LayoutConstraint" not in program(memory_layout.row_major, *given)


def test_values_and_gradients_do_not_change():
    value, gradient = jax.value_and_grad(lambda x: jnp.sum(memory_layout.outermost(x, 1) ** 2))(X)
    np.testing.assert_allclose(value, np.sum(X**2))
    np.testing.assert_allclose(gradient, 2 * X)


def test_gathered_stacks_have_layers_outermost():
    text = program(lambda x: partitioning.gathered(x, ("embed", "layers", "mlp")), "tpu")
    assert text.count("@LayoutConstraint") == 1
    assert "dense<[2, 0, 1]>" in text
    assert "LayoutConstraint" not in program(lambda x: partitioning.gathered(x, ("embed", None, "mlp")), "tpu")


def test_stacks_have_layers_outermost_if_there_are_rules():
    text = program(lambda x: partitioning.layers_outermost(x, ("embed", "layers", "mlp")), "tpu")
    assert text.count("@LayoutConstraint") == 1
    assert "dense<[2, 0, 1]>" in text
    assert "LayoutConstraint" not in program(lambda x: partitioning.layers_outermost(x, ("embed", None, "mlp")), "tpu")
    bare = program(lambda x: partitioning.layers_outermost(x, ("embed", "layers", "mlp")), "tpu", rules=())
    assert "harding_constraint" not in bare and "LayoutConstraint" not in bare
