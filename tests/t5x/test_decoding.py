"""T5X's decoders with T5X's network and this project's decoder with its own network give the same answers."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from t5x import decoding
from t5x import partitioning as t5x_partitioning

from distill.inference.evaluate import DecodeConfig
from distill.model.decoding import generate
from tests.t5x import engines

# A small vocabulary, so that random students generate the end token now and then.
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


@pytest.mark.parametrize(("num_beams", "alpha"), [(1, 0.6), (2, 0.0), (BEAMS, 0.6), (BEAMS, 1.5)])
def test_beam_search(batch, num_beams, alpha):
    """T5X's rule gives T5X's answers and scores; Hugging Face's rule (the default) gives some other answers."""
    model = engines.two_task_model(CONFIG, decode_fn=functools.partial(decoding.beam_search, alpha=alpha))
    wanted, scores = theirs(batch, model, num_decodes=num_beams)
    settings = {"method": "beam", "num_beams": num_beams, "length_penalty": alpha}
    got, log_probs = ours(batch, beam_rule="t5x", **settings)
    np.testing.assert_array_equal(got, wanted)
    ended = (wanted == 1).any(axis=1)
    assert ended.any()
    # T5X divides the log-probability of an ended hypothesis by the normalizer, but not that of an unended one.
    normalizer = np.where(ended, ((5.0 + (wanted != 0).sum(axis=1)) / 6.0) ** alpha, 1.0)
    np.testing.assert_allclose(scores, log_probs / normalizer, rtol=1e-4)
    other, _ = ours(batch, beam_rule="huggingface", **settings)
    agree = (other == wanted).all(axis=1).sum()
    print(
        f"{num_beams} beams, alpha {alpha}: of {ROWS} rows {ended.sum()} ended under T5X; {agree} agree by the other rule"
    )
    assert agree < ROWS


def test_every_hypothesis_of_a_beam_search(batch):
    """All eight of a row, not only the best; T5X returns the best last."""
    model = engines.two_task_model(CONFIG)
    wanted, scores = theirs(batch, model, num_decodes=8, return_all_decodes=True)
    got, log_probs = ours(batch, method="beam", num_beams=8, num_return=8, length_penalty=0.6, beam_rule="t5x")
    np.testing.assert_array_equal(got[:, ::-1], np.where((scores > -1e6)[:, :, None], wanted, 0))
    np.testing.assert_array_equal(np.isfinite(log_probs)[:, ::-1], scores > -1e6)


def test_the_projects_network_beams_in_t5x(batch):
    decode = DecodeConfig(method="beam", num_beams=BEAMS, length_penalty=0.6, beam_rule="t5x")
    model = engines.project_model(CONFIG, decode=decode)
    best, _ = theirs(batch, model)
    everything, scores = theirs(batch, model, num_decodes=BEAMS, return_all_decodes=True)
    assert everything.shape == (ROWS, BEAMS, LENGTH)
    np.testing.assert_array_equal(everything[:, -1], best)
    wanted, _ = theirs(batch, engines.two_task_model(CONFIG), num_decodes=BEAMS)
    np.testing.assert_array_equal(best, wanted)
    assert np.isfinite(scores[:, -1]).all()


def test_scores_of_given_targets_agree():
    batch = engines.on_device(engines.batches(1, False)[0])
    params = engines.params_of()
    wanted = jax.jit(engines.two_task_model().score_batch)(params, batch)
    got = jax.jit(engines.project_model().score_batch)(params, batch)
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


def test_answers_are_not_chosen():
    with pytest.raises(ValueError, match=r"DecodeConfig\.answers must be 'generate' in T5X; got 'choose'"):
        engines.project_model(CONFIG, decode=DecodeConfig(answers="choose"))
