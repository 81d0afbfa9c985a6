"""T5Gemma and T5Gemma 2 against ``transformers``: logits, decoding; packed rows against separate ones."""

import dataclasses
import functools
import pathlib
import tempfile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from distill.checkpoints import huggingface
from distill.model import decoding
from distill.model.network import ModelInputs
from distill.model.networks import network_of
from distill.model.t5gemma import cache_shapes
from tests.distill import gemma_models

START, EOS = 2, 1
INPUTS, TARGETS = 17, 13  # longer than the windows


@functools.cache
def pair(family: str, **changes: Any):
    """A PyTorch model, and the configuration and parameters read from the folder it writes."""
    model = gemma_models.build(family, **changes)
    with tempfile.TemporaryDirectory() as folder:
        config, params = huggingface.load_pretrained(gemma_models.save(model, pathlib.Path(folder)))
    return model, config, jax.tree.map(jnp.asarray, params)


@functools.partial(jax.jit, static_argnums=0)
def logits(config, params, inputs: ModelInputs):
    return network_of(config).apply({"params": params}, inputs)


def tokens(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(3, gemma_models.VOCAB, shape).astype(np.int32)


def started(targets: np.ndarray) -> np.ndarray:
    """Decoder inputs of the data pipeline: shifted right, starting with 0."""
    return np.pad(targets[:, :-1], ((0, 0), (1, 0)))


def theirs(model: torch.nn.Module, inputs: np.ndarray, decoder_inputs: np.ndarray, *, masked: bool) -> np.ndarray:
    mask = torch.tensor((inputs != 0) if masked else np.ones_like(inputs)).long()
    shifted = np.where(decoder_inputs == 0, START, decoder_inputs)
    with torch.no_grad():
        out = model(
            input_ids=torch.tensor(inputs).long(),
            attention_mask=mask,
            decoder_input_ids=torch.tensor(shifted).long(),
            use_cache=False,
        )
    return out.logits.numpy()


@pytest.mark.parametrize(
    ("family", "window"), [*((family, 5) for family in gemma_models.FAMILIES), ("t5gemma", 4), ("t5gemma2", 4)]
)
def test_logits_equal_those_of_transformers(family, window):
    model, config, params = pair(family, sliding_window=window)
    inputs, decoder_inputs = tokens(0, 2, INPUTS), started(tokens(1, 2, TARGETS))
    for masked in (False, True):
        if masked:
            inputs[1, 11:] = 0
        got = logits(config, params, ModelInputs(inputs, decoder_inputs))
        want = theirs(model, inputs, decoder_inputs, masked=masked)
        assert want.std() > 0.3  # the logits say something
        np.testing.assert_allclose(np.asarray(got), want, rtol=0.0, atol=2e-5)


@pytest.mark.parametrize("stack", ["encoder", "decoder"])
def test_a_window_of_another_size_changes_the_logits(stack):
    """So the equality above would not hold with a window that is wrong by one."""
    _, config, params = pair("t5gemma2")
    inputs = ModelInputs(tokens(0, 2, INPUTS), started(tokens(1, 2, TARGETS)))
    shape = getattr(config, stack)
    wider = dataclasses.replace(shape, sliding_window=shape.sliding_window + 1)
    other = logits(dataclasses.replace(config, **{stack: wider}), params, inputs)
    assert np.abs(np.asarray(other) - np.asarray(logits(config, params, inputs))).max() > 1e-2


def packed(examples: list[tuple[np.ndarray, np.ndarray]], length: int) -> ModelInputs:
    """One row that holds all examples, in segments 1, 2, …, and padding."""
    rows = [[np.zeros(length, np.int32) for _ in range(2)] for _ in range(2)]
    for side in range(2):
        at = 0
        for number, example in enumerate(examples, start=1):
            ids = example[side] if side == 0 else started(example[1][None])[0]
            rows[side][0][at : at + len(ids)] = ids
            rows[side][1][at : at + len(ids)] = number
            at += len(ids)
    (sources, source_segments), (targets, target_segments) = ([one[None] for one in side] for side in rows)
    return ModelInputs(sources, targets, source_segments, target_segments)


@pytest.mark.parametrize("family", gemma_models.FAMILIES)
def test_packed_rows_equal_separate_ones(family):
    _, config, params = pair(family)
    lengths = [(9, 8), (3, 2), (11, 7)]
    examples = [(tokens(2 * i, n), tokens(2 * i + 1, m)) for i, (n, m) in enumerate(lengths)]
    whole = np.asarray(logits(config, params, packed(examples, 26)))[0]
    at = 0
    for source, target in examples:
        padded = ModelInputs(
            np.pad(source, (0, INPUTS - len(source)))[None],
            np.pad(started(target[None])[0], (0, TARGETS - len(target)))[None],
        )
        alone = np.asarray(logits(config, params, padded))[0, : len(target)]
        np.testing.assert_allclose(whole[at : at + len(target)], alone, rtol=0.0, atol=2e-5)
        at += len(target)


@pytest.mark.parametrize("family", ["t5gemma", "t5gemma2"])
def test_targets_that_share_an_input_equal_separate_ones(family):
    _, config, params = pair(family)
    source, first, second = tokens(0, 12), tokens(1, 7), tokens(2, 9)
    both = packed([(source, first), (np.zeros(0, np.int32), second)], 26)
    shared = both._replace(decoder_cross_segment_ids=(both.decoder_segment_ids > 0).astype(np.int32))
    got = np.asarray(logits(config, params, shared))[0]
    alone = np.asarray(logits(config, params, packed([(source, second)], 26)))[0, : len(second)]
    np.testing.assert_allclose(got[len(first) : len(first) + len(second)], alone, rtol=0.0, atol=2e-5)


def test_incomplete_segment_ids_are_refused():
    _, config, params = pair("t5gemma2")
    ids = tokens(0, 1, 4)
    with pytest.raises(ValueError, match="needs both encoder_segment_ids and decoder_segment_ids"):
        network_of(config).apply({"params": params}, ModelInputs(ids, ids, ids))


@pytest.mark.parametrize("family", gemma_models.FAMILIES)
@pytest.mark.parametrize("beams", [1, 3])
def test_decoding_equals_generate(family, beams):
    """Longer than the windows, so that places of the local layers' caches are overwritten."""
    model, config, params = pair(family)
    inputs, length = tokens(0, 3, INPUTS), 12
    inputs[1, 6:] = 0
    with torch.no_grad():
        want = model.generate(
            input_ids=torch.tensor(inputs).long(),
            attention_mask=torch.tensor(inputs != 0).long(),
            decoder_start_token_id=START,
            do_sample=False,
            num_beams=beams,
            max_new_tokens=length,
            eos_token_id=EOS,
            pad_token_id=0,
        ).numpy()[:, 1:]
    want = np.pad(want, ((0, 0), (0, length - want.shape[1])))
    method = "greedy" if beams == 1 else "beam"
    got = decoding.generate(config, params, inputs, max_decode_len=length, method=method, num_beams=beams)
    np.testing.assert_array_equal(np.asarray(got.tokens), want)


def test_prompted_decoding_scores_what_the_network_does():
    """Log-probabilities of the cached steps, after a prompt, equal those of one pass."""
    _, config, params = pair("t5gemma2")
    inputs, prompt = tokens(0, 2, INPUTS), (5, 7, 11)
    got = decoding.generate(config, params, inputs, max_decode_len=9, prompt=prompt, eos_id=0)
    chosen = np.asarray(got.tokens)
    whole = np.concatenate([np.tile(np.asarray(prompt, np.int32), (2, 1)), chosen], axis=1)
    scores = jax.nn.log_softmax(logits(config, params, ModelInputs(inputs, started(whole))), axis=-1)
    taken = np.take_along_axis(np.asarray(scores), whole[..., None], axis=-1)[:, len(prompt) :, 0]
    np.testing.assert_allclose(np.asarray(got.log_probs), taken.sum(axis=1), rtol=0.0, atol=1e-4)


def test_local_layers_keep_only_their_window():
    _, config, _ = pair("t5gemma2")
    shapes = cache_shapes(config, 4, 30)
    assert [shape[2] for shape in shapes] == [5, 5, 30]
    assert all(shape == (4, 1, shape[2], 8) for shape in shapes)
    assert [shape[2] for shape in cache_shapes(config, 4, 3)] == [3, 3, 3]


def test_bfloat16_stays_near_float32():
    _, config, params = pair("t5gemma2")
    inputs = ModelInputs(tokens(0, 2, INPUTS), started(tokens(1, 2, TARGETS)))
    half = np.asarray(logits(dataclasses.replace(config, dtype="bfloat16"), params, inputs))
    full = np.asarray(logits(config, params, inputs))
    assert 0.0 < np.abs(half - full).max() < 0.15
