"""The declaration of a data set: the source of its rows, and how its answers are compared. Nothing is read here."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from distill import validation
from distill.counting import counted
from distill.tasks import metrics, records, splits
from distill.tasks.json_files import MissingFileError
from distill.tasks.records import Record, Report, Source

SPLITS = ("train", "validation", "test")


class EmptySplitError(records.SourceError):
    """The training rows cannot be split so that training and validation each have a row."""


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set, declared.

    Attributes:
      name: prefix of its tasks' names.
      source: yields its rows; see :class:`distill.tasks.records.Source`. A bare function ``split -> Iterator[Record]``
        will do.
      answer: how answers are compared: ``text``, ``choice`` or ``equation``.
      labels: the possible labels; a row with another label is rejected. Empty: any label.
      separator: text in the input that represents the vocabulary's EOS, as between premise and hypothesis; None: none.
      several_rationales: whether rows may have more than one rationale, so that one is drawn each epoch.
      validation_fraction: the share of the training rows held out if the source has no validation split.
      split_seed: another seed holds out other rows.
    """

    name: str
    source: Source
    answer: metrics.AnswerKind = "text"
    labels: tuple[str, ...] = ()
    separator: str | None = None
    several_rationales: bool = False
    validation_fraction: float = 0.1
    split_seed: int = 0

    def __post_init__(self) -> None:
        if self.answer not in metrics.ANSWER_KINDS:
            raise ValueError(
                f"data set {self.name!r}: answer must be one of {', '.join(metrics.ANSWER_KINDS)}; got {self.answer!r}"
            )
        validation.check_range(f"data set {self.name!r}: validation_fraction", self.validation_fraction, "in [0, 1)")
        object.__setattr__(self, "source", records.as_source(self.source))
        object.__setattr__(self, "labels", tuple(self.labels))

    @property
    def cuts_validation(self) -> bool:
        """Whether validation rows are taken from the training rows."""
        return "validation" not in self.source.splits and self.validation_fraction > 0

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits it has; ``train`` first."""
        has = set(self.source.splits) | ({"validation"} if self.cuts_validation else set())
        return tuple(split for split in SPLITS if split in has) + tuple(
            s for s in self.source.splits if s not in SPLITS
        )

    def records(self, split: str, report: Report | None = None) -> Iterator[Record]:
        """The rows of a split, lazily.

        Args:
          split: one of :attr:`splits`.
          report: receives rows that were rejected, lost their rationale, or have no teacher label. If validation rows are
            taken from the training rows, it receives only problems of the requested part (rejected rows: with ``train``).

        Raises:
          ValueError: the split does not exist.
          SourceError: a file cannot be used, or is missing.
          EmptySplitError: no row is left for one side of the cut.
        """
        if split not in self.splits:
            raise ValueError(f"data set {self.name!r} has no split {split!r}; it has {', '.join(self.splits)}")
        cut = self.cuts_validation and split in ("train", "validation")
        counts = records.HeldOut() if cut and report is not None else None
        report = Report() if report is None else report
        raw = Report()
        rows = self.source("train" if cut else split, raw)
        if cut and split == "validation":
            rows = _for_validation(rows)
        rows = self._usable(rows, raw)
        if cut:
            report.held_out = counts
            rows = splits.cut(rows, split, fraction=self.validation_fraction, seed=self.split_seed, counts=counts)
        passed = _Passed(raw, report, cut, rejected=split == "train")
        found = False
        for record in rows:
            found = True
            report.rows += 1
            passed.on(record.id)
            yield record
        passed.finish()
        if cut and not found:
            other = "train" if split == "validation" else "validation"
            lost = raw.rejected
            cause = (
                f" ({counted(len(lost), 'row')} rejected, first: {lost[0].place()}: {lost[0].reason})" if lost else ""
            )
            raise EmptySplitError(
                f"data set {self.name!r}: no row is left for {split!r}; all usable training rows are in {other!r}{cause}. "
                "Give a file of validation rows, FILES={'train': …, 'validation': …}, or more training rows with "
                f"different inputs (validation_fraction is {self.validation_fraction})"
            )

    def _usable(self, rows: Iterator[Record], report: Report) -> Iterator[Record]:
        """The rows whose texts can be encoded and whose label is one of :attr:`labels`; reports the others."""
        for record in rows:
            reason = text = ""
            if self.labels and record.label is not None and record.label not in self.labels:
                reason, text = f"unknown label (expected {', '.join(self.labels)})", repr(record.label)
            try:
                record.check_texts()
            except records.RowError as error:
                reason = str(error)
            if not reason:
                yield record
                continue
            where = dict(record.provenance)
            report.add(records.ROW, reason, file=where.get("file", ""), line=where.get("line"), id=record.id, text=text)

    def same_answer(self, record: Record, prediction: str) -> bool:
        """Whether ``prediction`` is the row's gold answer."""
        return record.label is not None and metrics.same_answer(self.answer, record.label, prediction, record.choices)

    def replace(self, **changes: Any) -> "Dataset":
        """A copy with other settings."""
        return dataclasses.replace(self, **changes)


def _for_validation(rows: Iterator[Record]) -> Iterator[Record]:
    """Training rows from which validation rows are taken; the error of a missing file says so."""
    try:
        yield from rows
    except MissingFileError as error:
        raise MissingFileError(
            f"{error}. The validation rows are a part of these training rows, so the file is needed, also in a training "
            "from a cache: restore it. A new cache with a file of validation rows, FILES={'train': …, 'validation': …}, "
            "needs no file of training rows"
        ) from None


class _Passed:
    """Forwards a source's problems as its rows are yielded.

    Args:
      raw: the source's report.
      report: the reader's.
      cut: whether only problems of yielded rows, and rejected rows if ``rejected``, are passed on.
    """

    def __init__(self, raw: Report, report: Report, cut: bool, rejected: bool):
        self._raw, self._report, self._cut, self._rejected = raw, report, cut, rejected
        self._looked = 0  # number of processed problems of ``raw``
        self._first = len(report.problems)
        self._waiting: dict[str, list[tuple[int, records.Problem]]] = {}
        self._order: list[int] = []

    def on(self, id: str) -> None:
        """Forwards new problems of rejected rows and of the row ``id``, which is yielded next."""
        for number in range(self._looked, len(self._raw.problems)):
            problem = self._raw.problems[number]
            if not self._cut or (problem.kind == records.ROW and self._rejected):
                self._add(number, problem)
            elif problem.kind != records.ROW:
                self._waiting.setdefault(problem.id, []).append((number, problem))
        self._looked = len(self._raw.problems)
        for number, problem in self._waiting.pop(id, ()):
            self._add(number, problem)

    def _add(self, number: int, problem: records.Problem) -> None:
        self._order.append(number)
        self._report.problems.append(problem)

    def finish(self) -> None:
        """Forwards the remaining problems of rejected rows, and sorts all problems into source order."""
        self.on("")
        passed = self._report.problems[self._first :]
        if len(passed) == len(self._order):
            places = sorted(range(len(passed)), key=self._order.__getitem__)
            self._report.problems[self._first :] = [passed[place] for place in places]
