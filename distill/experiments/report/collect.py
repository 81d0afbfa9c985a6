"""Finds runs in the folders that ``distill report`` is given, and reads what they left there."""

import dataclasses
import json
import math
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from distill import locking, outputs
from distill.counting import joined, with_more
from distill.experiments.sweep import PLAN, SEED, outcomes, read_directory
from distill.experiments.sweep.files import reached_step
from distill.inference.own_files import ATTEMPTS, CONFIG
from distill.training import record, reporting
from distill.validation import quoted

_NOT_STUDIED = (SEED, "MODEL_DIR", "DATA_DIR")
_UNNAMED = ("jsonl", "rows", "text")  # DATASET_NAME of rows that no one has named
SOFTWARE = "distill report"
"""The name that a report has in its files."""
_WRITTEN = f" by {SOFTWARE}".encode()
# Suffix of the page or of a twin → what an earlier one holds.
_MARKS = {".html": _WRITTEN, ".md": _WRITTEN, ".csv": b"run,test_data,", ".png": f"Software\0{SOFTWARE}".encode()}
_HEAD = 2**24  # bytes of a file in which its mark is looked for
_REFERENCE = re.compile(r"@(?:\w+/)*(\w+)\.dataset\(\)")  # of gin, to a data set's function


class ReportError(ValueError):
    """Runs of which no report can be made; the message names the file or folder and the remedy."""


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """A complete run.

    Attributes:
      name: of its folder.
      directory: its model directory.
      sweep: the sweep's folder, or None.
      axes: axis of the sweep → level; without a sweep empty.
      record: the contents of ``record.json``.
    """

    name: str
    directory: Path
    sweep: Path | None
    axes: Mapping[str, str]
    record: Mapping[str, Any]

    @property
    def seed(self) -> str:
        """The run's seed, as text."""
        return str(self.axes.get(SEED, self.record["configuration"].get(SEED, 0)))

    @property
    def configuration(self) -> dict[str, Any]:
        """Its macros and bindings without seed and folders, and without bindings that refer to a macro."""
        own = self.record["configuration"]
        seed, folders = own.get(SEED), [own.get(name) for name in _NOT_STUDIED if name != SEED]

        def studied(name: str, value: Any) -> bool:
            if "." not in name:
                return name not in _NOT_STUDIED
            refers = isinstance(value, str) and (value.startswith("%") or value in folders)
            return not refers and not ("seed" in name and value == seed)

        return {name: value for name, value in own.items() if studied(name, value)}

    @property
    def seen(self) -> int | None:
        """The number of its test rows that have the input of a training row; None if it is not known."""
        return (self.record["data"].get("test") or {}).get("seen")

    @property
    def rates(self) -> tuple[float, float] | None:
        """``LABEL_RATE`` and ``RATIONALE_RATE`` of a mixture; None for other forms."""
        own = self.record["configuration"]
        labels, rationales = own.get("LABEL_RATE"), own.get("RATIONALE_RATE")
        known = all(isinstance(rate, int | float) and not isinstance(rate, bool) for rate in (labels, rationales))
        return (float(labels), float(rationales)) if known and own.get("FORM") == "mixed" else None

    @property
    def weight(self) -> float:
        """``LAMBDA``, 1 where the configuration has neither ``LAMBDA`` nor ``ALPHA``; nan for a schedule."""
        value, alpha = (self.record["configuration"].get(name) for name in ("LAMBDA", "ALPHA"))
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
        if value is not None:
            return math.nan
        return 1.0 if alpha is None else (1 - float(alpha)) / float(alpha) if 0 < float(alpha) < 1 else math.nan

    def fingerprint(self, split: str) -> str | None:
        """The fingerprint of the rows of a split; None if the run did not read it."""
        entry = self.record["data"].get(split)
        return None if entry is None else str(entry["fingerprint"])

    def data_name(self, split: str = "test") -> str:
        """The name of its data set: as configured, else the files of the split; empty if the configuration has neither."""
        own = self.record["configuration"]
        name = own.get("DATASET_NAME")
        if isinstance(name, str) and name not in _UNNAMED:
            return name
        files = own.get("FILES")
        if isinstance(files, dict) and files:
            found = files.get(split) or files.get("train") or next(iter(files.values()))
            return ", ".join(PurePath(str(path)).name for path in ([found] if isinstance(found, str) else found))
        reference = _REFERENCE.fullmatch(str(own.get("DATASET", "")))
        return reference[1] if reference else ""

    def score(self, metric: str, split: str = "test") -> float:
        """A metric of the parameters that validation selected; nan if the run has no such metric."""
        value = self.record[split].get(metric)
        return math.nan if value is None else float(value)

    def training(self, name: str) -> float:
        """A number of the record's section ``training``; nan if it is not known."""
        value = self.record["training"].get(name)
        return math.nan if value is None else float(value)

    def time(self, name: str) -> float:
        """``seconds`` or ``chip_seconds`` of the training without compilation; nan if it is not known.

        Which run of a sweep compiles a step for all that share it is chance, and so is what it then costs.
        """
        whole = self.training("seconds")
        compiling = float((self.record["training"].get("phases") or {}).get("compile", 0.0))
        return self.training(name) * (1 - min(compiling / whole, 1.0) if whole > 0 else 1.0)


