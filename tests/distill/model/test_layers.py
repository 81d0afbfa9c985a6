"""Layers: scanned equal unscanned, rematerialised equal plain ones with fewer residuals, and dropout."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from distill.model import parameters
from distill.model.network import ModelInputs, Transformer
from tests.distill.model.small_network import SMALL, gradients_of, logits_of, params_of, tokens_of

DEEP = dataclasses.replace(SMALL, num_encoder_layers=2, num_decoder_layers=3)


@pytest.mark.parametrize("per_layer", [False, True])
def test_scanned_layers_equal_unscanned(per_layer):
    config = dataclasses.replace(DEEP, relative_bias_per_layer=per_layer)
    params = params_of(config)
    stacked, scanned = parameters.stack_layers(params, config)
    stacked = jax.device_get(stacked)
    assert scanned == dataclasses.replace(config, scan_layers=True)
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype), parameters.param_shapes(scanned))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), stacked) == shapes
    inputs, targets = tokens_of(2, 9, 0, lengths=[9, 4]), tokens_of(2, 8, 1)
    np.testing.assert_allclose(
        logits_of(scanned, stacked, inputs, targets), logits_of(config, params, inputs, targets), rtol=1e-5, atol=1e-5
    )
    back, unscanned = parameters.unstack_layers(stacked, scanned)
    assert unscanned == config
    jax.tree.map(np.testing.assert_array_equal, back, params)
    assert parameters.stack_layers(stacked, scanned) == (stacked, scanned)
    assert parameters.unstack_layers(params, config) == (params, config)


@pytest.mark.parametrize(("policy", "scan"), [("elementwise", True), ("minimal", True), ("full", False)])
def test_recomputation_does_not_change_gradients(policy, scan):
    config = dataclasses.replace(SMALL, scan_layers=scan, num_decoder_layers=2 if scan else 1)
    loss, gradients = gradients_of(config, seed=3)
    again, recomputed = gradients_of(dataclasses.replace(config, remat_policy=policy), seed=3)
    np.testing.assert_allclose(again, loss, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-6), recomputed, gradients)


def test_recomputation_saves_fewer_residuals():
    params = params_of(SMALL)
    inputs, targets = tokens_of(2, 64, 0), tokens_of(2, 64, 1)

    def bytes_kept(policy):
        config = dataclasses.replace(SMALL, remat_policy=policy)
        apply = lambda p: Transformer(config).apply({"params": p}, ModelInputs(inputs, targets))  # noqa: E731
        kept = jax.eval_shape(lambda p: jax.vjp(apply, p)[1], params)
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(kept))

    assert bytes_kept("full") < bytes_kept("minimal") < bytes_kept("none")
    assert bytes_kept("full") < bytes_kept("elementwise") < bytes_kept("none")


@pytest.mark.parametrize("scan", [False, True])
def test_dropout(scan):
    config = dataclasses.replace(SMALL, scan_layers=scan)
    params = params_of(config)
    inputs, targets = tokens_of(2, 7, 0), tokens_of(2, 6, 1)

    @functools.partial(jax.jit, static_argnums=0)
    def drop(config, seed):
        rngs = {"dropout": jax.random.key(seed, impl="unsafe_rbg")}
        return Transformer(config).apply(
            {"params": params}, ModelInputs(inputs, targets), deterministic=False, rngs=rngs
        )

    one = np.asarray(drop(config, 0))
    np.testing.assert_array_equal(one, drop(config, 0))
    assert np.abs(one - np.asarray(drop(config, 1))).max() > 1e-2
    assert np.abs(one - logits_of(config, params, inputs, targets)).max() > 1e-2
    off = dataclasses.replace(config, dropout_rate=0.0)
    np.testing.assert_allclose(drop(off, 0), logits_of(config, params, inputs, targets), rtol=1e-5, atol=1e-5)
