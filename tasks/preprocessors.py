"""From rows to the two tasks' token sequences, in SeqIO's terms.

A pipeline is: choose a rationale, write the texts of one task, tokenize. Nothing is trimmed here; the feature converter
trims, and counts.
"""

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
import seqio
import tensorflow as tf

from distill.tasks import task_ids
from distill.tasks.key_tokens import KeyTokens
from distill.tasks.texts import EXPLANATION_MARKER, SINGLE_MARKER, answer_of, encode, prompt, required_bos

__all__ = [
    "EXPLANATION_MARKER", "EXTRAS", "SINGLE_MARKER", "Preprocessor", "answer_of", "choose_rationale", "drawing", "encode",
    "encode_tf", "label_texts", "paired_texts", "prompt", "prompted_targets", "rationale_texts", "refused", "shared_texts",
    "shares_input", "single_texts", "tokenize",
]  # fmt: skip

Preprocessor = Callable[..., tf.data.Dataset]

EXTRAS = ("id", "label", "llm_label", "choices", "rationale")
"""Features that are passed through for evaluation."""


def choose_rationale(how: str) -> Preprocessor:
    """Copies one of ``rationales`` to ``rationale`` (empty if there are none).

    With variants (:data:`distill.tasks.feeding.VARIANT_SPEC`), the chosen rationale's prefix becomes ``rationale_prefix``,
    and its factor multiplies ``rationale_weight``.

    Args:
      how: ``first``, or ``draw``: a new one each epoch, by SeqIO's seed.
    """

    def chosen(row: dict[str, tf.Tensor], index: int | tf.Tensor) -> dict[str, tf.Tensor]:
        def at_index(values: tf.Tensor, otherwise: str | float) -> tf.Tensor:
            """``values[index]``; ``otherwise`` where there are none and the index is 0. ``tf.cond`` is traced longer."""
            return tf.concat([values, tf.constant([otherwise], values.dtype)], axis=0)[index]

        row = dict(row)
        row["rationale"] = at_index(row.pop("rationales"), "")
        if "rationale_prefixes" in row:
            row["rationale_prefix"] = at_index(row.pop("rationale_prefixes"), "")
            row["rationale_weight"] *= at_index(row.pop("rationale_factors"), 1.0)
        return row

    if how == "first":

        @seqio.map_over_dataset
        def first(row: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            return chosen(row, 0)

        return first
    if how != "draw":
        raise ValueError(f"rationales must be 'first' or 'draw'; got {how!r}")

    @seqio.map_over_dataset(num_seeds=1)
    def draw(row: dict[str, tf.Tensor], seed: tf.Tensor) -> dict[str, tf.Tensor]:
        number = tf.size(row["rationales"])
        index = tf.random.stateless_uniform([], seed, maxval=tf.maximum(number, 1), dtype=tf.int32)
        return chosen(row, index)

    draw.draws = True
    return draw


def refused(message: str) -> Preprocessor:
    """Raises ValueError with ``message`` when the data set of the task is made."""

    def preprocess(dataset: tf.data.Dataset) -> tf.data.Dataset:
        raise ValueError(message)

    return preprocess


def _extras(row: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    return {name: row[name] for name in (*EXTRAS, "key_phrases") if name in row or name in EXTRAS}


def _prefix_of(row: Mapping[str, tf.Tensor], prefix: str) -> str | tf.Tensor:
    """The prefix of the row's rationale task: its teacher's, if it has one."""
    own = row.get("rationale_prefix")
    return prefix if own is None else tf.where(own == "", prefix, own)


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
                | {
                    "inputs": _prefix_of(row, prefix) + row["input"],
                    "targets": row["rationale"],
                    "weight": row["rationale_weight"],
                }
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
            "rationale_inputs": unless_empty(row["rationale"], _prefix_of(row, rationale_prefix) + row["input"]),
            "rationale_targets": row["rationale"],
            "rationale_weight": row["rationale_weight"],
        }

    return _where_there_is_a_target(texts)


def shared_texts() -> Preprocessor:
    """The input once, the label as ``targets`` and the rationale as ``rationale_targets``, without prefixes.

    A target that the row does not have is empty; rows with neither are left out.
    """

    def texts(row: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        own = {"rationale_prompt": row["rationale_prefix"]} if "rationale_prefix" in row else {}
        return (
            _extras(row)
            | own
            | {
                "inputs": row["input"],
                "targets": row["target"],
                "weight": row["weight"],
                "rationale_targets": row["rationale"],
                "rationale_weight": row["rationale_weight"],
            }
        )

    return _where_there_is_a_target(texts)


def shares_input(features: Collection[str]) -> bool:
    """Whether a task with these features has two targets per input."""
    return "rationale_targets" in features and "rationale_inputs" not in features


def prompted_targets(prefixes: Mapping[str, str]) -> Preprocessor:
    """Prepends the tokens of a prefix to nonempty targets, with their task id and loss weight 0.

    Args:
      prefixes: by the name of the targets' feature. A row's ``rationale_prompt`` that is not empty replaces that of
        ``rationale_targets``.
    """

    def preprocess(dataset: tf.data.Dataset, output_features: Mapping[str, seqio.Feature]) -> tf.data.Dataset:
        prompts = {name: prompt(output_features[name].vocabulary, prefix) for name, prefix in prefixes.items()}
        if len(prompts) > 1 and len({tuple(tokens) for tokens in prompts.values()}) < len(prompts):
            raise ValueError(f"targets of one input need distinct prefixes; got {sorted(prefixes.values())}")

        def features(row: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            row = dict(row)
            for name, prefix in prompts.items():
                tokens = tf.constant(prefix, tf.int32)
                if name == "rationale_targets" and "rationale_prompt" in row:
                    own = row.pop("rationale_prompt")
                    encoded = tf.cast(output_features[name].vocabulary.encode_tf(own), tf.int32)
                    tokens = tf.cond(own == "", lambda tokens=tokens: tokens, lambda encoded=encoded: encoded)
                number = tf.where(tf.size(row[name]) > 0, tf.size(tokens), 0)
                row[name] = tf.concat([tokens[:number], row[name]], axis=0)
                weights = row[f"{name}_weights"]
                row[f"{name}_weights"] = tf.concat([tf.zeros([number], tf.float32), weights], axis=0)
                if (ids := row.get(f"{name}_task_ids")) is not None:
                    row[f"{name}_task_ids"] = tf.concat([tf.repeat(ids[:1], number), ids], axis=0)
            return row

        return dataset.map(features, num_parallel_calls=tf.data.AUTOTUNE)

    return preprocess


def single_texts(
    prefix: str, marker: str, *, label_first: bool = False, explanation: str = EXPLANATION_MARKER
) -> Preprocessor:
    """One target that reasons first and then answers: "<rationale> So the answer is <label>".

    With ``label_first`` it answers first: "So the answer is <label> Explanation: <rationale>".

    The two halves stay apart, as ``rationale_part`` and ``label_part``, until they are tokenized. Rows without a label are
    left out; rows without a rationale only answer.
    """

    def texts(row: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        answer = tf.strings.join([marker, " ", row.get("single_target", row["target"])])
        has_rationale = row["rationale"] != ""
        reason, between = row["rationale"], " "
        if label_first:
            reason = tf.where(has_rationale, tf.strings.join([" ", explanation, " ", reason]), "")
            between = ""
        halves = [answer, reason] if label_first else [reason, between, answer]
        return _extras(row) | {
            "inputs": prefix + row["input"],
            "targets": tf.where(has_rationale, tf.strings.join(halves), answer),
            "rationale_part": reason,
            "label_part": answer if label_first else tf.where(has_rationale, " " + answer, answer),
            "weight": row.get("single_weight", row["weight"]),
            "rationale_weight": row["rationale_weight"],
        }

    def preprocess(dataset: tf.data.Dataset) -> tf.data.Dataset:
        wanted = dataset.filter(lambda row: row.get("single_target", row["target"]) != "")
        return wanted.map(texts, num_parallel_calls=tf.data.AUTOTUNE)

    return preprocess


def _with_eos(vocabulary: seqio.Vocabulary, ids: tf.Tensor) -> tf.Tensor:
    return tf.concat([tf.cast(ids, tf.int32), tf.constant([vocabulary.eos_id], tf.int32)], axis=0)


def encode_tf(
    vocabulary: seqio.Vocabulary, text: tf.Tensor, separator: str | None = None, *, bos: bool = False
) -> tf.Tensor:
    """Token ids of ``text``, ending in EOS; none at all for an empty text.

    Args:
      vocabulary: encodes.
      text: a scalar string.
      separator: text that represents EOS. Hugging Face's tokenizers read "</s>" within a text as the EOS token, and so the
        published code's ``"</s>".join([premise, hypothesis])`` becomes one; SeqIO's vocabularies would spell it out in
        characters. So the text is split there, the pieces are encoded separately, and EOS is inserted between them.
      bos: whether BOS precedes the tokens.

    Returns:
      int32[length].

    Raises:
      ValueError: ``bos`` with a vocabulary without BOS.
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
    if bos:
        ids = tf.concat([tf.constant([required_bos(vocabulary)], tf.int32), ids], axis=0)
    return ids[: tf.where(tf.strings.length(text) > 0, tf.size(ids), 0)]


def tokenize(
    separator: str | None = None,
    *,
    key_tokens: KeyTokens | None = None,
    of_rationales: bool = False,
    label_first: bool = False,
    encoder_bos: bool = False,
) -> Preprocessor:
    """Turns texts into the features of the task, with the task id and the weight of each token of ``targets``.

    The texts stay, as ``*_pretokenized``.

    Args:
      separator: see :func:`encode_tf`; applies to inputs.
      key_tokens: multiplies the weights of the rationales' tokens; needs the rows' ``key_phrases``.
      of_rationales: whether ``targets`` are rationales; ``rationale_targets`` always are.
      label_first: the order of the parts of :func:`single_texts`.
      encoder_bos: whether BOS precedes the tokens of inputs.
    """

    def fill(like: tf.Tensor, value: int | tf.Tensor, dtype: tf.DType) -> tf.Tensor:
        return tf.fill(tf.shape(like), tf.cast(value, dtype))

    def weighed(
        weights: tf.Tensor, text: tf.Tensor, row: Mapping[str, tf.Tensor], vocabulary: seqio.Vocabulary
    ) -> tf.Tensor:
        """The weights of a rationale's tokens times their factors; a token after the rationale's own is EOS."""
        if key_tokens is None:
            return weights

        def factors(text: bytes, phrases: Sequence[bytes]) -> np.ndarray:
            return key_tokens.factors(vocabulary, text.decode(), [phrase.decode() for phrase in phrases])

        found = tf.ensure_shape(tf.numpy_function(factors, [text, row["key_phrases"]], tf.float32), [None])
        return weights * found[: tf.size(weights)]

    def of_parts(row: Mapping[str, tf.Tensor], vocabulary: seqio.Vocabulary) -> dict[str, tf.Tensor]:
        why = tf.cast(vocabulary.encode_tf(row["rationale_part"]), tf.int32)
        answer = tf.cast(vocabulary.encode_tf(row["label_part"]), tf.int32)
        why_weights = weighed(fill(why, row["rationale_weight"], tf.float32), row["rationale_part"], row, vocabulary)
        parts = [
            (why, fill(why, task_ids.RATIONALE, tf.int32), why_weights),
            (answer, fill(answer, task_ids.LABEL, tf.int32), fill(answer, row["weight"], tf.float32)),
        ]
        explained = tf.logical_and(label_first, tf.size(why) > 0)  # whether EOS ends a rationale
        parts = parts[::-1] if label_first else parts
        end = (
            tf.constant([vocabulary.eos_id], tf.int32),
            tf.where(explained, task_ids.RATIONALE, task_ids.LABEL)[None],
            tf.where(explained, row["rationale_weight"], row["weight"])[None],
        )
        names = ("targets", "targets_task_ids", "targets_weights")
        return {name: tf.concat(values, axis=0) for name, values in zip(names, zip(*parts, end))}

    def preprocess(dataset: tf.data.Dataset, output_features: Mapping[str, seqio.Feature]) -> tf.data.Dataset:
        vocabulary = output_features["targets"].vocabulary

        def features(row: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            row = dict(row)
            result = {name: row[name] for name in (*EXTRAS, "rationale_prompt") if name in row or name in EXTRAS}
            for name, feature in output_features.items():
                result[f"{name}_pretokenized"] = row[name]
                of_input = name.endswith("inputs")
                cut = separator if of_input else None
                result[name] = encode_tf(feature.vocabulary, row[name], cut, bos=encoder_bos and of_input)
            if "label_part" in row:
                return result | of_parts(row, vocabulary)
            task = task_ids.RATIONALE if of_rationales else task_ids.LABEL
            result["targets_task_ids"] = fill(result["targets"], task, tf.int32)
            weights = fill(result["targets"], row["weight"], tf.float32)
            result["targets_weights"] = weights
            if "rationale_targets" in row:
                weights = fill(result["rationale_targets"], row["rationale_weight"], tf.float32)
                weights = weighed(weights, row["rationale_targets"], row, vocabulary)
                result["rationale_targets_weights"] = weights
            elif key_tokens is not None and of_rationales:
                result["targets_weights"] = weighed(weights, row["targets"], row, vocabulary)
            return result

        return dataset.map(features, num_parallel_calls=tf.data.AUTOTUNE)

    return preprocess


def drawing(preprocessors: Sequence[Preprocessor]) -> bool:
    """Whether any of the preprocessors draws at random, so that epochs differ."""
    return any(getattr(preprocessor, "draws", False) for preprocessor in preprocessors)