@dataclasses.dataclass(frozen=True)
class Unfinished:
    """A run without results.

    Attributes:
      name: of its folder.
      axes: axis of the sweep → level.
      state: as in a sweep's directory; ``stopped`` for a run of no sweep that no process trains.
      error: of a failed run.
      sweep: the sweep's folder, or None.
    """

    name: str
    axes: Mapping[str, str]
    state: str
    error: str = ""
    sweep: Path | None = None

    @property
    def seed(self) -> str:
        """Its seed, as text; empty without an axis of seeds."""
        return self.axes.get(SEED, "")

    @property
    def to_do(self) -> bool:
        """Whether its sweep trains it now or later."""
        return self.state in ("running", "waiting")


@dataclasses.dataclass(frozen=True)
class Collection:
    """What was found: complete runs, and runs that failed or are not finished."""

    runs: tuple[Run, ...]
    unfinished: tuple[Unfinished, ...]


def check_output(output: Path, *, overwrite: bool = False) -> None:
    """Raises ReportError if a report cannot be written to a file.

    Args:
      output: the HTML file.
      overwrite: replace files in the place of it and its twins that are no report.
    """
    if output.suffix != ".html":
        page = output / "report.html" if output.is_dir() else output.with_suffix(".html")
        twins = [page.with_suffix(suffix).name for suffix in _MARKS if suffix != page.suffix]
        raise ReportError(
            f"--output is the HTML page, so it must end in .html; got {output}; give --output={shlex.quote(str(page))}, "
            f"which also writes {joined(twins)} beside the page"
        )
    if not output.parent.is_dir():
        raise ReportError(f"the folder of --output does not exist: {output.parent}")
    for suffix, mark in {} if overwrite else _MARKS.items():
        is_own = lambda file, mark=mark: mark in file.read(_HEAD)  # noqa: E731
        try:
            outputs.check_own("the report", output.with_suffix(suffix), is_own, "distill report")
        except ValueError as error:
            raise ReportError(str(error)) from None


def collect(paths: Sequence[str | Path]) -> Collection:
    """Reads sweeps, single runs, and folders that contain runs.

    Args:
      paths: each the folder of a sweep, a model directory, or a folder of model directories. A run found twice counts once.

    Raises:
      ReportError: a path does not exist, contains no run, or a complete run has no record.
    """
    runs: dict[Path, Run] = {}
    unfinished: dict[Path, Unfinished] = {}
    for path in map(Path, paths):
        if not path.exists():
            raise ReportError(f"{path} does not exist; give the folder of a sweep or a model directory")
        found = list(_entries(path))
        if not found:
            raise ReportError(
                f"{path} contains no run: neither {PLAN} of a sweep nor {CONFIG} of a run, here or one folder "
                "down; give the folder of a sweep or a model directory"
            )
        for directory, sweep, axes, state, error in found:
            key = directory.resolve()
            if state != "done":
                unfinished.setdefault(key, Unfinished(directory.name, axes, state, error, sweep))
            elif key not in runs or (sweep and not runs[key].sweep):
                runs[key] = Run(directory.name, directory, sweep, axes, read_record(directory))
    if not runs:
        states = sorted({each.state for each in unfinished.values()})
        first = next((each for each in unfinished.values() if each.error), None)
        more = f"; {first.name} failed: {first.error}" if first else ""
        counts = ", ".join(f"{sum(each.state == state for each in unfinished.values())} {state}" for state in states)
        raise ReportError(f"no run is finished: {counts}{more}{_remedy(unfinished)}")
    left = {key: each for key, each in unfinished.items() if key not in runs}
    return Collection(tuple(runs.values()), tuple(left.values()))


