"""The file of answers, and the record beside it of the run that wrote the lines; only that run may continue them.

``answers.jsonl`` holds the lines; ``answers.jsonl.run.json`` holds the settings they were made with, how many lines are
complete, a digest of the inputs of those lines, and counts. Lines are written first, then the record, so that after a kill
the record covers a prefix of the file; lines after the prefix are removed and written again.
"""

import dataclasses
import hashlib
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from distill import atomic_files, outputs
from distill.counting import counted

FORMAT, VERSION = "distill-answers", 1
STDOUT = "-"
"""The output path of :class:`Stream`."""
_START = hashlib.sha256(b"").hexdigest()
_MAX_BYTES = 2**20
_FIRST_BYTES = 200  # of a record; they hold its format
_SHA256 = re.compile(r"[0-9a-f]{64}")


class AnotherRun(ValueError):
    """The output holds lines of a run with other settings or another input."""


@dataclasses.dataclass
class Record:
    """The record of the lines in the file.

    Attributes:
      settings: the settings that the answers depend on, by name; JSON-ready.
      rows: complete lines.
      bytes: their size.
      digest: SHA-256 chained over the inputs of those lines.
      answered: lines with an answer.
      reasons: why the other lines have none, counted.
    """

    settings: Mapping[str, Any]
    rows: int = 0
    bytes: int = 0
    digest: str = _START
    answered: int = 0
    reasons: Counter[str] = dataclasses.field(default_factory=Counter)

    @property
    def failed(self) -> int:
        """Lines without an answer."""
        return self.rows - self.answered


def chained(digest: str, inputs: Sequence[Any]) -> str:
    """The digest of the lines so far and these inputs (JSON-ready values, one per line)."""
    for one in inputs:
        data = digest + json.dumps(one, sort_keys=True)  # escapes all that is not ASCII, lone surrogates included
        digest = hashlib.sha256(data.encode()).hexdigest()
    return digest


def line(values: Mapping[str, Any]) -> str:
    """One line of JSON that any reader takes: no NaN, no infinity, no lone surrogate.

    Raises:
      ValueError: ``values`` holds one.
    """
    text = json.dumps(values, ensure_ascii=False, allow_nan=False)
    text.encode("utf-8")
    return text + "\n"


_RATIONALE_LEN = "rationale_decode.max_decode_len"

# Setting → the flag or macro that sets it; other settings of decoding are bindings of ``evaluate.DecodeConfig``.
_SPELLED = {
    "input_field": "--input_field",
    "choices": "--choices",
    "rationale": "--rationale",
    "shard": "--shard",
    "form": "EVAL_FORM",
    "decode.max_decode_len": "MAX_DECODE_LEN",
    "decode.max_input_len": "MAX_INPUT_LEN",
    _RATIONALE_LEN: "--max_rationale_len",
}


# Settings that are recorded only if they are not these.
_UNRECORDED = {
    "decode.weights": "compute",
    "rationale_decode.weights": "compute",
    "decode.normalize_by_target_length": False,
}


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """The settings that differ, by the flag or macro that sets them; each cause once.

    Settings of the rationale follow from ``--rationale`` and, its length aside, from those of the label, and are left out
    where these differ.
    """
    before, after = _UNRECORDED | dict(before), _UNRECORDED | dict(after)
    changed = [name for name in dict.fromkeys([*before, *after]) if before.get(name) != after.get(name)]
    if "rationale" in changed:
        changed = [name for name in changed if not name.startswith(("rationale_decode.", "rationale_prefix"))]
    changed = [
        name
        for name in changed
        if name == _RATIONALE_LEN
        or not (name.startswith("rationale_decode.") and name.replace("rationale_decode.", "decode.") in changed)
    ]
    return [f"{_spelled(name)} was {_shown(before.get(name))} and is now {_shown(after.get(name))}" for name in changed]


def _shown(value: Any) -> str:
    return "not given" if value is None else repr(value)


def _spelled(name: str) -> str:
    part, _, field = name.rpartition(".")
    return _SPELLED.get(name, f"evaluate.DecodeConfig.{field}" if part == "decode" else name)


