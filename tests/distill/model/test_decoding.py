"""Decoding against PyTorch's ``generate``, against exhaustive search, and against one pass of the network."""

import dataclasses
import inspect

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from distill.checkpoints import huggingface
from distill.model import decoding, parameters
from distill.model.attention import KeyValue
from distill.model.decoding import generate
from distill.model.network import ModelInputs, Transformer
from distill.sharding import partitioning
from tests.distill import hf_models
from tests.distill.model.decoding_cases import (
    EOS,
    INPUTS,
    TINY,
    everything,
    length_of,
    log_probs_of,
    params_of,
    step_log_probs,
)


@pytest.fixture(scope="module", params=hf_models.FAMILIES)
def peer(request, tmp_path_factory):
    """(PyTorch model, config, params) of one family."""
    model = hf_models.build(request.param, seed=1)
    with torch.no_grad():
        # The end token must be probable enough to occur, at different lengths in different rows.
        model.lm_head.weight[EOS] *= 4.0 if model.lm_head.weight is model.shared.weight else 2.0
    folder = hf_models.save(model, request.param, tmp_path_factory.mktemp(request.param))
    return model, *huggingface.load_pretrained(folder)


PEER_INPUTS = np.random.default_rng(0).integers(2, hf_models.VOCAB, (8, 12)).astype(np.int32)
PEER_INPUTS[1, 5:] = 0
PEER_INPUTS[4, 1:] = 0


def peer_generate(model, length: int, prompt=(), **settings) -> np.ndarray:
    """PyTorch's tokens, without the start token and the prompt, padded with 0 to ``length``."""
    if prompt:
        settings["decoder_input_ids"] = torch.tensor([[0, *prompt]] * len(PEER_INPUTS))
    with torch.no_grad():
        out = model.generate(
            input_ids=torch.tensor(PEER_INPUTS, dtype=torch.long),
            attention_mask=torch.tensor(PEER_INPUTS != 0, dtype=torch.long),
            max_new_tokens=length,
            **settings,
        )
    tokens = out.numpy()[:, 1 + len(prompt) :]
    # Its beam search pads with the end token although the padding id is 0.
    tokens[np.cumsum(tokens == EOS, axis=1) - (tokens == EOS) > 0] = 0
    return np.pad(tokens, ((0, 0), (0, length - tokens.shape[1])))


