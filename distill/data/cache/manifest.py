"""The manifest of a cache folder, and the check of its files against it.

DIR/manifest.json                                     the manifest; written last
DIR/<task>/1.0.0/<task>-<split>.array_record-…        examples, in SeqIO's order; each folder is a TFDS data set
DIR/<task>/1.0.0/<task>-<split>.tfrecord-…            the same examples, if requested
DIR/index/<task>-<split>.npy                          int32 [examples, slots, 3]: see :data:`INDEX_COLUMNS`
DIR/input_keys/<split>.npy                            int64 [rows]: :func:`distill.tasks.metrics.input_key` of each row
"""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from distill import file_digests, validation
from distill.tasks import fingerprint
from distill.validation import quoted

FILE = "manifest.json"
FORMAT = 2
VERSION = "1.0.0"
INDEX_COLUMNS = ("input tokens", "target tokens", "task id of the last target")
_MAX_BYTES = 256 * 2**20


def is_local(path: epath.Path) -> bool:
    """Whether files under ``path`` are local, so that ArrayRecord can open them."""
    return "://" not in os.fspath(path)


def of_file(path: epath.Path, root: epath.Path) -> dict[str, Any]:
    """Returns the entry of a file: its path below ``root``, size in bytes and SHA-256."""
    size, digest = file_digests.of_file(path)
    return {"file": path.relative_to(root).as_posix(), "bytes": size, "sha256": digest}


def check_file(path: epath.Path, entry: Mapping[str, Any]) -> None:
    """Raises ValueError unless the file has the size and SHA-256 of its entry; reads the whole file."""
    if not path.exists():
        raise ValueError(f"the cache is damaged: {path} is missing; delete the folder and build it again")
    if (size := path.stat().length) != entry["bytes"]:
        raise ValueError(
            f"the cache is damaged: {path} has {size:,} bytes and should have {entry['bytes']:,}; "
            "delete the folder and build it again"
        )
    if file_digests.of_file(path)[1] != entry["sha256"]:
        raise ValueError(
            f"the cache is damaged: {path} does not have the SHA-256 {entry['sha256'][:12]}… that {FILE} gives; "
            "delete the folder and build it again"
        )


