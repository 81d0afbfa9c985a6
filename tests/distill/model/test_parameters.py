"""Trees of parameters: counts computed by hand, layers stacked and unstacked, axes for each parameter."""

import dataclasses

import jax
import numpy as np
import pytest

from distill.model import parameters
from distill.model.config import T5Config

# embed 8, heads × width 2 × 3, mlp 5, vocabulary 20.
CONFIG = T5Config(
    vocab_size=20, embed_dim=8, num_heads=2, head_dim=3, mlp_dim=5, num_encoder_layers=2, num_decoder_layers=3
)
ATTENTION = 4 * 8 * 6
GATED = 3 * 8 * 5
ENCODER = 2 * (ATTENTION + GATED + 2 * 8)
DECODER = 3 * (2 * ATTENTION + GATED + 3 * 8)
NORMS, BIASES, TABLE, LOGITS = 2 * 8, 2 * 2 * 32, 20 * 8, 8 * 20


@pytest.fixture(scope="module")
def init():
    return jax.jit(lambda key: parameters.init_params(CONFIG, key))


@pytest.fixture(scope="module")
def params(init):
    return init(jax.random.key(3))


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({}, ENCODER + DECODER + NORMS + BIASES + TABLE + LOGITS),
        ({"scan_layers": True}, ENCODER + DECODER + NORMS + BIASES + TABLE + LOGITS),
        ({"logits_via_embedding": True}, ENCODER + DECODER + NORMS + BIASES + TABLE),
        ({"mlp_activations": ("relu",)}, ENCODER + DECODER - 5 * 8 * 5 + NORMS + BIASES + TABLE + LOGITS),
        ({"relative_bias_per_layer": True}, ENCODER + DECODER + NORMS + 5 * 2 * 32 + TABLE + LOGITS),
    ],
)
def test_counts(changes, expected):
    assert parameters.param_count(dataclasses.replace(CONFIG, **changes)) == expected


def test_shapes_are_those_of_the_parameters(params):
    shapes = jax.tree.map(lambda leaf: (leaf.shape, str(leaf.dtype)), parameters.param_shapes(CONFIG))
    assert shapes == jax.tree.map(lambda leaf: (leaf.shape, "float32"), params)


def test_a_network_is_traced_once_for_shapes_and_axes_and_once_to_be_initialised(monkeypatch, params):
    config = dataclasses.replace(CONFIG, mlp_dim=6)  # of no other test
    traced = []
    boxed = parameters._init_boxed
    monkeypatch.setattr(parameters, "_init_boxed", lambda *given: traced.append(given) or boxed(*given))
    for _ in range(2):
        shapes, axes = parameters.param_shapes(config), parameters.param_logical_axes(config)
        assert jax.tree.structure(shapes) == jax.tree.structure(axes) == jax.tree.structure(params)
        shapes["decoder"].clear()  # the next caller gets its own tree
    assert len(traced) == 1
    made = [jax.jit(parameters.initializer(config))(jax.random.key(seed)) for seed in (3, 4)]
    assert len(traced) == 2
    assert parameters.initializer(CONFIG) is not parameters.initializer(config)
    assert np.abs(made[0]["token_embedder"]["embedding"] - made[1]["token_embedder"]["embedding"]).max() > 0


def test_stacking_puts_layers_along_axis_1_and_unstacking_reverts_it(params):
    stacked, scanned = parameters.stack_layers(params, CONFIG)
    assert scanned == dataclasses.replace(CONFIG, scan_layers=True)
    assert jax.tree.map(lambda leaf: leaf.shape, stacked) == jax.tree.map(
        lambda leaf: leaf.shape, parameters.param_shapes(scanned)
    )
    kernel = stacked["decoder"]["decoder"]["mlp"]["wo"]["kernel"]
    assert kernel.shape == (5, 3, 8)
    np.testing.assert_array_equal(kernel[:, 2], params["decoder"]["layers_2"]["mlp"]["wo"]["kernel"])
    again, plain = parameters.unstack_layers(stacked, scanned)
    assert plain == CONFIG
    jax.tree.map(np.testing.assert_array_equal, again, params)


def test_stacked_and_unstacked_trees_are_returned_unchanged(params):
    assert parameters.unstack_layers(params, CONFIG)[0] is params
    stacked, scanned = parameters.stack_layers(params, CONFIG)
    assert parameters.stack_layers(stacked, scanned)[0] is stacked
    assert "layers_0" in params["encoder"]  # the argument is not modified


def test_the_output_kernel_is_the_table_transposed_where_tied(params):
    np.testing.assert_array_equal(parameters.output_kernel(params, CONFIG), params["decoder"]["logits_dense"]["kernel"])
    tied = dataclasses.replace(CONFIG, logits_via_embedding=True)
    np.testing.assert_array_equal(
        parameters.output_kernel(params, tied), np.asarray(params["token_embedder"]["embedding"]).T
    )


def test_every_dimension_has_a_logical_axis():
    scanned = dataclasses.replace(CONFIG, scan_layers=True)
    axes, shapes = parameters.param_logical_axes(scanned), parameters.param_shapes(scanned)
    jax.tree.map(lambda leaf, spec: np.testing.assert_equal(len(spec), leaf.ndim), shapes, axes)
    assert tuple(axes["token_embedder"]["embedding"]) == ("vocab", "embed")
    assert tuple(axes["encoder"]["encoder"]["mlp"]["wo"]["kernel"]) == ("mlp", "layers", "embed")


def test_the_same_key_gives_the_same_parameters_and_another_key_others(init, params):
    jax.tree.map(np.testing.assert_array_equal, init(jax.random.key(3)), params)
    other = init(jax.random.key(4))
    assert not np.allclose(other["token_embedder"]["embedding"], params["token_embedder"]["embedding"])
