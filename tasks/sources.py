"""Rows out of JSON files, one at a time, with their line numbers; and sources made of other sources."""

import difflib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from tasks.records import ROW, Record, Report, RowError, Source, SourceError


class MissingFileError(SourceError, FileNotFoundError):
    """A file that a source needs is not there."""


def open_bytes(path: epath.PathLike, purpose: str):
    """Opens a local or remote file for reading.

    Raises:
      MissingFileError: naming the path, what it was wanted for, and similar names beside it.
    """
    path = epath.Path(path)
    if not path.exists():
        beside = [entry.name for entry in path.parent.iterdir()] if path.parent.exists() else []
        near = difflib.get_close_matches(path.name, beside, n=1)
        hint = (
            f"; {near[0]} is there" if near else f"; {path.parent} does not exist" if not path.parent.exists() else ""
        )
        raise MissingFileError(f"{path} is missing ({purpose}){hint}")
    return path.open("rb")


def _decode(data: bytes, path: epath.PathLike) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SourceError(f"{path}:{line}: not UTF-8 (byte 0x{data[error.start]:02x} at {error.start})") from error


def read_array(path: epath.PathLike, purpose: str) -> list[Any]:
    """The elements of a file that holds one JSON array.

    Raises:
      SourceError: it is missing, not UTF-8, cut off, or something else than an array; says where.
    """
    with open_bytes(path, purpose) as file:
        text = _decode(file.read(), path)
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        where = "the file ends too early" if error.pos >= len(text.rstrip()) - 1 else error.msg
        raise SourceError(f"{path}:{error.lineno}:{error.colno}: not valid JSON: {where} ({purpose})") from error
    if not isinstance(value, list):
        raise SourceError(f"{path}: expected a JSON array ({purpose}); got {type(value).__name__}")
    return value


def read_rows(path: epath.PathLike, purpose: str) -> Iterator[tuple[int, dict[str, Any] | RowError]]:
    """The objects of a JSON-lines file, or of a file that holds one array of objects.

    Args:
      path: the file.
      purpose: for messages.

    Yields:
      ``(line, row)``; ``line`` counts from 1 (in an array: elements). A line that holds no object is yielded as a
      :class:`~tasks.records.RowError` in place of the row, so that the rows behind it keep their places. Blank lines are
      passed over.

    Raises:
      SourceError: the file is missing, or is an array that cannot be parsed.
    """
    with open_bytes(path, purpose) as file:
        for line, data in enumerate(file, start=1):
            if not data.strip():
                continue
            if line == 1 and data.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
                break
            yield line, _object(data, path)
        else:
            return
    for number, row in enumerate(read_array(path, purpose), start=1):
        yield number, row if isinstance(row, dict) else RowError(f"expected an object; got {type(row).__name__}")


def _object(data: bytes, path: epath.PathLike) -> dict[str, Any] | RowError:
    try:
        row = json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return RowError("not UTF-8")
    except json.JSONDecodeError:
        return RowError("not valid JSON")
    except RecursionError:
        return RowError("nested too deeply")
    return row if isinstance(row, dict) else RowError(f"expected an object; got {type(row).__name__}")


def text_field(row: Mapping[str, Any], name: str) -> str:
    """``row[name]`` as text.

    Raises:
      RowError: it is absent or not a string.
    """
    if name not in row:
        raise RowError(f"field {name!r} is absent")
    value = row[name]
    if not isinstance(value, str):
        raise RowError(f"field {name!r} is not text but {type(value).__name__}")
    return value


def class_name(value: Any, names: Sequence[str]) -> str:
    """The label for a class number or name. Raises RowError if it is neither."""
    if isinstance(value, str) and value in names:
        return value
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(names):
        return names[value]
    raise RowError(f"unknown label {value!r} (expected 0 to {len(names) - 1}, or {', '.join(names)})")


def build(
    rows: Iterable[tuple[int, dict[str, Any] | RowError]],
    to_record: Callable[[dict[str, Any], int], Record],
    report: Report,
    file: str,
) -> Iterator[tuple[int, Record | None]]:
    """Turns rows into records.

    Args:
      rows: as :func:`read_rows` yields them.
      to_record: makes a record of a row and its number (from 0), or raises RowError.
      report: is told of rejected rows.
      file: for the report.

    Yields:
      ``(line, record)``, or ``(line, None)`` for a rejected row.

    Raises:
      SourceError: there were rows, and every one of them was rejected.
    """
    rejected = kept = 0
    first = ""
    for number, (line, row) in enumerate(rows):
        try:
            if isinstance(row, RowError):
                raise row
            record = to_record(row, number)
        except RowError as error:
            rejected += 1
            first = first or f"line {line}: {error}"
            report.add(ROW, str(error), file=file, line=line, text="" if isinstance(row, RowError) else str(row))
            yield line, None
        else:
            kept += 1
            yield line, record
    if not kept:
        what = f"none of its {rejected} rows can be used; {first}" if rejected else "it has no rows"
        raise SourceError(f"{file}: {what}")


class Concatenated:
    """One source after another.

    Args:
      parts: for each split, the sources whose rows it consists of, each with the split to read from it.
    """

    def __init__(self, parts: Mapping[str, Sequence[tuple[Source, str]]]):
        self._parts = {split: tuple(sources) for split, sources in parts.items()}
        self.splits = tuple(self._parts)

    def __call__(self, split: str, report: Report | None = None) -> Iterator[Record]:
        """Yields all parts' records of the split in order."""
        report = Report() if report is None else report
        for source, part in self._parts[split]:
            yield from source(part, report)
