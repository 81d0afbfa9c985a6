"""``inspect``: reads a record set and writes one HTML file that opens quickly with 50,000 rows."""

import collections
import dataclasses
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from distill import outputs, validation
from distill.counting import counted
from distill.tasks import jsonl, metrics, sources
from distill.tasks.dataset import Dataset
from distill.tasks.lengths import ruler
from distill.tasks.records import ROW, UNDECIDED, Record, Report
from distill.teacher.assembly import provenance, rows
from distill.teacher.inspect import page, statistics
from distill.teacher.inspect.statistics import Plan, Statistics


@dataclasses.dataclass(frozen=True)
class InspectConfig:
    """Configuration of a report.

    Attributes:
      output: the HTML file to write.
      inputs: a JSON-lines file of records, or
      dataset: a data set, or
      records: the rows themselves. Exactly one of the three.
      split: of the dataset.
      fields: of ``inputs``; see :class:`distill.tasks.jsonl.JsonLines`.
      failures: JSON lines of failures; by default the file that ``extract`` wrote for ``inputs``, if present.
      vocabulary: measures lengths; see :func:`distill.tasks.lengths.ruler`.
      plan: sequence lengths, prefixes, λ, rates; see :class:`~distill.teacher.inspect.statistics.Plan`.
      answer: how labels are compared; by default as the dataset does, as the provenance of the rows
        states, as choices if rows have choices, else as text.
      title: heading; by default the file's or the data set's name.
      overwrite: replace a file in the place of ``output`` that is no report; an input never is.
    """

    output: str
    inputs: str = ""
    dataset: Dataset | None = None
    records: Sequence[Record] | None = None
    split: str = "train"
    fields: Mapping[str, str] = dataclasses.field(default_factory=dict)
    failures: str = ""
    vocabulary: Any = None
    plan: Plan = Plan()
    answer: metrics.AnswerKind | None = None
    title: str = ""
    overwrite: bool = False

    def __post_init__(self) -> None:
        given = [name for name in ("inputs", "dataset", "records") if getattr(self, name) not in (None, "")]
        if len(given) != 1:
            raise ValueError(
                f"InspectConfig needs exactly one of inputs, dataset and records; got {' and '.join(given) or 'none'}"
            )
        if not self.output:
            raise ValueError("InspectConfig.output must name the HTML file to write; got ''")
        validation.check_local("the report", self.output)


@dataclasses.dataclass(frozen=True)
class InspectReport:
    """Result of :func:`inspect`.

    Attributes:
      path: the HTML file. ``size``: in bytes.
      statistics: the statistics.
      rejected: invalid rows of the source, by reason.
    """

    path: str
    size: int
    statistics: Statistics
    rejected: Mapping[str, int]

    def __str__(self) -> str:
        stats = self.statistics
        agreement = f", teacher agrees on {stats.agreed / stats.compared:.1%}" if stats.compared else ""
        return (
            f"{self.path}: {counted(stats.rows, 'row')}, {stats.explained:,} with a rationale{agreement}, "
            f"{counted(stats.failed, 'failed reply', 'failed replies')}, "
            f"{counted(stats.undecided, 'undecided reply', 'undecided replies')} ({self.size / 2**20:.1f} MiB)"
        )


