"""From records to ``tf.data``: a SeqIO data source over any :class:`~distill.tasks.dataset.Dataset`."""

import array
import dataclasses
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf
from absl import logging

from distill.tasks import metrics
from distill.tasks.dataset import Dataset
from distill.tasks.records import Report
from distill.tasks.selection import Selection

ROW_SPEC = {
    "id": tf.TensorSpec([], tf.string),
    "input": tf.TensorSpec([], tf.string),
    "target": tf.TensorSpec([], tf.string),
    "label": tf.TensorSpec([], tf.string),
    "llm_label": tf.TensorSpec([], tf.string),
    "rationales": tf.TensorSpec([None], tf.string),
    "choices": tf.TensorSpec([None], tf.string),
    "weight": tf.TensorSpec([], tf.float32),
    "rationale_weight": tf.TensorSpec([], tf.float32),
}
"""A row as the preprocessors get it. Absent texts are empty; ``target`` is the label to learn."""

VARIANT_SPEC = {
    "rationale_prefixes": tf.TensorSpec([None], tf.string),
    "rationale_factors": tf.TensorSpec([None], tf.float32),
    "single_target": tf.TensorSpec([], tf.string),
    "single_weight": tf.TensorSpec([], tf.float32),
    "key_phrases": tf.TensorSpec([None], tf.string),
}
"""Further fields of the rows of a selection with variants. Prefixes and factors are those of ``rationales``; the single
task learns ``single_target`` with ``single_weight`` instead of ``target`` with ``weight``."""

_IN_MEMORY = 100_000  # rows; more are streamed from their files every epoch
_BLOCK = 256  # streamed rows that pass from Python to TensorFlow at once: each pass costs about 0.4 ms
_LISTS = ("rationales", "choices", "rationale_prefixes", "rationale_factors", "key_phrases")


def rows(dataset: Dataset, split: str, selection: Selection, report: Report | None = None) -> Iterator[dict[str, Any]]:
    """The rows of a split as :data:`ROW_SPEC` has them, in plain Python; with variants, several of one record."""
    for record in dataset.records(split, report):
        if not selection.wants(record, split, dataset):
            continue
        weight = selection.rationale_weight(record, split, dataset)
        row = {
            "id": record.id,
            "input": record.input,
            "target": selection.target(record, split) or "",
            "label": record.label or "",
            "llm_label": record.llm_label or "",
            "rationales": list(record.rationales) if weight is not None else [],
            "choices": list(record.choices),
            "weight": record.weight,
            "rationale_weight": record.weight * (1.0 if weight is None else weight),
        }
        if selection.variants is None:
            yield row
        else:
            yield from selection.variants.rows(row, record, split)


