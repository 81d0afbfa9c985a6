"""A trained student: loads, answers and exports. Imports neither TensorFlow nor SeqIO."""

import dataclasses
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import logging
from etils import epath
from flax import linen as nn

from distill.api import keywords, value_types
from distill.api.paths import expand_home
from distill.checkpoints import huggingface
from distill.checkpoints.huggingface import tokenizer_files
from distill.checkpoints.manager import restore_student
from distill.counting import counted
from distill.inference import answering, infer, model_directory
from distill.inference import student as students
from distill.inference.answering import Answering
from distill.inference.decoder import DecodeConfig
from distill.inference.student import Student as Description
from distill.model import int8
from distill.model.parameters import param_count, param_logical_axes, param_shapes
from distill.sharding import partitioning
from distill.tasks import jsonl, row_fields
from distill.tasks.plain_vocabularies import Bytes, Plain, SentencePiece
from distill.tasks.records import Record, check_text
from distill.validation import quoted

_CHOICES = (
    "choices must be a list of texts or numbers for all inputs, such as ['yes', 'no'], or such a list for each input, "
    "[['yes', 'no'], …]"
)


@dataclasses.dataclass(frozen=True)
class Answer:
    """A student's answer to one input.

    Attributes:
      text: the answer; empty with an ``error``.
      score: its log-probability under the student, nats (of the whole target if the student reasons first).
      rationale: the reasoning, if it was decoded.
      probabilities: of each choice, given that the answer is one of them, if it was chosen.
      error: why the student's text has no answer; None if it has one.
    """

    text: str
    score: float
    rationale: str | None = None
    probabilities: tuple[float, ...] | None = None
    error: str | None = None


