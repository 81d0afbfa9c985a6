"""A small network, its parameters, inputs, logits and gradients, for the tests of this folder."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from distill.model import parameters
from distill.model.network import ModelInputs, T5Config, Transformer
from tests.distill import hf_models

SMALL = T5Config(
    vocab_size=hf_models.VOCAB,
    embed_dim=32,
    num_heads=4,
    head_dim=6,
    mlp_dim=48,
    num_encoder_layers=1,
    num_decoder_layers=1,
)


@functools.cache
def params_of(config: T5Config, seed: int = 0):
    """Random parameters, including those of norms, drawn by NumPy so that nothing is compiled."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        if path[-1].key == "scale":
            return (1.0 + 0.3 * rng.normal(size=leaf.shape)).astype(np.float32)
        width = leaf.shape[0] if path[-1].key == "kernel" else 1.0
        return (rng.normal(size=leaf.shape) * width**-0.5).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, parameters.param_shapes(config))


def tokens_of(batch: int, length: int, seed: int, lengths=None) -> np.ndarray:
    tokens = np.random.default_rng(seed).integers(2, hf_models.VOCAB, (batch, length)).astype(np.int32)
    for row, kept in enumerate(lengths or []):
        tokens[row, kept:] = 0
    return tokens


@functools.partial(jax.jit, static_argnums=(0, 1))
def apply_method(config, method, params, *args):
    return Transformer(config).apply({"params": params}, ModelInputs(*args), method=method)


def logits_of(config, params, *args) -> np.ndarray:
    return np.asarray(apply_method(config, Transformer.__call__, params, *args))


@functools.cache
def gradients_of(config, seed=None):
    params = params_of(dataclasses.replace(config, remat_policy="none", dtype="float32"))
    inputs, targets = tokens_of(2, 7, 0), tokens_of(2, 6, 1)
    rngs = {} if seed is None else {"dropout": jax.random.key(seed, impl="unsafe_rbg")}

    def loss(params):
        network_ = Transformer(config)
        logits = network_.apply({"params": params}, ModelInputs(inputs, targets), deterministic=seed is None, rngs=rngs)
        return jnp.mean(jax.nn.logsumexp(logits, axis=-1))

    return jax.jit(jax.value_and_grad(loss))(params)
