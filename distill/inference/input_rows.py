"""The rows that ``infer`` answers: each with its input, or with the reason why it has none."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from distill import validation
from distill.counting import counted
from distill.inference import answers
from distill.tasks import jsonl, row_fields, sources
from distill.tasks.records import RowError, check_text
from distill.validation import quoted

_NAMED_ROWS = 100  # rows whose fields are named if none of all has the field of the input


@dataclasses.dataclass(frozen=True)
class Row:
    """A row as it was read: its line, its id if that can be written, and its input or the reason why it has none."""

    line: int
    id: Any = None
    text: str = ""
    error: str | None = None
    choices: tuple[str, ...] | None = None

    @property
    def fingerprint(self) -> list[Any]:
        found = [self.line, self.id, self.text, self.error]
        return found if self.choices is None else [*found, list(self.choices)]


def read(path: Path, field: str, id_field: str = "id", choices: str | Sequence[str] | None = None) -> Iterator[Row]:
    """Rows with their input text, or with an error.

    Args:
      path: JSON lines.
      field: the field of the input, or a template of fields.
      id_field: the field of the id; where a row has no value there, ``id`` is read.
      choices: the field of a row's choices, or the choices of all rows; None reads none.
    """
    for line, row in sources.read_rows(path, "rows to answer", keep_blank=True):
        if isinstance(row, RowError):
            yield Row(line, error=str(row))
            continue
        try:
            identity = row_fields.value_of(row, id_field)
        except RowError:  # of a template
            identity = None
        identity = row.get("id") if identity is None else identity
        try:
            answers.line({"id": identity})
        except ValueError:
            identity, problem = None, "the row's id cannot be written: it holds half of a surrogate pair"
            yield Row(line, error=problem)
            continue
        try:
            text = check_text(jsonl.text_of(row, field), f"the text of field {field!r}")
            own = _choices_of(row, choices)
        except RowError as error:
            yield Row(line, identity, error=_writable(str(error)))
        else:
            yield Row(line, identity, text, choices=own)


def _choices_of(row: dict[str, Any], choices: str | Sequence[str] | None) -> tuple[str, ...] | None:
    if choices is None or not isinstance(choices, str):
        return None if choices is None else tuple(choices)
    value = row_fields.value_of(row, choices)
    if not isinstance(value, list | dict):
        if value is None and not row_fields.has(row, choices):
            raise RowError(f"field {choices!r} is absent; the row has {', '.join(row_fields.names(row))}")
        raise RowError(f"field {choices!r} has no list of choices; got {quoted(value)}")
    found = row_fields.choices_of(value, choices)[0]
    for choice in found:
        check_text(choice, f"a choice of field {choices!r}")
    return found


def with_problems(rows: Iterable[Row], problem_of: Callable[[Sequence[str]], str | None]) -> Iterator[Row]:
    """Yields the rows, each with the reason why its choices cannot be used, if ``problem_of`` returns one."""
    cached = functools.lru_cache(maxsize=256)(problem_of)
    for row in rows:
        problem = None if row.error is not None else cached(row.choices or ())
        yield row if problem is None else dataclasses.replace(row, error=problem)


def _writable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def check_field(
    path: Path, field: str, what: str = "the input was", remedy: str = "--input_field names another field"
) -> None:
    """Raises ValueError if there are rows and none of them has a field; reads up to the first that has.

    A pipe can be read only once, and is not checked: its rows get their errors one by one.

    Args:
      path: JSON lines.
      field: the field, or a template of fields.
      what: names what is expected there, in the error.
      remedy: what to give instead, in the error.
    """
    if not path.is_file():
        return
    wanted, rows = row_fields.fields_in(field), 0
    seen: set[str] = set()
    for _, row in sources.read_rows(path, "rows to answer"):
        if isinstance(row, RowError):
            continue
        if all(row_fields.has(row, name) for name in wanted):
            return
        rows += 1
        if rows <= _NAMED_ROWS:
            row_fields.note_names(row, seen)
    if not rows:
        return
    absent = next((name for name in wanted if name not in seen), wanted[0])
    hint = validation.did_you_mean(absent, sorted(seen))
    raise ValueError(
        f"{path}: none of {counted(rows, 'row')} has the field {absent!r}, where {what} expected (the rows have: "
        f"{', '.join(sorted(seen)) or 'no field'}); {remedy}{hint}"
    )
