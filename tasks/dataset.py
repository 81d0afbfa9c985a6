"""What one data set is: where its rows come from and how its answers are compared. Nothing is read here."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from tasks import metrics, records, splits
from tasks.records import Record, Report, Source

SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set, declared.

    Attributes:
      name: what its tasks' names begin with.
      source: yields its rows; see :class:`tasks.records.Source`. A bare function ``split -> Iterator[Record]`` will do.
      answer: how answers are compared: ``text``, ``choice`` or ``equation``.
      labels: all labels there are, where they are few; a row with another one is rejected. Empty: any.
      separator: text in the input that stands for the vocabulary's EOS, as between premise and hypothesis; None: none.
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

    def __post_init__(self):
        if self.answer not in metrics.ANSWER_KINDS:
            raise ValueError(
                f"data set {self.name!r}: answer must be one of {', '.join(metrics.ANSWER_KINDS)}; got {self.answer!r}"
            )
        if not 0 <= self.validation_fraction < 1:
            raise ValueError(
                f"data set {self.name!r}: validation_fraction must be in [0, 1); got {self.validation_fraction}"
            )
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
          report: is told of rows that were rejected, lost their rationale, or have no teacher label. Where validation rows
            are cut from the training rows, only problems of the wanted part are told (rejected rows: as ``train``'s).

        Raises:
          ValueError: there is no such split.
          SourceError: a file cannot be used.
        """
        if split not in self.splits:
            raise ValueError(f"data set {self.name!r} has no split {split!r}; it has {', '.join(self.splits)}")
        report = Report() if report is None else report
        cut = self.cuts_validation and split in ("train", "validation")
        raw = Report()
        rows = self.source("train" if cut else split, raw)
        rows = self._known_labels(rows, raw)
        if cut:
            rows = splits.cut(rows, split, fraction=self.validation_fraction, seed=self.split_seed)
        ids: set[str] = set()
        told = 0
        for record in rows:
            report.rows += 1
            ids.add(record.id)
            told = self._pass_on(raw, report, told, ids if cut else None, split == "train")
            yield record
        self._pass_on(raw, report, told, ids if cut else None, split == "train")

    @staticmethod
    def _pass_on(raw: Report, report: Report, told: int, ids: set[str] | None, rejected: bool) -> int:
        for problem in raw.problems[told:]:
            if ids is None or (problem.kind == records.ROW and rejected) or problem.id in ids:
                report.problems.append(problem)
        return len(raw.problems)

    def _known_labels(self, rows: Iterator[Record], report: Report) -> Iterator[Record]:
        for record in rows:
            if self.labels and record.label is not None and record.label not in self.labels:
                where = dict(record.provenance)
                report.add(
                    records.ROW,
                    f"unknown label (expected {', '.join(self.labels)})",
                    file=where.get("file", ""),
                    line=where.get("line"),
                    id=record.id,
                    text=repr(record.label),
                )
                continue
            yield record

    def same_answer(self, record: Record, prediction: str) -> bool:
        """Whether ``prediction`` is the row's gold answer."""
        return record.label is not None and metrics.same_answer(self.answer, record.label, prediction, record.choices)

    def replace(self, **changes: Any) -> "Dataset":
        """A copy with other settings."""
        return dataclasses.replace(self, **changes)
