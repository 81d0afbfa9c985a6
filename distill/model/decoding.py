"""Decoding of encoder inputs into target tokens: greedy, sampled and beam search, under jit, with a key/value cache.

All shapes are static. A ``lax.while_loop`` stops as soon as the results of all rows are final. The result of a row does
not depend on the other rows of its batch. The encoder runs once, its output is projected to keys and values once, and
all beams of a row read the same copy of these.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from distill import validation
from distill.array_types import AnyArray
from distill.model import int8
from distill.model.attention import KeyValue
from distill.model.configs import NetworkConfig
from distill.model.network import PAD_ID
from distill.model.networks import decoding_cache_shapes, final_logit_cap, network_of
from distill.model.parameters import Params, in_compute_dtype, unstack_layers
from distill.model.t5gemma_config import T5GemmaConfig
from distill.sharding import partitioning
from distill.sharding.dense import stored

METHODS = ("greedy", "sample", "beam")
BEAM_RULES = ("huggingface", "t5x")
# Lower than the score of any hypothesis, and finite, so that arithmetic with it stays finite.
_NO_SCORE = -1e9


class Decoded(NamedTuple):
    """The result of decoding. n is ``num_return``; its axis is absent if n is 1.

    Attributes:
      tokens: [batch, (n,) length] int32, including the end token, then 0.
      log_probs: [batch, (n,)] float32, the sum of the tokens' log-probabilities under the network, including the end
        token's (no temperature, no truncation, no length penalty). ``-inf`` marks an empty entry: a beam search over
        very few tokens may find fewer than n hypotheses.
    """

    tokens: Int[Array, "*batch length"]
    log_probs: Float[Array, "*batch"]


def generate(
    config: NetworkConfig,
    params: Params,
    encoder_input_tokens: Int[AnyArray, "batch inputs"],
    *,
    max_decode_len: int,
    method: str = "greedy",
    temperature: float = 1.0,
    top_k: int = 0,
    num_beams: int = 4,
    length_penalty: float = 1.0,
    beam_rule: str = "huggingface",
    num_return: int = 1,
    rng: jax.Array | None = None,
    eos_id: int = 1,
    prompt: tuple[int, ...] = (),
    weights: str = "compute",
    encoder_segment_ids: Int[AnyArray, "batch inputs"] | None = None,
) -> Decoded:
    """Decodes each row of ``encoder_input_tokens``.

    Args:
      config: the network's configuration; layers may be scanned.
      params: the network's parameters.
      encoder_input_tokens: int32, 0 is padding.
      max_decode_len: largest number of tokens to decode, including the end token, excluding the prompt.
      method: ``greedy`` takes the most probable token; ``sample`` draws; ``beam`` runs a beam search.
      temperature: sampling only: divisor of the logits.
      top_k: sampling only: draw among the ``top_k`` most probable tokens; 0 draws among all.
      num_beams: beam search only: number of live hypotheses.
      length_penalty: beam search only: hypotheses are ranked by ``log-probability / normalizer(length)``. 0 ranks by
        log-probability alone; larger values favour longer hypotheses.
      beam_rule: beam search only: when a hypothesis finishes, and its normalizer. Each step ranks ``2 · num_beams``
        candidates. ``huggingface``: a candidate among the best ``num_beams`` finishes if it has the end token or
        reaches the length limit; the normalizer is ``length ** length_penalty``. ``t5x``: a candidate of any rank
        finishes if it has the end token. If none finished in a row, its live hypotheses are returned, ranked by
        log-probability. The normalizer is ``((5 + length) / 6) ** length_penalty`` (Wu et al. 2016, arXiv 1609.08144,
        eq. 14).
      num_return: results per row: samples, or the best beams in order.
      rng: sampling only: a key. The draws of row i depend only on the key, i and the number of the sample.
      eos_id: the end token.
      prompt: token ids that start every target. They are fed to the decoder; they are not part of the result or of its
        log-probability.
      weights: ``int8`` quantizes ``params`` first, see :mod:`distill.model.int8`; ``compute`` casts them to the compute
        dtype, except those that are int8 already.
      encoder_segment_ids: if given, its zeros mark padding instead of those of the tokens. One example per row: packed
        rows are not supported.

    Returns:
      :class:`Decoded`.

    Raises:
      ValueError: an argument is out of range, or one that the method needs is missing.
    """
    validation.check("weights", weights, int8.WEIGHTS)
    _check(config, max_decode_len, method, temperature, top_k, num_beams, beam_rule, num_return, rng, eos_id)
    prompt = tuple(int(token) for token in prompt)
    if any(not 0 <= token < config.vocab_size for token in prompt):
        raise ValueError(f"prompt must hold ids in [0, vocab_size={config.vocab_size}); got {prompt}")
    if encoder_input_tokens.ndim != 2:
        raise ValueError(f"encoder_input_tokens must be [batch, inputs]; got shape {encoder_input_tokens.shape}")
    if encoder_segment_ids is None:
        encoder_segment_ids = (encoder_input_tokens != PAD_ID).astype(jnp.int32)
    common = {
        "config": config,
        "max_decode_len": max_decode_len,
        "num_return": num_return,
        "eos_id": eos_id,
        "prompt": prompt,
        "weights": weights,
    }
    inputs = (params, encoder_input_tokens, encoder_segment_ids)
    if method == "beam":
        decoded = _beam_search(
            *inputs,
            jnp.float32(length_penalty),
            num_beams=num_beams,
            beam_rule=beam_rule,
            **common,
        )
    else:
        sampled = method == "sample"
        decoded = _one_by_one(
            *inputs, rng if sampled else None, jnp.float32(temperature), top_k=top_k if sampled else 0, **common
        )
    return Decoded(decoded.tokens[:, 0], decoded.log_probs[:, 0]) if num_return == 1 else decoded


def _check(
    config: NetworkConfig,
    max_decode_len: int,
    method: str,
    temperature: float,
    top_k: int,
    num_beams: int,
    beam_rule: str,
    num_return: int,
    rng: jax.Array | None,
    eos_id: int,
) -> None:
    validation.check("method", method, METHODS)
    validation.check("beam_rule", beam_rule, BEAM_RULES)
    for name, value in (("max_decode_len", max_decode_len), ("num_return", num_return), ("num_beams", num_beams)):
        if value < 1:
            raise ValueError(f"{name} must be ≥ 1; got {value}")
    if not 0 <= eos_id < config.vocab_size:
        raise ValueError(f"eos_id must be in [0, vocab_size={config.vocab_size}); got {eos_id}")
    if method == "sample":
        if rng is None:
            raise ValueError("method='sample' requires rng, a jax.random.key; got None")
        if not temperature > 0.0:
            raise ValueError(f"temperature must be > 0 (for 0, use method='greedy'); got {temperature}")
        if not 0 <= top_k <= config.vocab_size:
            raise ValueError(f"top_k must be in [0, vocab_size={config.vocab_size}]; got {top_k}")
    if method == "greedy" and num_return != 1:
        raise ValueError(f"method='greedy' returns one result per row: num_return must be 1; got {num_return}")
    if method == "beam" and num_return > num_beams:
        raise ValueError(f"num_return must be at most num_beams={num_beams}; got {num_return}")


# Decodes one position of all hypotheses: (tokens [batch * n], position, caches) → (float32 log-probabilities, caches).
Step = Callable[[jax.Array, jax.Array, tuple[KeyValue, ...]], tuple[jax.Array, tuple[KeyValue, ...]]]


def _prepare(
    config: NetworkConfig,
    params: Params,
    tokens: jax.Array,
    segment_ids: jax.Array,
    hypotheses: int,
    length: int,
    prompt: tuple[int, ...],
    weights: str,
) -> tuple[Step, int, tuple[KeyValue, ...]]:
    """Runs the encoder, and the decoder over the prompt except its last token.

    Returns:
      The decoding step, the first token to feed, and caches for ``length`` tokens of ``hypotheses`` per row.
    """
    params, config = unstack_layers(params, config)
    if weights == "int8":
        params = int8.with_int8_weights(params, config)
    params, dtype = in_compute_dtype(params, config), jnp.dtype(config.dtype)
    network = network_of(config)

    def call(method: str, *args: Any) -> Any:
        return network.apply({"params": params}, *args, method=method)

    crosses = call("cross_key_values", call("encode", tokens, segment_ids))
    visible = segment_ids != 0
    rows = tokens.shape[0] * hypotheses
    shapes = decoding_cache_shapes(config, rows, len(prompt) + length)
    empty = {shape: _empty_cache(shape, dtype, evenly=isinstance(config, T5GemmaConfig)) for shape in shapes}
    caches = tuple(KeyValue(empty[shape], empty[shape]) for shape in shapes)
    *given, first = (PAD_ID, *prompt)
    for position, token in enumerate(given):
        last = jnp.full((rows,), token, jnp.int32)
        _, caches = call("decode_step", last, jnp.int32(position), caches, crosses, visible)

    # XLA's CPU compiler computes such logits once per operation that reads them, and rounds them differently in those that
    # subtract: no logit would then equal the maximum in _first_maximum.
    ends_in_a_product = weights == "int8" or final_logit_cap(config) is not None

    def step(
        last: jax.Array, position: jax.Array, caches: tuple[KeyValue, ...]
    ) -> tuple[jax.Array, tuple[KeyValue, ...]]:
        at = position + len(prompt)
        hidden, caches = call("decode_step", last, at, caches, crosses, visible)
        logits = call("logits", hidden)[:, 0]
        if ends_in_a_product and partitioning.platform() == "cpu":
            logits = stored(logits)
        return jax.nn.log_softmax(logits, axis=-1), caches

    return step, first, caches


def _empty_cache(shape: tuple[int, int, int, int], dtype: jnp.dtype, evenly: bool) -> jax.Array:
    """Zeros, with heads sharded; with ``evenly``, only if the devices divide them, as few key heads may be fewer."""
    heads = None if evenly and shape[1] % partitioning.ways("heads") else "heads"
    return nn.with_logical_constraint(jnp.zeros(shape, dtype), ("batch", heads, None, "kv"))


def _first_maximum(values: Float[Array, "rows vocab"]) -> Int[Array, " rows"]:
    """``argmax`` over the last axis, int32; on CPUs as two passes, which XLA vectorises there."""
    if partitioning.platform() != "cpu":
        return jnp.argmax(values, axis=-1).astype(jnp.int32)
    is_maximum = (values == values.max(axis=-1, keepdims=True)) | jnp.isnan(values)
    numbers = jnp.arange(values.shape[-1], dtype=jnp.int32)[None, :]
    return jnp.min(jnp.where(is_maximum, numbers, values.shape[-1]), axis=-1)


class _Rows(NamedTuple):
    position: Int[Array, ""]
    last: Int[Array, " rows"]
    tokens: Int[Array, "rows length"]
    log_probs: Float[Array, " rows"]
    ended: Bool[Array, " rows"]
    caches: tuple[KeyValue, ...]


_STATIC = ("config", "max_decode_len", "num_return", "eos_id", "prompt", "weights")


@functools.partial(jax.jit, static_argnames=(*_STATIC, "top_k"))
def _one_by_one(
    params: Params,
    inputs: Int[Array, "batch inputs"],
    segment_ids: Int[Array, "batch inputs"],
    rng: jax.Array | None,
    temperature: Float[Array, ""],
    *,
    config: NetworkConfig,
    max_decode_len: int,
    num_return: int,
    eos_id: int,
    prompt: tuple[int, ...],
    weights: str,
    top_k: int,
) -> Decoded:
    """Greedy decoding (``rng`` is None) and sampling: hypotheses are independent."""
    batch = inputs.shape[0]
    rows = batch * num_return
    step, first, caches = _prepare(config, params, inputs, segment_ids, num_return, max_decode_len, prompt, weights)

    def choose(log_probs: Float[Array, "rows vocab"], position: Int[Array, ""]) -> Int[Array, " rows"]:
        if rng is None:
            return _first_maximum(log_probs)
        scaled = log_probs / temperature
        if top_k:
            least = jax.lax.top_k(scaled, top_k)[0][:, -1:]
            scaled = jnp.where(scaled >= least, scaled, -jnp.inf)

        def draw(row: jax.Array, row_log_probs: jax.Array) -> jax.Array:
            key = jax.random.fold_in(jax.random.fold_in(rng, row // num_return), row % num_return)
            return jax.random.categorical(jax.random.fold_in(key, position), row_log_probs)

        return jax.vmap(draw)(jnp.arange(rows, dtype=jnp.int32), scaled).astype(jnp.int32)

    def body(state: _Rows) -> _Rows:
        log_probs, caches = step(state.last, state.position, state.caches)
        chosen = choose(log_probs, state.position)
        chosen_log_prob = jnp.take_along_axis(log_probs, chosen[:, None], axis=1)[:, 0]
        chosen = jnp.where(state.ended, PAD_ID, chosen)
        return _Rows(
            position=state.position + 1,
            last=chosen,
            tokens=jax.lax.dynamic_update_slice_in_dim(state.tokens, chosen[:, None], state.position, axis=1),
            log_probs=state.log_probs + jnp.where(state.ended, 0.0, chosen_log_prob),
            ended=state.ended | (chosen == eos_id),
            caches=caches,
        )

    start = _Rows(
        position=jnp.int32(0),
        last=jnp.full((rows,), first, jnp.int32),
        tokens=jnp.full((rows, max_decode_len), PAD_ID, jnp.int32),
        log_probs=jnp.zeros((rows,), jnp.float32),
        ended=jnp.zeros((rows,), bool),
        caches=caches,
    )
    end = jax.lax.while_loop(lambda s: (s.position < max_decode_len) & ~jnp.all(s.ended), body, start)
    return Decoded(end.tokens.reshape(batch, num_return, max_decode_len), end.log_probs.reshape(batch, num_return))


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


@functools.partial(jax.jit, static_argnames=(*_STATIC, "num_beams", "beam_rule"))
def _beam_search(
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
    step, first, caches = _prepare(config, params, inputs, segment_ids, num_beams, max_decode_len, prompt, weights)
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
