"""Writing a cache: SeqIO's tokens of all tasks and splits, as ArrayRecord shards that TFDS can also read."""

import dataclasses
import importlib.metadata
import json
import os
import pathlib
import re
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from etils import epath
from numpy.typing import DTypeLike
from tensorflow_datasets.core import example_serializer

from distill.data import examples, features
from distill.data.cache import manifest
from distill.tasks import registration
from distill.tasks.feeding import RecordDataSource

_PROGRESS = "progress.json"
_WRITER = "group_size:1,snappy"  # groups of one, for random access; snappy decompresses single records fast
_LIBRARIES = ("array_record", "numpy", "seqio", "tensorflow", "tensorflow-datasets", "tensorflow-text")
OnProgress = Callable[[str, str, int, int], None]


@dataclasses.dataclass(frozen=True)
class Built:
    """The result of :func:`build`.

    Attributes:
      directory: the cache's folder.
      manifest: the cache's manifest.
      new: False if the cache already existed.
    """

    directory: epath.Path
    manifest: dict[str, Any]
    new: bool


def build(
    task_names: Sequence[str],
    output: epath.PathLike,
    *,
    shards: int = 1,
    tfrecord: bool = False,
    on_progress: OnProgress | None = None,
) -> Built:
    """Writes all splits of some tasks of one data set, unless the same cache already exists.

    A local folder appears under its name only when it is complete; in a remote folder, the manifest is written last. An
    interrupted build leaves finished parts in ``<output>.partial``. The next build with the same settings and rows
    reuses them.

    Args:
      task_names: registered names, all from one call of :func:`distill.tasks.registration.register`.
      output: a folder that is new, empty, or holds the same cache.
      shards: largest number of files per split.
      tfrecord: also write every shard as TFRecords, so that ``tfds.load`` reads them as a ``tf.data.Dataset``.
      on_progress: progress callback, called with task, split, examples written so far, and total rows.

    Returns:
      :class:`Built`.

    Raises:
      ValueError: ``shards`` is below 1, a task draws at random, the folder holds something else, or there is no usable
        example.
    """
    if shards < 1:
        raise ValueError(f"shards must be at least 1; got {shards}")
    directory = epath.Path(output)
    parts = [(name, split) for name in task_names for split in registration.get(name).splits]
    for name, split in parts:
        if registration.spans_of(registration.get(name)) is not None:
            raise ValueError(
                f"task {name!r} masks its text anew in every epoch, so a cache would hold one of the draws; train without "
                "a cache (CACHE_DIR=None)"
            )
        if registration.draws_at_random(name, split):
            raise ValueError(
                f"rows of split {split!r} have several rationales, and task {name!r} draws one of them per epoch; "
                "a cache would hold a single draw. Take the first instead, "
                "--gin.registration.register.rationales=first, or train without a cache"
            )
    header = _header(task_names, shards, tfrecord)
    if found := _existing(directory, header):
        return Built(directory, found, new=False)
    stage = _stage(directory)
    done = _resumed(stage, header)
    for name, split in parts:
        if f"{name}/{split}" not in done:
            done[f"{name}/{split}"] = _write(stage, name, split, shards, tfrecord, on_progress or (lambda *_: None))
            (stage / _PROGRESS).write_text(json.dumps({"header": header, "done": done}))
    if not any(entry["examples"] for entry in done.values()):
        raise ValueError(f"none of {', '.join(task_names)} has an example that can be trained on")
    tasks: dict[str, dict[str, Any]] = {name: {} for name in task_names}
    for name, split in parts:
        tasks[name][split] = done[f"{name}/{split}"]
    for name in task_names:
        _write_tfds_metadata(stage, name, tasks[name], tfrecord)
    whole = header | {"index_columns": manifest.INDEX_COLUMNS, "tasks": tasks}
    (stage / manifest.FILE).write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n")
    _publish(stage, directory)
    return Built(directory, manifest.read(directory), new=True)


def _header(task_names: Sequence[str], shards: int, tfrecord: bool) -> dict[str, Any]:
    """The identity of a cache: the fields of its manifest that are known before anything is written."""
    source = registration.get(task_names[0]).source
    rows = {split: source.rows_sha256(split) for split in source.splits} if isinstance(source, RecordDataSource) else {}
    return {
        "format": manifest.FORMAT,
        "task_names": list(task_names),
        "shards": shards,
        "tfrecord": tfrecord,
        "settings": registration.settings_of(task_names[0]),
        "rows_sha256": rows,
        "versions": {name: importlib.metadata.version(name) for name in _LIBRARIES},
    }


