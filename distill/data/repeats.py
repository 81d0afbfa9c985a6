"""Rows whose input another row has: in the same split, and in the training rows, where it makes a test score too high."""

import collections
from collections.abc import Mapping
from typing import Any

from distill.counting import counted
from distill.tasks import metrics
from distill.tasks.records import Record

TRAIN = "train"


class Repeats:
    """Inputs of the rows of some splits, compared without case and spacing."""

    def __init__(self) -> None:
        self._rows: dict[str, collections.Counter[int]] = {}
        self._labels: dict[str, dict[int, list[int]]] = {}

    def add(self, split: str, record: Record) -> int:
        """Adds a row of a split; returns the key of its input, for :meth:`rows_with`."""
        key = metrics.input_key(record.input)
        self._rows.setdefault(split, collections.Counter())[key] += 1
        if record.label is not None:
            labels = self._labels.setdefault(split, {}).setdefault(key, [])
            labels.append(hash(metrics.normalise_text(record.label)))
        return key

    def rows_with(self, split: str, key: int) -> int:
        """Returns how many rows of a split have the input of a key."""
        return self._rows[split][key]

    def of(self, split: str) -> dict[str, int]:
        """Returns the counts of a split.

        Returns:
          ``rows``: rows whose input another row of the split has; ``contradicting``: of these, rows with a gold label whose
          input has another one, too; ``of_training``: rows of another split than ``train`` whose input a training row has.
        """
        nothing: collections.Counter[int] = collections.Counter()
        rows = self._rows.get(split, nothing)
        train = nothing if split == TRAIN else self._rows.get(TRAIN, nothing)
        return {
            "rows": sum(number for number in rows.values() if number > 1),
            "contradicting": sum(
                len(labels) for labels in self._labels.get(split, {}).values() if len(set(labels)) > 1
            ),
            "of_training": sum(number for key, number in rows.items() if key in train),
        }


def sentences(found: Mapping[str, Any]) -> dict[str, str]:
    """The counts of :meth:`Repeats.of` in words, by name; nothing without a repeated input."""
    out = {}
    if found["rows"]:
        other = f"; {found['contradicting']:,} of these have different gold labels" if found["contradicting"] else ""
        out["rows"] = f"{found['rows']:,} rows have the input of another row{other}"
    if found["of_training"]:
        out["of_training"] = f"{counted(found['of_training'], 'row has', 'rows have')} the input of a training row"
    return out
