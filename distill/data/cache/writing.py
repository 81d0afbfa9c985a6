"""One split of a task as records in order: what both forms of a build write, the local one and that on Apache Beam."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np
import seqio
import tensorflow as tf
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from etils import epath
from jaxtyping import Int32
from numpy.typing import DTypeLike
from tensorflow_datasets.core import example_serializer

from distill.data import features
from distill.data.cache import manifest
from distill.tasks import reading

FORMATS = ("array_record", "tfrecord")
_WRITER = "group_size:1,snappy"  # groups of one, for random access; snappy decompresses single records fast
_COLUMNS = len(manifest.INDEX_COLUMNS)


def tfds_features(paired: bool) -> tfds.features.FeaturesDict:
    """Returns the TFDS features of a cached task: arrays of any length, stored as bytes."""

    def tokens(dtype: DTypeLike) -> tfds.features.Tensor:
        return tfds.features.Tensor(shape=(None,), dtype=dtype, encoding=tfds.features.Encoding.BYTES)

    names = {"inputs": np.int32, "targets": np.int32, "targets_task_ids": np.int32, "targets_weights": np.float32}
    if paired:
        names |= {"rationale_inputs": np.int32, "rationale_targets": np.int32, "rationale_targets_weights": np.float32}
    return tfds.features.FeaturesDict({name: tokens(dtype) for name, dtype in names.items()})


def records_of(task: seqio.Task, split: str) -> Iterator[tuple[bytes, Int32[np.ndarray, "slots 3"]]]:
    """Tokenises a split, in SeqIO's order and without truncation; drops examples without any target.

    Args:
      task: reads the rows; its preprocessors draw nothing.
      split: SeqIO split.

    Yields:
      The serialised ``tf.train.Example`` of one example, and its row of the index (:data:`manifest.INDEX_COLUMNS`).
    """
    described: tfds.features.FeaturesDict | None = None
    for example in reading.examples(task, split, only_tokens=True):
        pairs = features.slots(example)
        ids = [int(pair.task_ids[-1]) if len(pair.targets) else 0 for pair in pairs]
        if not any(ids):
            continue
        record = {
            "inputs": pairs[0].inputs,
            "targets": pairs[0].targets,
            "targets_task_ids": pairs[0].task_ids,
            "targets_weights": pairs[0].weights,
        }
        if len(pairs) == 2:
            record["rationale_inputs"] = pairs[1].inputs
            record["rationale_targets"] = pairs[1].targets
            record["rationale_targets_weights"] = pairs[1].weights
        if described is None:
            described = tfds_features(len(pairs) == 2)
            serializer = example_serializer.ExampleSerializer(described.get_serialized_info())
        proto = serializer.get_tf_example(described.encode_example(record))
        row = [(len(pair.inputs), len(pair.targets), task_id) for pair, task_id in zip(pairs, ids)]
        # Protobuf maps are unordered unless they are serialised deterministically.
        yield proto.SerializeToString(deterministic=True), np.array(row, np.int32)


def tfds_name(name: str) -> str:
    """Returns a task's or split's name as TFDS allows it in file names."""
    return re.sub(r"[^a-z0-9_]", "_", name.lower())


def prefix(name: str, split: str) -> str:
    """Returns the first part of the file names of a split's shards."""
    return f"{tfds_name(name)}-{tfds_name(split)}"


def folder(stage: epath.Path, name: str) -> epath.Path:
    """Returns the folder of a task's shards."""
    return stage / name / manifest.VERSION


def index_path(stage: epath.Path, name: str, split: str) -> epath.Path:
    """Returns the file with the lengths of a split's examples."""
    return stage / "index" / f"{name}-{split}.npy"


