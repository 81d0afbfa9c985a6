"""Answers to texts in memory, with the student's parameters loaded once. Imports neither TensorFlow nor SeqIO."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn

from distill import validation
from distill.inference.decoder import DecodeConfig, Decoder, Prediction
from distill.inference.student import FORMS, Student, check_vocabulary
from distill.sharding import partitioning
from distill.tasks import texts
from distill.tasks.plain_vocabularies import Plain

RATIONALE_TOKENS = 256


class Answered(NamedTuple):
    """A student's output for one input.

    Attributes:
      label: the answer.
      score: the log-probability of the decoded target, nats; not finite if the parameters are not.
      rationale: the reasoning, or None if it was not decoded.
    """

    label: str
    score: float
    rationale: str | None = None


def rationale_config(decode: DecodeConfig) -> DecodeConfig:
    """How rationales are decoded by default: as labels, with up to 256 tokens."""
    return dataclasses.replace(decode, max_decode_len=RATIONALE_TOKENS)


class Answering:
    """Encodes inputs as the training did, decodes them, and turns token ids into answers.

    Args:
      student: prefixes, form and decoding.
      vocabulary: the student's.
      params: the student's parameters, on ``mesh``.
      mesh: the devices.
      rules: logical axis → mesh axis.
      rationale_decode: how rationales are decoded; None: see :func:`rationale_config`.

    Raises:
      ValueError: a student that gives no labels, or a vocabulary with more ids than the student.
    """

    def __init__(
        self,
        student: Student,
        vocabulary: Plain,
        params: Any,
        mesh: jax.sharding.Mesh,
        *,
        rules: partitioning.Rules = partitioning.DEFAULT_RULES,
        rationale_decode: DecodeConfig | None = None,
    ):
        check(student, vocabulary)
        self.student, self.vocabulary = student, vocabulary
        self._params, self._mesh, self._rules = params, mesh, rules
        self._labels = Decoder(student.model, mesh, student.decode)
        self._rationales = Decoder(student.model, mesh, rationale_decode or rationale_config(student.decode))

    def __call__(self, inputs: Sequence[str], *, rationale: bool = False) -> list[Answered]:
        """Answers ``inputs`` in their order; with ``rationale``, decodes the reasoning too."""
        if not inputs:
            return []
        student = self.student
        single = student.form == "single"
        predictions = self._decode(self._labels, "" if single else student.label_prefix, inputs)
        written = [self._text(prediction) for prediction in predictions]
        labels = [texts.answer_of(text) for text in written] if single else written
        reasons: Sequence[str | None] = [None] * len(inputs)
        if rationale and single:
            reasons = written
        elif rationale:
            reasons = [self._text(p) for p in self._decode(self._rationales, student.rationale_prefix, inputs)]
        return [Answered(label, p.log_prob, why) for label, p, why in zip(labels, predictions, reasons)]

    def rationales(self, inputs: Sequence[str]) -> list[str]:
        """The reasoning alone; a student with form ``single`` writes it before its answer."""
        if self.student.form == "single":
            return [self._text(p) for p in self._decode(self._labels, "", inputs)]
        return [self._text(p) for p in self._decode(self._rationales, self.student.rationale_prefix, inputs)]

    def num_cut(self, inputs: Sequence[str]) -> int:
        """The number of inputs longer than ``max_input_len``."""
        prefix = "" if self.student.form == "single" else self.student.label_prefix
        return sum(len(ids) > self.student.decode.max_input_len for ids in self._encoded(prefix, inputs))

    def _encoded(self, prefix: str, inputs: Sequence[str]) -> list[list[int]]:
        before = "" if self.student.form == "shared_label" else prefix
        separator, bos = self.student.separator, self.student.encoder_bos
        return [texts.encode(self.vocabulary, before + text, separator, bos=bos) for text in inputs]

    def _decode(self, decoder: Decoder, prefix: str, inputs: Sequence[str]) -> list[Prediction]:
        prompt = texts.prompt(self.vocabulary, prefix) if self.student.form == "shared_label" else ()
        ids = [np.array(one, np.int32) for one in self._encoded(prefix, inputs)]
        with jax.set_mesh(self._mesh), nn.logical_axis_rules(list(self._rules)):
            return decoder(self._params, ids, prompt)

    def _text(self, prediction: Prediction) -> str:
        return self.vocabulary.decode([int(token) for token in prediction.tokens])


def check(student: Student, vocabulary: Plain) -> None:
    """Raises ValueError if the student gives no labels, or its vocabulary does not fit its network."""
    validation.check("form", student.form, FORMS)
    check_vocabulary(vocabulary, student.model)
    if student.encoder_bos:
        texts.required_bos(vocabulary)
