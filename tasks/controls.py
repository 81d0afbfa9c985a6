"""Controls: the same data with one property destroyed."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from distill.tasks.dataset import Dataset
from distill.tasks.records import Record, Report, Source, SourceError, Wrapper


class ShuffledRationales(Wrapper):
    """A source whose training rows have another row's rationales; the other splits are unchanged.

    A student that learns as much from them does not learn from what the rationales say. The rows that have rationales form
    one random cycle, and each gets those of the row before it, with their teachers. Other fields stay, the teacher's
    label among them. The training rows are held in memory.

    Args:
      source: the rows.
      seed: of the cycle.
    """

    def __init__(self, source: Source, seed: int = 0):
        self.source, self.seed, self.splits = source, seed, source.splits

    def _sources(self) -> Iterable[Callable[..., Iterator[Record]]]:
        return [self.source]

    def __call__(self, split: str, report: Report | None = None) -> Iterator[Record]:
        """Yields the records of a split.

        Raises:
          SourceError: fewer than two training rows have a rationale.
        """
        if split != "train":
            yield from self.source(split, report)
            return
        records = list(self.source(split, report))
        having = [number for number, record in enumerate(records) if record.rationales]
        if len(having) < 2:
            raise SourceError(
                f"RATIONALE_CONTROL='shuffled' needs at least 2 training rows with rationales; got {len(having)} among "
                f"{len(records)} rows"
            )
        order = np.random.default_rng(self.seed).permutation(having)
        taken = dict(zip(order.tolist(), np.roll(order, 1).tolist()))
        for number, record in enumerate(records):
            other = records[taken.get(number, number)]
            yield dataclasses.replace(record, rationales=other.rationales, rationale_teachers=other.rationale_teachers)


def shuffled_rationales(dataset: Dataset, seed: int = 0) -> Dataset:
    """The data set with :class:`ShuffledRationales`."""
    return dataset.replace(source=ShuffledRationales(dataset.source, seed))
