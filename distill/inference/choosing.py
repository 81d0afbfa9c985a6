"""Choosing an answer among given ones: the log-probability of each under the student. Imports neither TensorFlow nor SeqIO.

T0, SeqIO and T5X call this rank classification. The probability is that of the whole text, EOS included.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float

from distill import stuck
from distill.inference.decoder import Decoder, bucket_lengths
from distill.model.configs import NetworkConfig
from distill.model.network import ModelInputs
from distill.model.networks import final_logit_cap, network_of
from distill.model.parameters import Params, output_kernel
from distill.sharding import partitioning
from distill.sharding.cross_entropy import weighted_cross_entropy
from distill.sharding.cross_entropy_chunk import TokenStats
from distill.tasks import texts
from distill.tasks.records import is_blank
from distill.validation import quoted

WINDOW = 512
"""Target tokens of a row that are scored together, and the most that a choice may have."""

_SHORTEST = 16
_CHUNK_TOKENS = 4096


class Chosen(NamedTuple):
    """The choice of one input.

    Attributes:
      number: of the choice with the highest score, from 0; the first of equals.
      log_probs: float32 [choices], the log-probability of each choice, EOS included, nats.
      scores: float32 [choices], what the choices are ranked by: ``log_probs``, or ``log_probs`` per token.
      copies: int64 [choices], how often each choice is listed.
    """

    number: int
    log_probs: np.ndarray
    scores: np.ndarray
    copies: np.ndarray

    @property
    def log_prob(self) -> float:
        """The log-probability of the chosen one; not finite if any of the log-probabilities is not."""
        return float(self.log_probs[self.number]) if np.isfinite(self.log_probs).all() else float("nan")

    @property
    def probabilities(self) -> np.ndarray:
        """float64 [choices], the softmax of the scores: the probability of each, given that the answer is one of them.

        A choice that is listed several times counts once: its probability is divided between its places. If the scores are
        per token, it is no probability of the student's, but ranks the choices alike.
        """
        scores = self.scores.astype(np.float64)
        shares = np.exp(scores - scores.max()) / self.copies
        return shares / shares.sum()


class Chooser:
    """Computes how probable each of a row's choices is; compiles once per length.

    An input is encoded once. Its choices are the segments of one target window, which all attend to the same input.

    Args:
      decoder: gives the student, the mesh, the number of rows scored together, the longest input, and whether scores are
        per token; decodes nothing.
    """

    def __init__(self, decoder: Decoder):
        self._decoder = decoder

    def __call__(
        self,
        params: Any,
        inputs: Sequence[np.ndarray],
        choices: Sequence[Sequence[Sequence[int]]],
        prompt: Sequence[int] = (),
    ) -> list[Chosen]:
        """Chooses for each input; returns the choices in the order of the inputs.

        Args:
          params: the student's.
          inputs: int32 ids with EOS.
          choices: for each input, the ids of its choices, each with EOS.
          prompt: token ids that every target begins with; they are given, and their probability does not count.

        Raises:
          ValueError: an input has no choices, or a choice has no token or more than :data:`WINDOW`.
        """
        for number, one in enumerate(choices):
            lengths = [len(choice) for choice in one]
            if not lengths or min(lengths) < 1 or max(lengths) + len(prompt) > WINDOW:
                raise ValueError(
                    f"inputs[{number}] must have choices of 1 to {WINDOW - len(prompt)} tokens; got the lengths {lengths}"
                )
        windows = [
            _Window(row, first, last)
            for row, one in enumerate(choices)
            for first, last in _groups([len(prompt) + len(choice) for choice in one])
        ]
        longest = max((sum(len(prompt) + len(c) for c in w.of(choices)) for w in windows), default=0)
        length = next(n for n in bucket_lengths(_SHORTEST, WINDOW) if n >= longest)
        decoder = self._decoder
        run = _program(decoder.model, decoder.mesh, tuple(nn.get_logical_axis_rules()))
        sharding = partitioning.batch_sharding(decoder.mesh)
        log_probs = [np.zeros(len(one), np.float32) for one in choices]
        for indices, tokens in decoder.batches([inputs[window.row] for window in windows]):
            batch, segments = _batch(tokens, [windows[index].of(choices) for index in indices], prompt, length)
            costs = np.asarray(jax.device_get(run(params, jax.device_put(batch, sharding))))
            stuck.alive()
            for place, index in enumerate(indices):
                window = windows[index]
                for number in range(window.first, window.last):
                    of_choice = segments[place] == number - window.first + 1
                    log_probs[window.row][number] = -costs[place][of_choice].sum()
        scores = log_probs
        if decoder.config.normalize_by_target_length:
            tokens_of = [np.array([len(choice) for choice in own], np.float32) for own in choices]
            scores = [one / tokens for one, tokens in zip(log_probs, tokens_of)]
        copies = [np.array([list(own).count(choice) for choice in own]) for own in choices]
        return [Chosen(int(np.argmax(one[1])), *one) for one in zip(log_probs, scores, copies)]


def encoded(vocabulary: texts.Vocabulary, choices: Sequence[str], prompt: Sequence[int] = ()) -> list[tuple[int, ...]]:
    """The ids of each choice, with EOS.

    Args:
      vocabulary: the student's.
      choices: the texts.
      prompt: token ids that every target begins with, as in :class:`Chooser`.

    Raises:
      ValueError: the student cannot choose among these texts: there are not two different ones, one is blank or, after the
        prompt, too long, or two different ones have the same tokens. The same text may be listed twice: rows of
        CommonsenseQA do so, and whichever is chosen, the answer is that text.
    """
    limit = WINDOW - len(prompt)
    if len(set(choices)) < 2:
        raise ValueError(f"there must be two different choices or more; got {quoted(list(choices))}")
    seen: dict[tuple[int, ...], str] = {}
    found = []
    for choice in choices:
        ids = tuple(texts.encode(vocabulary, choice))
        if is_blank(choice):
            raise ValueError(f"a choice has no visible character; got {quoted(choice)}")
        if len(ids) > limit:
            raise ValueError(f"a choice has more than {limit} tokens; got {len(ids):,} in {quoted(choice, 40)}")
        if seen.setdefault(ids, choice) != choice:
            raise ValueError(f"two choices have the same tokens; got {quoted(seen[ids])} and {quoted(choice)}")
        found.append(ids)
    return found


def all_encoded(
    vocabulary: texts.Vocabulary,
    rows: Sequence[Sequence[str]],
    prompt: Sequence[int],
    worded: Callable[[int, ValueError], str],
) -> list[list[tuple[int, ...]]]:
    """As :func:`encoded` for each row's choices; those that several rows have are encoded once.

    Args:
      vocabulary: the student's.
      rows: the choices of each row.
      prompt: token ids that every target begins with.
      worded: gives the message for a row's number, from 0, and its error.

    Raises:
      ValueError: the student cannot choose among the choices of a row.
    """
    found: dict[tuple[str, ...], list[tuple[int, ...]]] = {}
    for number, choices in enumerate(map(tuple, rows)):
        if choices not in found:
            try:
                found[choices] = encoded(vocabulary, choices, prompt)
            except ValueError as error:
                raise ValueError(worded(number, error)) from None
    return [found[tuple(choices)] for choices in rows]


def problem_of(vocabulary: texts.Vocabulary, prompt: Sequence[int], choices: Sequence[str]) -> str | None:
    """Why :func:`encoded` refuses these choices; None if it does not."""
    try:
        encoded(vocabulary, choices, prompt)
    except ValueError as error:
        return str(error)
    return None


def target_stats(
    model: NetworkConfig, params: Params, batch: Mapping[str, jax.Array], counted: Bool[Array, "rows length"]
) -> tuple[Float[Array, ""], TokenStats]:
    """How probable the targets of a batch are, each token given the tokens before it.

    Args:
      model: the student.
      params: its parameters.
      batch: the model's inputs, and ``decoder_target_tokens``.
      counted: the target tokens that count; the statistics of others are undefined.

    Returns:
      The sum of the cross-entropy in nats, and the statistics of each token.
    """
    hidden = network_of(model).apply({"params": params}, ModelInputs.of(batch), method="hidden")
    rest = (0.0, 0.0, _CHUNK_TOKENS, counted, final_logit_cap(model))
    weights = counted.astype(jnp.float32)
    return weighted_cross_entropy(hidden, output_kernel(params, model), batch["decoder_target_tokens"], weights, *rest)


class _Window(NamedTuple):
    """Choices ``first`` to ``last`` (exclusive) of an input, which are scored together."""

    row: int
    first: int
    last: int

    def of(self, choices: Sequence[Sequence[Sequence[int]]]) -> Sequence[Sequence[int]]:
        return choices[self.row][self.first : self.last]


def _groups(lengths: Sequence[int]) -> list[tuple[int, int]]:
    """Cuts a row's choices into runs of at most :data:`WINDOW` tokens.

    >>> _groups([200, 300, 20, 600, 5])
    [(0, 2), (2, 3), (3, 4), (4, 5)]
    """
    groups, first, tokens = [], 0, 0
    for number, length in enumerate(lengths):
        if number > first and tokens + length > WINDOW:
            groups.append((first, number))
            first, tokens = number, 0
        tokens += length
    return [*groups, (first, len(lengths))]


def _batch(
    tokens: np.ndarray, choices: Sequence[Sequence[Sequence[int]]], prompt: Sequence[int], length: int
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The model's inputs for rows and their choices.

    Returns:
      The features, [rows, length] each except the encoder's; and int32 [rows, length], the number of the choice, from 1,
      of each token that counts, 0 elsewhere.
    """
    rows = len(tokens)
    targets, previous, segments, counted = (np.zeros((rows, length), np.int32) for _ in range(4))
    for row, of_row in enumerate(choices):
        start = 0
        for number, choice in enumerate(of_row, 1):
            ids = [*prompt, *choice]
            end = start + len(ids)
            targets[row, start:end] = ids
            previous[row, start + 1 : end] = ids[:-1]
            segments[row, start:end] = number
            counted[row, start + len(prompt) : end] = number
            start = end
    features = {
        "encoder_input_tokens": tokens,
        "encoder_segment_ids": (tokens != 0).astype(np.int32),
        "decoder_input_tokens": previous,
        "decoder_target_tokens": targets,
        "decoder_segment_ids": segments,
        "decoder_cross_segment_ids": (segments > 0).astype(np.int32),
        "counted": counted > 0,
    }
    return features, counted


@functools.lru_cache(maxsize=8)
def _program(model: NetworkConfig, mesh: Mesh, rules: partitioning.Rules) -> jax.stages.Wrapped:
    """Returns the jitted scoring of a batch: parameters, features → float32 [rows, length], cross-entropy in nats.

    It is kept for the process, as that of decoding; ``rules`` are those in force where it is called.
    """
    del rules

    def run(params: Params, batch: dict[str, jax.Array]) -> Float[Array, "rows length"]:
        return target_stats(model, params, batch, batch["counted"])[1].cross_entropy

    return jax.jit(run, out_shardings=partitioning.replicated(mesh))