def _remedy(unfinished: Mapping[Path, Unfinished]) -> str:
    """How to finish stopped runs, and the first sweep that has runs to do; empty without either."""
    stopped = [path for path, each in unfinished.items() if each.state == "stopped"]
    sweep = next((each.sweep for each in unfinished.values() if each.state == "waiting"), None)
    parts = []
    if len(stopped) == 1:
        step = reached_step(stopped[0])
        at = "" if step is None else f" at step {step}"
        then = "starts it again" if outcomes.checkpoint_step(stopped[0]) is None else "continues it"
        parts.append(f"{stopped[0].name} was stopped{at}: run its distill train command again, which {then}")
    elif stopped:
        names = with_more([path.name for path in stopped])
        parts.append(f"{names} were stopped: run the distill train command of each again, which continues it")
    if sweep is not None:
        parts.append(f"distill sweep {shlex.quote(str(sweep))} trains those that wait")
    return "".join(f"; {part}" for part in parts)


_Entry = tuple[Path, Path | None, Mapping[str, str], str, str]


def _entries(path: Path) -> Iterator[_Entry]:
    """Yields directory, sweep, levels, state and error of each run in a folder."""
    if (path / PLAN).is_file():
        yield from _of_sweep(path)
    elif _is_run(path):
        yield path, None, {}, _state(path), ""
    elif path.is_dir():
        for child in sorted(path.iterdir()):
            if (child / PLAN).is_file():
                yield from _of_sweep(child)
            elif _is_run(child):
                yield child, None, {}, _state(child), ""


def _is_run(directory: Path) -> bool:
    """Whether a training has begun in a folder; its configuration is written first."""
    return any((directory / name).is_file() for name in (CONFIG, reporting.RESULT, record.FILE, ATTEMPTS))


def _state(directory: Path) -> str:
    """The state of a run of no sweep."""
    if (directory / reporting.RESULT).is_file():
        return "done"
    return "stopped" if locking.holder(locking.of_directory(directory)) is None else "running"


def _of_sweep(directory: Path) -> Iterator[_Entry]:
    for entry in read_directory(directory):
        yield entry.directory, directory, entry.values, entry.state, entry.error or ""


def read_record(directory: Path) -> dict[str, Any]:
    """Reads ``record.json`` of a complete run, as plain values.

    Raises:
      ReportError: it is absent, another version wrote it, validation selected nothing in this run, or it has no test rows.
    """
    try:
        found = record.read(directory).to_json()
    except FileNotFoundError:
        raise ReportError(
            f"{directory} has {reporting.RESULT} and no {record.FILE}: an earlier version trained it; train it again, or "
            "leave it out"
        ) from None
    except ValueError as error:
        raise ReportError(str(error)) from None
    except RecursionError:
        raise ReportError(f"{directory / record.FILE} is no record: a value is nested too deeply") from None
    if found["selection"] is None:
        raise ReportError(
            f"{directory} was trained without validation, so nothing selected its parameters or setting; train it with a "
            "validation split, or leave it out"
        )
    if found["data"].get("test") is None:
        raise ReportError(
            f"{directory} was trained without test rows, so it has no score to report on; train it with a test split "
            "(FILES with 'test' and TEST_SPLIT, test= in Python), or leave it out"
        )
    return found


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Predictions of a split.

    Attributes:
      ids: of the rows, in their order.
      correct: ``[rows]`` bool; None where the metric has no right and wrong.
      rows: the lines of the file, if they were kept.
      constant: the answer to all rows, if they are several and have one; else None.
    """

    ids: tuple[str, ...]
    correct: np.ndarray | None
    rows: tuple[dict[str, Any], ...] = ()
    constant: str | None = None


def read_predictions(directory: Path, split: str = "test", *, keep_rows: bool = False) -> Predictions | None:
    """Reads ``predictions/<split>.jsonl`` of a run; None if the run has none.

    Raises:
      ReportError: a line is no JSON object with ``id``.
    """
    path = directory / "predictions" / f"{split}.jsonl"
    if not path.is_file():
        return None
    ids, correct, rows = [], [], []
    answers: set[str | None] = set()
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line)
                ids.append(str(row["id"]))
            except (ValueError, TypeError, KeyError, RecursionError):
                raise ReportError(f"{path}:{number} is no prediction with an 'id': {quoted(line, 60)}") from None
            correct.append(row.get("correct"))
            answers.add(row["prediction"] if isinstance(row.get("prediction"), str) else None)
            if keep_rows:
                rows.append(row)
    judged = bool(correct) and all(isinstance(value, bool) for value in correct)
    constant = answers.pop() if len(answers) == 1 and len(ids) > 1 else None
    return Predictions(tuple(ids), np.array(correct, bool) if judged else None, tuple(rows), constant)
