"""Several teachers' answers to the same rows as one data set."""

import collections
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from distill.tasks import metrics
from distill.tasks.dataset import Dataset
from distill.tasks.records import ROW, Problem, Record, Report, SourceError, Wrapper
from distill.validation import quoted


class Teachers(Wrapper):
    """A source that joins the rationales and labels of several data sets with the same rows, one per teacher.

    The first data set gives the rows. A row of another one with the same id adds its rationales, its teacher's label
    becomes a vote, and ``llm_label`` is the label with most votes (of equal ones, the first). The others' answers are
    held in memory.

    Args:
      datasets: teacher → its data set. They must agree in the input of each id.

    Raises:
      ValueError: fewer than two data sets.
    """

    def __init__(self, datasets: Mapping[str, Dataset]):
        if len(datasets) < 2:
            raise ValueError(f"teachers.joined needs at least two data sets; got {sorted(datasets)}")
        self._datasets = dict(datasets)
        self._first = next(iter(self._datasets.values()))
        self.splits = self._first.source.splits

    def _sources(self) -> Iterable[Callable[..., Iterator[Record]]]:
        return [dataset.source for dataset in self._datasets.values()]

    def __call__(self, split: str, report: Report | None = None) -> Iterator[Record]:
        """Yields the records of the first data set with all teachers' answers.

        Problems of the other data sets are reported with the name of their teacher: those of a reply with its row, rejected
        rows at the end, unless the first data set reads and rejects the same.

        Raises:
          SourceError: two data sets have different inputs for an id.
        """
        name, *others = self._datasets
        report = Report() if report is None else report
        found: dict[str, dict[str, Record]] = {}
        rejected: list[Problem] = []
        of_replies: dict[str, list[Problem]] = {}
        for other in others:
            if split not in self._datasets[other].source.splits:
                continue
            read = Report()
            found[other] = {record.id: record for record in self._datasets[other].source(split, read)}
            for problem in read.problems:
                named = dataclasses.replace(problem, reason=f"teacher {other!r}: {problem.reason}")
                (rejected if problem.kind == ROW else of_replies.setdefault(problem.id, [])).append(named)
        for record in self._first.source(split, report):
            report.problems += of_replies.pop(record.id, ())
            answers = {name: record}
            for other, by_id in found.items():
                if record.id in by_id:
                    answers[other] = by_id[record.id]
            yield self._joined(record, answers, split)
        known = {(problem.file, problem.line) for problem in report.rejected if problem.file}
        report.problems += [problem for problem in rejected if (problem.file, problem.line) not in known]

    def _joined(self, record: Record, answers: Mapping[str, Record], split: str) -> Record:
        votes: collections.Counter[str] = collections.Counter()
        for teacher, answer in answers.items():
            if answer.input != record.input:
                raise SourceError(
                    f"split {split!r}, {record.named}: teacher {teacher!r} has another input; expected "
                    f"{quoted(record.input, 60)}, got {quoted(answer.input, 60)}. Teachers are joined by id: give rows "
                    "with equal ids"
                )
            if answer.llm_label is not None:
                votes[self._spelled(record, answer.llm_label, votes)] += 1
        pairs = [(teacher, text) for teacher, answer in answers.items() for text in answer.rationales]
        return dataclasses.replace(
            record,
            llm_label=max(votes, key=votes.__getitem__) if votes else None,
            rationales=tuple(text for _, text in pairs),
            rationale_teachers=tuple(teacher for teacher, _ in pairs),
            label_votes=tuple((label, float(number)) for label, number in votes.items()),
            provenance={**record.provenance, "teachers": list(answers)},
        )

    def _spelled(self, record: Record, label: str, votes: Mapping[str, int]) -> str:
        """The spelling of an equal label that has votes, or the label's own."""
        same = (known for known in votes if metrics.same_answer(self._first.answer, known, label, record.choices))
        return next(same, label)


def joined(datasets: Mapping[str, Dataset], *, name: str | None = None, **changes: Any) -> Dataset:
    """One data set of several teachers' answers to the same rows; see :class:`Teachers`.

    Args:
      datasets: teacher → its data set, as ``{"palm": svamp.dataset(…), "gpt-neox": svamp.dataset(…, teacher="gpt-neox")}``.
      name: of the data set; None: that of the first.
      **changes: other settings of :class:`distill.tasks.dataset.Dataset` than the first data set's.
    """
    source = Teachers(datasets)
    first = next(iter(datasets.values()))
    return first.replace(name=name or first.name, source=source, several_rationales=True, **changes)
