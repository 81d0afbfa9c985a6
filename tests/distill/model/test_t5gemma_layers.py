"""Layers of T5Gemma: parameters and their axes, rematerialisation, dropout."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill.model.network import ModelInputs
from distill.model.networks import network_of
from distill.model.parameters import init_params, param_logical_axes, param_shapes, stack_layers, unstack_layers
from distill.model.t5gemma import T5GemmaTransformer
from distill.model.t5gemma_config import StackConfig, T5GemmaConfig

STACK = StackConfig(2, 16, 24, 4, 1, 6, 8.0, 4, 2)
CONFIG = T5GemmaConfig(2, 40, STACK, STACK, rope_base_global=1e4)
FIRST = T5GemmaConfig(1, 40, dataclasses.replace(STACK, embed_dim=12), STACK, attention_logit_cap=5.0)
TOKENS = np.random.default_rng(0).integers(3, 40, (2, 9)).astype(np.int32)
INPUTS = ModelInputs(TOKENS, np.pad(TOKENS[:, :-1], ((0, 0), (1, 0))))


@functools.cache
def params_of(config):
    return jax.jit(init_params, static_argnums=0)(config, jax.random.key(0))


def test_parameters_and_their_axes():
    params = param_shapes(FIRST)
    axes = param_logical_axes(FIRST)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
    layer, names = params["decoder"]["layers_1"], axes["decoder"]["layers_1"]
    cross = layer["encoder_decoder_attention"]
    assert {name: kernel["kernel"].shape for name, kernel in cross.items()} == {
        "query": (16, 24), "key": (12, 6), "value": (12, 6), "out": (24, 16),
    }  # fmt: skip
    assert tuple(names["self_attention"]["key"]["kernel"]) == ("embed", "joined_kv")
    assert tuple(names["self_attention"]["out"]["kernel"]) == ("joined_kv", "embed")
    assert tuple(axes["decoder_token_embedder"]["embedding"]) == ("vocab", "embed")
    merged = param_shapes(CONFIG)["decoder"]["layers_0"]
    assert "encoder_decoder_attention" not in merged
    assert merged["self_attention"]["query_norm"]["scale"].shape == (6,)


@pytest.mark.parametrize("config", [FIRST, CONFIG], ids=["cross", "merged"])
def test_scanned_layers_give_the_same_logits(config):
    """Local and global layers in one loop, rematerialised."""
    stacked, scanning = stack_layers(params_of(config), config)
    assert stacked["encoder"]["encoder"]["attention"]["query"]["kernel"].shape[1] == 2
    shapes = jax.tree.map(lambda leaf: leaf.shape, param_shapes(scanning))
    assert jax.tree.map(lambda leaf: leaf.shape, stacked) == shapes
    jax.tree.map(np.testing.assert_array_equal, unstack_layers(stacked, scanning)[0], params_of(config))
    scanning = dataclasses.replace(scanning, remat_policy="elementwise")
    got, wanted = (
        jax.jit(network_of(one).apply)({"params": params}, INPUTS)
        for one, params in ((scanning, stacked), (config, params_of(config)))
    )
    np.testing.assert_allclose(np.asarray(got), np.asarray(wanted), rtol=0.0, atol=1e-5)


def test_a_step_needs_separate_layers():
    with pytest.raises(ValueError, match="requires scan_layers=False; pass the parameters through unstack_layers"):
        T5GemmaTransformer(dataclasses.replace(CONFIG, scan_layers=True)).cross_key_values(jnp.zeros((1, 1, 16)))


def test_dropout_changes_the_output_only_in_training():
    config, params = dataclasses.replace(CONFIG, dropout_rate=0.3), params_of(CONFIG)

    @jax.jit
    def hidden(rng):
        rest = {"deterministic": False, "rngs": {"dropout": rng}, "method": "hidden"}
        return network_of(config).apply({"params": params}, INPUTS, **rest)

    first, second = hidden(jax.random.key(1)), hidden(jax.random.key(2))
    assert np.abs(first - second).max() > 1e-2
