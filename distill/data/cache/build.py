"""Writing a cache: SeqIO's tokens of all tasks and splits, as ArrayRecord shards that TFDS can also read."""

import dataclasses
import importlib.metadata
import json
import os
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from distill import atomic_files
from distill.counting import with_more
from distill.data import examples
from distill.data.cache import manifest, pipeline, ranges, writing
from distill.tasks import registration
from distill.tasks.feeding import RecordDataSource

_PROGRESS = "progress.json"
_LIBRARIES = ("array_record", "numpy", "seqio", "tensorflow", "tensorflow-datasets", "tensorflow-text")


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
    beam: pipeline.Settings | None = None,
    on_progress: pipeline.OnProgress | None = None,
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
      beam: tokenise and write shards in parallel on Apache Beam; the files have the same bytes.
      on_progress: progress callback, called with task, split, examples written so far, and total rows.

    Returns:
      :class:`Built`.

    Raises:
      ValueError: ``shards`` is below 1, a task draws at random, the folder or ``<output>.partial`` holds something else, or
        there is no usable example; or ``beam`` is given, and Apache Beam is not installed or its pipeline failed.
    """
    if shards < 1:
        raise ValueError(f"shards must be at least 1; got {shards}")
    directory = epath.Path(output)
    parts = parts_of(task_names)
    check(parts)
    if beam is not None:
        beam.check(directory)
    header = _header(task_names, shards, tfrecord)
    if found := _existing(directory, header):
        return Built(directory, found, new=False)
    stage = _stage(directory, shared=beam is not None)
    done = _resumed(stage, header)
    remaining = [part for part in parts if "/".join(part) not in done]
    formats = writing.FORMATS if tfrecord else writing.FORMATS[:1]
    tell = on_progress or (lambda *_: None)
    if beam is not None:
        written = pipeline.write(beam, stage, remaining, shards, formats, tell)
    else:
        written = ((part, _write(stage, *part, shards, formats, tell)) for part in remaining)
    for part, entry in written:
        done["/".join(part)] = entry
        _note_progress(stage, header, done)
    if not any(entry["examples"] for entry in done.values()):
        raise ValueError(f"none of {', '.join(task_names)} has an example that can be trained on")
    tasks: dict[str, dict[str, Any]] = {name: {} for name in task_names}
    for name, split in parts:
        tasks[name][split] = done[f"{name}/{split}"]
    for name in task_names:
        _write_tfds_metadata(stage, name, tasks[name], tfrecord)
    rows = _write_rows(stage, _source(task_names))
    whole = header | {"index_columns": manifest.INDEX_COLUMNS, "rows": rows, "tasks": tasks}
    (stage / manifest.FILE).write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n")
    _publish(stage, directory)
    return Built(directory, manifest.read(directory), new=True)


def parts_of(task_names: Sequence[str]) -> list[tuple[str, str]]:
    """Returns all splits of some tasks, as task and split."""
    return [(name, split) for name in task_names for split in registration.get(name).splits]


def check(parts: Sequence[tuple[str, str]]) -> None:
    """Raises ValueError if epochs of a task and split differ, so that a cache would hold one of them."""
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


def _header(task_names: Sequence[str], shards: int, tfrecord: bool) -> dict[str, Any]:
    """The identity of a cache: the fields of its manifest that are known before anything is written."""
    source = _source(task_names)
    hashes: dict[str, str] = {}
    for split in source.splits:
        source.num_input_examples(split)  # counts and hashes the rows in one pass
        hashes[split] = source.rows_sha256(split)
    return {
        "format": manifest.FORMAT,
        "task_names": list(task_names),
        "shards": shards,
        "tfrecord": tfrecord,
        "settings": registration.settings_of(task_names[0]),
        "rows_sha256": hashes,
        "versions": {name: importlib.metadata.version(name) for name in _LIBRARIES},
    }


def _source(task_names: Sequence[str]) -> RecordDataSource:
    source = registration.get(task_names[0]).source
    assert isinstance(source, RecordDataSource)
    return source


def _write_rows(stage: epath.Path, source: RecordDataSource) -> dict[str, dict[str, Any]]:
    """Writes the keys of the rows' inputs; returns the manifest entries of the rows, by split."""
    found = {}
    for split in source.splits:
        path = stage / "input_keys" / f"{split}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            np.save(file, source.input_keys(split))
        found[split] = {
            "records": source.num_input_examples(split),
            "with_rationale": source.num_with_rationale(split),
            "input_keys": manifest.of_file(path, stage),
        }
    return found


