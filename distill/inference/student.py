"""``student.json``: the description of a model directory's student, as data. Serving and exporting read it and run nothing.

It is beside ``config.gin``, which repeats the training, and names its files relative to the directory, so the directory can
be moved or copied to another machine.
"""

import dataclasses
import hashlib
import json
import types
import typing
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from etils import epath

from distill import atomic_files, validation
from distill.inference.decoder import DecodeConfig
from distill.inference.own_files import CONFIG
from distill.model.configs import NetworkConfig
from distill.model.t5gemma_config import T5GemmaConfig
from distill.sharding.partitioning import MeshConfig
from distill.tasks import plain_vocabularies, texts
from distill.tasks.plain_vocabularies import Bytes, Plain, SentencePiece
from distill.validation import quoted

FILE = "student.json"
VOCABULARY_FILE = "vocabulary.model"
FORMAT, VERSION = "distill-student", 1
FORMS = ("label", "single", "shared_label")
"""The forms that give a label."""

_MAX_BYTES = 2**20
_MAX_EXTRA_IDS = 2**16
_MAX_LAYERS = 2**10
_MAX_INTEGER = 2**31


@dataclasses.dataclass(frozen=True)
class RowFormat:
    """How the rows of JSON lines that a student was trained on are read; see :class:`distill.tasks.jsonl.JsonLines`.

    Attributes:
      fields: field of a record → field of the rows.
      label_names: the labels' texts where rows hold class numbers.
      parser, mode: how a teacher's replies are read; None: there are none.
      solution_marker: the text between rationale and label in a field that holds both.
    """

    fields: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)
    label_names: tuple[str, ...] = ()
    parser: str | None = None
    mode: str = "improved"
    solution_marker: str | None = None

    @classmethod
    def of(cls, source: Any) -> "RowFormat | None":
        """The format of a data set's source; None if it does not read JSON lines."""
        found = getattr(source, "row_format", None)
        return None if found is None else cls(**found)

    def options(self, names: Collection[str]) -> dict[str, Any]:
        """Arguments of :func:`distill.api.rows.read` that read these fields of a record and no others."""
        chosen: dict[str, Any] = {
            "fields": {name: field for name, field in self.fields.items() if name in names},
            "label_names": self.label_names,
        }
        if "reply" in chosen["fields"]:
            chosen |= {"parser": self.parser, "mode": self.mode}
        if self.solution_marker is not None:
            chosen["solution_marker"] = self.solution_marker
        return chosen


@dataclasses.dataclass(frozen=True)
class Student:
    """Everything that inference needs, except the parameters and the vocabulary's file.

    Attributes:
      model: the network.
      vocabulary: ``bytes`` or ``sentencepiece``; the latter's model is in ``vocabulary.model`` beside ``student.json``.
      vocabulary_extra_ids: sentinels after the bytes, or after the pieces of ``vocabulary.model``.
      vocabulary_sha256: of ``vocabulary.model``; empty for ``bytes``.
      form: one of :data:`FORMS`, or a form of the data set's tasks that holds no label.
      label_prefix, rationale_prefix: the prefix of the input, or with ``shared_label`` of the target, in each task.
      separator: text in the input that represents EOS; None: none.
      encoder_bos: whether the vocabulary's BOS precedes the tokens of an input.
      input_field: the field of a row that holds the input, or a template of fields.
      rows: how rows are read; None: the data set is not of JSON lines.
      dataset: the data set's name.
      answer: how its answers are compared.
      trained_input_len: tokens of an input that training read at most; 0: not recorded.
      metrics: names of the functions of the user's own that score its labels in addition to the accuracy.
      decode: how labels are decoded.
      mesh: of the run.
      trained_in: the folder that the training command ran in, to which relative paths in ``config.gin`` refer.
    """

    model: NetworkConfig
    vocabulary: str
    vocabulary_extra_ids: int = 0
    vocabulary_sha256: str = ""
    form: str = "label"
    label_prefix: str = "[label] "
    rationale_prefix: str = "[rationale] "
    separator: str | None = None
    encoder_bos: bool = False
    input_field: str = "input"
    rows: RowFormat | None = None
    dataset: str = ""
    answer: str = "text"
    trained_input_len: int = 0
    metrics: tuple[str, ...] = ()
    decode: DecodeConfig = DecodeConfig()
    mesh: MeshConfig = MeshConfig()
    trained_in: str = ""

    @property
    def choices(self) -> str | list[str] | None:
        """What answers are chosen from: the choices of all rows, or the field of a row's; None: answers are generated."""
        if self.decode.answers != "choose":
            return None
        fields = self.rows.fields if self.rows is not None else {}
        return [str(choice) for choice in self.decode.choices] or fields.get("choices", "choices")

    def to_json(self) -> str:
        """The contents of ``student.json``."""
        return json.dumps({"format": FORMAT, "version": VERSION, **dataclasses.asdict(self)}, indent=1) + "\n"


