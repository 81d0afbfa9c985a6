"""T5's pretraining objective: spans of a text are replaced by sentinels, and the targets are these spans.

Raffel et al. 2020 (arXiv 1910.10683, section 3.1.4; i.i.d. spans in section 3.3.4). The arithmetic and the draws are those
of the ``t5`` package (``t5/data/preprocessors.py``: ``random_spans_helper``, ``random_spans_noise_mask``,
``noise_span_to_unique_sentinel``, ``nonnoise_span_to_unique_sentinel``). SeqIO itself has none of them.

A text ``a b c d e f`` with noise on ``b c`` and ``f`` becomes::

    inputs   a <0> d e <1> EOS
    targets  <0> b c <1> f EOS
"""

import dataclasses
import re

import seqio
import tensorflow as tf

from distill import validation
from distill.tasks import task_ids

_EXTRA_ID = re.compile(r"▁?<extra_id_(\d+)>")


@dataclasses.dataclass(frozen=True)
class SpanCorruption:
    """How windows of a text are corrupted.

    Attributes:
      inputs_length: tokens of the inputs, sentinels and EOS included.
      noise_density: share of a window's tokens that are masked (T5: 0.15).
      mean_span_length: mean tokens of a masked span (T5: 3; ByT5: 20).

    Raises:
      ValueError: a value is out of its range.
    """

    inputs_length: int = 512
    noise_density: float = 0.15
    mean_span_length: float = 3.0

    def __post_init__(self) -> None:
        validation.check_range("noise_density", self.noise_density, "in (0, 1)")
        validation.check_range("mean_span_length", self.mean_span_length, "≥ 1")
        # text, a sentinel and EOS
        validation.check_range("inputs_length", self.inputs_length, "≥ 4")

    def counts(self, length: int) -> tuple[int, int]:
        """The number of masked tokens and of masked spans in a window of ``length`` tokens."""
        noise = min(max(round(length * self.noise_density), 1), length - 1)
        spans = min(max(round(noise / self.mean_span_length), 1), length - noise)
        return noise, spans

    def lengths(self, length: int) -> tuple[int, int]:
        """The tokens of inputs and of targets that a window of ``length`` tokens gives, EOS included."""
        noise, spans = self.counts(length)
        return length - noise + spans + 1, noise + spans + 1

    @property
    def window(self) -> int:
        """The tokens of a window of text whose inputs have at most ``inputs_length`` tokens; T5's 512 gives 568."""
        length = self.inputs_length - 1
        while self.lengths(length)[0] > self.inputs_length:
            length -= 1
        while self.lengths(length + 1)[0] <= self.inputs_length:
            length += 1
        return length

    @property
    def targets_length(self) -> int:
        """The tokens of the targets of a window; T5's 512 gives 114."""
        return self.lengths(self.window)[1]


def sentinels(vocabulary: seqio.Vocabulary) -> list[int]:
    """The ids of ``<extra_id_0>``, ``<extra_id_1>`` …, in this order; empty if the vocabulary has none.

    Args:
      vocabulary: with extra ids that SeqIO appends, or a SentencePiece file whose pieces contain them, as T5's.
    """
    if isinstance(vocabulary, seqio.SentencePieceVocabulary):
        tokenizer = vocabulary.tokenizer
        found = {}
        for number in range(tokenizer.get_piece_size()):
            if match := _EXTRA_ID.fullmatch(tokenizer.id_to_piece(number)):
                found[int(match[1])] = number
        return [found[number] for number in range(len(found)) if number in found]
    last = vocabulary.vocab_size - 1
    return list(range(last, last - vocabulary.extra_ids, -1))


def check_sentinels(vocabulary: seqio.Vocabulary, spans: SpanCorruption) -> tf.Tensor:
    """Returns the sentinels' ids, int32 [extra ids].

    Raises:
      ValueError: the vocabulary has fewer than a window has spans.
    """
    ids = sentinels(vocabulary)
    needed = spans.counts(spans.window)[1]
    if len(ids) < needed:
        raise ValueError(
            f"span corruption needs {needed} extra ids as sentinels, one per span of a window of {spans.window} tokens; "
            f"the vocabulary of {vocabulary.vocab_size} ids has {len(ids)}: make one with `distill vocabulary … "
            "--extra_ids=100`, take 't5', 'mt5' or 'bytes', or set a shorter window or a longer mean_span_length"
        )
    return tf.constant(ids, tf.int32)


