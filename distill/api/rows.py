"""Rows as users have them: files, lists of dicts, or records."""

import collections
import contextlib
import dataclasses
import itertools
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from absl import logging
from etils import epath

from distill.api import keywords, remedies, tensorflow_log
from distill.counting import counted
from distill.tasks import jsonl
from distill.tasks.dataset import Dataset
from distill.tasks.json_files import MissingFileError
from distill.tasks.records import Record, Report, SourceError

Rows = str | os.PathLike | Iterable[Any]
"""The path of a JSON-lines file (a pattern, or several paths), or an iterable of dicts or of ``Record`` objects."""

_CHECKED = 10_000  # rows that are read before a run is configured
_RECORD_FIELDS = (
    "id", "input", "label", "llm_label", "rationales", "choices", "weight", "rationale_teachers", "label_votes",
    "key_phrases",
)  # fmt: skip


@keywords.checked(("distill.tasks.jsonl", "dataset"))
@remedies.speaking_python(remedies.OF_ROWS, "options")
def read(
    rows: Rows, *, fields: Mapping[str, str] | None = None, report: Report | None = None, **options: Any
) -> list[Record]:
    """Reads rows as training reads them.

    Args:
      rows: a path, several paths, or an iterable of dicts or of records.
      fields: field of a record (``input``, ``label``, ``rationale`` …) → field of the rows, see
        :class:`distill.tasks.jsonl.JsonLines`; None: the rows use the names of the record.
      report: records the rows that cannot be used; None logs a warning that counts them.
      **options: of :func:`distill.tasks.jsonl.dataset`, such as the ``parser`` of a teacher's replies.

    Raises:
      distill.tasks.records.SourceError: a file cannot be used, or no row at all.

    >>> read([{"question": "1 + 1?", "answer": "2"}], fields={"input": "question", "label": "answer"})[0].label
    '2'
    """
    check_fields(fields)
    noted = Report() if report is None else report
    files = paths_of(rows)
    data = _lines(as_dicts(rows, fields)).encode("utf-8", "surrogatepass") if files is None else None
    with _as_file(data, "test") as path:
        found = list(jsonl.dataset({"test": files or [str(path)]}, fields=fields, **options).records("test", noted))
    if report is None and noted.problems:
        logging.warning("%s", str(noted).replace(str(path), "row"))
    return found


def check_fields(fields: Any) -> None:
    """Raises TypeError unless ``fields`` is a mapping or None."""
    keywords.check_mapping("fields", fields, "{'input': 'question', 'label': 'answer'}")


def check(
    files: Sequence[str], data: bytes | None, fields: Mapping[str, str] | None, answer: str, split: str = "train"
) -> None:
    """Reads the first rows as training will: a mistake is found before a vocabulary, a network or TensorFlow is loaded.

    Args:
      files: of the rows, as :func:`store` returns them.
      data: the contents of the file, if it is not written yet.
      fields, answer: see :func:`distill.train`.
      split: of the rows, for messages.

    Raises:
      ValueError: an unknown field or kind of answer.
      distill.tasks.records.SourceError: a file is missing or cannot be used, or no row at all.
    """
    with _as_file(data, called="the rows" if split == "train" else f"the {split} rows") as path:
        named = list(files) if data is None else [str(path)]
        source = jsonl.dataset({split: named}, fields=fields, answer=answer)  # type: ignore[arg-type]
        collections.deque(itertools.islice(source.records(split, Report()), _CHECKED), maxlen=0)