def from_json(text: str | bytes, where: str = FILE) -> Student:
    """The inverse of :meth:`Student.to_json`.

    Raises:
      ValueError: not such a file; names the key, its value and the expected one.
    """
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not JSON: {' '.join(str(error).split())[:160]}") from None
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        raise ValueError(f"{where} does not describe a student: expected an object with 'format': {FORMAT!r}")
    if raw.get("version") != VERSION:
        raise ValueError(
            f"{where} is of version {raw.get('version')!r}; this program reads version {VERSION}: use the version of "
            "distill that trained the student"
        )
    return built({key: value for key, value in raw.items() if key not in ("format", "version")}, where)


def built(fields: Mapping[str, Any], where: str) -> Student:
    """A student from JSON values.

    Raises:
      ValueError: a key is unknown, missing, of the wrong type, or out of range; names it.
    """
    student = _built(Student, fields, where)
    validation.check(f"{where}: vocabulary", student.vocabulary, ("bytes", "sentencepiece"))
    if not 0 <= student.vocabulary_extra_ids <= _MAX_EXTRA_IDS:
        raise ValueError(
            f"{where}: vocabulary_extra_ids must be in [0, {_MAX_EXTRA_IDS}]; got {student.vocabulary_extra_ids}"
        )
    validation.check_range(f"{where}: trained_input_len", student.trained_input_len, "≥ 0")
    layers = max(student.model.num_encoder_layers, student.model.num_decoder_layers)
    if layers > _MAX_LAYERS:
        raise ValueError(f"{where}: model: at most {_MAX_LAYERS} layers are expected; got {layers}")
    return student


def read(model_dir: str | epath.PathLike) -> Student:
    """The student of a model directory.

    Raises:
      FileNotFoundError: there is no such directory, or no ``student.json`` in it.
      ValueError: the file is damaged or of another version.
    """
    path = epath.Path(model_dir) / FILE
    if not path.exists():
        if not path.parent.exists():
            raise FileNotFoundError(f"{model_dir} does not exist; expected a directory that `distill train` wrote")
        if not path.parent.is_dir():
            raise FileNotFoundError(f"{model_dir} is a file; expected a directory that `distill train` wrote")
        hint = "is it a trained model's directory?"
        if (path.parent / CONFIG).exists():
            hint = "it was trained by an earlier version; the same training command adds the file"
        raise FileNotFoundError(f"{model_dir} holds no {FILE}; {hint}")
    if path.stat().length > _MAX_BYTES:
        raise ValueError(f"{path} holds {path.stat().length} bytes; expected at most {_MAX_BYTES}")
    return from_json(path.read_bytes(), str(path))


def read_vocabulary(model_dir: str | epath.PathLike, student: Student) -> Plain:
    """The student's vocabulary, from its model directory.

    Raises:
      FileNotFoundError: its file is missing.
      ValueError: the file is damaged, or not the one that the student was trained with.
    """
    if student.vocabulary == "bytes":
        return Bytes(student.vocabulary_extra_ids)
    path = epath.Path(model_dir) / VOCABULARY_FILE
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; the student's vocabulary belongs beside {FILE}")
    if path.stat().length > plain_vocabularies.MAX_MODEL_BYTES:
        raise ValueError(f"{path} is larger than {plain_vocabularies.MAX_MODEL_BYTES} bytes; it is damaged")
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if digest != student.vocabulary_sha256:
        raise ValueError(
            f"{path} is damaged or another file: its SHA-256 is {digest[:16]}…, the student was trained with "
            f"{student.vocabulary_sha256[:16]}…; copy the vocabulary of the training run there"
        )
    return SentencePiece(data, student.vocabulary_extra_ids, str(path))