def _random_segmentation(items: int, segments: int, seed: tf.Tensor) -> tf.Tensor:
    """Lengths ≥ 1 of ``segments`` segments that sum to ``items``, uniform over all such partitions."""
    first = tf.cast(tf.range(items - 1) < segments - 1, tf.int32)
    first = tf.pad(tf.random.experimental.stateless_shuffle(first, seed), [[1, 0]])
    return tf.math.bincount(tf.cumsum(first), minlength=segments, maxlength=segments)


def noise_mask(length: int, spans: SpanCorruption, seed: tf.Tensor) -> tf.Tensor:
    """Draws which tokens of a window are masked; the first token never is.

    Args:
      length: tokens of the window, ≥ 2.
      spans: density and mean length.
      seed: int32 [2], a stateless seed.

    Returns:
      bool [length], with exactly the counts of :meth:`SpanCorruption.counts`.
    """
    noise, number = spans.counts(length)
    seeds = tf.random.experimental.stateless_split(seed, 2)
    kept_lengths = _random_segmentation(length - noise, number, seeds[0])
    noise_lengths = _random_segmentation(noise, number, seeds[1])
    lengths = tf.reshape(tf.stack([kept_lengths, noise_lengths], axis=1), [2 * number])
    mask = tf.repeat(tf.range(2 * number) % 2 == 1, lengths)
    return tf.ensure_shape(mask, [length])


def corrupted(tokens: tf.Tensor, mask: tf.Tensor, sentinel_ids: tf.Tensor) -> tf.Tensor:
    """Replaces every span of masked tokens by one sentinel, in their order.

    Args:
      tokens: int32 [length].
      mask: bool [length].
      sentinel_ids: int32, the sentinels in order.
    """
    before = tf.pad(mask[:-1], [[1, 0]])
    first = mask & ~before
    number = tf.maximum(tf.cumsum(tf.cast(first, tf.int32)) - 1, 0)
    return tf.boolean_mask(tf.where(first, tf.gather(sentinel_ids, number), tokens), ~(mask & before))


def corrupt_spans(vocabulary: seqio.Vocabulary, spans: SpanCorruption):  # type: ignore[no-untyped-def]
    """A SeqIO preprocessor from texts to examples of span corruption, all of the same lengths.

    The tokens of all texts are concatenated in their order, without separators as in T5, and cut into windows; a rest
    shorter than a window is dropped. Each window is masked anew in every epoch, by SeqIO's seed.

    Args:
      vocabulary: of the texts.
      spans: how windows are masked.

    Returns:
      A preprocessor: rows with ``input`` → ``inputs``, ``targets``, ``targets_task_ids``, ``targets_weights`` (all tokens
      are of the label task, weight 1).
    """

    def preprocess(dataset: tf.data.Dataset) -> tf.data.Dataset:
        sentinel_ids = check_sentinels(vocabulary, spans)
        window, eos = spans.window, tf.constant([vocabulary.eos_id], tf.int32)

        @seqio.map_over_dataset(num_seeds=1)
        def corrupt(tokens: tf.Tensor, seed: tf.Tensor) -> dict[str, tf.Tensor]:
            mask = noise_mask(window, spans, seed)
            targets = tf.concat([corrupted(tokens, ~mask, sentinel_ids), eos], 0)
            # Targets begin with the span that is kept in the inputs, which became the first sentinel.
            return {
                "inputs": tf.concat([corrupted(tokens, mask, sentinel_ids), eos], 0),
                "targets": targets,
                "targets_task_ids": tf.fill(tf.shape(targets), tf.constant(task_ids.LABEL, tf.int32)),
                "targets_weights": tf.ones(tf.shape(targets), tf.float32),
            }

        tokens = dataset.map(
            lambda row: tf.cast(vocabulary.encode_tf(row["input"]), tf.int32), num_parallel_calls=tf.data.AUTOTUNE
        )
        return corrupt(tokens.filter(lambda ids: tf.size(ids) > 0).rebatch(window, drop_remainder=True))

    preprocess.draws = True  # type: ignore[attr-defined]
    return preprocess


def text_of(inputs: list[int], targets: list[int], sentinel_ids: list[int]) -> list[int]:
    """The tokens of the window that an example was made of: each sentinel of the inputs is replaced by its span.

    Args:
      inputs, targets: token ids without EOS.
      sentinel_ids: as :func:`sentinels`.
    """
    known, found = set(sentinel_ids), dict[int, list[int]]()
    span: list[int] = []
    for token in targets:
        if token in known:
            span = found.setdefault(token, [])
        else:
            span.append(token)
    return [one for token in inputs for one in (found.get(token, []) if token in known else [token])]