class Answers:
    """The output file, to be continued. Nothing is written before :meth:`begin` or the first :meth:`write`.

    Args:
      path: of the JSON lines.
      settings: the settings that the answers depend on.
      overwrite: begin again and discard existing lines.

    Raises:
      AnotherRun: the file holds answers made with other settings; every difference is listed.
      ValueError: the file, or one in the place of its record, was not written by this command; or the file is shorter than
        its record states, or is a folder.
    """

    def __init__(self, path: str | os.PathLike[str], settings: Mapping[str, Any], *, overwrite: bool = False):
        self.path = Path(path)
        self.record_path = self.path.with_name(self.path.name + ".run.json")
        if self.path.is_dir():
            raise ValueError(f"the output {path} is a folder; expected a file, such as {self.path / 'answers.jsonl'}")
        outputs.check_own(
            "the record of the answers", self.record_path, _is_record, "distill infer", remedy="delete it"
        )
        fresh = Record(json.loads(json.dumps(settings)))
        found = None if overwrite else self._found()
        if found is not None and found.answered:
            self._check(found, fresh.settings)
        # If all lines are errors, nothing is kept: all rows are answered again, with the present settings.
        self.record = found if found is not None and found.answered else fresh
        self.found = dataclasses.replace(self.record, reasons=Counter(self.record.reasons))
        self._begun = False

    def begin(self) -> None:
        """Writes the record, and removes what the file holds beyond the recorded lines; a second call does nothing."""
        if self._begun:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._save()
        with self.path.open("ab") as file:
            file.truncate(self.record.bytes)
        self._begun = True

    def _found(self) -> Record | None:
        if not self.path.exists():
            return None
        if not self.record_path.exists():
            if self.path.stat().st_size == 0:
                return None
            raise ValueError(
                f"{self.path} exists, and {self.record_path.name}, which records its settings, does not: move the "
                "file away, name another output, or give --overwrite"
            )
        record = _read(self.record_path)
        if self.path.stat().st_size < record.bytes:
            raise ValueError(
                f"{self.path} is shorter than {self.record_path.name} states ({self.path.stat().st_size} of {record.bytes} "
                "bytes); give --overwrite to answer all rows again"
            )
        return record

    def _check(self, found: Record, settings: Mapping[str, Any]) -> None:
        differ = differences(found.settings, settings)
        if differ:
            raise AnotherRun(
                f"{self.path} holds {found.answered} answers of another run: {'; '.join(differ)}. Name another output, or "
                "give --overwrite to answer all rows again"
            )

    def check_inputs(self, digest: str) -> None:
        """Raises :class:`AnotherRun` unless ``digest`` is that of the inputs of the lines found."""
        if digest != self.found.digest:
            raise AnotherRun(
                f"{self.path} holds answers to another input: its first {self.found.rows} rows are not those of the input "
                "now given. Name another output, or give --overwrite to answer all rows again"
            )

    def too_few_inputs(self, rows: int) -> AnotherRun:
        """The error for an input that has fewer rows than there are lines."""
        return AnotherRun(
            f"{self.path} has {counted(self.found.rows, 'line')}, and the input {counted(rows, 'row')}: it "
            "belongs to another input. Name another output, or give --overwrite"
        )

    def write(self, lines: Sequence[str], inputs: Sequence[Any], reasons: Sequence[str]) -> None:
        """Adds lines; they are on disk, and counted in the record, when this returns.

        Args:
          lines: of :func:`line`.
          inputs: of the lines, one each.
          reasons: of those lines that hold an error.
        """
        self.begin()
        data = "".join(lines).encode("utf-8")
        with self.path.open("ab") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        record = self.record
        record.rows, record.bytes = record.rows + len(lines), record.bytes + len(data)
        record.digest = chained(record.digest, inputs)
        record.answered += len(lines) - len(reasons)
        record.reasons.update(reasons)
        self._save()

    def _save(self) -> None:
        values = {**vars(self.record), "reasons": dict(self.record.reasons)}
        text = json.dumps({"format": FORMAT, "version": VERSION, **values}, indent=1)
        atomic_files.replace(self.record_path, text + "\n")


class Stream:
    """Answers on standard output, a pipe or a device: nothing is recorded, so nothing is continued.

    Methods as in :class:`Answers`.

    Args:
      file: what is written to; None: standard output.
    """

    def __init__(self, file: BinaryIO | None = None):
        self.record, self.found = Record({}), Record({})
        self._file = file

    def begin(self) -> None:
        """Nothing."""

    def write(self, lines: Sequence[str], inputs: Sequence[Any], reasons: Sequence[str]) -> None:
        """Prints lines at once, in UTF-8; counts them."""
        del inputs
        sys.stdout.flush()
        file = self._file or sys.stdout.buffer
        file.write("".join(lines).encode("utf-8"))
        file.flush()
        self.record.rows += len(lines)
        self.record.answered += len(lines) - len(reasons)
        self.record.reasons.update(reasons)


def _is_record(file: BinaryIO) -> bool:
    return FORMAT.encode() in file.read(_FIRST_BYTES)


def _read(path: Path) -> Record:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError("it is too large")
        raw = json.loads(path.read_bytes())
        if raw.pop("format") != FORMAT or raw.pop("version") != VERSION:
            raise ValueError("it is of another format or version")
        if not isinstance(raw["reasons"], dict):
            raise ValueError(f"its reasons are no object but {type(raw['reasons']).__name__}")
        record = Record(**{**raw, "reasons": Counter(raw["reasons"])})
        counts = (record.rows, record.bytes, record.answered, *record.reasons.values())
        if not all(type(n) is int and 0 <= n < 2**63 for n in counts):
            raise ValueError("its counts are not whole numbers")
        digest = record.digest
        if not isinstance(record.settings, dict) or not isinstance(digest, str) or not _SHA256.fullmatch(digest):
            raise ValueError("its settings or digest are of the wrong type")
        return record
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{path} is damaged or was not written by `distill infer` ({' '.join(str(error).split())[:120]}); move it and "
            "the output away, or give --overwrite"
        ) from None