class RecordDataSource(seqio.FunctionDataSource):
    """A SeqIO data source that reads a split on demand and keeps small splits in memory.

    Rows held in memory become tensors of a ``tf.data`` graph, so their iterators can be saved and restored; larger splits
    come from a Python generator.

    Args:
      dataset: the source of the rows.
      selection: which answers and rationales they have.
    """

    def __init__(self, dataset: Dataset, selection: Selection | None = None):
        self.dataset = dataset
        self.selection = selection or Selection()
        self._spec = ROW_SPEC | (VARIANT_SPEC if self.selection.variants is not None else {})
        self._tables: dict[str, dict[str, Any] | None] = {}
        self._sizes: dict[str, int] = {}
        self._several: dict[str, int] = {}
        self._explained: dict[str, int] = {}
        self._inputs: dict[str, array.array[int]] = {}
        self._hashes: dict[str, str] = {}
        self._reports: dict[str, Report] = {}

        def dataset_fn(split: str, shuffle_files: bool, seed: int | None = None) -> tf.data.Dataset:
            del shuffle_files, seed  # one order; the task shuffles
            return self._dataset(split)

        super().__init__(dataset_fn, splits=dataset.splits)

    def __repr__(self) -> str:
        return f"RecordDataSource({self.dataset.name!r}, splits={self.splits})"

    def report(self, split: str) -> Report:
        """The problems of the split's rows; reads the rows if necessary."""
        self._load(split)
        return self._reports[split]

    def num_input_examples(self, split: str) -> int:
        """The number of records in the split (after subsampling); reads them if necessary."""
        self._load(split)
        return self._sizes[split]

    def num_before_subsampling(self, split: str) -> int:
        """The number of records in the split, of which ``subsample`` is a share; reads them if necessary."""
        return self.report(split).rows

    def num_with_several_rationales(self, split: str) -> int:
        """The number of rows of the split with more than one rationale; reads them if necessary."""
        self._load(split)
        return self._several[split]

    def num_with_rationale(self, split: str) -> int:
        """The number of rows of the split with a rationale to train on; reads them if necessary."""
        self._load(split)
        return self._explained[split]

    def input_keys(self, split: str) -> np.ndarray:
        """int64 [records]: see :func:`distill.tasks.metrics.input_key`; reads the rows if necessary."""
        self._load(split)
        return np.array(self._inputs[split], np.int64)

    def named(self, split: str, id: str, input: str, choices: Sequence[str]) -> str:
        """A row in messages, see :attr:`distill.tasks.records.Record.named`. Reads the split's records again.

        Args:
          split: the split.
          id: of the row; rows of several files may have the same one.
          input: the text that the row's input is the end of.
          choices: of the row.
        """
        for record in self.dataset.records(split):
            if record.id == id and input.endswith(record.input) and record.choices == tuple(choices):
                return record.named
        return f"row {id!r}"

    def rows_sha256(self, split: str) -> str:
        """A hash of the rows of a split in their order, with every field; reads the rows if necessary.

        It is of the rows that this source has read, which a task trains on, also if their file has changed since.
        """
        self._load(split)
        return self._hashes[split]

    def files_sha256(self, split: str) -> str:
        """The same of the rows as their files are now; keeps none of them in memory."""
        return _sha256(rows(self.dataset, split, self.selection))

    def scored_sha256(self, split: str, *, rationales: bool = False) -> str:
        """A hash of what is scored, in order: ids, inputs, targets and choices, and on request rationales.

        Two teachers of the same rows give the same hash, except where a row without a gold label has the teacher's.
        """
        names = ("id", "input", "target", "choices", *(["rationales"] if rationales else []))
        self._load(split)
        table = self._tables[split]
        if table is not None and self.selection.variants is None:
            return _sha256(dict(zip(names, values)) for values in zip(*(table[name] for name in names)))
        plain = dataclasses.replace(self.selection, variants=None)
        return _sha256({name: row[name] for name in names} for row in rows(self.dataset, split, plain))

    @property
    def spec(self) -> dict[str, tf.TensorSpec]:
        """The fields of its rows: :data:`ROW_SPEC`, and with variants :data:`VARIANT_SPEC`."""
        return dict(self._spec)

    def _load(self, split: str) -> None:
        if split in self._sizes:
            return
        report = Report()
        table: dict[str, Any] | None = {name: [] for name in self._spec}
        size, several, explained, inputs = 0, 0, 0, array.array("q")
        digest = hashlib.sha256()
        for number, row in enumerate(rows(self.dataset, split, self.selection, report), 1):
            again = row.get("is_variant", False)  # of the record before, which is counted once
            size += not again
            if not again:
                inputs.append(metrics.input_key(row["input"]))
            explained += bool(row["rationales"]) and not again
            several += len(row["rationales"]) > 1
            digest.update(row_bytes(row))
            if number > _IN_MEMORY:
                table = None
            if table is not None:
                for name in self._spec:
                    table[name].append(row[name])
        if report.problems:
            logging.warning("%s, %s: %s", self.dataset.name, split, report)
        self._tables[split], self._reports[split], self._several[split] = table, report, several
        self._explained[split], self._inputs[split] = explained, inputs
        self._hashes[split] = digest.hexdigest()
        self._sizes[split] = size

    def _dataset(self, split: str) -> tf.data.Dataset:
        self._load(split)
        table = self._tables[split]
        if table is None:
            return streamed(lambda: rows(self.dataset, split, self.selection), self._spec)
        return tensors(table, self._spec)