def _existing(directory: epath.Path, header: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns the checked manifest if ``directory`` holds the same cache, None if it is empty; else ValueError."""
    if not directory.exists() or not any(directory.iterdir()):
        return None
    if not (directory / manifest.FILE).exists():
        uploaded = () if manifest.is_local(directory) else _folders(header)
        if others := sorted(path.name for path in directory.iterdir() if path.name not in uploaded):
            raise ValueError(
                f"{directory} is not empty and holds no cache, but {with_more(others)}; choose another --output"
            )
        return None  # the upload was interrupted
    found = manifest.read(directory)
    remedy = "Choose another --output, or delete it."
    manifest.check_settings(directory, found["settings"], header["settings"], remedy)
    for name in ("task_names", "shards", "tfrecord"):
        manifest.check_settings(directory, {name: found.get(name)}, {name: header[name]}, remedy)
    _check_rows(directory, found["rows_sha256"], header["rows_sha256"])
    entries = [entry for splits in found["tasks"].values() for entry in splits.values()]
    for file in (*(rows["input_keys"] for rows in found["rows"].values()), *manifest.files(entries)):
        manifest.check_file(directory / file["file"], file)
    return found


def _check_rows(directory: epath.Path, theirs: Mapping[str, str], ours: Mapping[str, str]) -> None:
    """Raises ValueError if rows differ from those that a cache was built from, naming the splits."""
    changed = [split for split in {**theirs, **ours} if theirs.get(split) != ours.get(split)]
    if changed:
        splits = f"split{'s' if len(changed) > 1 else ''} {' and '.join(map(repr, changed))}"
        raise ValueError(
            f"the rows of {splits} are others than those that the cache at {directory} was built from; restore them, or "
            "choose another --output, or delete the folder and build the cache again"
        )


def _stage(directory: epath.Path, *, shared: bool) -> epath.Path:
    """The folder to build in; if ``shared``, one that other machines can see, too."""
    if shared or manifest.is_local(directory):
        return directory.with_name(directory.name + ".partial")
    number = zlib.crc32(os.fspath(directory).encode())
    return epath.Path(tempfile.gettempdir()) / f"distill-cache-{number:08x}.partial"


def _resumed(stage: epath.Path, header: Mapping[str, Any]) -> dict[str, Any]:
    """The parts that an interrupted build of the same cache finished, by ``task/split``; deletes files of another.

    Raises ValueError if the folder holds something that no build wrote.
    """
    saved = _progress(stage)
    _check_own(stage, saved)
    done: dict[str, Any] = {}
    same = saved is not None and saved["header"] == json.loads(json.dumps(header))
    try:
        for key, entry in saved["done"].items() if saved is not None and same else ():
            for file in manifest.files([entry]):
                manifest.check_file(stage / file["file"], file)
            done[key] = entry
    except (ValueError, KeyError, TypeError):
        done, same = {}, False
    if not same and stage.exists():
        stage.rmtree()
    stage.mkdir(parents=True, exist_ok=True)
    if not same:
        _note_progress(stage, header, {})  # first: it marks the folder as a build's
    (stage / "index").mkdir(exist_ok=True)
    return done


def _progress(stage: epath.Path) -> dict[str, Any] | None:
    """What an interrupted build has noted in its folder; None if there is no such note."""
    try:
        saved = json.loads((stage / _PROGRESS).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    noted = isinstance(saved, dict) and isinstance(saved.get("header"), dict) and isinstance(saved.get("done"), dict)
    return saved if noted else None


def _note_progress(stage: epath.Path, header: Mapping[str, Any], done: Mapping[str, Any]) -> None:
    atomic_files.replace(stage / _PROGRESS, json.dumps({"header": header, "done": done}))


def _check_own(stage: epath.Path, saved: Mapping[str, Any] | None) -> None:
    """Raises ValueError if ``stage``, which the build deletes, holds something that no build wrote there."""
    if not stage.exists():
        return
    own = {atomic_files.partial(_PROGRESS).name}
    if saved is not None:
        own |= {_PROGRESS, manifest.FILE, ranges.WORK, *_folders(saved["header"])}
    others = [path.name for path in stage.iterdir() if path.name not in own] if stage.is_dir() else [stage.name]
    if others:
        raise ValueError(
            f"{stage} is the folder in which this cache is built, and holds {with_more(sorted(others))}, which no build of "
            "a cache wrote: it would be lost. Move it away, or choose another --output"
        )


def _folders(header: Mapping[str, Any]) -> set[str]:
    """The names of the folders in a cache."""
    return {"index", "input_keys", *header.get("task_names", ())}


def _write(
    stage: epath.Path, name: str, split: str, shards: int, formats: Sequence[str], on_progress: pipeline.OnProgress
) -> dict[str, Any]:
    """Writes one split of a task; returns its manifest entry."""
    task = registration.get(name)
    rows = task.num_input_examples(split) or 0
    writer = writing.Shards(stage, name, split, writing.per_shard(rows, shards), formats)
    index = writing.Index(writing.index_path(stage, name, split))
    for record, lengths in writing.records_of(task, split):
        writer.add(record)
        index.add(lengths[None])
        on_progress(name, split, index.examples, rows)
    files = {
        form: [manifest.of_file(path, stage) | {"examples": number} for path, number in written]
        for form, written in zip(formats, writer.close())
    }
    examples.warn_of_rows_left_out(task, split, index.examples)
    on_progress(name, split, index.examples, index.examples)
    return writing.entry(stage, name, split, index, files)


def _write_tfds_metadata(stage: epath.Path, name: str, splits: Mapping[str, Mapping[str, Any]], tfrecord: bool) -> None:
    present = {split: entry for split, entry in splits.items() if entry["examples"]}
    if not present:
        return
    folder = stage / name / manifest.VERSION
    # TFDS switches to the other format for random access only.
    form, *others = reversed(writing.FORMATS) if tfrecord else writing.FORMATS[:1]
    infos = []
    for split, entry in present.items():
        template = tfds.core.ShardedFileTemplate(
            data_dir=folder, dataset_name=writing.tfds_name(name), split=writing.tfds_name(split), filetype_suffix=form
        )
        infos.append(
            tfds.core.SplitInfo(
                name=writing.tfds_name(split),
                shard_lengths=[shard["examples"] for shard in entry["shards"]],
                num_bytes=sum(shard["bytes"] for shard in entry["shards"]),
                filename_template=template,
            )
        )
    slots = {entry["slots"] for entry in present.values()}
    # tfds.folder_dataset.write_metadata rejects a folder with files of two formats, so it is not used here.
    identity = tfds.core.dataset_info.DatasetIdentity(
        name=writing.tfds_name(name),
        version=tfds.core.Version(manifest.VERSION),
        data_dir=os.fspath(folder),
        module_name="",
    )
    info = tfds.core.DatasetInfo(
        builder=identity,
        features=writing.tfds_features(slots == {2}),
        description=f"Token sequences of the task {name}, written by `distill cache`; source in {manifest.FILE}.",
        alternative_file_formats=others,
    )
    info.set_file_format(form)
    info.set_splits(tfds.core.splits.SplitDict(infos))
    info.write_to_directory(folder)


def _publish(stage: epath.Path, directory: epath.Path) -> None:
    if ranges.work(stage).exists():
        ranges.work(stage).rmtree()
    if manifest.is_local(directory):
        (stage / _PROGRESS).unlink()
        if directory.exists():
            directory.rmdir()  # it is empty
        directory.parent.mkdir(parents=True, exist_ok=True)
        os.replace(stage, directory)
        return
    files = sorted(folder / name for folder, _, names in stage.walk() for name in names)
    files.remove(stage / _PROGRESS)  # kept until all is copied, so that a retry does not tokenise again
    files.sort(key=lambda path: path.name == manifest.FILE)  # the manifest last: it marks the cache as complete
    for folder in sorted({path.parent for path in files}):  # once per folder: each call is a network request
        (directory / folder.relative_to(stage).as_posix()).mkdir(parents=True, exist_ok=True)
    for path in files:
        target = directory / path.relative_to(stage).as_posix()
        try:
            path.copy(target, overwrite=True)
        except Exception as error:  # of TensorFlow or the operating system
            raise ValueError(f"cannot copy to {target}: {error}; run the same command again to continue") from error
    stage.rmtree()