def per_shard(rows: int, shards: int) -> int:
    """Returns the examples in each shard of a split but the last."""
    return -(-max(rows, 1) // shards)


def opened(path: epath.PathLike, form: str) -> Any:
    """Returns a writer of one of :data:`FORMATS`, with ``write(record)`` and ``close()``."""
    if form == "tfrecord":
        return tf.io.TFRecordWriter(os.fspath(path))
    return array_record_module.ArrayRecordWriter(os.fspath(path), _WRITER)


class Index:
    """Writes the index of a split while its examples are read: memory does not grow with the examples.

    The bytes are those of ``np.save`` with the whole array, int32 [examples, slots, 3].

    Args:
      path: of the ``.npy`` file; until :meth:`close`, its rows are in ``<path>.rows``.
    """

    def __init__(self, path: epath.Path):
        self._path, self._raw = path, path.with_name(path.name + ".rows")
        self._file: BinaryIO | None = None
        self.examples, self.slots = 0, 0

    def add(self, rows: Int32[np.ndarray, "examples slots 3"]) -> None:
        """Appends rows; all have the same number of slots."""
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._raw.open("wb")
            self.slots = rows.shape[1]
        self._file.write(rows.tobytes())
        self.examples += len(rows)

    def close(self) -> bool:
        """Writes the file; returns False, and writes nothing, if no row was added."""
        if self._file is None:
            return False
        self._file.close()
        described = {
            "descr": np.lib.format.dtype_to_descr(np.dtype(np.int32)),
            "fortran_order": False,
            "shape": (self.examples, self.slots, _COLUMNS),
        }
        with self._path.open("wb") as file, self._raw.open("rb") as raw:
            np.lib.format.write_array_header_1_0(file, described)
            while block := raw.read(2**20):
                file.write(block)
        self._raw.unlink()
        return True


class Shards:
    """Writes records in order, ``size`` per file, in all formats; renames the files once their number is known."""

    def __init__(self, stage: epath.Path, name: str, split: str, size: int, formats: Sequence[str]):
        self._folder, self._prefix, self._size, self._formats = folder(stage, name), prefix(name, split), size, formats
        self._lengths: list[int] = []
        self._writers: list[Any] = []
        self._folder.mkdir(parents=True, exist_ok=True)
        for form in FORMATS:
            for old in self._folder.glob(f"{self._prefix}.{form}-*"):  # left by an interrupted build
                old.unlink()

    def _path(self, form: str, number: int) -> epath.Path:
        return self._folder / f"{self._prefix}.{form}-{number:05d}"

    def add(self, record: bytes) -> None:
        """Writes one serialised example."""
        if not self._writers:
            self._writers = [opened(self._path(form, len(self._lengths)), form) for form in self._formats]
            self._lengths.append(0)
        for writer in self._writers:
            writer.write(record)
        self._lengths[-1] += 1
        if self._lengths[-1] == self._size:
            self._close_shard()

    def _close_shard(self) -> None:
        for writer in self._writers:
            writer.close()
        self._writers = []

    def close(self) -> list[list[tuple[epath.Path, int]]]:
        """Returns, per format, its files and the number of records in each."""
        self._close_shard()
        named: list[list[tuple[epath.Path, int]]] = [[] for _ in self._formats]
        for files, form in zip(named, self._formats):
            for number, length in enumerate(self._lengths):
                path = self._path(form, number)
                files.append((path.rename(shard_path(path, len(self._lengths))), length))
        return named


def shard_path(path: epath.Path, shards: int) -> epath.Path:
    """Returns the final name of a shard file, which holds the number of shards."""
    return path.with_name(f"{path.name}-of-{shards:05d}")


def entry(
    stage: epath.Path, name: str, split: str, index: Index, shards: Mapping[str, Sequence[Mapping[str, Any]]]
) -> dict[str, Any]:
    """Closes the index; returns the manifest entry of a split.

    Args:
      stage: the folder that is built.
      name: of the task.
      split: of the task.
      index: complete.
      shards: per format, the file entries of its shards, with ``examples``.
    """
    written = index.close()
    found: dict[str, Any] = {"examples": index.examples, "slots": index.slots, "index": None, "shards": []}
    if written:
        found["index"] = manifest.of_file(index_path(stage, name, split), stage)
        found["shards"] = list(shards["array_record"])
        if "tfrecord" in shards:
            found["tfrecords"] = [
                {key: value for key, value in shard.items() if key != "examples"} for shard in shards["tfrecord"]
            ]
    return found