class Student:
    """A trained student with its parameters in memory; :func:`distill.train` and :func:`distill.load` make it.

    Attributes:
      directory: the model directory or folder that it was loaded from.
      description: network, prefixes, form and decoding, as ``student.json`` records them.
      vocabulary: encodes and decodes.
      params: the parameters, float32.
      step: the training step of the parameters; None for a Hugging Face folder.
    """

    def __init__(
        self,
        directory: str,
        description: Description,
        vocabulary: Plain,
        params: Any,
        mesh: jax.sharding.Mesh,
        step: int | None = None,
        rationale_decode: DecodeConfig | None = None,
    ):
        if rationale_decode is not None and description.form == "single":
            raise ValueError(
                f"rationale_decode changes nothing for the student at {directory}: it writes rationale and answer as one "
                "text; give its length as decode=distill.DecodeConfig(max_decode_len=…)"
            )
        self.directory, self.description, self.vocabulary = directory, description, vocabulary
        self.params, self.step = params, step
        if description.decode.weights == "int8":
            params = int8.placed(params, description.model, mesh, partitioning.DEFAULT_RULES)
        self._answering = Answering(description, vocabulary, params, mesh, rationale_decode=rationale_decode)

    def __repr__(self) -> str:
        at = "" if self.step is None else f", step {self.step}"
        return f"Student({self.directory!r}{at}, {param_count(self.description.model):,} parameters)"

    @property
    def result(self) -> dict[str, Any]:
        """How its training ended (``result.json``): step, best validation score, test metrics; empty while unfinished."""
        path = epath.Path(self.directory) / model_directory.RESULT
        return json.loads(path.read_text()) if path.exists() else {}

    @keywords.checked()
    def answer(
        self,
        inputs: str | Sequence[str | Mapping[str, Any]],
        *,
        rationale: bool = False,
        choices: Sequence[str | int | float] | Sequence[Sequence[str | int | float]] | None = None,
    ) -> list[Answer]:
        """Answers inputs in their order. Warns, once, how many are truncated, untrained in length, or of unknown tokens.

        It also warns how many have no answer (``error``), and how many answers are empty or reached
        ``decode.max_decode_len``.

        Args:
          inputs: texts without task prefixes, or rows, whose input is read from the field that the student was trained
            with. A single text is a list of one.
          rationale: decode the reasoning too. The answers do not depend on it.
          choices: answer with the most probable of these texts: those of all inputs, or a list for each input. Numbers are
            texts, as in rows. None: ``decode.choices`` or those of the rows, if the student's ``decode.answers`` is
            ``choose``; else answers are generated.

        Raises:
          TypeError: ``inputs`` is neither a text nor a sequence, or ``choices`` is no list.
          ValueError: an input is empty or no text, choices are missing, neither texts nor numbers, or have the same tokens,
            or the student's parameters are not finite.
        """
        if isinstance(inputs, str) and inputs.endswith((".json", ".jsonl", ".gz")) and os.path.isfile(inputs):
            raise ValueError(f"inputs must be texts or rows; got the name of a file, {inputs!r}: give its rows")
        inputs = [inputs] if isinstance(inputs, str) else inputs
        texts = self.texts_of(inputs)
        chosen = self._choices_for(inputs, choices)
        for warning in self.description.decode.unused(chosen is not None):
            logging.warning("%s", warning)
        self._remark(texts)
        found = self._answering(texts, rationale=rationale, choices=chosen)
        for number, one in enumerate(found):
            if not abs(one.score) < float("inf"):
                raise ValueError(
                    f"inputs[{number}]: the answer's score is {one.score}: the parameters of {self.directory} are not "
                    "finite; train again with a lower learning rate"
                )
        problems = [one.problem for one in found if one.problem is not None]
        if problems:
            logging.warning("%d of %s have no answer: %s", len(problems), counted(len(found), "input"), problems[0])
        cut, empty = sum(one.cut and one.problem is None for one in found), sum(one.is_empty for one in found)
        for remark in answering.remarks(cut, empty, self._loading("max_decode_len", "N")):
            logging.warning("%s", remark)
        return [Answer(one.label, one.score, one.rationale, one.probabilities, one.problem) for one in found]

    def _choices_for(
        self,
        inputs: Sequence[str | Mapping[str, Any]],
        choices: Sequence[Any] | None,
    ) -> list[tuple[str, ...]] | None:
        """The choices of each input; None if answers are generated. Raises ValueError for those that are missing."""
        field = self.description.choices if choices is None else None
        choices = field if isinstance(field, list) else choices
        if isinstance(field, str):
            given = [row_fields.value_of(one, field) if isinstance(one, Mapping) else None for one in inputs]
            names = [f"inputs[{number}]: {field}" for number in range(len(inputs))]
        elif choices is None:
            return None
        elif isinstance(choices, str) or not isinstance(choices, Sequence):
            raise TypeError(f"{_CHOICES}; got {quoted(choices)} ({type(choices).__name__})")
        elif not any(isinstance(one, list | tuple) for one in choices):
            given, names = [list(choices)] * len(inputs), ["choices"] * len(inputs)
        else:
            for number, one in enumerate(choices):
                if not isinstance(one, list | tuple):
                    raise TypeError(f"{_CHOICES}; got a list, and {quoted(one)} as choices[{number}]")
            if len(choices) != len(inputs):
                raise ValueError(
                    f"choices must have one list for each input; got {counted(len(choices), 'list')} for "
                    f"{counted(len(inputs), 'input')}"
                )
            given, names = [list(one) for one in choices], [f"choices[{number}]" for number in range(len(choices))]
        found = []
        for number, (one, name) in enumerate(zip(given, names)):
            plain = [value_types.plain_number(choice) for choice in one] if isinstance(one, list) else one
            texts = row_fields.choices_of(plain, name)[0]
            if not texts:
                raise ValueError(f"inputs[{number}] has no choices; give choices=[…]")
            found.append(texts)
        return found

    @keywords.checked()
    def rationales(self, inputs: Sequence[str | Mapping[str, Any]]) -> list[str]:
        """The reasoning alone, in the order of the inputs. Warns as :meth:`answer`."""
        texts = self.texts_of(inputs)
        self._remark(texts)
        return self._answering.rationales(texts)

    def _remark(self, texts: Sequence[str]) -> None:
        """Logs how many inputs do not fit the student; once for the inputs of a call."""
        for text in self._answering.fit(texts).remarks(self._loading("max_input_len", "{}"), "lengths"):
            logging.warning("%s", text)

    def _loading(self, setting: str, value: str) -> str:
        """The call that loads this student with another setting of decoding."""
        decode = f"dataclasses.replace(student.description.decode, {setting}={value})"
        return f"student = distill.load({str(self.directory)!r}, decode={decode})"

    def texts_of(self, inputs: Sequence[str | Mapping[str, Any]]) -> list[str]:
        """The input texts of texts or rows.

        Raises:
          TypeError: ``inputs`` is no sequence.
          ValueError: an input is empty or not a text.
        """
        if not isinstance(inputs, Iterable) or isinstance(inputs, str | bytes | Mapping):
            raise TypeError(
                f"inputs must be a list of texts or of rows (dicts); got {quoted(inputs)} ({type(inputs).__name__})"
            )
        texts = []
        for number, one in enumerate(inputs):
            try:
                text = jsonl.text_of(one, self.description.input_field) if isinstance(one, Mapping) else one
            except ValueError as error:
                raise ValueError(f"inputs[{number}]: {error}") from None
            text = text.input if isinstance(text, Record) else text
            if not isinstance(text, str) or not text.strip():
                raise ValueError(f"inputs[{number}] must be a text that is not empty, or a row; got {quoted(text)}")
            texts.append(check_text(text, f"inputs[{number}]"))
        return texts

    @keywords.checked()
    def export(self, output: str | os.PathLike, format: str = "hf", *, quantization: str | None = None) -> Path:
        """Writes the student for serving: ``hf`` (Hugging Face), ``ct2`` (CTranslate2) or ``t5x``.

        Args:
          output: a new or empty folder.
          format: one of :data:`distill.inference.export.FORMATS`.
          quantization: with ``ct2``, such as ``int8``.

        Returns:
          The folder.

        Raises:
          ValueError: an unknown format, a folder that is not empty, or a student that is no model directory.
        """
        from distill.inference import export

        own = self.description
        return export.export(
            self.directory,
            expand_home(os.fspath(output)),
            format,
            vocabulary=self.vocabulary,
            label_prefix=own.label_prefix,
            rationale_prefix=own.rationale_prefix,
            form=own.form,
            encoder_bos=own.encoder_bos,
            decode=own.decode,
            dataset=own.dataset or None,
            quantization=quantization,
        )


