"""Test rows whose answers change most between two settings, and accuracy by kind of row."""

import collections
import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from distill.experiments.report import statistics
from distill.experiments.report.answers import teacher_is_right
from distill.experiments.report.collect import Run, read_predictions
from distill.experiments.report.comparisons import paired
from distill.experiments.report.evidence import Evidence
from distill.experiments.report.settings import Cell
from distill.tasks import metrics

MOST = 40
_RATIONALES = (
    "*_rationale_test.jsonl"  # the students' rationales: ``distill eval`` with EVAL_FORM=rationale writes them
)


@dataclasses.dataclass(frozen=True)
class Answered:
    """What a setting's students answered: the most frequent prediction, its share of seeds, the share that is right."""

    prediction: str
    frequent: float
    right: float
    rationale: str | None

    def __str__(self) -> str:
        """The answer; if seeds differ, with its share and that of right ones: ``3 (50 % of seeds; right in 50 %)``."""
        if self.frequent == 1:
            return self.prediction
        return f"{self.prediction} ({100 * self.frequent:.0f} % of seeds; right in {100 * self.right:.0f} %)"


@dataclasses.dataclass(frozen=True)
class Example:
    """A test row with the answers of two settings.

    Attributes:
      id, input, target: of the row.
      a, b: the two settings' answers.
      teacher: the teacher's answer, if known.
      teacher_right: 1.0, 0.0 or nan.
      rationale: the teacher's, if the row has one.
      leaks: whether that rationale contains the answer.
      length: ``short``, ``medium`` or ``long``, by thirds of the inputs' words.
    """

    id: str
    input: str
    target: str
    a: Answered
    b: Answered
    teacher: str | None
    teacher_right: float
    rationale: str | None
    leaks: bool
    length: str

    @property
    def change(self) -> float:
        """Share of seeds right in ``a`` minus that in ``b``."""
        return self.a.right - self.b.right


@dataclasses.dataclass(frozen=True)
class Bucket:
    """Rows of one kind: their name, their number, the accuracy of both settings as shown, and the difference."""

    name: str
    rows: int
    a: float
    b: float
    difference: statistics.Interval


@dataclasses.dataclass(frozen=True)
class Changes:
    """The rows that change most between two settings, and accuracy by kind of row; rows up and down in all."""

    a: Cell
    b: Cell
    examples: tuple[Example, ...]
    buckets: tuple[Bucket, ...]
    better: int
    worse: int
    rows: int


def contains_answer(rationale: str | None, target: str) -> bool:
    """Whether a rationale contains the answer as words.

    >>> contains_answer("A rose is a plant.", "plant"), contains_answer("Two plants.", "plant")
    (True, False)
    """
    words = metrics.normalise_text(target)
    return bool(
        rationale and words and re.search(rf"(?<!\w){re.escape(words)}(?!\w)", metrics.normalise_text(rationale))
    )


def changes(evidence: Evidence, a: Cell, b: Cell, most: int = MOST) -> Changes | None:
    """Compares the answers of two settings row by row; None if a run has no judged rows.

    Args:
      evidence: the scores.
      a, b: the settings.
      most: rows to keep: those with the largest change in the share of seeds that are right, half in each direction.
    """
    ours, theirs, _ = paired(evidence, a, b)
    if not ours or any(run not in evidence.correct for run in (*ours, *theirs)):
        return None
    # All seeds together where they have the same rows; else each pair of runs alone.
    groups = [(ours, theirs)] if evidence.part.crossed else [([x], [y]) for x, y in zip(ours, theirs)]
    candidates: list[Example] = []
    kinds: dict[str, list[list[np.ndarray]]] = {}
    better = worse = total = 0
    for first, second in groups:
        rows = _rows(first[0])
        lengths = _lengths(rows)
        right = [np.stack([evidence.correct[run] for run in runs]).astype(float) for runs in (first, second)]
        change = right[0].mean(axis=0) - right[1].mean(axis=0)
        better, worse, total = better + int((change > 0).sum()), worse + int((change < 0).sum()), total + len(change)
        chosen = _extremes(change, most)
        texts = [[_rows(run) for run in runs] for runs in (first, second)]
        reasons = [[_rationales(run) for run in runs] for runs in (first, second)]
        for at in chosen:
            replies = [_answered([each[at] for each in texts[n]], right[n][:, at], reasons[n]) for n in (0, 1)]
            candidates.append(_example(rows[at], lengths[at], replies[0], replies[1]))
        for name, mask in _masks(rows, lengths).items():
            kinds.setdefault(name, []).append([right[0][:, mask], right[1][:, mask]])
    order = sorted(candidates, key=lambda example: -abs(example.change))
    half = most // 2
    up, down = [e for e in order if e.change > 0], [e for e in order if e.change < 0]
    kept = up[: max(half, most - len(down))] + down[: max(half, most - len(up))]
    buckets = [bucket for name, found in kinds.items() if (bucket := _bucket(evidence, name, found)) is not None]
    kept.sort(key=lambda example: -abs(example.change))
    return Changes(a, b, tuple(kept), tuple(buckets), better, worse, total)


