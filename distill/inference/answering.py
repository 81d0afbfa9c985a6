"""Answers to texts in memory, with the student's parameters loaded once. Imports neither TensorFlow nor SeqIO."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn

from distill import validation
from distill.counting import counted, form
from distill.inference import choosing
from distill.inference.decoder import DecodeConfig, Decoder, Prediction
from distill.inference.student import FORMS, Student, check_vocabulary
from distill.sharding import partitioning
from distill.tasks import texts
from distill.tasks.plain_vocabularies import Plain
from distill.tasks.records import is_blank
from distill.validation import quoted

RATIONALE_TOKENS = 256
MANY_UNKNOWN = 0.2
"""The share of unknown tokens above which an input is counted."""
LIMIT = "--gin.MAX_INPUT_LEN={}"
"""How commands are given the length that inputs are truncated to; see :meth:`Fit.remarks`."""
LONGER = "--gin.MAX_DECODE_LEN=N"
"""How commands are given a larger maximum number of decoded tokens; see :func:`remarks`."""


NOT_CHOSEN = (
    "this student writes its reasons before its answer (form 'single'), so its answer cannot be chosen; leave out the "
    "choices, and DecodeConfig.answers = 'choose'"
)


class Answered(NamedTuple):
    """A student's output for one input.

    Attributes:
      label: the answer; empty with a ``problem``.
      score: the log-probability of the decoded target, nats; not finite if the parameters are not.
      rationale: the reasoning, or None if it was not decoded.
      probabilities: of each choice, given that the answer is one of them; None if the label was decoded.
      problem: why the text of a student that reasons first has no answer, see :func:`no_answer`; None if it has one.
      cut: whether the decoded text reached ``max_decode_len``, so that the answer may be incomplete.
    """

    label: str
    score: float
    rationale: str | None = None
    probabilities: tuple[float, ...] | None = None
    problem: str | None = None
    cut: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether the text of a student that answers at once has no visible character."""
        return self.problem is None and is_blank(self.label)


def no_answer(text: str, answer: str, cut: bool = False) -> str | None:
    """Why the text of a student that reasons first has no answer, or None if it has one.

    Args:
      text: the decoded text.
      answer: the part of it after the marker.
      cut: whether the text reached the maximum number of tokens.

    >>> no_answer("A bum lives near trains.", "")
    "the student's text ends without an answer after its marker; got 'A bum lives near trains.'"
    """
    if answer.strip():
        return None
    if cut:
        return f"the student's text reached DecodeConfig.max_decode_len without an answer; got {quoted(text)}"
    return f"the student's text ends without an answer after its marker; got {quoted(text)}"


def remarks(cut: int, empty: int, setting: str, what: str = "answer") -> list[str]:
    """Sentences on decoded texts that are incomplete or empty, with a remedy each; none if there are no such texts.

    Args:
      cut: how many reached the maximum number of tokens.
      empty: how many have no visible character.
      setting: how a larger number of tokens is given.
      what: names one of the texts.

    >>> remarks(0, 1, LONGER)
    ['1 answer is empty, which no target of the training is; check it, or train the student longer']
    """
    lines = []
    if cut:
        lines.append(
            f"{counted(cut, what)} reached the maximum number of tokens without an end and may be incomplete; check "
            f"{form(cut, 'it', 'them')}, or give {setting}"
        )
    if empty:
        lines.append(
            f"{counted(empty, what)} {form(empty, 'is', 'are')} empty, which no target of the training is; check "
            f"{form(empty, 'it', 'them')}, or train the student longer"
        )
    return lines


def rationale_config(decode: DecodeConfig, max_decode_len: int = RATIONALE_TOKENS) -> DecodeConfig:
    """How rationales are decoded by default: as labels that are generated, with up to 256 tokens or another number."""
    return dataclasses.replace(
        decode, max_decode_len=max_decode_len, answers="generate", choices=(), normalize_by_target_length=False
    )