@keywords.checked()
def load(
    path: str | os.PathLike, *, decode: DecodeConfig | None = None, rationale_decode: DecodeConfig | None = None
) -> Student:
    """Loads a student: the parameters that validated best, else the newest. Warns of a run that is not complete.

    Args:
      path: a model directory of ``distill.train`` or ``distill train``, local or ``gs://``; or a folder that
        ``distill export`` wrote for Hugging Face.
      decode: how answers are decoded, a :class:`distill.DecodeConfig`; None: as in training.
      rationale_decode: how rationales are decoded; None: as answers that are generated, up to 256 tokens.

    Raises:
      FileNotFoundError: no student at ``path``.
      ValueError: damaged files, a folder of another kind, or ``rationale_decode`` for a student that writes rationale and
        answer as one text.
    """
    directory = expand_home(os.fspath(path))
    root = epath.Path(directory)
    if not (root / students.FILE).exists():
        _check_exported(root)
        if (root / huggingface.CONFIG_FILE).exists():
            return _load_huggingface(directory, decode, rationale_decode)
    description = students.read(directory)
    if decode is not None:
        description = dataclasses.replace(description, decode=decode)
    vocabulary = students.read_vocabulary(directory, description)
    mesh = infer.mesh_here(description.mesh, infer.Silent()).build()
    with jax.set_mesh(mesh), nn.logical_axis_rules(list(partitioning.DEFAULT_RULES)):
        step, params = restore_student(directory, description.model, mesh)
    if warning := model_directory.unfinished(directory):
        logging.warning("%s", warning)
    return Student(directory, description, vocabulary, params, mesh, step, rationale_decode)


