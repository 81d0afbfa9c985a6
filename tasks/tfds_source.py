"""Rows from TensorFlow Datasets."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import seqio

from distill.tasks import sources
from distill.tasks.records import Record, Report, RowError


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if isinstance(value, np.ndarray):
        return [_plain(item) for item in value.tolist()]
    return value.item() if isinstance(value, np.generic) else value


def _row(example: Mapping[str, Any]) -> dict[str, Any] | RowError:
    try:
        return {name: _plain(value) for name, value in example.items()}
    except UnicodeDecodeError:
        return RowError("not UTF-8")


class TfdsRecords:
    """A source over a TFDS data set, read through SeqIO's ``TfdsDataSource``.

    Args:
      tfds_name: data set, config and version, as TFDS spells them.
      to_record: makes a record of a row (text and plain numbers) and its id.
      splits: our split → TFDS's split or slice.
      data_dir: TFDS's data folder; None: its default.

    Attributes:
      may_download: reading may download the data.
    """

    may_download = True

    def __init__(
        self,
        tfds_name: str,
        to_record: Callable[[dict[str, Any], str], Record],
        splits: Mapping[str, str],
        data_dir: str | None = None,
    ):
        self.splits = tuple(splits)
        self._name, self._to_record = tfds_name, to_record
        self._source = seqio.TfdsDataSource(tfds_name, tfds_data_dir=data_dir, splits=dict(splits))

    def __call__(self, split: str, report: Report | None = None) -> Iterator[Record]:
        """Yields the split's records, in TFDS's order. The first call may make TFDS download its data."""
        if split not in self.splits:
            raise ValueError(f"{self._name} has no split {split!r} here; it has {', '.join(self.splits)}")
        report = Report() if report is None else report
        dataset = self._source.get_dataset(split, shuffle=False)
        rows = ((number, _row(example)) for number, example in enumerate(dataset.as_numpy_iterator(), start=1))

        def to_record(row: dict[str, Any], number: int) -> Record:
            return self._to_record(row, str(row.get("id") or row.get("uid") or f"{self._name}-{split}-{number}"))

        for _, record in sources.build(rows, to_record, report, f"{self._name} ({split})"):
            if record is not None:
                report.rows += 1
                yield record
