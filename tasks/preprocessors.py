"""From rows to the two tasks' token sequences, in SeqIO's terms.

A pipeline is: choose a rationale, write the texts of one task, tokenize. Nothing is trimmed here; the feature converter
trims, and counts.
"""

from collections.abc import Callable, Collection, Mapping, Sequence

import seqio
import tensorflow as tf

from distill.tasks import task_ids
from distill.tasks.texts import SINGLE_MARKER, answer_of, encode, prompt

__all__ = [
    "EXTRAS", "SINGLE_MARKER", "Preprocessor", "add_task_ids", "answer_of", "choose_rationale", "drawing", "encode",
    "encode_tf", "label_texts", "paired_texts", "prompt", "prompted_targets", "rationale_texts", "shared_texts",
    "shares_input", "single_texts", "tokenize",
]  # fmt: skip

Preprocessor = Callable[..., tf.data.Dataset]

EXTRAS = ("id", "label", "llm_label", "choices", "rationale")
"""Features that are passed through for evaluation."""


def choose_rationale(how: str) -> Preprocessor:
    """Copies one of ``rationales`` to ``rationale`` (empty if there are none).

    Args:
      how: ``first``, or ``draw``: a new one each epoch, by SeqIO's seed.
    """
    if how == "first":

        @seqio.map_over_dataset
        def first(row: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            row = dict(row)
            texts = row.pop("rationales")
            return row | {"rationale": tf.cond(tf.size(texts) > 0, lambda: texts[0], lambda: "")}

        return first
    if how != "draw":
        raise ValueError(f"rationales must be 'first' or 'draw'; got {how!r}")

    @seqio.map_over_dataset(num_seeds=1)
    def draw(row: dict[str, tf.Tensor], seed: tf.Tensor) -> dict[str, tf.Tensor]:
        row = dict(row)
        texts = row.pop("rationales")
        number = tf.size(texts)
        index = tf.random.stateless_uniform([], seed, maxval=tf.maximum(number, 1), dtype=tf.int32)
        return row | {"rationale": tf.cond(number > 0, lambda: texts[index], lambda: "")}

    draw.draws = True
    return draw


def _extras(row: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    return {name: row[name] for name in EXTRAS}


def label_texts(prefix: str) -> Preprocessor:
    """``inputs``: prefix and input; ``targets``: the label. Rows without a label are left out."""

    def preprocess(dataset: tf.data.Dataset) -> tf.data.Dataset:
        return dataset.filter(lambda row: row["target"] != "").map(
            lambda row: (
                _extras(row) | {"inputs": prefix + row["input"], "targets": row["target"], "weight": row["weight"]}
            ),
            num_parallel_calls=tf.data.AUTOTUNE,
        )

    return preprocess


def rationale_texts(prefix: str) -> Preprocessor:
    """``inputs``: prefix and input; ``targets``: the rationale. Rows without one are left out."""

    def preprocess(dataset: tf.data.Dataset) -> tf.data.Dataset:
        return dataset.filter(lambda row: row["rationale"] != "").map(
            lambda row: (
                _extras(row)
                | {"inputs": prefix + row["input"], "targets": row["rationale"], "weight": row["rationale_weight"]}
            ),
            num_parallel_calls=tf.data.AUTOTUNE,
        )

    return preprocess


def _where_there_is_a_target(texts: Callable[[Mapping[str, tf.Tensor]], dict[str, tf.Tensor]]) -> Preprocessor:
    """``texts`` of the rows with a label or a rationale; the others are left out."""

    def preprocess(dataset: tf.data.Dataset) -> tf.data.Dataset:
        usable = dataset.filter(lambda row: tf.logical_or(row["target"] != "", row["rationale"] != ""))
        return usable.map(texts, num_parallel_calls=tf.data.AUTOTUNE)

    return preprocess


def paired_texts(label_prefix: str, rationale_prefix: str) -> Preprocessor:
    """The label task's texts and, as ``rationale_inputs`` and ``rationale_targets``, the rationale task's.

    A task for which the row has no target has empty texts; rows without both targets are left out.
    """

    def texts(row: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        def unless_empty(target: tf.Tensor, text: tf.Tensor) -> tf.Tensor:
            return tf.where(target == "", "", text)

        return _extras(row) | {
            "inputs": unless_empty(row["target"], label_prefix + row["input"]),
            "targets": row["target"],
            "weight": row["weight"],
            "rationale_inputs": unless_empty(row["rationale"], rationale_prefix + row["input"]),
            "rationale_targets": row["rationale"],
            "rationale_weight": row["rationale_weight"],
        }

    return _where_there_is_a_target(texts)


def shared_texts() -> Preprocessor:
    """The input once, the label as ``targets`` and the rationale as ``rationale_targets``, without prefixes.

    A target that the row does not have is empty; rows with neither are left out.
    """

    def texts(row: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return _extras(row) | {
            "inputs": row["input"],
            "targets": row["target"],
            "weight": row["weight"],
            "rationale_targets": row["rationale"],
            "rationale_weight": row["rationale_weight"],
        }

    return _where_there_is_a_target(texts)


def shares_input(features: Collection[str]) -> bool:
    """Whether a task with these features has two targets per input."""
    return "rationale_targets" in features and "rationale_inputs" not in features


def prompted_targets(prefixes: Mapping[str, str]) -> Preprocessor:
    """Prepends the tokens of a prefix to nonempty targets, with loss weight 0.

    Args:
      prefixes: by the name of the targets' feature.
    """

    def preprocess(dataset: tf.data.Dataset, output_features: Mapping[str, seqio.Feature]) -> tf.data.Dataset:
        ids = {name: prompt(output_features[name].vocabulary, prefix) for name, prefix in prefixes.items()}
        if len(ids) > 1 and len({tuple(tokens) for tokens in ids.values()}) < len(ids):
            raise ValueError(f"targets of one input need distinct prefixes; got {sorted(prefixes.values())}")

        def features(row: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            row = dict(row)
            for name, tokens in ids.items():
                number = tf.where(tf.size(row[name]) > 0, len(tokens), 0)
                row[name] = tf.concat([tf.constant(tokens, tf.int32)[:number], row[name]], axis=0)
                weights = row[f"{name}_weights"]
                row[f"{name}_weights"] = tf.concat([tf.zeros([number], tf.float32), weights], axis=0)
            return row

        return dataset.map(features, num_parallel_calls=tf.data.AUTOTUNE)

    return preprocess


def single_texts(prefix: str, marker: str) -> Preprocessor:
    """One target that reasons first and then answers: "<rationale> So the answer is <label>".

    The two halves stay apart, as ``rationale_part`` and ``label_part``, until they are tokenized. Rows without a label are
    left out; rows without a rationale only answer.
    """

    def texts(row: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        answer = tf.strings.join([marker, " ", row["target"]])
        has_rationale = row["rationale"] != ""
        return _extras(row) | {
            "inputs": prefix + row["input"],
            "targets": tf.where(has_rationale, tf.strings.join([row["rationale"], " ", answer]), answer),
            "rationale_part": row["rationale"],
            "label_part": tf.where(has_rationale, " " + answer, answer),
            "weight": row["weight"],
            "rationale_weight": row["rationale_weight"],
        }

    def preprocess(dataset: tf.data.Dataset) -> tf.data.Dataset:
        return dataset.filter(lambda row: row["target"] != "").map(texts, num_parallel_calls=tf.data.AUTOTUNE)

    return preprocess


def _with_eos(vocabulary: seqio.Vocabulary, ids: tf.Tensor) -> tf.Tensor:
    return tf.concat([tf.cast(ids, tf.int32), tf.constant([vocabulary.eos_id], tf.int32)], axis=0)


def encode_tf(vocabulary: seqio.Vocabulary, text: tf.Tensor, separator: str | None = None) -> tf.Tensor:
    """Token ids of ``text``, ending in EOS; none at all for an empty text.

    Args:
      vocabulary: encodes.
      text: a scalar string.
      separator: text that represents EOS. Hugging Face's tokenizers read "</s>" within a text as the EOS token, and so the
        published code's ``"</s>".join([premise, hypothesis])`` becomes one; SeqIO's vocabularies would spell it out in
        characters. So the text is split there, the pieces are encoded separately, and EOS is inserted between them.

    Returns:
      int32[length].
    """
    if separator is None:
        ids = _with_eos(vocabulary, vocabulary.encode_tf(text))
    else:
        pieces = tf.strings.split(text, separator)
        encoded = tf.map_fn(
            lambda piece: _with_eos(vocabulary, vocabulary.encode_tf(piece)),
            pieces,
            fn_output_signature=tf.RaggedTensorSpec([None], tf.int32, ragged_rank=0),
        )
        ids = encoded.flat_values
    return ids[: tf.where(tf.strings.length(text) > 0, tf.size(ids), 0)]


def tokenize(separator: str | None = None) -> Preprocessor:
    """Turns texts into the features of the task; the texts stay, as ``*_pretokenized``.

    Args:
      separator: see :func:`encode_tf`; applies to inputs.
    """

    def fill(like: tf.Tensor, value: int | tf.Tensor, dtype: tf.DType) -> tf.Tensor:
        return tf.fill(tf.shape(like), tf.cast(value, dtype))

    def preprocess(dataset: tf.data.Dataset, output_features: Mapping[str, seqio.Feature]) -> tf.data.Dataset:
        def features(row: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            row = dict(row)
            result = {name: row[name] for name in EXTRAS}
            for name, feature in output_features.items():
                result[f"{name}_pretokenized"] = row[name]
                cut = separator if name.endswith("inputs") else None
                result[name] = encode_tf(feature.vocabulary, row[name], cut)
            if "label_part" in row:
                vocabulary = output_features["targets"].vocabulary
                why = tf.cast(vocabulary.encode_tf(row["rationale_part"]), tf.int32)
                answer = _with_eos(vocabulary, vocabulary.encode_tf(row["label_part"]))
                result["targets"] = tf.concat([why, answer], axis=0)
                result["targets_task_ids"] = tf.concat(
                    [fill(why, task_ids.RATIONALE, tf.int32), fill(answer, task_ids.LABEL, tf.int32)], axis=0
                )
                result["targets_weights"] = tf.concat(
                    [fill(why, row["rationale_weight"], tf.float32), fill(answer, row["weight"], tf.float32)], axis=0
                )
                return result
            result["targets_weights"] = fill(result["targets"], row["weight"], tf.float32)
            if "rationale_targets" in row:
                weights = fill(result["rationale_targets"], row["rationale_weight"], tf.float32)
                result["rationale_targets_weights"] = weights
            return result

        return dataset.map(features, num_parallel_calls=tf.data.AUTOTUNE)

    return preprocess


def add_task_ids(task_id: int) -> Preprocessor:
    """``targets_task_ids``: ``task_id`` for every target token."""

    @seqio.map_over_dataset
    def preprocess(row: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return dict(row) | {"targets_task_ids": tf.fill(tf.shape(row["targets"]), tf.constant(task_id, tf.int32))}

    return preprocess


def drawing(preprocessors: Sequence[Preprocessor]) -> bool:
    """Whether any of the preprocessors draws at random, so that epochs differ."""
    return any(getattr(preprocessor, "draws", False) for preprocessor in preprocessors)
