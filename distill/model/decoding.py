"""Decoding of encoder inputs into target tokens: greedy, sampled and beam search, under jit, with a key/value cache.

All shapes are static. A ``lax.while_loop`` stops as soon as the results of all rows are final. The result of a row does
not depend on the other rows of its batch. The encoder runs once, its output is projected to keys and values once, and
all beams of a row read the same copy of these.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from distill import validation
from distill.array_types import AnyArray
from distill.model import int8
from distill.model.attention import KeyValue
from distill.model.beam_search import beam_search
from distill.model.configs import NetworkConfig
from distill.model.decoding_step import STATIC, Decoded, prepare
from distill.model.network import PAD_ID
from distill.model.parameters import Params
from distill.sharding import partitioning

METHODS = ("greedy", "sample", "beam")
BEAM_RULES = ("huggingface", "t5x")
LEAST_TEMPERATURE = 1e-30
"""Log-probabilities are divided by the temperature in float32, where 100 / 1e-37 is infinite."""


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
      temperature: sampling only: divisor of the logits, at least ``LEAST_TEMPERATURE``.
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
        decoded = beam_search(
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


def check_temperature(name: str, temperature: float) -> None:
    """Raises ValueError, which names the setting, if sampling cannot divide log-probabilities by ``temperature``."""
    if not temperature >= LEAST_TEMPERATURE:
        raise ValueError(
            f"{name} must be ≥ {LEAST_TEMPERATURE:g}, by which log-probabilities are divided in float32 (use "
            f"method='greedy' in place of 0); got {temperature}"
        )


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
        check_temperature("temperature", temperature)
        if not 0 <= top_k <= config.vocab_size:
            raise ValueError(f"top_k must be in [0, vocab_size={config.vocab_size}]; got {top_k}")
    if method == "greedy" and num_return != 1:
        raise ValueError(f"method='greedy' returns one result per row: num_return must be 1; got {num_return}")
    if method == "beam" and num_return > num_beams:
        raise ValueError(f"num_return must be at most num_beams={num_beams}; got {num_return}")


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


@functools.partial(jax.jit, static_argnames=(*STATIC, "top_k"))
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
    step, first, caches = prepare(config, params, inputs, segment_ids, num_return, max_decode_len, prompt, weights)

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
