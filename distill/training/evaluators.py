"""The splits that a run evaluates, and the score that selects its best parameters."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from distill.inference import answering
from distill.inference.decoder import Decoder
from distill.terminal import Terminal
from distill.training.config import ValidationConfig

if TYPE_CHECKING:
    from distill.inference.evaluate import Evaluator


def make_evaluators(
    validation: ValidationConfig | None, decoder: Decoder | None, terminal: Terminal, trained_input_len: int = 0
) -> "dict[str, Evaluator]":
    """Reads the splits to evaluate, the validation split first. Warns of inputs and targets that are too long.

    Args:
      validation: None returns no evaluators.
      decoder: None only without ``validation``.
      terminal: prints the names of the splits, and the warnings.
      trained_input_len: tokens that the training truncates inputs to; 0: not compared with the splits' inputs.

    Raises:
      ValueError: no such task, split or metric, or no target fits the decoded length.
    """
    if validation is None:
        return {}
    assert decoder is not None
    from distill.inference import token_scores  # imports SeqIO, which a run without validation does not need

    evaluators: dict[str, Evaluator] = {}
    if validation.split == validation.test_split:
        terminal.introduce(
            f"the best parameters are selected on split {validation.split!r}, which is also the test split: its score is "
            "not that of unseen rows",
            warns=True,
        )
    for split in (validation.split, validation.test_split):
        if split is None or split in evaluators:
            continue
        limit = scored_examples(validation, split)
        with terminal.stage(f"reading {validation.task_name}, split {split!r}"):
            evaluators[split] = token_scores.evaluator(validation.task_name, split, decoder, max_examples=limit)
        evaluators[split].check_metric(validation.metric)
        if unscored := evaluators[split].unscored:
            terminal.introduce(f"split {split!r}: {unscored}", warns=True)
        if warning := evaluators[split].check_lengths(validation.decode.max_decode_len):
            terminal.introduce(warning, warns=True)
        for text in evaluators[split].fit(validation.decode.max_input_len, trained_input_len).remarks(answering.LIMIT):
            terminal.introduce(f"split {split!r}: {text}", warns=True)
    return evaluators


def scored_examples(validation: ValidationConfig, split: str) -> int | None:
    """Returns how many examples of a split are scored, from its first; None for all, as of the test split."""
    return None if split == validation.test_split else validation.max_examples


def final_split(validation: ValidationConfig | None) -> str | None:
    """Returns the split that only the test at the end evaluates, or None."""
    return validation.test_split if validation and validation.test_split != validation.split else None


def validation_score(validation: ValidationConfig, step: int, metrics: Mapping[str, float]) -> float:
    """Returns the metric that selects the best parameters. Raises FloatingPointError if it is not finite."""
    score = metrics[validation.metric]
    if not math.isfinite(score):
        raise FloatingPointError(
            f"{validation.split} {validation.metric} is {score} at step {step}; nothing of this step was saved; choose "
            "another metric, or more validation examples"
        )
    return score