def row_bytes(row: Mapping[str, Any]) -> bytes:
    """Returns a row of :func:`rows` as one line of JSON; ``json.loads`` gives the row again."""
    return json.dumps(row, ensure_ascii=False, sort_keys=True).encode("utf-8", "surrogatepass") + b"\n"


def _sha256(of: Iterable[Mapping[str, Any]]) -> str:
    """A hash of rows in their order."""
    digest = hashlib.sha256()
    for row in of:
        digest.update(row_bytes(row))
    return digest.hexdigest()


def tensors(table: Mapping[str, Sequence[Any]], spec: Mapping[str, tf.TensorSpec]) -> tf.data.Dataset:
    """Returns the rows of a table, in order, as the preprocessors get them.

    Args:
      table: the values of each field of ``spec``, one per row.
      spec: as :attr:`RecordDataSource.spec`.
    """
    columns = {}
    for name, field in spec.items():
        if name in _LISTS:
            columns[name] = tf.ragged.constant(table[name], dtype=field.dtype, ragged_rank=1)
        else:
            columns[name] = tf.constant(table[name], dtype=field.dtype, shape=[len(table[name])])
    dense = lambda row: {name: tf.ensure_shape(value, spec[name].shape) for name, value in row.items()}  # noqa: E731
    return tf.data.Dataset.from_tensor_slices(columns).map(dense)


def streamed(read: Callable[[], Iterable[Mapping[str, Any]]], spec: Mapping[str, tf.TensorSpec]) -> tf.data.Dataset:
    """Returns the same dataset as :func:`tensors`, for rows that are read again in every epoch.

    At most ``_BLOCK`` rows are in memory at once, those of the iterator's buffers aside.

    Args:
      read: starts to read the rows.
      spec: as :attr:`RecordDataSource.spec`.
    """
    # A block holds one array per field. That of a field with lists holds the entries of all rows, one list after the
    # other; a second array holds where the list of each row ends.
    ends = {name: f"{name}/ends" for name in spec if name in _LISTS}

    def blocks() -> Iterator[dict[str, np.ndarray]]:
        waiting = iter(read())
        while block := list(itertools.islice(waiting, _BLOCK)):
            out = {}
            for name, field in spec.items():
                column = [row[name] for row in block]
                if name in ends:
                    out[ends[name]] = np.cumsum([len(entries) for entries in column], dtype=np.int64)
                    column = [entry for entries in column for entry in entries]
                if field.dtype == tf.string:
                    column = [text.encode("utf-8") for text in column]
                out[name] = np.array(column, field.dtype.as_numpy_dtype)
            yield out

    def table(block: Mapping[str, tf.Tensor]) -> tf.data.Dataset:
        def row(number: tf.Tensor) -> dict[str, tf.Tensor]:
            out = {}
            for name, field in spec.items():
                if name in ends:
                    stops = block[ends[name]]
                    start = tf.where(number > 0, stops[tf.maximum(number - 1, 0)], 0)
                    value = block[name][start : stops[number]]
                else:
                    value = block[name][number]
                out[name] = tf.ensure_shape(value, field.shape)
            return out

        return tf.data.Dataset.range(tf.shape(block["id"], tf.int64)[0]).map(row)

    signature = {name: tf.TensorSpec([None], field.dtype) for name, field in spec.items()}
    signature |= {name: tf.TensorSpec([None], tf.int64) for name in ends.values()}
    return tf.data.Dataset.from_generator(blocks, output_signature=signature).flat_map(table)