@contextlib.contextmanager
def _as_file(data: bytes | None, split: str | None = None, called: str = "the rows") -> Iterator[epath.Path]:
    """A temporary file of rows in memory, whose name in errors is ``called``; it is not written without ``data``.

    Errors do not name ``split``, which is none of the caller's words.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = epath.Path(folder) / "rows.jsonl"
        if data is not None:
            path.write_bytes(data)
        try:
            yield path
        except SourceError as error:
            text = str(error).replace(str(path), called).replace(f" (rows of split {split})", "")
            if data is None and isinstance(error, MissingFileError) and "; " not in text:
                text += "; a text is the path of a file: give rows in memory as dicts"
            raise type(error)(text) from None


@keywords.checked(("distill.tasks.registration", "register"))
@remedies.speaking_python(remedies.OF_ROWS, "options")
def register(
    rows: Rows | Dataset,
    vocabulary: Any = "t5",
    *,
    name: str = "rows",
    fields: Mapping[str, str] | None = None,
    validation: Rows | None = None,
    test: Rows | None = None,
    answer: str = "text",
    **options: Any,
) -> Any:
    """Registers rows with SeqIO as tasks and a mixture, for SeqIO's and T5X's own programs.

    Args:
      rows: the training rows, as :func:`read` takes them, or a :class:`distill.tasks.dataset.Dataset`.
      vocabulary: ``t5``, ``mt5``, ``bytes``, the path of a SentencePiece model, or a SeqIO vocabulary.
      name: prefix of the tasks' names; tasks of the same name are replaced.
      fields: see :func:`read`.
      validation: validation rows; None holds out a tenth of the training rows.
      test: test rows, or None.
      answer: how answers are compared: ``text``, ``choice`` or ``equation``.
      **options: of :func:`distill.tasks.registration.register`.

    Returns:
      A :class:`distill.tasks.registration.Registered` with the names.

    Raises:
      ValueError: an argument is out of its range, or the rows cannot be used.
    """
    tensorflow_log.import_quietly()
    from distill.tasks import registration

    if isinstance(rows, Dataset):
        return registration.register(rows, vocabulary, **options)
    given = {"train": rows, "validation": validation, "test": test}
    held = {split: tuple(read(part, fields=fields)) for split, part in given.items() if part is not None}
    several = any(len(record.rationales) > 1 for record in itertools.chain.from_iterable(held.values()))
    dataset = Dataset(name, _Held(held), answer=answer, several_rationales=several)  # type: ignore[arg-type]
    return registration.register(dataset, vocabulary, **options)


class _Held:
    """A source over records in memory."""

    def __init__(self, held: Mapping[str, tuple[Record, ...]]):
        self.splits = tuple(held)
        self._held = held

    def __call__(self, split: str, report: Report | None = None) -> Iterator[Record]:
        for record in self._held[split]:
            if report is not None:
                report.rows += 1
            yield record


def paths_of(rows: Rows) -> list[str] | None:
    """The paths that ``rows`` consists of, or None if it holds rows themselves."""
    if isinstance(rows, str | os.PathLike):
        return [os.fspath(rows)]
    if isinstance(rows, list | tuple) and rows and all(isinstance(one, str | os.PathLike) for one in rows):
        return [os.fspath(one) for one in rows]
    return None


def as_dicts(rows: Rows, fields: Mapping[str, str] | None, argument: str = "rows") -> list[Mapping[str, Any]]:
    """Rows in memory as dicts of JSON values; errors call them ``argument``.

    Raises:
      TypeError: items that are neither dicts nor records.
      ValueError: no row, or records with ``fields``.
    """
    if isinstance(rows, Mapping | bytes) or not isinstance(rows, Iterable):
        kind = type(rows).__name__
        raise TypeError(f"{argument} must be a path, paths, or an iterable of dicts or Records; got {kind}")
    found: list[Mapping[str, Any]] = []
    for number, row in enumerate(rows):
        if isinstance(row, Record):
            if fields:
                raise ValueError(f"fields names the fields of dicts, and {argument} holds Records; leave fields out")
            values = {name: getattr(row, name) for name in _RECORD_FIELDS}
            found.append({name: value for name, value in values.items() if value not in (None, ())})
        elif isinstance(row, Mapping):
            found.append(row)
        else:
            raise TypeError(f"{argument}[{number}] must be a dict or a Record; got {type(row).__name__}")
    if not found:
        raise ValueError(f"{argument} is empty; give at least one row")
    return found


def store(
    rows: Rows, path: epath.Path, fields: Mapping[str, str] | None, *, trained: bool, argument: str = "rows"
) -> tuple[list[str], bytes | None]:
    """The files that a run reads its rows from: the given ones, or ``path`` with the contents to write there.

    Args:
      rows: as :func:`read` takes them.
      path: the file for rows in memory, inside of the model directory.
      fields: see :func:`read`.
      trained: whether the run has trained; it continues on the same rows only.
      argument: that gave the rows, for messages.

    Returns:
      The files, and the contents of ``path`` if it must be written.

    Raises:
      ValueError: the run has trained on other rows, or there are no rows.
    """
    files = paths_of(rows)
    if files is not None:
        return files, None
    contents = _lines(as_dicts(rows, fields, argument), argument).encode("utf-8", "surrogatepass")
    same = path.exists() and path.read_bytes() == contents
    if trained and not same:
        raise ValueError(_refusal(path, contents, argument))
    return [os.fspath(path)], None if same else contents


def _refusal(path: epath.Path, contents: bytes, argument: str) -> str:
    """The error for rows that a run has not trained with: what differs, and what to do."""
    root = path.parent.parent
    if not path.exists():
        score = f"; distill.evaluate(distill.load({os.fspath(root)!r}), rows) scores them" if argument == "test" else ""
        return (
            f"{root} was trained without {argument}=, or with the path of a file; a run that has trained takes the "
            f"arguments that it began with{score}, or give another directory"
        )
    before, now = path.read_bytes().splitlines(), contents.splitlines()
    first = next((number for number, pair in enumerate(zip(before, now)) if pair[0] != pair[1]), None)
    differs = f"{argument} had {counted(len(before), 'row')} and now has {len(now)}"
    if first is not None:
        differs = f"{argument}[{first}] differs" + ("" if len(before) == len(now) else f", and {differs}")
    return (
        f"{root} was trained on other rows than these: {differs}; give the same rows to continue, or another directory"
    )


def _lines(rows: Iterable[Mapping[str, Any]], argument: str = "rows") -> str:
    lines = []
    for number, row in enumerate(rows):
        try:
            lines.append(json.dumps(row, default=_plain) + "\n")
        except (TypeError, ValueError) as error:
            raise TypeError(f"{argument}[{number}] holds a value that JSON cannot write: {error}") from None
    return "".join(lines)


def _plain(value: Any) -> Any:
    """NumPy's scalars and arrays as Python values."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    raise TypeError(f"{type(value).__name__} is no JSON value")