@dataclasses.dataclass(frozen=True)
class Fit:
    """How inputs fit a student.

    Attributes:
      cut: inputs that are truncated.
      longest: tokens of the longest input.
      unknown: inputs with more than :data:`MANY_UNKNOWN` unknown tokens.
      limit: tokens that an input may have; 0: not known.
      beyond: inputs that have, as far as they are read, more tokens than the training read of an input.
      trained: tokens of an input that the training read at most; 0: not known.
    """

    cut: int = 0
    longest: int = 0
    unknown: int = 0
    limit: int = 0
    beyond: int = 0
    trained: int = 0

    @classmethod
    def of_lengths(cls, lengths: Sequence[int], limit: int, trained: int, unknown: int = 0) -> "Fit":
        """Counts inputs by their numbers of tokens; the other arguments are attributes."""
        beyond = sum(min(length, limit) > trained for length in lengths) if trained else 0
        return cls(sum(length > limit for length in lengths), max(lengths, default=0), unknown, limit, beyond, trained)

    def __add__(self, other: "Fit") -> "Fit":
        longest, limit = max(self.longest, other.longest), max(self.limit, other.limit)
        beyond, trained = self.beyond + other.beyond, max(self.trained, other.trained)
        return Fit(self.cut + other.cut, longest, self.unknown + other.unknown, limit, beyond, trained)

    def remarks(self, setting: str, trained: str = "TASK_FEATURE_LENGTHS") -> list[str]:
        """Sentences for the user, with a remedy each.

        Args:
          setting: how a longer input length is given, with ``{}`` in place of the number.
          trained: names the lengths of a training.
        """
        lines = []
        if self.cut:
            limit = f"{self.limit:,} tokens" if self.limit else "MAX_INPUT_LEN"
            if not self.trained or self.longest <= self.trained:
                remedy = f"{setting.format(self.longest)} keeps it whole"
            elif self.limit < self.trained:
                remedy = f"{setting.format(self.trained)} reads as much as the training did"
            else:
                remedy = f"training read at most {self.trained:,} of an input"
            lines.append(
                f"{counted(self.cut, 'input')} longer than {limit} {form(self.cut, 'was', 'were')} truncated; the longest "
                f"has {self.longest:,} tokens, {remedy}"
            )
        if self.beyond:
            lines.append(
                f"{counted(self.beyond, 'input')} {form(self.beyond, 'has', 'have')} more than {self.trained:,} tokens, "
                f"the most that training read of an input; the longest has {self.longest:,}. Answers to them are "
                f"untrained: check them, truncate as training did with {setting.format(self.trained)}, or train with "
                f"longer inputs ({trained})"
            )
        if self.unknown:
            have = form(self.unknown, "has", "have")
            lines.append(
                f"{counted(self.unknown, 'input')} {have} more than {MANY_UNKNOWN:.0%} of tokens that the vocabulary does "
                "not know; check the field and the language, or train with another vocabulary"
            )
        return lines


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
        self._latest: tuple[tuple[str, tuple[str, ...]], list[list[int]]] | None = None
        self._labels = Decoder(student.model, mesh, student.decode)
        self._rationales = Decoder(student.model, mesh, rationale_decode or rationale_config(student.decode))

    def __call__(
        self, inputs: Sequence[str], *, rationale: bool = False, choices: Sequence[Sequence[str]] | None = None
    ) -> list[Answered]:
        """Answers ``inputs`` in their order.

        Args:
          inputs: the texts.
          rationale: decode the reasoning, too.
          choices: the choices of each input, of which the most probable is the label; None: labels are decoded.

        Raises:
          ValueError: choices that the student cannot choose among, see :func:`distill.inference.choosing.encoded`, or a
            student that cannot choose, see :func:`check_chooses`.
        """
        if not inputs:
            return []
        student = self.student
        single = student.form == "single"
        if choices is not None:
            labels = self._choose(inputs, choices)
        else:
            predictions = self._decode(self._labels, "" if single else student.label_prefix, inputs)
            labels = [self._answered(prediction, rationale) for prediction in predictions]
        if not rationale or single:
            return labels
        reasons = self._decode(self._rationales, student.rationale_prefix, inputs)
        return [one._replace(rationale=self._text(why)) for one, why in zip(labels, reasons)]

    def _answered(self, prediction: Prediction, rationale: bool) -> Answered:
        """The answer in a decoded text; of a student that reasons first, ``rationale`` adds the whole text."""
        single, text = self.student.form == "single", self._text(prediction)
        label = texts.answer_of(text) if single else text
        problem = no_answer(text, label, prediction.cut) if single else None
        return Answered(
            label, prediction.log_prob, text if single and rationale else None, problem=problem, cut=prediction.cut
        )

    def _choose(self, inputs: Sequence[str], choices: Sequence[Sequence[str]]) -> list[Answered]:
        check_chooses(self.student)
        ids, prompt = self._model_inputs(self.student.label_prefix, inputs)
        of_inputs = choosing.all_encoded(self.vocabulary, choices, prompt, "inputs[{}]: {}".format)
        with jax.set_mesh(self._mesh), nn.logical_axis_rules(list(self._rules)):
            found = choosing.Chooser(self._labels)(self._params, ids, of_inputs, prompt)
        return [
            Answered(own[one.number], one.log_prob, None, tuple(map(float, one.probabilities)))
            for own, one in zip(choices, found)
        ]

    def rationales(self, inputs: Sequence[str]) -> list[str]:
        """The reasoning alone; a student with form ``single`` writes it before its answer."""
        if self.student.form == "single":
            return [self._text(p) for p in self._decode(self._labels, "", inputs)]
        return [self._text(p) for p in self._decode(self._rationales, self.student.rationale_prefix, inputs)]

    def fit(self, inputs: Sequence[str]) -> "Fit":
        """How many inputs are longer than ``max_input_len`` or those of the training, or have many unknown tokens."""
        prefix = "" if self.student.form == "single" else self.student.label_prefix
        found, limit = self._encoded(prefix, inputs), self.student.decode.max_input_len
        own = len(self.vocabulary.encode(prefix)) + 1 if prefix else 1  # of the prefix and EOS
        unknown = sum(ids.count(self.vocabulary.unk_id) > MANY_UNKNOWN * max(1, len(ids) - own) for ids in found)
        return Fit.of_lengths([len(ids) for ids in found], limit, self.student.trained_input_len, unknown)

    def _encoded(self, prefix: str, inputs: Sequence[str]) -> list[list[int]]:
        """The token ids of each input. They are kept from :meth:`fit` to the answers of the same inputs."""
        before = "" if self.student.form == "shared_label" else prefix
        of = (before, tuple(inputs))
        if self._latest is None or self._latest[0] != of:
            separator, bos = self.student.separator, self.student.encoder_bos
            ids = [texts.encode(self.vocabulary, before + text, separator, bos=bos) for text in inputs]
            self._latest = (of, ids)
        return self._latest[1]

    def _model_inputs(self, prefix: str, inputs: Sequence[str]) -> tuple[list[np.ndarray], Sequence[int]]:
        """The ids of each input, and those that every target begins with."""
        ids = [np.array(one, np.int32) for one in self._encoded(prefix, inputs)]
        self._latest = None
        return ids, target_prompt(self.student, self.vocabulary, prefix)

    def _decode(self, decoder: Decoder, prefix: str, inputs: Sequence[str]) -> list[Prediction]:
        ids, prompt = self._model_inputs(prefix, inputs)
        with jax.set_mesh(self._mesh), nn.logical_axis_rules(list(self._rules)):
            return decoder(self._params, ids, prompt)

    def _text(self, prediction: Prediction) -> str:
        return self.vocabulary.decode([int(token) for token in prediction.tokens])


def target_prompt(student: Student, vocabulary: Plain, prefix: str) -> Sequence[int]:
    """The token ids that every target of a task begins with: of its prefix, if the student's inputs have none."""
    return texts.prompt(vocabulary, prefix) if student.form == "shared_label" else ()


def check_chooses(student: Student) -> None:
    """Raises ValueError if the student cannot choose: its answer follows its reasons, or its weights are int8."""
    if student.form == "single":
        raise ValueError(NOT_CHOSEN)
    if student.decode.weights == "int8":
        raise ValueError("choices need float weights, and DecodeConfig.weights is 'int8'; leave one of them out")


def check(student: Student, vocabulary: Plain) -> None:
    """Raises ValueError if the student gives no labels, or its vocabulary does not fit its network."""
    validation.check("form", student.form, FORMS)
    check_vocabulary(vocabulary, student.model)
    if student.encoder_bos:
        texts.required_bos(vocabulary)
