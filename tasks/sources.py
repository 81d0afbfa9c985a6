"""From rows to records, with a report of rejected rows; and sources made of other sources."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from distill.counting import counted
from distill.tasks.json_files import NOT_JSON, MissingFileError, open_bytes, read_array, read_rows
from distill.tasks.records import ROW, Record, Report, RowError, Source, SourceError, Wrapper, shown

__all__ = [
    "Concatenated",
    "MissingFileError",
    "build",
    "class_name",
    "open_bytes",
    "optional_text",
    "read_array",
    "read_rows",
    "text_field",
]


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


def optional_text(row: Mapping[str, Any], name: str) -> str:
    """``row[name]`` as text; empty where it is absent or None.

    Raises:
      RowError: it is not a string.
    """
    return "" if row.get(name) is None else text_field(row, name)


def class_name(value: Any, names: Sequence[str]) -> str:
    """The label for a class number or name. Raises RowError if it is neither."""
    if isinstance(value, str) and value in names:
        return value
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(names):
        return names[value]
    raise RowError(f"unknown label {shown(value)} (expected 0 to {len(names) - 1}, or {', '.join(names)})")


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
      report: receives rejected rows.
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
            report.add(ROW, str(error), file=file, line=line, text=row.text if isinstance(row, RowError) else str(row))
            yield line, None
        else:
            kept += 1
            yield line, record
    if not kept:
        what = f"none of its {counted(rejected, 'row')} can be used; {first}" if rejected else "it has no rows"
        if first.endswith(NOT_JSON):
            what += " (expected JSON lines: one object per line)"
        raise SourceError(f"{file}: {what}")


class Concatenated(Wrapper):
    """One source after another.

    Args:
      parts: for each split, the sources whose rows it consists of, each with the split to read from it.
    """

    def __init__(self, parts: Mapping[str, Sequence[tuple[Source, str]]]):
        self._parts = {split: tuple(sources) for split, sources in parts.items()}
        self.splits = tuple(self._parts)

    def _sources(self) -> Iterable[Callable[..., Iterator[Record]]]:
        return [source for parts in self._parts.values() for source, _ in parts]

    def __call__(self, split: str, report: Report | None = None) -> Iterator[Record]:
        """Yields all parts' records of the split in order."""
        report = Report() if report is None else report
        for source, part in self._parts[split]:
            yield from source(part, report)
