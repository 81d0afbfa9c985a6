"""A student with a vocabulary of four tokens, and the log-probabilities of whole targets, for the tests of decoding."""

import functools
import itertools

import jax
import numpy as np

from distill.model import parameters
from distill.model.network import ModelInputs, T5Config, Transformer

# The vocabulary has four tokens, so that all targets can be enumerated.
TINY = T5Config(
    vocab_size=4,
    embed_dim=8,
    num_heads=2,
    head_dim=4,
    mlp_dim=8,
    num_encoder_layers=1,
    num_decoder_layers=1,
    relative_bias_per_layer=True,
)
EOS = 1
INPUTS = np.array([[2, 3, 1, 0, 0], [3, 3, 2, 2, 1], [1, 0, 0, 0, 0]], np.int32)


@functools.cache
def params_of(config: T5Config, seed: int = 0):
    """Random parameters that give targets of different lengths."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: rng.normal(size=leaf.shape).astype(np.float32) * (0.7 if len(leaf.shape) > 1 else 1.0),
        parameters.param_shapes(config),
    )


@functools.partial(jax.jit, static_argnums=0)
def step_log_probs(config, params, inputs, decoder_inputs):
    """The log-probabilities of every next token, float32 [batch, length, vocab]."""
    logits = Transformer(config).apply({"params": params}, ModelInputs(inputs, decoder_inputs))
    return jax.nn.log_softmax(logits, axis=-1)


def log_probs_of(config, params, inputs, targets, longest: int = 10**9) -> np.ndarray:
    """The sum of each row's log-probabilities to its end token or ``longest``, from one pass over whole targets."""
    shifted = np.pad(targets, ((0, 0), (1, 0)))[:, :-1].astype(np.int32)
    each = np.take_along_axis(np.asarray(step_log_probs(config, params, inputs, shifted)), targets[..., None], 2)[
        ..., 0
    ]
    return np.array([sum(row[: min(length_of(target), longest)]) for row, target in zip(each, targets)])


def length_of(target) -> int:
    """The number of tokens of a target, its end token included."""
    ends = np.flatnonzero(target == EOS)
    return int(ends[0]) + 1 if len(ends) else len(target)


def everything(config, params, inputs, length):
    """All targets of at most ``length`` tokens, and their log-probabilities for each row of ``inputs``."""
    targets = []
    for tokens in itertools.product(range(config.vocab_size), repeat=length):
        ends = [i for i, token in enumerate(tokens) if token == EOS]
        if not ends or ends[0] == length - 1 or not any(tokens[ends[0] + 1 :]):
            targets.append(tokens)
    targets = np.array(targets, np.int32)
    scores = [log_probs_of(config, params, np.repeat(row[None], len(targets), axis=0), targets) for row in inputs]
    return targets, np.array(scores)