def _check_exported(root: epath.Path) -> None:
    """Raises ValueError if a folder is an export of a form that is not loaded."""
    names = {path.name for path in root.iterdir()} if root.is_dir() else set()
    kind = None
    if {"model.bin", "shared_vocabulary.json"} <= names:
        kind = "CTranslate2 (format='ct2')"
    elif any(name.startswith("checkpoint_") for name in names):
        kind = "T5X (format='t5x')"
    if kind is not None:
        raise ValueError(
            f"{root} is a student for {kind}, which distill.load does not read; load the model directory that it was "
            "exported from, or export it with format='hf'"
        )


def _load_huggingface(directory: str, decode: DecodeConfig | None, rationale_decode: DecodeConfig | None) -> Student:
    """A student from the files that ``distill export`` writes for Hugging Face."""
    folder = huggingface.resolve(directory)
    model = huggingface.read_config(folder)
    vocabulary = _vocabulary_of(folder)
    fields = _json(folder / huggingface.CONFIG_FILE).get("task_specific_params") or {}
    known = [name for name in ("label", "single") if isinstance(fields.get(name), dict)]
    if not known:
        raise ValueError(
            f"{folder / huggingface.CONFIG_FILE} has no task_specific_params of a label task, so the student's prefix is "
            f"unknown; load a folder that `distill export --format=hf` wrote"
        )
    prompted = "decoder_prompt_ids" in fields[known[0]]
    label, rationale = (
        _prefix(fields[name], vocabulary, folder) if name in fields else default
        for name, default in (("label", Description.label_prefix), ("rationale", Description.rationale_prefix))
    )
    form = "single" if known[0] == "single" else "shared_label" if prompted else "label"
    if decode is None:
        generation = folder / huggingface.GENERATION_FILE
        length = _json(generation).get("max_new_tokens") if generation.exists() else None
        decode = DecodeConfig() if not isinstance(length, int) else DecodeConfig(max_decode_len=length)
    description = Description(
        model,
        "bytes" if isinstance(vocabulary, Bytes) else "sentencepiece",
        vocabulary.extra_ids,
        form=form,
        encoder_bos=tokenizer_files.puts_bos(folder),
        decode=decode,
        label_prefix=label,
        rationale_prefix=rationale,
    )
    mesh = infer.mesh_here(description.mesh, infer.Silent()).build()
    shardings = partitioning.param_shardings(
        param_shapes(model), param_logical_axes(model), mesh, partitioning.DEFAULT_RULES
    )
    params = huggingface.load_params(folder, model, shardings=shardings)
    return Student(directory, description, vocabulary, params, mesh, rationale_decode=rationale_decode)


def _prefix(task: Mapping[str, Any], vocabulary: Plain, folder: Path) -> str:
    """The task's prefix; one that targets begin with is recorded as token ids."""
    ids = task.get("decoder_prompt_ids")
    if ids is None:
        return str(task.get("prefix", ""))
    text = vocabulary.decode(ids)
    for candidate in (text, f"{text} "):
        if list(vocabulary.encode(candidate)) == list(ids):
            return candidate
    raise ValueError(f"{folder / huggingface.CONFIG_FILE}: decoder_prompt_ids {ids} are no text of the vocabulary")


def _vocabulary_of(folder: Path) -> Plain:
    """The vocabulary of an exported folder."""
    model = folder / tokenizer_files.MODEL_FILE
    if model.exists():
        return SentencePiece(model.read_bytes(), 0, str(model))
    config = folder / "tokenizer_config.json"
    fields = _json(config) if config.exists() else {}
    if fields.get("tokenizer_class") == "ByT5Tokenizer":
        return Bytes(int(fields.get("extra_ids", 125)))
    raise ValueError(
        f"{folder} holds neither {tokenizer_files.MODEL_FILE} nor ByT5's tokenizer_config.json; load a folder that "
        "`distill export --format=hf` wrote"
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} must hold an object; got {type(found).__name__}")
    return found
