"""Beam search against exhaustive search, and against a search without cache and early stop."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from distill.model import beam_search, decoding
from distill.model.decoding import generate
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


@pytest.mark.parametrize(
    ("length_penalty", "beam_rule"),
    [(0.0, "huggingface"), (1.0, "huggingface"), (-0.5, "huggingface"), (0.6, "t5x")],
)
def test_wide_beams_find_the_global_optimum(length_penalty, beam_rule):
    params, length = params_of(TINY), 4
    targets, log_probs = everything(TINY, params, INPUTS, length)
    assert len(targets) == 3**4 + 1 + 3 + 9 + 27
    np.testing.assert_allclose(np.exp(log_probs).sum(axis=1), 1.0, rtol=1e-4)
    lengths = np.array([length_of(target) for target in targets], np.float32)
    scores = log_probs / (lengths if beam_rule == "huggingface" else (5 + lengths) / 6) ** length_penalty
    if beam_rule == "t5x":  # targets at the length limit have not ended
        scores = np.where((targets == EOS).any(axis=1), scores, -np.inf)
    got = generate(
        TINY,
        params,
        INPUTS,
        max_decode_len=length,
        method="beam",
        num_beams=128,
        num_return=5,
        length_penalty=length_penalty,
        beam_rule=beam_rule,
    )
    for row in range(len(INPUTS)):
        best = np.argsort(-scores[row])[:5]
        np.testing.assert_array_equal(got.tokens[row], targets[best])
        np.testing.assert_allclose(got.log_probs[row], log_probs[row, best], rtol=1e-4)


def reference_beams(config, params, row, length, num_beams, length_penalty, beam_rule):
    """A straightforward beam search: lists, no early stop, no cache."""
    live, finished = [((), 0.0)], []
    for position in range(length):
        prefixes = np.zeros((num_beams, length), np.int32)
        for i, (tokens, _) in enumerate(live):
            prefixes[i, 1 : 1 + len(tokens)] = tokens
        step = np.asarray(step_log_probs(config, params, np.repeat(row[None], num_beams, axis=0), prefixes))[
            :, position
        ]
        candidates = [
            ((*tokens, token), score + float(step[i, token]))
            for i, (tokens, score) in enumerate(live)
            for token in range(config.vocab_size)
        ]
        candidates = sorted(candidates, key=lambda c: -c[1])[: 2 * num_beams]
        for rank, (tokens, score) in enumerate(candidates):
            if beam_rule == "t5x" and tokens[-1] == EOS:
                finished.append((tokens, score, score / ((5 + len(tokens)) / 6) ** length_penalty))
            elif beam_rule == "huggingface" and rank < num_beams and (tokens[-1] == EOS or position == length - 1):
                finished.append((tokens, score, score / len(tokens) ** length_penalty))
        live = [c for c in candidates if c[0][-1] != EOS][:num_beams]
    return sorted(finished, key=lambda f: -f[2]) or [(*unended, None) for unended in live]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("num_beams", "length_penalty"), [(1, 1.0), (2, 0.0), (2, 2.0), (3, 0.7)])
@pytest.mark.parametrize("beam_rule", decoding.BEAM_RULES)
def test_narrow_beams_equal_the_reference(beam_rule, num_beams, length_penalty, seed):
    config = dataclasses.replace(TINY, vocab_size=7)
    params, length = params_of(config, seed), 6
    inputs = np.array([[2, 3, 1, 0], [6, 5, 4, 1], [4, 4, 4, 1], [5, 1, 0, 0]], np.int32)
    got = generate(
        config,
        params,
        inputs,
        max_decode_len=length,
        method="beam",
        num_beams=num_beams,
        num_return=num_beams,
        length_penalty=length_penalty,
        beam_rule=beam_rule,
    )
    tokens = np.asarray(got.tokens).reshape(4, num_beams, length)
    log_probs = np.asarray(got.log_probs).reshape(4, num_beams)
    for row, row_inputs in enumerate(inputs):
        wanted = reference_beams(config, params, row_inputs, length, num_beams, length_penalty, beam_rule)
        for place, (target, score, _) in enumerate(wanted[:num_beams]):
            assert tuple(tokens[row, place][: len(target)]) == target
            assert not tokens[row, place][len(target) :].any()
            assert log_probs[row, place] == pytest.approx(score, rel=1e-4)
        # Fewer hypotheses than num_return may have ended; the other entries are empty.
        assert (log_probs[row, len(wanted) :] == -np.inf).all()


def test_where_the_beam_rules_differ():
    """One beam: by T5X's rule the second best token may end a target; by Hugging Face's rule only the best one may."""
    config = dataclasses.replace(TINY, vocab_size=7)
    settings = {"max_decode_len": 4, "method": "beam", "num_beams": 1, "length_penalty": 0.0}
    inputs = np.random.default_rng(0).integers(2, 7, (16, 4)).astype(np.int32)
    params = params_of(config)
    by_rule = {rule: generate(config, params, inputs, beam_rule=rule, **settings) for rule in decoding.BEAM_RULES}
    tokens = {rule: np.asarray(decoded.tokens) for rule, decoded in by_rule.items()}
    ended = {rule: (rows == EOS).any(axis=1) for rule, rows in tokens.items()}
    print({rule: int(rows.sum()) for rule, rows in ended.items()})
    assert (ended["t5x"] & ~ended["huggingface"]).any()
    assert (~ended["t5x"]).any()
    # If no hypothesis ended, both return the one at the length limit.
    unended = ~ended["t5x"] & ~ended["huggingface"]
    np.testing.assert_array_equal(tokens["t5x"][unended], tokens["huggingface"][unended])
    for rule, decoded in by_rule.items():
        np.testing.assert_allclose(decoded.log_probs, log_probs_of(config, params, inputs, tokens[rule]), rtol=1e-4)


def test_one_beam_without_rivals_is_greedy():
    config = dataclasses.replace(TINY, vocab_size=7)
    params = params_of(config)
    greedy = generate(config, params, INPUTS, max_decode_len=6)
    tokens = np.asarray(greedy.tokens)
    ended = [row for row in range(len(tokens)) if (tokens[row] == EOS).any()]
    beam = generate(config, params, INPUTS, max_decode_len=6, method="beam", num_beams=1, length_penalty=0.0)
    for row in set(range(len(tokens))) - set(ended):
        np.testing.assert_array_equal(beam.tokens[row], tokens[row])
    assert (np.asarray(beam.log_probs)[ended] >= np.asarray(greedy.log_probs)[ended] - 1e-5).all()


def test_fewer_hypotheses_than_num_return():
    got = generate(TINY, params_of(TINY), INPUTS, max_decode_len=1, method="beam", num_beams=6, num_return=6)
    assert np.isfinite(got.log_probs[:, :4]).all()
    assert (got.log_probs[:, 4:] == -np.inf).all()
    assert (np.sort(np.asarray(got.tokens)[:, :4, 0]) == np.arange(4)).all()
    assert not np.asarray(got.tokens)[:, 4:].any()


def test_the_best_hypotheses_come_first_and_the_lower_index_wins_a_tie():
    scores = jnp.array([[1.0, 3.0, 3.0, 2.0], [0.0, -1.0, 5.0, 5.0]], jnp.float32)
    tokens = jnp.arange(8, dtype=jnp.int32).reshape(2, 4, 1)
    best, index = beam_search._Hypotheses(tokens, -scores, scores).best(3)
    np.testing.assert_array_equal(index, [[1, 2, 3], [2, 3, 0]])
    np.testing.assert_array_equal(best.tokens[..., 0], [[1, 2, 3], [6, 7, 4]])
    np.testing.assert_array_equal(best.log_probs, -best.scores)