def _rows(run: Run) -> Sequence[dict[str, Any]]:
    predictions = read_predictions(run.directory, keep_rows=True)
    assert predictions is not None  # its rows were read before
    return predictions.rows


def _extremes(change: np.ndarray, most: int) -> list[int]:
    order = np.argsort(change, kind="stable")
    places = list(dict.fromkeys([*order[:most].tolist(), *order[::-1][:most].tolist()]))
    return [at for at in places if change[at] != 0]


def _lengths(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    words = np.array([len(str(row.get("input", "")).split()) for row in rows])
    low, high = np.quantile(words, [1 / 3, 2 / 3])
    return ["short" if n <= low else "medium" if n <= high else "long" for n in words]


def _rationales(run: Run) -> dict[str, str]:
    """Row id → the student's rationale, for runs whose rationales were scored on the test rows."""
    found: dict[str, str] = {}
    for path in sorted((run.directory / "predictions").glob(_RATIONALES)):
        predictions = read_predictions(run.directory, path.stem, keep_rows=True)
        if predictions is not None:
            found |= {name: str(row.get("prediction", "")) for name, row in zip(predictions.ids, predictions.rows)}
    return found


def _answered(rows: Sequence[Mapping[str, Any]], right: np.ndarray, reasons: Sequence[Mapping[str, str]]) -> Answered:
    """The answers of all seeds to one row; of answers given equally often, the one that is right.

    Args:
      rows: of each seed.
      right: float [seeds], 1 where the answer is right.
      reasons: each seed's rationales by row id.
    """
    given = [str(row.get("prediction", "")) for row in rows]
    number = collections.Counter(given)
    seed = max(range(len(rows)), key=lambda place: (number[given[place]], right[place], -place))
    frequent = number[given[seed]] / len(rows)
    return Answered(given[seed], frequent, float(right.mean()), reasons[seed].get(str(rows[seed]["id"])))


def _example(row: Mapping[str, Any], length: str, a: Answered, b: Answered) -> Example:
    target, rationale, teacher = str(row.get("target", "")), row.get("rationale"), row.get("teacher")
    return Example(
        str(row["id"]),
        str(row.get("input", "")),
        target,
        a,
        b,
        None if teacher is None else str(teacher),
        teacher_is_right(row),
        None if rationale is None else str(rationale),
        contains_answer(None if rationale is None else str(rationale), target),
        length,
    )


def _masks(rows: Sequence[Mapping[str, Any]], lengths: Sequence[str]) -> dict[str, np.ndarray]:
    """Name of a kind of row → which rows are of it; kinds that contain all rows or none are left out."""
    right = np.array([teacher_is_right(row) for row in rows])
    leaks = np.array([contains_answer(row.get("rationale"), str(row.get("target", ""))) for row in rows])
    explained = np.array([bool(row.get("rationale")) for row in rows])
    lengths_array = np.array(lengths)
    tests: dict[str, Callable[[], np.ndarray]] = {
        "short inputs": lambda: lengths_array == "short",
        "medium inputs": lambda: lengths_array == "medium",
        "long inputs": lambda: lengths_array == "long",
        "teacher right": lambda: right == 1,
        "teacher wrong": lambda: right == 0,
        "rationale contains the answer": lambda: leaks,
        "rationale does not contain the answer": lambda: explained & ~leaks,
    }
    masks = {name: test() for name, test in tests.items()}
    return {name: mask for name, mask in masks.items() if 0 < mask.sum() < len(mask)}


def _bucket(evidence: Evidence, name: str, found: Sequence[Sequence[np.ndarray]]) -> Bucket | None:
    scale = evidence.scale
    differences = [row for a, b in found for row in scale * (a - b)]
    rows = sum(a.shape[1] for a, _ in found)
    if rows < 2:
        return None
    parts = evidence.components(differences)
    means = [scale * float(np.mean([pair[n].mean() for pair in found])) for n in (0, 1)]
    return Bucket(name, rows, means[0], means[1], parts.interval)
