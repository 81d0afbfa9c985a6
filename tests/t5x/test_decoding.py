"""The same answers from T5X's decoders over T5X's network and from this project's over its own."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from t5x import decoding
from t5x import partitioning as t5x_partitioning

from distill.decoding import generate
from distill.evaluate import DecodeConfig
from tests.t5x import engines

# Few words, so that random students say the end token now and then.
CONFIG = dataclasses.replace(engines.CONFIG, vocab_size=16)
LENGTH, ROWS, BEAMS, SEED = 16, 32, 4, 1


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    inputs = rng.integers(2, 16, (ROWS, 8)).astype(np.int32)
    inputs[:, -1] = 1
    inputs[::3, 5] = 1
    inputs[::3, 6:] = 0
    return {"encoder_input_tokens": jnp.asarray(inputs), "decoder_input_tokens": jnp.zeros((ROWS, LENGTH), jnp.int32)}


def theirs(batch, model, model_ways=2, **kwargs):
    """T5X's prediction under its partitioner, on eight devices."""
    parts = t5x_partitioning.PjitPartitioner(num_partitions=None, model_parallel_submesh=(1, model_ways, 1, 1))
    predict = parts.partition(
        functools.partial(model.predict_batch_with_aux, **kwargs),
        in_axis_resources=(None, parts.data_partition_spec),
        out_axis_resources=None,
    )
    tokens, aux = predict(engines.params_of(CONFIG, SEED), batch)
    return np.asarray(tokens), np.asarray(aux["scores"])


def ours(batch, **kwargs):
    with jax.numpy_dtype_promotion("standard"):
        decoded = generate(
            CONFIG, engines.params_of(CONFIG, SEED), batch["encoder_input_tokens"], max_decode_len=LENGTH, **kwargs
        )
    return np.asarray(decoded.tokens), np.asarray(decoded.log_probs)


def test_greedy(batch):
    greedy = functools.partial(decoding.temperature_sample, temperature=0.0, topk=1)
    wanted, _ = theirs(batch, engines.two_task_model(CONFIG, decode_fn=greedy))
    got, log_probs = ours(batch)
    np.testing.assert_array_equal(got, wanted)
    assert (got == 1).any(axis=1).sum() > 0
    also, scores = theirs(batch, engines.project_model(CONFIG), model_ways=4)
    np.testing.assert_array_equal(also, wanted)
    np.testing.assert_allclose(scores, log_probs, rtol=1e-5)


def test_beam_search(batch):
    """The searches differ in one rule, and agree wherever it plays no part.

    T5X lets a hypothesis end by any of the ``2 · beams`` candidates of a step, and returns unended ones only if none has
    ended; here (as in Hugging Face) only the best ``beams`` candidates may end, and what reaches the length limit counts.
    """
    wanted, scores = theirs(batch, engines.two_task_model(CONFIG), num_decodes=BEAMS)
    got, log_probs = ours(batch, method="beam", num_beams=BEAMS, length_penalty=0.6, length_normalizer="gnmt")
    ended = (wanted == 1).any(axis=1)
    agree = (got == wanted).all(axis=1)
    print(f"of {ROWS} rows, {ended.sum()} ended under T5X and {(got == 1).any(axis=1).sum()} here; {agree.sum()} agree")
    assert agree.mean() > 0.5
    assert ended[~agree].all()
    # Where both found the same, T5X's score is our log-probability over its length normalisation.
    same = agree & ended
    normalizer = ((5.0 + (wanted != 0).sum(axis=1)) / 6.0) ** 0.6
    np.testing.assert_allclose(scores[same], (log_probs / normalizer)[same], rtol=1e-4)


def test_the_projects_network_beams_in_t5x(batch):
    decode = DecodeConfig(method="beam", num_beams=BEAMS, length_penalty=0.6)
    model = engines.project_model(CONFIG, decode=decode)
    best, _ = theirs(batch, model)
    everything, scores = theirs(batch, model, num_decodes=BEAMS, return_all_decodes=True)
    assert everything.shape == (ROWS, BEAMS, LENGTH)
    np.testing.assert_array_equal(everything[:, -1], best)
    wanted, _ = ours(batch, method="beam", num_beams=BEAMS, length_penalty=0.6, length_normalizer="gnmt")
    np.testing.assert_array_equal(best, wanted)
    assert np.isfinite(scores[:, -1]).all()


def test_scores_of_given_targets_agree():
    batch = engines.on_device(engines.batches(1, False)[0])
    params = engines.params_of()
    wanted = jax.jit(engines.two_task_model().score_batch)(params, batch)
    got = jax.jit(engines.project_model().score_batch)(params, batch)
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
