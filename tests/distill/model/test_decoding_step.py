"""The step that all searches share gives the log-probabilities of one pass over whole targets, also after a prompt."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from distill.model import decoding_step
from tests.distill.model.decoding_cases import INPUTS, TINY, params_of, step_log_probs


@pytest.mark.parametrize("prompt", [(), (3, 2)])
def test_a_step_gives_the_log_probabilities_of_one_pass(prompt):
    config, hypotheses, length = dataclasses.replace(TINY, vocab_size=7), 2, 3
    params, inputs = params_of(config), jnp.asarray(INPUTS)
    mask = (inputs != 0).astype(jnp.int32)
    step, first, caches = decoding_step.prepare(config, params, inputs, mask, hypotheses, length, prompt, "compute")
    assert first == (prompt[-1] if prompt else 0)
    assert {leaf.shape[0] for leaf in caches[0]} == {len(INPUTS) * hypotheses}
    targets = np.random.default_rng(0).integers(2, 7, (len(INPUTS), hypotheses, length)).astype(np.int32)
    got, last = [], np.full(len(INPUTS) * hypotheses, first, np.int32)
    for position in range(length):
        log_probs, caches = step(jnp.asarray(last), jnp.int32(position), caches)
        got.append(np.asarray(log_probs).reshape(len(INPUTS), hypotheses, -1))
        last = targets[:, :, position].reshape(-1)
    for hypothesis in range(hypotheses):
        fed = np.concatenate([np.tile((0, *prompt), (len(INPUTS), 1)), targets[:, hypothesis, :-1]], axis=1)
        wanted = np.asarray(step_log_probs(config, params, inputs, fed.astype(np.int32)))[:, len(prompt) :]
        for position in range(length):
            np.testing.assert_allclose(got[position][:, hypothesis], wanted[:, position], rtol=1e-4, atol=1e-4)