def write(model_dir: str | epath.PathLike, student: Student, vocabulary_model: bytes | None) -> None:
    """Writes ``student.json`` and the vocabulary's file into a model directory; existing equal files are kept.

    Args:
      model_dir: an existing directory.
      student: its ``vocabulary_sha256`` is computed here.
      vocabulary_model: the contents of ``vocabulary.model``; None for bytes.
    """
    directory = epath.Path(model_dir)
    if vocabulary_model is not None:
        _replace(directory / VOCABULARY_FILE, vocabulary_model)
    _replace(directory / FILE, with_vocabulary(student, vocabulary_model).to_json().encode())


def check_vocabulary(vocabulary: texts.Vocabulary, model: NetworkConfig, whose: str = "the vocabulary") -> None:
    """Checks that a vocabulary fits a network.

    Args:
      vocabulary: SeqIO's or one of :mod:`distill.tasks.plain_vocabularies`.
      model: the network's configuration.
      whose: names the vocabulary in errors.

    Raises:
      ValueError: it has more ids than the network, or, of a T5Gemma network, another BOS than its first decoder input.
    """
    if vocabulary.vocab_size > model.vocab_size:
        raise ValueError(
            f"{whose} has {vocabulary.vocab_size} ids, but the model's vocab_size is {model.vocab_size}; "
            f"--gin.VOCAB_SIZE={vocabulary.vocab_size} or more fits"
        )
    if isinstance(model, T5GemmaConfig):
        texts.check_start(vocabulary, model.decoder_start_id, whose)


def with_vocabulary(student: Student, model: bytes | None) -> Student:
    """The student with the hash of its vocabulary's file."""
    return dataclasses.replace(student, vocabulary_sha256="" if model is None else hashlib.sha256(model).hexdigest())


def _replace(path: epath.Path, data: bytes) -> None:
    """Writes a file atomically, unless it has the same content."""
    if not path.exists() or path.read_bytes() != data:
        atomic_files.replace(path, data)


def _built(kind: type, fields: Any, where: str) -> Any:
    """A dataclass from JSON values whose types are checked."""
    if not isinstance(fields, Mapping):
        raise ValueError(f"{where}: expected an object; got {type(fields).__name__}")
    hints = typing.get_type_hints(kind)
    known = {field.name for field in dataclasses.fields(kind)}
    for name in fields.keys() - known:
        raise ValueError(f"{where}: unknown key {name!r}{validation.did_you_mean(str(name), known)}")
    for name in (field.name for field in dataclasses.fields(kind) if _is_required(field)):
        if name not in fields:
            raise ValueError(f"{where}: {name} is missing")
    values = {name: _value(hints[name], value, f"{where}: {name}") for name, value in fields.items()}
    try:
        return kind(**values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from None


def _is_required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _fitting(kinds: Sequence[Any], value: Any) -> type:
    """The dataclass of ``kinds`` that has all keys of ``value``, else the first."""
    keys = value.keys() if isinstance(value, Mapping) else set()
    fitting = (kind for kind in kinds if keys <= {field.name for field in dataclasses.fields(kind)})
    return typing.cast(type, next(fitting, kinds[0]))


def _value(hint: Any, value: Any, where: str) -> Any:
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    options = typing.get_args(hint) if is_union else (hint,)
    if all(map(dataclasses.is_dataclass, options)):
        return _built(_fitting(options, value), value, where)
    for option in options:
        kind = typing.get_origin(option) or option
        if dataclasses.is_dataclass(option):
            if isinstance(value, Mapping):
                return _built(typing.cast(type, option), value, where)
        elif kind is tuple:
            if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
                return tuple(value)
        elif kind is Mapping:
            if isinstance(value, Mapping) and all(isinstance(text, str) for pair in value.items() for text in pair):
                return dict(value)
        elif kind is typing.Literal:
            if value in typing.get_args(option):
                return value
        elif kind is float and isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        elif isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
            if isinstance(value, int) and abs(value) > _MAX_INTEGER:
                raise ValueError(f"{where} must be at most {_MAX_INTEGER}")
            return value
    expected = " or ".join("null" if o is type(None) else getattr(o, "__name__", str(o)) for o in options)
    raise ValueError(f"{where} must be {expected}; got {quoted(value)}")