def inspect(config: InspectConfig) -> InspectReport:
    """Writes the report.

    Raises:
      SourceError: a file cannot be used.
      FileNotFoundError: the vocabulary does not exist.
      ValueError: the output is an input, or, unless ``config.overwrite``, a file that is no report.
    """
    read_report = Report()
    records = list(_records(config, read_report))
    _check_output(config, records)
    origins = _origins(config)
    failures = _failures(config, read_report)
    answer = _answer(config, records, origins)
    plan = config.plan
    if config.dataset is not None and plan.separator is None and config.dataset.separator is not None:
        plan = dataclasses.replace(plan, separator=config.dataset.separator)
    stats = statistics.compute(
        records,
        ruler(config.vocabulary),
        plan,
        answer=answer,
        provenance=[origins.get(record.provenance.get("line", -1), {}) for record in records],
        failed=[str(failure.get("id", "")) for failure in failures if failure.get("kind") != UNDECIDED],
        undecided=[str(failure.get("id", "")) for failure in failures if failure.get("kind") == UNDECIDED],
        failures=dict(collections.Counter(str(failure.get("reason", "")) for failure in failures).most_common()),
    )
    rejected = dict(collections.Counter(problem.reason for problem in read_report.rejected))
    remarks = [f"Lengths in {stats.unit}. Labels compared as {answer}."]
    if stats.label_source != plan.label_source:
        remarks.append("No row has a gold label: label lengths and the effective λ are those of the teacher's labels.")
    if rejected:
        remarks.append("Left out: " + "; ".join(f"{number:,} × {reason}" for reason, number in rejected.items()))
    summary = (
        provenance.summarise({"provenance": origin} for origin in origins.values()) if any(origins.values()) else None
    )
    text = page.render(
        _title(config),
        records,
        stats,
        plan,
        summary=summary,
        notes=[_note(origins.get(record.provenance.get("line", -1), {})) for record in records],
        failures=failures,
        remarks=remarks,
    )
    with rows.replacing(config.output) as file:
        file.write(rows.printable(text))
    return InspectReport(config.output, os.path.getsize(config.output), stats, rejected)


def _check_output(config: InspectConfig, records: Sequence[Record]) -> None:
    read = dict.fromkeys(str(record.provenance["file"]) for record in records if record.provenance.get("file"))
    more = [path for path in (_failures_file(config), config.vocabulary) if isinstance(path, str) and path]
    outputs.check({"the report": config.output}, [*read, *more])
    if not config.overwrite:
        outputs.check_own("the report", config.output, page.is_page, "distill inspect")


def _records(config: InspectConfig, read_report: Report) -> Iterable[Record]:
    if config.dataset is not None:
        return config.dataset.records(config.split, read_report)
    if config.inputs:
        return jsonl.JsonLines({"all": config.inputs}, config.fields)("all", read_report)
    return config.records or ()


def _origins(config: InspectConfig) -> dict[int, Mapping[str, Any]]:
    """Line number → provenance, for rows with provenance."""
    if not config.inputs:
        return {}
    found = {}
    for line, row in sources.read_rows(config.inputs, "records"):
        if isinstance(row, dict) and isinstance(row.get("provenance"), dict):
            found[line] = provenance.checked(row["provenance"], f"{config.inputs}:{line}")
    return found


def _failures_file(config: InspectConfig) -> str:
    """The file of failures, given or beside the rows; empty without one."""
    if config.failures or not config.inputs:
        return config.failures
    beside = rows.beside(config.inputs, "failures.jsonl")
    return str(beside) if beside.is_file() and beside.stat().st_size else ""


def _failures(config: InspectConfig, read_report: Report) -> list[dict[str, Any]]:
    path = _failures_file(config)
    if path:
        failures = [row for _, row in sources.read_rows(path, "failures") if isinstance(row, dict)]
        return [row for row in failures if row.get("kind") != ROW]
    # The paper's files and JSON lines with raw replies report failures while they are read.
    return [
        {"id": problem.id, "kind": problem.kind, "reason": problem.reason, "raw": problem.text}
        for problem in read_report.problems
        if problem.kind != ROW
    ]


def _answer(
    config: InspectConfig, records: Sequence[Record], origins: Mapping[int, Mapping[str, Any]]
) -> metrics.AnswerKind:
    if config.answer is not None:
        return config.answer
    if config.dataset is not None:
        return config.dataset.answer
    if any(origin.get("answer") in metrics.ANSWER_KINDS for origin in origins.values()):
        return next(origin["answer"] for origin in origins.values() if origin.get("answer") in metrics.ANSWER_KINDS)
    return "choice" if any(record.choices for record in records) else "text"


def _note(origin: Mapping[str, Any]) -> str:
    """One line on the origin of a row."""
    asked = origin.get("teachers")
    if not isinstance(asked, list) or not asked:
        return ""
    names = ", ".join(str(each.get("teacher", "")) for each in asked if isinstance(each, Mapping))
    votes = f", {origin['votes']} of {origin['voters']} votes" if "voters" in origin else ""
    return f"by {names}{votes}"


def _title(config: InspectConfig) -> str:
    if config.title:
        return config.title
    if config.dataset is not None:
        return f"{config.dataset.name}, {config.split}"
    return pathlib.Path(config.inputs).name if config.inputs else "records"
