"""Puts a data set into SeqIO's registries as tasks and a mixture, and finds them again.

registered = register(svamp.dataset("data"), "t5")
get(registered.paired).get_dataset(None, split="train")
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import seqio
import tensorflow as tf

from distill import validation
from distill.tasks import controls, fingerprint, metrics, preprocessors, span_corruption, vocabularies
from distill.tasks.corpus import Corpus
from distill.tasks.dataset import Dataset
from distill.tasks.feeding import RecordDataSource
from distill.tasks.key_tokens import KeyTokens, Kind
from distill.tasks.postprocessing import answer_postprocessor, rationale_postprocessor
from distill.tasks.registered import (
    Noted,
    Registered,
    call_of,
    check_prompts,
    draws_at_random,
    get,
    label_is_last,
    neighbours,
    note,
    prompt,
    registered_names,
    report,
    settings_of,
    shares_input,
    spans_of,
)
from distill.tasks.selection import LabelSource, OnDisagreement, Selection
from distill.tasks.variants import Confidence, Variants

__all__ = [
    "LABEL_PREFIX",
    "PASSED_THROUGH",
    "RATIONALE_PREFIX",
    "PlainTask",
    "Registered",
    "TwoTaskMixture",
    "call_of",
    "check_prompts",
    "draws_at_random",
    "get",
    "label_is_last",
    "neighbours",
    "prompt",
    "register",
    "registered_names",
    "report",
    "settings_of",
    "shares_input",
    "spans_of",
]

LABEL_PREFIX = "[label] "
RATIONALE_PREFIX = "[rationale] "

PASSED_THROUGH = ("targets_task_ids", "targets_weights")


class TwoTaskMixture(seqio.Mixture):
    """A mixture whose examples keep their task ids and weights, which SeqIO would drop as unknown features."""

    def get_dataset(
        self, *args: Any, passthrough_features: Sequence[str] | None = None, **kwargs: Any
    ) -> tf.data.Dataset:
        """As ``seqio.Mixture.get_dataset``, with the task ids and weights."""
        names = dict.fromkeys([*(passthrough_features or ()), *PASSED_THROUGH])
        return super().get_dataset(*args, passthrough_features=list(names), **kwargs)


class PlainTask(seqio.Task):
    """A task whose preprocessors are traced by TensorFlow as they are written, without AutoGraph.

    AutoGraph rewrites each function, and each that it calls, for Python branches and loops over tensors. The preprocessors
    of this package have none, and rewriting takes most of the time in which a small data set is read. Without lengths,
    there is no step that trims, either: SeqIO's would trace a function that returns its argument.
    """

    def get_dataset(
        self, sequence_length: Mapping[str, int] | None = None, *args: Any, **kwargs: Any
    ) -> tf.data.Dataset:
        """As ``seqio.Task.get_dataset``."""
        if sequence_length is None:
            kwargs["trim_output_features"] = False
        return tf.autograph.experimental.do_not_convert(super().get_dataset)(sequence_length, *args, **kwargs)


def register(
    dataset: Dataset,
    vocabulary: seqio.Vocabulary | str = "t5",
    *,
    label_prefix: str = LABEL_PREFIX,
    rationale_prefix: str = RATIONALE_PREFIX,
    single_prefix: str = "",
    single_marker: str = preprocessors.SINGLE_MARKER,
    single_explanation: str = preprocessors.EXPLANATION_MARKER,
    encoder_bos: bool = False,
    label_source: LabelSource = "gold",
    on_disagreement: OnDisagreement = "keep",
    disagreement_weight: float = 0.5,
    rationales: Literal["auto", "first", "draw", "all"] | None = "auto",
    max_rationales: int | None = None,
    teacher_prefixes: Mapping[str, str] | None = None,
    teacher_weights: Mapping[str, float] | None = None,
    soft_labels: bool | None = None,
    soft_label_temperature: float = 1.0,
    confidence: Confidence | None = None,
    key_tokens: Kind | None = None,
    key_weight: float = 2.0,
    other_weight: float = 1.0,
    single_order: Literal["rationale_first", "label_first"] | None = None,
    rationale_control: Literal["shuffled"] | None = None,
    subsample: float = 1.0,
    subsample_seed: int = 0,
    subsample_validation: bool = False,
    label_rate: float = 1.0,
    rationale_rate: float = 1.0,
    shuffle_buffer_size: int = 1000,
    label_metrics: Sequence[Callable[..., Mapping[str, float]]] = (),
    rationale_metrics: Sequence[Callable[..., Mapping[str, float]]] = (),
) -> Registered:
    """Registers a data set with SeqIO. Reads no data; a data set of the same name is replaced.

    Args:
      dataset: as :mod:`distill.tasks.svamp`, :mod:`distill.tasks.jsonl` and the other modules of data sets declare it.
      vocabulary: of inputs and targets, or a name for :func:`distill.tasks.vocabularies.load`.
      label_prefix, rationale_prefix, single_prefix: the prefix of the input in each task.
      single_marker: text before the label in the single task.
      single_explanation: text before a rationale that follows the label.
      encoder_bos: whether the vocabulary's BOS precedes the tokens of every input. It does in no published use of T5, mT5,
        T5Gemma or T5Gemma 2, whose decoders alone start with it.
      label_source, on_disagreement, disagreement_weight, subsample, subsample_seed, subsample_validation: see
        :class:`distill.tasks.selection.Selection`.
      rationales: ``draw`` one per row and epoch, take the ``first``, train on ``all`` in every epoch, or ``auto`` (as
        None): draw if the data set declares several.
      max_rationales, teacher_prefixes, teacher_weights, soft_labels, soft_label_temperature, confidence: see
        :class:`distill.tasks.variants.Variants`. With ``teacher_prefixes``, ``rationale_prefix`` must be one of them.
      key_tokens, key_weight, other_weight: see :class:`distill.tasks.key_tokens.KeyTokens`.
      single_order: of rationale and label in the single task; None is ``rationale_first``.
      rationale_control: ``shuffled`` gives each training row another row's rationales, see
        :class:`distill.tasks.controls.ShuffledRationales`.
      label_rate, rationale_rate: how often the mixture draws from each task.
      shuffle_buffer_size: SeqIO's.
      label_metrics, rationale_metrics: further metric functions of the tasks whose answer is a label or a rationale:
        ``fn(targets, predictions) -> {name: value}``, whatever the names of its two arguments. Targets are
        :class:`distill.tasks.metrics.Answer`. SeqIO's own evaluation also passes ``(targets, scores)`` and ``(targets,
        predictions, aux_values)`` to functions with arguments of these names.

    Returns:
      The names.

    Raises:
      TypeError: not a data set, or metrics that are no list of functions of two arguments.
      ValueError: an argument is out of its range.
    """
    call = functools.partial(register, **locals())
    if not isinstance(dataset, Dataset):
        raise TypeError(f"expected a tasks.dataset.Dataset, as tasks.jsonl.dataset(…) makes them; got {dataset!r}")
    if rationales not in (None, "auto", "first", "draw", "all"):
        raise ValueError(f"rationales must be 'auto', 'first', 'draw' or 'all'; got {rationales!r}")
    if single_order not in (None, "rationale_first", "label_first"):
        raise ValueError(f"single_order must be 'rationale_first' or 'label_first'; got {single_order!r}")
    if rationale_control not in (None, "shuffled"):
        raise ValueError(f"rationale_control must be 'shuffled' or None; got {rationale_control!r}")
    if rationale_control == "shuffled":
        dataset = controls.shuffled_rationales(dataset)
    if teacher_prefixes and (
        rationale_prefix not in teacher_prefixes.values() or label_prefix in teacher_prefixes.values()
    ):
        raise ValueError(
            "rationale_prefix must be one of teacher_prefixes, since evaluation and serving use it, and label_prefix must "
            f"be none of them; got {rationale_prefix=}, {label_prefix=} and teacher_prefixes={dict(teacher_prefixes)}"
        )
    validation.check_range("label_rate", label_rate, "a finite number ≥ 0")
    validation.check_range("rationale_rate", rationale_rate, "a finite number ≥ 0")
    if label_rate + rationale_rate == 0:
        raise ValueError(f"mixture rates must not both be 0; got {label_rate=} {rationale_rate=}")
    vocabulary = vocabularies.load(vocabulary) if isinstance(vocabulary, str) else vocabulary
    keys = None if key_tokens is None else KeyTokens(key_tokens, key_weight, other_weight)
    variants = Variants(
        all_rationales=rationales == "all",
        max_rationales=max_rationales,
        teacher_prefixes=teacher_prefixes,
        teacher_weights=teacher_weights,
        soft_labels=bool(soft_labels),
        temperature=soft_label_temperature,
        confidence=confidence,
        key_tokens=keys,
    )
    selection = Selection(
        label_source=label_source,
        on_disagreement=on_disagreement,
        disagreement_weight=disagreement_weight,
        subsample=subsample,
        subsample_seed=subsample_seed,
        subsample_validation=subsample_validation,
        variants=None if variants == Variants(temperature=soft_label_temperature) else variants,
    )
    metrics.check_functions("label_metrics", label_metrics, seqio=True)
    metrics.check_functions("rationale_metrics", rationale_metrics, seqio=True)
    source = RecordDataSource(dataset, selection)
    automatic = "draw" if dataset.several_rationales else "first"
    how = {"first": "first", "draw": "draw", "all": "first"}.get(rationales or "auto", automatic)
    feature = seqio.Feature(vocabulary, add_eos=True)
    forms = [
        field.name for field in dataclasses.fields(Registered) if field.name != "spans" or isinstance(dataset, Corpus)
    ]
    names = Registered(**{form: f"{dataset.name}_{form}" for form in forms})
    of_answers = [metrics.ACCURACY[dataset.answer], *label_metrics]
    of_reasons = [metrics.rouge_l, metrics.bleu, *rationale_metrics]

    described = fingerprint.describe(dataset, "dataset") | fingerprint.describe(source.selection, "selection")
    described |= {
        "label_prefix": label_prefix,
        "rationale_prefix": rationale_prefix,
        "single_prefix": single_prefix,
        "single_marker": single_marker,
        "rationales": how,
    }
    label_first = single_order == "label_first"
    if label_first:
        described |= {"single_order": single_order, "single_explanation": single_explanation}

    if encoder_bos:
        described |= {"encoder_bos": True}

    def add(
        name: str,
        features: Sequence[str],
        steps: Sequence[Any],
        postprocess: Any,
        metric_fns: Sequence[Any],
        target_prefix: str = "",
    ) -> None:
        seqio.TaskRegistry.remove(name)
        seqio.TaskRegistry.add(
            name,
            task_cls=PlainTask,
            source=source,
            preprocessors=[seqio.CacheDatasetPlaceholder(), preprocessors.choose_rationale(how), *steps],
            output_features=dict.fromkeys(features, feature),
            postprocess_fn=postprocess,
            metric_fns=list(map(metrics.for_seqio, metric_fns)),
            shuffle_buffer_size=shuffle_buffer_size,
        )
        note(name, Noted(described, target_prefix, call))

    seqio.MixtureRegistry.remove(names.mixed)
    how_tokenized: dict[str, Any] = {"key_tokens": keys, "encoder_bos": encoder_bos}
    tokenize = preprocessors.tokenize(dataset.separator, **how_tokenized)
    tokenize_rationales = preprocessors.tokenize(dataset.separator, of_rationales=True, **how_tokenized)
    tokenize_parts = preprocessors.tokenize(dataset.separator, label_first=label_first, **how_tokenized)
    not_single = [
        preprocessors.refused(f"{name} has no effect on FORM=single, whose target holds one label and has no {what}")
        for name, given, what in (
            ("soft_labels", soft_labels, "distribution over labels"),
            ("teacher_prefixes", teacher_prefixes, "rationale prefix"),
        )
        if given
    ]
    both = ("inputs", "targets")
    add(
        names.label,
        both,
        [preprocessors.label_texts(label_prefix), tokenize],
        answer_postprocessor,
        of_answers,
    )
    add(
        names.rationale,
        both,
        [preprocessors.rationale_texts(rationale_prefix), tokenize_rationales],
        rationale_postprocessor,
        of_reasons,
    )
    add(
        names.single,
        both,
        [
            *not_single,
            preprocessors.single_texts(
                single_prefix, single_marker, label_first=label_first, explanation=single_explanation
            ),
            tokenize_parts,
        ],
        functools.partial(answer_postprocessor, marker=single_marker, explanation=single_explanation),
        of_answers,
    )
    add(
        names.paired,
        (*both, "rationale_inputs", "rationale_targets"),
        [preprocessors.paired_texts(label_prefix, rationale_prefix), tokenize],
        answer_postprocessor,
        of_answers,
    )
    targets = {"targets": label_prefix, "rationale_targets": rationale_prefix}
    add(
        names.shared,
        ("inputs", *targets),
        [preprocessors.shared_texts(), tokenize, preprocessors.prompted_targets(targets)],
        answer_postprocessor,
        of_answers,
        label_prefix,
    )
    add(
        names.shared_label,
        both,
        [preprocessors.label_texts(""), tokenize, preprocessors.prompted_targets({"targets": label_prefix})],
        answer_postprocessor,
        of_answers,
        label_prefix,
    )
    prompted = preprocessors.prompted_targets({"targets": rationale_prefix})
    only_one = "teacher_prefixes: FORM=shared_rationale has one prefix for all rows; score EVAL_FORM=shared_label"
    not_prompted = [preprocessors.refused(only_one)] if teacher_prefixes else []
    add(
        names.shared_rationale,
        both,
        [*not_prompted, preprocessors.rationale_texts(""), tokenize_rationales, prompted],
        rationale_postprocessor,
        of_reasons,
        rationale_prefix,
    )
    seqio.TaskRegistry.remove(f"{dataset.name}_spans")
    if isinstance(dataset, Corpus):
        no_bos = "ENCODER_BOS=True has no effect on FORM=spans, whose inputs are windows of text; set ENCODER_BOS=False"
        corrupted = span_corruption.corrupt_spans(vocabulary, dataset.spans)
        steps = [preprocessors.refused(no_bos), corrupted] if encoder_bos else [corrupted]
        add(f"{dataset.name}_spans", both, steps, None, [])
    seqio.MixtureRegistry.add(
        names.mixed,
        [(names.label, label_rate), (names.rationale, rationale_rate)],
        mixture_cls=TwoTaskMixture,
    )
    return names
