"""Layers of T5Gemma: parameters and their axes, rematerialisation, dropout."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill.model.network import ModelInputs
from distill.model.networks import network_of
from distill.model.parameters import init_params, param_logical_axes, stack_layers, unstack_layers
from distill.model.t5gemma_config import StackConfig, T5GemmaConfig

STACK = StackConfig(2, 16, 24, 4, 1, 6, 8.0, 4, 2)
CONFIG = T5GemmaConfig(2, 40, STACK, STACK, rope_base_global=1e4)
FIRST = T5GemmaConfig(1, 40, dataclasses.replace(STACK, embed_dim=12), STACK, attention_logit_cap=5.0)
TOKENS = np.random.default_rng(0).integers(3, 40, (2, 9)).astype(np.int32)
INPUTS = ModelInputs(TOKENS, np.pad(TOKENS[:, :-1], ((0, 0), (1, 0))))


def test_parameters_and_their_axes():
    params = params_of(FIRST)
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
    merged = params_of(CONFIG)["decoder"]["layers_0"]
    assert "encoder_decoder_attention" not in merged
    assert merged["self_attention"]["query_norm"]["scale"].shape == (6,)


def test_layers_are_not_stacked():
    params = params_of(CONFIG)
    assert unstack_layers(params, CONFIG) == (params, CONFIG)
    with pytest.raises(ValueError, match="scan_layers must be False"):
        stack_layers(params, CONFIG)


@functools.cache
def params_of(config):
    return jax.jit(init_params, static_argnums=0)(config, jax.random.key(0))


def test_rematerialisation_changes_no_gradient():
    config = dataclasses.replace(CONFIG, dropout_rate=0.1)
    params, direction = params_of(CONFIG), jax.random.normal(jax.random.key(2), (2, 9, 16))

    def gradient(policy):
        network = network_of(dataclasses.replace(config, remat_policy=policy))

        def loss(params):
            out = network.apply(
                {"params": params}, INPUTS, deterministic=False, rngs={"dropout": jax.random.key(1)}, method="hidden"
            )
            return jnp.sum(out * direction)

        return jax.jit(jax.grad(loss))(params)

    wanted, got = gradient("none"), gradient("minimal")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), got, wanted)
    assert np.abs(wanted["encoder"]["layers_0"]["attention"]["key"]["kernel"]).max() > 1e-3


def test_dropout_changes_the_output_only_in_training():
    config, params = dataclasses.replace(CONFIG, dropout_rate=0.3), params_of(CONFIG)

    @jax.jit
    def hidden(rng):
        rest = {"deterministic": False, "rngs": {"dropout": rng}, "method": "hidden"}
        return network_of(config).apply({"params": params}, INPUTS, **rest)

    first, second = hidden(jax.random.key(1)), hidden(jax.random.key(2))
    assert np.abs(first - second).max() > 1e-2
