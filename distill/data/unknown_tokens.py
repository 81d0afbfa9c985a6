"""Finds training examples with tokens that the vocabulary does not know: a student cannot learn to write these."""

from collections.abc import Iterator

import numpy as np
import seqio
from absl import logging

from distill.counting import counted, form
from distill.data.examples import SAMPLE, Examples, sample
from distill.data.packing import Layout, Sequences
from distill.tasks import registration, task_ids

MOST_LABELS = 0.5
"""The share of labels with an unknown token above which training is refused."""
MANY_OTHERS = 0.02
"""The share of inputs, or of rationales, with an unknown token from which on a warning is logged."""
_REMEDY = (
    "`distill data` counts these rows and names the characters. Train on a vocabulary that has them: `distill vocabulary` "
    "with --required_characters, or VOCABULARY_PATH"
)


def check(task: seqio.Task, examples: Examples, split: str) -> None:
    """Checks a sample of a task's examples; warns of labels, and of many rationales or inputs, with unknown tokens.

    Args:
      task: registered; nothing is checked if it is text for pretraining, or its vocabulary has no unknown token.
      examples: of the task, from SeqIO or from a cache.
      split: for messages.

    Raises:
      ValueError: more than half of the labels have a token that is unknown.
    """
    if _can_have(task):
        numbers = np.linspace(0, examples.size - 1, min(SAMPLE, examples.size)).astype(int)
        _check(task, examples.read(0, np.unique(numbers)), split)


def check_source(task: seqio.Task, split: str, layout: Layout, *, use_cached: bool = False) -> None:
    """:func:`check` for a task whose examples are not held: reads a sample of its rows through SeqIO.

    Args:
      task, split, layout, use_cached: as for :func:`distill.data.examples.sample`.

    Raises:
      ValueError: as :func:`check`.
    """
    if _can_have(task):
        _check(task, sample(task, split, layout, use_cached=use_cached)[0], split)


def _can_have(task: seqio.Task) -> bool:
    """Whether tokens of a task can be unknown: its vocabulary has such a token, and it is no text for pretraining."""
    return task.output_features["targets"].vocabulary.unk_id is not None and registration.spans_of(task) is None


def _check(task: seqio.Task, sequences: Sequences, split: str) -> None:
    vocabulary = task.output_features["targets"].vocabulary
    remarks = []
    for what, having, number, tokens in _found(sequences, vocabulary.unk_id):
        text = vocabulary.decode([token for token in tokens.tolist() if token != vocabulary.eos_id])
        remark = (
            f"{having:,} of {counted(number, what)} in a sample of {task.name!r}, split {split!r}, "
            f"{form(having, 'has', 'have')} tokens that the vocabulary does not know, as {text!r}"
        )
        if what == "label" and having > MOST_LABELS * number:
            raise ValueError(f"{remark}: the student cannot learn to write these. {_REMEDY}")
        if having >= (1 if what == "label" else MANY_OTHERS * number):
            remarks.append(remark)
    for remark in remarks:
        logging.warning("%s. %s", remark, _REMEDY)


def _found(sequences: Sequences, unknown: int) -> Iterator[tuple[str, int, int, np.ndarray]]:
    """Yields the kind of text, how many have an unknown token, how many there are, and the tokens of the first."""
    inputs = np.repeat(np.arange(len(sequences)), sequences.input_lengths)
    targets = np.repeat(np.arange(len(sequences)), sequences.target_lengths)
    parts = [
        ("label", targets, sequences.targets, sequences.task_ids == task_ids.LABEL),
        ("rationale", targets, sequences.targets, sequences.task_ids == task_ids.RATIONALE),
        ("input", inputs, sequences.inputs, np.ones(len(inputs), bool)),
    ]
    for what, numbers, tokens, mine in parts:
        having = np.unique(numbers[mine & (tokens == unknown)])
        if len(having):
            yield what, len(having), len(np.unique(numbers[mine])), tokens[mine & (numbers == having[0])]