def test_greedy_equals_pytorch(peer):
    model, config, params = peer
    wanted = peer_generate(model, 14, do_sample=False, num_beams=1)
    got = generate(config, params, PEER_INPUTS, max_decode_len=14)
    np.testing.assert_array_equal(got.tokens, wanted)
    assert len({length_of(row) for row in wanted}) > 1
    np.testing.assert_allclose(got.log_probs, log_probs_of(config, params, PEER_INPUTS, wanted), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("settings", [{}, {"method": "beam", "num_beams": 3, "length_penalty": 0.6}])
def test_prompted_targets_equal_pytorch(peer, settings):
    model, config, params = peer
    prompt = (7, 30, 11)
    theirs = {"num_beams": settings.get("num_beams", 1), "do_sample": False, "early_stopping": "never"}
    theirs["length_penalty"] = settings.get("length_penalty", 1.0)
    wanted = peer_generate(model, 12, prompt, **theirs)
    got = generate(config, params, PEER_INPUTS, max_decode_len=12, prompt=prompt, **settings)
    np.testing.assert_array_equal(got.tokens, wanted)
    assert (peer_generate(model, 12, **theirs) != wanted).any()
    whole = np.concatenate([np.tile(prompt, (len(wanted), 1)), wanted], axis=1)
    of_prompt = log_probs_of(config, params, PEER_INPUTS, whole, longest=len(prompt))
    of_whole = log_probs_of(config, params, PEER_INPUTS, whole)
    np.testing.assert_allclose(got.log_probs, of_whole - of_prompt, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("peer", "length_penalty"), [*((family, 1.0) for family in hf_models.FAMILIES), ("t5", 0.0)], indirect=["peer"]
)
def test_beams_equal_pytorch(peer, length_penalty):
    model, config, params = peer
    settings = {"num_beams": 3, "length_penalty": length_penalty}
    wanted = peer_generate(model, 10, do_sample=False, early_stopping="never", num_return_sequences=3, **settings)
    got = generate(config, params, PEER_INPUTS, max_decode_len=10, method="beam", num_return=3, **settings)
    np.testing.assert_array_equal(np.asarray(got.tokens).reshape(-1, 10), wanted)
    best = np.pad(np.asarray(got.tokens)[:, 0], ((0, 0), (0, 4)))
    np.testing.assert_allclose(
        got.log_probs[:, 0], log_probs_of(config, params, PEER_INPUTS, best, 10), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("hypotheses", [1, 3])
def test_steps_with_a_cache_equal_one_pass(hypotheses):
    config = dataclasses.replace(TINY, vocab_size=23, num_decoder_layers=2, relative_bias_per_layer=False)
    params, length = params_of(config), 7
    rng = np.random.default_rng(0)
    inputs = rng.integers(1, 23, (2, 5)).astype(np.int32)
    inputs[1, 3:] = 0
    decoder_inputs = rng.integers(1, 23, (2, hypotheses, length)).astype(np.int32)

    @jax.jit
    def step_by_step(decoder_inputs):
        network_ = Transformer(config).bind({"params": params})
        crosses = network_.cross_key_values(network_.encode(inputs))
        empty = jnp.zeros((2 * hypotheses, config.num_heads, length, config.head_dim))
        caches = (KeyValue(empty, empty),) * config.num_decoder_layers
        hiddens = []
        for position in range(length):
            last = decoder_inputs[:, :, position].reshape(-1)
            hidden, caches = network_.decode_step(last, jnp.int32(position), caches, crosses, inputs != 0)
            hiddens.append(hidden)
        return network_.logits(jnp.concatenate(hiddens, axis=1))

    got = np.asarray(step_by_step(decoder_inputs)).reshape(2, hypotheses, length, -1)
    apply = jax.jit(lambda y: Transformer(config).apply({"params": params}, ModelInputs(inputs, y)))
    for hypothesis in range(hypotheses):
        wanted = apply(decoder_inputs[:, hypothesis])
        np.testing.assert_allclose(got[:, hypothesis], wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", decoding.METHODS)
def test_a_row_does_not_depend_on_the_other_rows(method):
    config = dataclasses.replace(TINY, vocab_size=9)
    params = params_of(config)
    inputs = np.random.default_rng(0).integers(2, 9, (6, 5)).astype(np.int32)
    settings = {"max_decode_len": 8, "method": method, "num_beams": 2, "rng": jax.random.key(0)}
    together = generate(config, params, inputs, **settings)
    padded = np.pad(inputs[:2], ((0, 0), (0, 4)))
    alone = generate(config, params, padded, **settings)
    np.testing.assert_array_equal(alone.tokens, together.tokens[:2])
    np.testing.assert_allclose(alone.log_probs, together.log_probs[:2], rtol=1e-4)


def test_nothing_after_the_end():
    config = dataclasses.replace(TINY, vocab_size=9)
    inputs = np.random.default_rng(1).integers(2, 9, (32, 4)).astype(np.int32)
    got = generate(
        config, params_of(config), inputs, max_decode_len=12, method="sample", num_return=3, rng=jax.random.key(1)
    )
    assert got.tokens.shape == (32, 3, 12)
    assert got.tokens.dtype == np.int32
    assert got.log_probs.shape == (32, 3)
    lengths = [length_of(row) for row in np.asarray(got.tokens).reshape(-1, 12)]
    assert len(set(lengths)) > 3
    for row, length in zip(np.asarray(got.tokens).reshape(-1, 12), lengths):
        assert not row[length:].any()


def test_samples_follow_the_distribution():
    params = params_of(TINY)
    targets, log_probs = everything(TINY, params, INPUTS, 2)
    count = 4000
    for temperature, top_k in [(1.0, 0), (0.5, 0), (1.0, 2)]:
        got = generate(
            TINY,
            params,
            INPUTS[:1],
            max_decode_len=2,
            method="sample",
            num_return=count,
            temperature=temperature,
            top_k=top_k,
            rng=jax.random.key(0),
        )
        tokens = np.asarray(got.tokens)[0]
        if temperature == 1.0 and not top_k:
            wanted = np.exp(log_probs[0])
            observed = np.array([(tokens == target).all(axis=1).mean() for target in targets])
            np.testing.assert_allclose(observed, wanted, atol=4 * np.sqrt(0.25 / count))
        first = np.asarray(step_log_probs(TINY, params, INPUTS[:1], np.zeros((1, 2), np.int32)))[0, 0] / temperature
        if top_k:
            first = np.where(first >= np.sort(first)[-top_k], first, -np.inf)
        wanted = np.exp(first) / np.exp(first).sum()
        observed = np.bincount(tokens[:, 0], minlength=4) / count
        np.testing.assert_allclose(observed, wanted, atol=4 * np.sqrt(0.25 / count))
        assert (observed[wanted == 0.0] == 0.0).all()
        # Scores are those of the network, independent of temperature and top_k.
        wanted = log_probs_of(TINY, params, np.repeat(INPUTS[:1], 50, axis=0), tokens[:50])
        np.testing.assert_allclose(np.asarray(got.log_probs)[0, :50], wanted, rtol=1e-4, atol=1e-5)


def test_the_least_temperature_draws_the_most_probable_tokens():
    params, settings = params_of(TINY), {"max_decode_len": 2, "rng": jax.random.key(0)}
    greedy = generate(TINY, params, INPUTS, max_decode_len=2)
    coldest = generate(TINY, params, INPUTS, method="sample", temperature=decoding.LEAST_TEMPERATURE, **settings)
    np.testing.assert_array_equal(coldest.tokens, greedy.tokens)


def test_seeds():
    settings = {"max_decode_len": 8, "method": "sample"}
    config = dataclasses.replace(TINY, vocab_size=9)
    one, same, other = (
        np.asarray(generate(config, params_of(config), INPUTS, rng=jax.random.key(seed), **settings).tokens)
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


@pytest.mark.parametrize("method", ["greedy", "beam"])
def test_scanned_layers_and_jit(method):
    params, config = params_of(TINY), TINY
    stacked, scanned = parameters.stack_layers(params, config)
    settings = {"max_decode_len": 5, "method": method, "num_beams": 3}
    wanted = generate(config, params, INPUTS, **settings)
    got = jax.jit(lambda p, x: generate(scanned, p, x, **settings))(stacked, INPUTS)
    np.testing.assert_array_equal(got.tokens, wanted.tokens)
    np.testing.assert_allclose(got.log_probs, wanted.log_probs, rtol=1e-5)


def test_bfloat16():
    config = dataclasses.replace(TINY, dtype="bfloat16", logits_via_embedding=True)
    got = generate(config, params_of(config), INPUTS, max_decode_len=5, method="beam")
    wanted = log_probs_of(config, params_of(config), INPUTS, np.asarray(got.tokens))
    np.testing.assert_allclose(got.log_probs, wanted, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("method", ["greedy", "beam"])
def test_parameters_cast_once_decode_the_same_bit_by_bit(method):
    config = dataclasses.replace(TINY, dtype="bfloat16")
    params = params_of(config)
    cast = parameters.in_compute_dtype(params, config)
    dtypes = {str(path[-1].key): leaf.dtype for path, leaf in jax.tree_util.tree_leaves_with_path(cast)}
    assert dtypes.pop("rel_embedding") == jnp.float32 and set(dtypes.values()) == {jnp.dtype("bfloat16")}
    settings = {"max_decode_len": 5, "method": method, "num_beams": 3}
    wanted, got = (generate(config, one, INPUTS, **settings) for one in (params, cast))
    np.testing.assert_array_equal(got.tokens, wanted.tokens)
    np.testing.assert_array_equal(got.log_probs, wanted.log_probs)


def test_segment_ids_mark_padding():
    params = params_of(TINY)
    shown = generate(
        TINY, params, np.where(INPUTS == 0, 3, INPUTS), max_decode_len=5, encoder_segment_ids=1 * (INPUTS != 0)
    )
    np.testing.assert_array_equal(shown.tokens, generate(TINY, params, INPUTS, max_decode_len=5).tokens)


def test_it_stops_when_all_rows_have_ended():
    """A network that always ends at once must stop the loop early: a million steps would never finish."""
    config = dataclasses.replace(TINY, logits_via_embedding=False)
    params = jax.tree.map(np.copy, params_of(config))
    # All logits are equal, and argmax takes the first of equals, so 0 is the end token.
    params["decoder"]["logits_dense"]["kernel"] *= 0.0
    for method in ("greedy", "beam"):
        got = generate(
            config, params, INPUTS, max_decode_len=100_000, method=method, num_beams=1, eos_id=0, length_penalty=0.0
        )
        np.testing.assert_allclose(got.log_probs, np.log(0.25), rtol=1e-5)


@pytest.mark.parametrize("method", ["sample", "beam"])
def test_sharded_equals_whole(method):
    config = dataclasses.replace(TINY, vocab_size=16)
    params = params_of(config)
    inputs = np.random.default_rng(0).integers(2, 16, (4, 6)).astype(np.int32)
    settings = {"max_decode_len": 6, "method": method, "num_beams": 2, "rng": jax.random.key(0)}
    wanted = generate(config, params, inputs, **settings)
    mesh = partitioning.MeshConfig(data=2, fsdp=2, model=2).build()
    placed = jax.device_put(params, partitioning.param_shardings(params, parameters.param_logical_axes(config), mesh))
    with jax.set_mesh(mesh), nn.logical_axis_rules(list(partitioning.DEFAULT_RULES)):
        got = jax.jit(lambda p, x: generate(config, p, x, **settings))(
            placed, jax.device_put(inputs, partitioning.batch_sharding(mesh))
        )
    np.testing.assert_array_equal(got.tokens, wanted.tokens)
    np.testing.assert_allclose(got.log_probs, wanted.log_probs, rtol=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "beams"}, r"method must be one of .*got 'beams'; did you mean 'beam'\?"),
        ({"max_decode_len": 0}, "max_decode_len must be ≥ 1; got 0"),
        ({"method": "sample"}, "requires rng, a jax.random.key; got None"),
        *(
            ({"method": "sample", "rng": jax.random.key(0), "temperature": value}, "temperature must be ≥ 1e-30.*; got")
            for value in (0.0, 1e-40, 1e-37, float("nan"))
        ),
        ({"method": "sample", "rng": jax.random.key(0), "top_k": 5}, r"top_k must be in \[0, vocab_size=4\]; got 5"),
        ({"num_return": 2}, "one result per row: num_return must be 1; got 2"),
        ({"method": "beam", "num_beams": 2, "num_return": 3}, "at most num_beams=2; got 3"),
        ({"method": "beam", "num_beams": 0}, "num_beams must be ≥ 1"),
        ({"eos_id": 4}, "eos_id must be in"),
        ({"beam_rule": "t5"}, r"beam_rule must be one of .*got 't5'; did you mean 't5x'\?"),
    ],
)
def test_bad_arguments(settings, message):
    with pytest.raises(ValueError, match=message):
        generate(TINY, params_of(TINY), INPUTS, **{"max_decode_len": 4, **settings})


def test_bad_shape():
    with pytest.raises(ValueError, match=r"must be \[batch, inputs\]; got shape \(5,\)"):
        # Without the check of its annotations, which tests add.
        inspect.unwrap(generate)(TINY, params_of(TINY), INPUTS[0], max_decode_len=4)


def test_the_first_maximum_is_that_of_argmax():
    values = np.random.default_rng(0).integers(-3, 4, (200, 30)).astype(np.float32)  # with ties
    values[0, 7] = values[0, 20] = np.nan
    values[1] = -np.inf
    values[2, 5] = np.inf
    np.testing.assert_array_equal(decoding._first_maximum(jnp.asarray(values)), np.argmax(values, axis=-1))
