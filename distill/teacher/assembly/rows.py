"""Writes records as JSON lines: one line per record, and files that appear only when complete."""

import contextlib
import json
import os
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TextIO

from distill import atomic_files, validation
from distill.tasks.records import Record
from distill.teacher.clients.completion import printable

# json.dumps does not escape these, but str.splitlines and some readers treat them as line ends.
_LINE_ENDS = {0x85: "\\u0085", 0x2028: "\\u2028", 0x2029: "\\u2029"}


def line(value: Mapping[str, Any]) -> str:
    """``value`` as JSON without line ends inside, encodable as UTF-8."""
    return printable(json.dumps(value, ensure_ascii=False)).translate(_LINE_ENDS)


def write(path: str | os.PathLike[str], values: Iterable[Mapping[str, Any]]) -> int:
    """Writes JSON lines; the complete file replaces ``path`` at the end. Returns the number of lines."""
    number = 0
    with replacing(path) as file:
        for value in values:
            file.write(line(value) + "\n")
            number += 1
    return number


def write_json(path: str | os.PathLike[str], value: Mapping[str, Any]) -> None:
    """Writes one indented JSON object, as :func:`write` does."""
    with replacing(path) as file:
        file.write(printable(json.dumps(value, ensure_ascii=False, indent=2)) + "\n")


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[TextIO]:
    """Yields a text file that replaces ``path``, synchronised to disk, if the block raises nothing."""
    target = pathlib.Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = pathlib.Path(atomic_files.partial(target))
    try:
        with unfinished.open("w", encoding="utf-8", newline="\n") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, target)
    finally:
        unfinished.unlink(missing_ok=True)


def check_place(path: str | os.PathLike[str]) -> None:
    """Raises ValueError if no file can be written at ``path``: checked before any request is sent."""
    validation.check_local("a file of records", path)
    target = pathlib.Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error}") from None
    if target.is_dir():
        raise ValueError(f"{path} cannot be written: it is a folder")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise ValueError(f"{path} cannot be written: no permission for {target.parent}")


def row_of(record: Record, provenance: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A record as a row that :mod:`distill.tasks.jsonl` reads without a field mapping."""
    row: dict[str, Any] = {"id": record.id, "input": record.input}
    for name in ("label", "llm_label"):
        if getattr(record, name) is not None:
            row[name] = getattr(record, name)
    row["rationales"] = list(record.rationales)
    if record.choices:
        row["choices"] = list(record.choices)
    if record.weight != 1.0:
        row["weight"] = record.weight
    if record.label_votes:
        row["label_votes"] = dict(record.label_votes)
    if record.key_phrases:
        row["key_phrases"] = list(record.key_phrases)
    if prefix:
        row["prefix"] = prefix
    return row | {"provenance": dict(provenance)}


def beside(path: str | os.PathLike[str], what: str) -> pathlib.Path:
    """The path of a file that accompanies an output: ``out.jsonl`` → ``out.failures.jsonl``.

    >>> beside("runs/out.jsonl", "report.json").name
    'out.report.json'
    """
    path = pathlib.Path(path)
    return path.with_name(f"{path.name.removesuffix('.jsonl')}.{what}")


def of_teacher(path: str | os.PathLike[str], name: str) -> pathlib.Path:
    """The path of the file of one teacher: ``out.jsonl`` → ``out.<teacher>.jsonl``."""
    return beside(path, f"{slug(name)}.jsonl")


def slug(name: str) -> str:
    """A teacher's name as part of a file name.

    >>> slug("meta-llama/Llama-3.1 70B")
    'meta-llama_Llama-3.1_70B'
    """
    return re.sub(r"[^\w.-]+", "_", name).strip("._") or "teacher"