def _existing(directory: epath.Path, header: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns the checked manifest if ``directory`` holds the same cache, None if it is empty; else ValueError."""
    if not directory.exists() or not any(directory.iterdir()):
        return None
    if manifest.is_local(directory) and not (directory / manifest.FILE).exists():
        raise ValueError(f"{directory} is not empty and holds no cache; choose another --output")
    if not (directory / manifest.FILE).exists():
        return None  # the upload was interrupted
    found = manifest.read(directory)
    remedy = "Choose another --output, or delete it."
    manifest.check_settings(directory, found["settings"], header["settings"], remedy)
    for name in ("task_names", "shards", "tfrecord", "rows_sha256"):
        theirs = found.get(name, False)  # manifests of earlier versions have no entry for TFRecords
        manifest.check_settings(directory, {name: theirs}, {name: header[name]}, remedy)
    entries = [entry for splits in found["tasks"].values() for entry in splits.values()]
    for file in manifest.files(entries):
        manifest.check_file(directory / file["file"], file)
    return found


def _stage(directory: epath.Path) -> epath.Path:
    if manifest.is_local(directory):
        return directory.with_name(directory.name + ".partial")
    number = zlib.crc32(os.fspath(directory).encode())
    return epath.Path(tempfile.gettempdir()) / f"distill-cache-{number:08x}.partial"


def _resumed(stage: epath.Path, header: Mapping[str, Any]) -> dict[str, Any]:
    """The parts that an interrupted build of the same cache finished, by ``task/split``; deletes anything else."""
    done: dict[str, Any] = {}
    progress = stage / _PROGRESS
    if progress.exists():
        try:
            saved = json.loads(progress.read_text())
            same = saved["header"] == json.loads(json.dumps(header))
            for key, entry in saved["done"].items() if same else ():
                for file in manifest.files([entry]):
                    manifest.check_file(stage / file["file"], file)
                done[key] = entry
        except (ValueError, KeyError):
            done = {}
    if not done and stage.exists():
        stage.rmtree()
    stage.mkdir(parents=True, exist_ok=True)
    (stage / "index").mkdir(exist_ok=True)
    return done


def _tfds_name(name: str) -> str:
    return re.sub(r"[^a-z0-9_]", "_", name.lower())


def _token_examples(task: seqio.Task, split: str) -> Iterator[dict[str, np.ndarray]]:
    dataset = task.get_dataset(sequence_length=None, split=split, shuffle=False, seed=0, trim_output_features=False)
    return features.token_features(dataset).as_numpy_iterator()


def _write(
    stage: epath.Path, name: str, split: str, shards: int, tfrecord: bool, on_progress: OnProgress
) -> dict[str, Any]:
    """Writes one split of a task; returns its manifest entry."""
    task = registration.get(name)
    rows = task.num_input_examples(split) or 0
    folder, prefix = stage / name / manifest.VERSION, f"{_tfds_name(name)}-{_tfds_name(split)}"
    writer = _Shards(folder, prefix, -(-max(rows, 1) // shards), FORMATS if tfrecord else FORMATS[:1])
    index: list[list[tuple[int, int, int]]] = []
    for example in _token_examples(task, split):
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
        writer.add(record)
        index.append([(len(pair.inputs), len(pair.targets), task_id) for pair, task_id in zip(pairs, ids)])
        on_progress(name, split, len(index), rows)
    examples.warn_of_rows_left_out(task, split, len(index))
    written, *others = writer.close()
    entry: dict[str, Any] = {
        "examples": len(index),
        "slots": len(index[0]) if index else 0,
        "index": None,
        "shards": [],
    }
    if index:
        path = stage / "index" / f"{name}-{split}.npy"
        with path.open("wb") as file:
            np.save(file, np.array(index, np.int32), allow_pickle=False)
        entry["index"] = manifest.of_file(path, stage)
        entry["shards"] = [manifest.of_file(path, stage) | {"examples": number} for path, number in written]
        if others:
            entry["tfrecords"] = [manifest.of_file(path, stage) for path, _ in others[0]]
    on_progress(name, split, len(index), len(index))
    return entry


def tfds_features(paired: bool) -> tfds.features.FeaturesDict:
    """Returns the TFDS features of a cached task: arrays of any length, stored as bytes."""

    def tokens(dtype: DTypeLike) -> tfds.features.Tensor:
        return tfds.features.Tensor(shape=(None,), dtype=dtype, encoding=tfds.features.Encoding.BYTES)

    names = {"inputs": np.int32, "targets": np.int32, "targets_task_ids": np.int32, "targets_weights": np.float32}
    if paired:
        names |= {"rationale_inputs": np.int32, "rationale_targets": np.int32, "rationale_targets_weights": np.float32}
    return tfds.features.FeaturesDict({name: tokens(dtype) for name, dtype in names.items()})


FORMATS = ("array_record", "tfrecord")


def _open(path: epath.Path, form: str) -> Any:
    if form == "tfrecord":
        return tf.io.TFRecordWriter(os.fspath(path))
    return array_record_module.ArrayRecordWriter(os.fspath(path), _WRITER)


class _Shards:
    """Writes records in order, ``per_shard`` per file, in all formats; renames the files once their number is known."""

    def __init__(self, folder: epath.Path, prefix: str, per_shard: int, formats: Sequence[str]):
        self._folder, self._prefix, self._per_shard, self._formats = folder, prefix, per_shard, formats
        self._features: tfds.features.FeaturesDict | None = None
        self._lengths: list[int] = []
        self._writers: list[Any] = []
        folder.mkdir(parents=True, exist_ok=True)
        for form in FORMATS:
            for old in folder.glob(f"{prefix}.{form}-*"):  # left by an interrupted build
                old.unlink()

    def _path(self, form: str, number: int) -> epath.Path:
        return self._folder / f"{self._prefix}.{form}-{number:05d}"

    def add(self, record: Mapping[str, np.ndarray]) -> None:
        if self._features is None:
            self._features = tfds_features("rationale_inputs" in record)
            self._serializer = example_serializer.ExampleSerializer(self._features.get_serialized_info())
        if not self._writers:
            self._writers = [_open(self._path(form, len(self._lengths)), form) for form in self._formats]
            self._lengths.append(0)
        example = self._serializer.get_tf_example(self._features.encode_example(dict(record)))
        serialized = example.SerializeToString(deterministic=True)  # protobuf maps are unordered otherwise
        for writer in self._writers:
            writer.write(serialized)
        self._lengths[-1] += 1
        if self._lengths[-1] == self._per_shard:
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
                final = path.with_name(f"{path.name}-of-{len(self._lengths):05d}")
                files.append((path.rename(final), length))
        return named


def _write_tfds_metadata(stage: epath.Path, name: str, splits: Mapping[str, Mapping[str, Any]], tfrecord: bool) -> None:
    present = {split: entry for split, entry in splits.items() if entry["examples"]}
    if not present:
        return
    folder = stage / name / manifest.VERSION
    # TFDS switches to the other format for random access only.
    form, *others = reversed(FORMATS) if tfrecord else FORMATS[:1]
    infos = []
    for split, entry in present.items():
        template = tfds.core.ShardedFileTemplate(
            data_dir=folder, dataset_name=_tfds_name(name), split=_tfds_name(split), filetype_suffix=form
        )
        infos.append(
            tfds.core.SplitInfo(
                name=_tfds_name(split),
                shard_lengths=[shard["examples"] for shard in entry["shards"]],
                num_bytes=sum(shard["bytes"] for shard in entry["shards"]),
                filename_template=template,
            )
        )
    slots = {entry["slots"] for entry in present.values()}
    # tfds.folder_dataset.write_metadata rejects a folder with files of two formats, so it is not used here.
    identity = tfds.core.dataset_info.DatasetIdentity(
        name=_tfds_name(name),
        version=tfds.core.Version(manifest.VERSION),
        data_dir=os.fspath(folder),
        module_name="",
    )
    info = tfds.core.DatasetInfo(
        builder=identity,
        features=tfds_features(slots == {2}),
        description=f"Token sequences of the task {name}, written by `distill cache`; source in {manifest.FILE}.",
        alternative_file_formats=others,
    )
    info.set_file_format(form)
    info.set_splits(tfds.core.splits.SplitDict(infos))
    info.write_to_directory(folder)


def _publish(stage: epath.Path, directory: epath.Path) -> None:
    if manifest.is_local(directory):
        (stage / _PROGRESS).unlink()
        if directory.exists():
            directory.rmdir()  # it is empty
        directory.parent.mkdir(parents=True, exist_ok=True)
        os.replace(stage, directory)
        return
    files = sorted(path for path in pathlib.Path(stage).rglob("*") if path.is_file())
    files.remove(pathlib.Path(stage / _PROGRESS))  # kept until all is copied, so that a retry does not tokenise again
    files.sort(key=lambda path: path.name == manifest.FILE)  # the manifest last: it marks the cache as complete
    for folder in sorted({path.parent for path in files}):  # once per folder: each call is a network request
        (directory / folder.relative_to(stage).as_posix()).mkdir(parents=True, exist_ok=True)
    for path in files:
        target = directory / path.relative_to(stage).as_posix()
        try:
            epath.Path(path).copy(target, overwrite=True)
        except Exception as error:  # of TensorFlow or the operating system
            raise ValueError(f"cannot copy to {target}: {error}; run the same command again to continue") from error
    shutil.rmtree(os.fspath(stage))