def read(directory: epath.PathLike) -> dict[str, Any]:
    """Reads the manifest of a cache.

    Raises:
      ValueError: the folder holds no complete cache, or one of another format.
    """
    path = epath.Path(directory) / FILE
    if not path.exists():
        raise ValueError(f"{directory} holds no finished cache ({FILE} is missing); `distill cache` makes one")
    if (size := path.stat().length) > _MAX_BYTES:
        raise ValueError(f"{path} is no manifest of a cache: it has {size} bytes, expected at most {_MAX_BYTES}")
    try:
        manifest = json.loads(path.read_bytes())
        found = manifest["format"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is no manifest of a cache: {' '.join(repr(error).split()):.160}") from None
    if type(found) is not int or found != FORMAT:
        raise ValueError(
            f"{path} is of format {quoted(found)}; this version reads format {FORMAT}: build the cache again"
        )
    problem = _problem(manifest)
    if problem:
        raise ValueError(f"the cache is damaged: {path}: {problem}; delete the folder and build it again")
    return manifest


def _problem(manifest: Mapping[str, Any]) -> str | None:
    """Why a manifest of the right format cannot be used: a wrong type, or a file outside of the folder; None if it can."""
    for name in ("settings", "tasks", "rows", "rows_sha256"):
        if not isinstance(manifest.get(name), dict):
            return f"{name!r} must be an object; got {quoted(manifest.get(name))}"
    for split, part in manifest["rows"].items():
        problem = _rows_problem(part, manifest["rows_sha256"].get(split))
        if problem:
            return f"rows of split {quoted(split)}: {problem}"
    for task, splits in manifest["tasks"].items():
        for name in (task, *splits) if isinstance(splits, dict) else ():
            if not name.isprintable():
                return f"{quoted(name)} is no name of a task or a split"
        if not isinstance(splits, dict):
            return f"task {quoted(task)} must be an object of splits; got {quoted(splits)}"
        for split, part in splits.items():
            problem = _entry_problem(part) or (None if split in manifest["rows"] else "its rows are not described")
            if problem:
                return f"task {quoted(task)}, split {quoted(split)}: {problem}"
    return None


def _rows_problem(part: Any, sha256: Any) -> str | None:
    if not isinstance(part, dict):
        return f"expected an object; got {quoted(part)}"
    for name in ("records", "with_rationale"):
        if not _is_count(part.get(name)):
            return f"{name!r} must be a whole number; got {quoted(part.get(name))}"
    if not isinstance(sha256, str) or not sha256.isprintable():
        return f"'rows_sha256' must have their SHA-256; got {quoted(sha256)}"
    return _file_problem(part.get("input_keys"))


def _entry_problem(part: Any) -> str | None:
    if not isinstance(part, dict):
        return f"expected an object; got {quoted(part)}"
    for name in ("examples", "slots"):
        if not _is_count(part.get(name)):
            return f"{name!r} must be a whole number; got {quoted(part.get(name))}"
    for name in ("shards", "tfrecords"):
        if not isinstance(part.get(name, [] if name == "tfrecords" else None), list):
            return f"{name!r} must be a list of files; got {quoted(part.get(name))}"
    if "index" not in part or (part["examples"] and not isinstance(part["index"], dict)):
        return f"'index' must be a file; got {quoted(part.get('index'))}"
    given = [part["index"]] if part.get("index") is not None else []
    for file in (*given, *part["shards"], *part.get("tfrecords", ())):
        if problem := _file_problem(file):
            return problem
    if not all(_is_count(shard.get("examples")) for shard in part["shards"]):
        return "'examples' of every shard must be a whole number"
    return None


def _file_problem(file: Any) -> str | None:
    if (
        not isinstance(file, dict)
        or not isinstance(file.get("file"), str)
        or not isinstance(file.get("sha256"), str)
        or not file["sha256"].isprintable()
    ):
        return f"expected a file with its name and SHA-256; got {quoted(file)}"
    if not all(validation.is_plain_name(part) for part in file["file"].split("/")):
        return f"{quoted(file['file'])} is not a file inside the folder"
    if not _is_count(file.get("bytes")):
        return f"'bytes' of {quoted(file['file'])} must be a whole number; got {quoted(file.get('bytes'))}"
    return None


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def entry(directory: epath.PathLike, manifest: Mapping[str, Any], task_name: str, split: str) -> dict[str, Any]:
    """Returns the manifest entry of one task and split.

    Raises:
      ValueError: the cache has no such task or split.
    """
    tasks = manifest["tasks"]
    for kind, name, known in (("task", task_name, tasks), ("split", split, tasks.get(task_name, {}))):
        if name not in known:
            hint = validation.did_you_mean(name, list(known))
            raise ValueError(f"the cache at {directory} has no {kind} {name!r}{hint} (it has {', '.join(known)})")
    return tasks[task_name][split]


def check_settings(directory: epath.PathLike, theirs: Mapping[str, Any], ours: Mapping[str, Any], remedy: str) -> None:
    """Raises ValueError, listing every setting that differs, unless a cache was built with our settings."""
    differ = fingerprint.differences(json.loads(json.dumps(theirs)), json.loads(json.dumps(ours)))
    if differ:
        differences = "; ".join(
            f"{name} is {quoted(there, 200)} there and {quoted(here, 200)} here" for name, there, here in differ
        )
        raise ValueError(f"the cache at {directory} was built with other settings: {differences}. {remedy}")


def files(entries: Sequence[Mapping[str, Any]], tfrecords: bool = True) -> list[Mapping[str, Any]]:
    """Returns all file entries of the given split entries; without TFRecords, only the files that training reads."""
    found = [file for part in entries for file in (part["index"], *part["shards"]) if file]
    return found + [file for part in entries if tfrecords for file in part.get("tfrecords", ())]
