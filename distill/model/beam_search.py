"""Beam search under jit: live and finished hypotheses per row, until no live one can still enter the best."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from distill.model.attention import KeyValue
from distill.model.configs import NetworkConfig
from distill.model.decoding_step import STATIC, Decoded, prepare
from distill.model.network import PAD_ID
from distill.model.parameters import Params

# Lower than the score of any hypothesis, and finite, so that arithmetic with it stays finite.
_NO_SCORE = -1e9


class _Hypotheses(NamedTuple):
    """``beams`` hypotheses per row, best first; an empty entry has the score ``_NO_SCORE``."""

    tokens: Int[Array, "batch beams length"]
    log_probs: Float[Array, "batch beams"]
    scores: Float[Array, "batch beams"]

    def best(self, count: int) -> tuple["_Hypotheses", jax.Array]:
        """Returns the ``count`` hypotheses with the highest scores (ties: the lower index first) and their indices."""
        _, index = jax.lax.top_k(self.scores, count)
        return _Hypotheses(*(_pick(leaf, index) for leaf in self)), index


def _pick(values: Shaped[Array, "batch m ..."], index: Int[Array, "batch n"]) -> Shaped[Array, "batch n ..."]:
    """``values[b, index[b]]`` for every row b. Batched, so that a sharded batch needs no communication."""
    return jax.vmap(lambda row, places: jnp.take(row, places, axis=0, mode="clip"))(values, index)


class _Beams(NamedTuple):
    position: Int[Array, ""]
    live: _Hypotheses
    finished: _Hypotheses
    settled: Bool[Array, " batch"]
    caches: tuple[KeyValue, ...]


@functools.partial(jax.jit, static_argnames=(*STATIC, "num_beams", "beam_rule"))
def beam_search(
    params: Params,
    inputs: Int[Array, "batch inputs"],
    segment_ids: Int[Array, "batch inputs"],
    length_penalty: Float[Array, ""],
    *,
    config: NetworkConfig,
    max_decode_len: int,
    num_return: int,
    eos_id: int,
    prompt: tuple[int, ...],
    weights: str,
    num_beams: int,
    beam_rule: str,
) -> Decoded:
    """Beam search over ``2 · num_beams`` candidates per step; ``beam_rule`` determines which of them may finish.

    A row is settled when no live hypothesis can still enter its best ``num_return``. Log-probabilities only decrease,
    so the score of a live hypothesis is at most its current log-probability divided by the largest normalizer of a
    later length. A settled row no longer changes.
    """
    batch, vocab = inputs.shape[0], config.vocab_size
    step, first, caches = prepare(config, params, inputs, segment_ids, num_beams, max_decode_len, prompt, weights)
    num_candidates = min(2 * num_beams, num_beams * vocab)
    by_t5x = beam_rule == "t5x"

    def normalizer(length: Int[Array, ""]) -> Float[Array, ""]:
        length = length.astype(jnp.float32)
        base = (5.0 + length) / 6.0 if by_t5x else length
        return base**length_penalty

    def body(state: _Beams) -> _Beams:
        is_last = state.position == max_decode_len - 1
        last = jax.lax.dynamic_index_in_dim(state.live.tokens, state.position - 1, axis=2, keepdims=False)
        last = jnp.where(state.position == 0, first, last)
        log_probs, caches = step(last.reshape(-1), state.position, state.caches)
        total = state.live.log_probs[:, :, None] + log_probs.reshape(batch, num_beams, vocab)
        candidate_log_probs, flat = jax.lax.top_k(total.reshape(batch, num_beams * vocab), num_candidates)
        parents, chosen = flat // vocab, (flat % vocab).astype(jnp.int32)
        tokens = jax.lax.dynamic_update_slice_in_dim(
            _pick(state.live.tokens, parents), chosen[:, :, None], state.position, axis=2
        )
        real = candidate_log_probs > 0.5 * _NO_SCORE
        ends = chosen == eos_id if by_t5x else (chosen == eos_id) | is_last

        may_end = (jnp.arange(num_candidates, dtype=jnp.int32) < (num_candidates if by_t5x else num_beams))[None, :]
        scores = candidate_log_probs / normalizer(state.position + 1)
        finishing = _Hypotheses(tokens, candidate_log_probs, jnp.where(ends & may_end & real, scores, _NO_SCORE))
        finished, _ = _concatenated(state.finished, finishing).best(num_beams)
        going_on = _Hypotheses(tokens, candidate_log_probs, jnp.where(ends | ~real, _NO_SCORE, candidate_log_probs))
        live, index = going_on.best(num_beams)
        live = live._replace(log_probs=live.scores)
        origin = _pick(parents, index)
        caches = jax.tree.map(
            lambda leaf: _pick(leaf.reshape(batch, num_beams, *leaf.shape[1:]), origin).reshape(leaf.shape), caches
        )
        finished = _where_rows(state.settled, state.finished, finished)
        ahead = jnp.maximum(normalizer(state.position + 2), normalizer(jnp.int32(max_decode_len)))
        hope = live.log_probs[:, 0] / ahead
        settled = state.settled | (hope <= finished.scores[:, num_return - 1])
        return _Beams(state.position + 1, live, finished, settled, caches)

    nothing = _Hypotheses(
        tokens=jnp.full((batch, num_beams, max_decode_len), PAD_ID, jnp.int32),
        log_probs=jnp.full((batch, num_beams), -jnp.inf, jnp.float32),
        scores=jnp.full((batch, num_beams), _NO_SCORE, jnp.float32),
    )
    # All beams start equal. All but one are excluded, or the first step would choose the same token n times.
    is_first = jnp.broadcast_to((jnp.arange(num_beams) == 0)[None, :], (batch, num_beams))
    start = _Beams(
        position=jnp.int32(0),
        live=nothing._replace(log_probs=jnp.where(is_first, 0.0, _NO_SCORE).astype(jnp.float32)),
        finished=nothing,
        settled=jnp.zeros((batch,), bool),
        caches=caches,
    )
    end = jax.lax.while_loop(lambda s: (s.position < max_decode_len) & ~jnp.all(s.settled), body, start)
    finished = end.finished
    if by_t5x:
        none_ended = finished.scores[:, 0] <= 0.5 * _NO_SCORE
        finished = _where_rows(none_ended, end.live, finished)
    best = _Hypotheses(*(leaf[:, :num_return] for leaf in finished))
    empty = best.scores <= 0.5 * _NO_SCORE
    return Decoded(
        tokens=jnp.where(empty[:, :, None], PAD_ID, best.tokens),
        log_probs=jnp.where(empty, -jnp.inf, best.log_probs),
    )


def _concatenated(first: _Hypotheses, second: _Hypotheses) -> _Hypotheses:
    return _Hypotheses(*(jnp.concatenate(leaves, axis=1) for leaves in zip(first, second)))


def _where_rows(rows: Bool[Array, " batch"], yes: _Hypotheses, no: _Hypotheses) -> _Hypotheses:
    return _Hypotheses(*(jnp.where(rows.reshape(-1, *[1] * (y.ndim - 1)), y, n) for y, n in zip(yes, no)))
