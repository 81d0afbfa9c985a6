"""Random access to the examples of a cache: an index of lengths in memory, tokens read from ArrayRecord shards."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from array_record.python import array_record_module
from etils import epath
from tensorflow_datasets.proto import tf_example_pb2

from distill.data import features
from distill.data.cache import manifest, opening
from distill.data.counts import Counts
from distill.data.examples import KnownRows, nothing_usable
from distill.data.packing import Layout, Sequences
from distill.tasks import registered, task_ids

_READER = {"options": "readahead_buffer_size:0,max_parallelism:0", "file_reader_buffer_size": 8192}


class CachedRows:
    """Number, hash and inputs of the rows of a cache; implements :class:`distill.data.examples.KnownRows`.

    Args:
      root: the folder with the files of the cache.
      found: its manifest.
    """

    def __init__(self, root: epath.Path, found: Mapping[str, Any]):
        self._root, self._rows, self._hashes = root, found["rows"], found["rows_sha256"]

    def num_input_examples(self, split: str) -> int:
        """See :meth:`distill.data.examples.KnownRows.num_input_examples`."""
        return self._rows[split]["records"]

    def num_with_rationale(self, split: str) -> int:
        """See :meth:`distill.data.examples.KnownRows.num_with_rationale`."""
        return self._rows[split]["with_rationale"]

    def rows_sha256(self, split: str) -> str:
        """See :meth:`distill.data.examples.KnownRows.rows_sha256`."""
        return self._hashes[split]

    def input_keys(self, split: str) -> np.ndarray:
        """See :meth:`distill.data.examples.KnownRows.input_keys`."""
        path = self._root / self._rows[split]["input_keys"]["file"]
        with path.open("rb") as file:
            keys = np.load(file, allow_pickle=False)
        if keys.dtype != np.int64 or keys.shape != (self.num_input_examples(split),):
            raise ValueError(
                f"the cache is damaged: {path} holds {keys.dtype} {keys.shape} and should hold int64 "
                f"({self.num_input_examples(split)},); delete the folder and build it again"
            )
        return keys


def known_rows(directory: epath.PathLike, task_name: str, split: str) -> KnownRows:
    """Returns number, hash and inputs of the rows of a split that a cache was built from. Reads the manifest.

    Raises:
      ValueError: no cache, other settings, or no such task or split.
    """
    return CachedRows(epath.Path(directory), opening.entry_of(directory, task_name, split)[0])


def counts(directory: epath.PathLike, task_name: str, split: str, layout: Layout) -> Counts:
    """Counts the sequences of an epoch, and those that are truncated to a window. Reads the lengths alone.

    Raises:
      ValueError: as :class:`CachedExamples`.
    """
    _, entry = opening.entry_of(directory, task_name, split)
    if not entry["examples"]:
        raise nothing_usable(task_name, split)
    path = epath.Path(directory) / entry["index"]["file"]
    manifest.check_file(path, entry["index"])
    with path.open("rb") as file:
        index = np.load(file, allow_pickle=False)
    found = features.count(index[..., :2], index[..., 2], layout)
    return dataclasses.replace(found, label_is_last=registered.label_is_last(task_name))


class CachedExamples:
    """The cached examples of one task; implements :class:`distill.data.examples.Examples`.

    All processes of a run construct it together: they synchronise, and each checks its share of the files.

    Args:
      directory: a folder written by ``distill cache``. Remote files (``gs://``) of this split are first copied to the
        local temporary folder, unless they are already there.
      task_name: a registered task with the settings of the cache.
      split: SeqIO split.
      layout: the window that sequences are truncated to.

    Raises:
      ValueError: no cache, other settings, or a damaged cache (all files of the split are checked). The same error is
        raised in every process.
    """

    def __init__(self, directory: epath.PathLike, task_name: str, split: str, layout: Layout):
        self.name, self._layout = task_name, layout
        root, found, entry = opening.opened(directory, task_name, split)
        self.rows = CachedRows(root, found)
        if not entry["examples"]:
            raise nothing_usable(task_name, split)
        index = np.load(root / entry["index"]["file"], mmap_mode="r", allow_pickle=False)
        starts = np.cumsum([0, *(shard["examples"] for shard in entry["shards"])])
        if index.shape != (entry["examples"], entry["slots"], len(manifest.INDEX_COLUMNS)) or starts[-1] != len(index):
            raise ValueError(
                f"the cache is damaged: {root / entry['index']['file']} indexes {len(index)} examples, the shards hold "
                f"{starts[-1]} and {manifest.FILE} gives {entry['examples']}"
            )
        self._index, self._starts = index, starts
        room = features.target_room(index[..., 1], layout)
        self._lengths = np.stack(
            [np.minimum(index[..., 0], layout.encoder_length), np.minimum(index[..., 1], room)], -1
        )
        self.counts = features.count(index[..., :2], index[..., 2], layout)
        self._readers = [
            array_record_module.ArrayRecordReader(os.fspath(root / shard["file"]), **_READER)
            for shard in entry["shards"]
        ]

    @property
    def size(self) -> int:
        """Examples per epoch."""
        return len(self._index)

    def lengths(self, epoch: int) -> np.ndarray:
        """See :meth:`distill.data.examples.Examples.lengths`."""
        del epoch  # all epochs are equal
        return self._lengths

    def forget(self, epoch: int) -> None:
        """Does nothing: no epoch is held in memory."""
        del epoch

    def read(self, epoch: int, numbers: np.ndarray) -> Sequences:
        """See :meth:`distill.data.examples.Examples.read`."""
        del epoch
        numbers = np.asarray(numbers)
        shards = np.searchsorted(self._starts, numbers, side="right") - 1
        places = numbers - self._starts[shards]
        records = []
        # Records are read one at a time in this thread: they are so small that the reader's thread pool costs more.
        for shard, place in zip(shards.tolist(), places.tolist()):
            reader = self._readers[shard]
            reader.seek(place)
            records.append(reader.read())
        slots = self._index.shape[1]
        lengths = self._index[numbers].reshape(-1, self._index.shape[-1]).astype(np.int64)
        return features.cut_all(_parsed(records, slots, lengths[:, 0], lengths[:, 1]), slots, self._layout)


_RATIONALE = np.int32(task_ids.RATIONALE).tobytes()


def _parsed(records: list[bytes], slots: int, input_lengths: np.ndarray, target_lengths: np.ndarray) -> Sequences:
    """Parses TFDS records: each is a ``tf.train.Example`` whose features hold the bytes of one array."""
    inputs: list[bytes] = []
    targets: list[bytes] = []
    ids: list[bytes] = []
    weights: list[bytes] = []
    for record in records:
        feature = tf_example_pb2.Example.FromString(record).features.feature
        inputs.append(feature["inputs"].bytes_list.value[0])
        targets.append(feature["targets"].bytes_list.value[0])
        ids.append(feature["targets_task_ids"].bytes_list.value[0])
        weights.append(feature["targets_weights"].bytes_list.value[0])
        if slots == 2:
            second = feature["rationale_targets"].bytes_list.value[0]
            inputs.append(feature["rationale_inputs"].bytes_list.value[0])
            targets.append(second)
            ids.append(_RATIONALE * (len(second) // 4))
            weights.append(feature["rationale_targets_weights"].bytes_list.value[0])
    return Sequences(
        np.frombuffer(b"".join(inputs), np.int32),
        np.frombuffer(b"".join(targets), np.int32),
        np.frombuffer(b"".join(ids), np.int32),
        np.frombuffer(b"".join(weights), np.float32),
        input_lengths,
        target_lengths,
    )
