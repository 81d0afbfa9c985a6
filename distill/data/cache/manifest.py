"""The manifest of a cache folder, and the check of its files against it.

DIR/manifest.json                                     the manifest; written last
DIR/<task>/1.0.0/<task>-<split>.array_record-…        examples, in SeqIO's order; each folder is a TFDS data set
DIR/<task>/1.0.0/<task>-<split>.tfrecord-…            the same examples, if requested
DIR/index/<task>-<split>.npy                          int32 [examples, slots, 3]: see :data:`INDEX_COLUMNS`
"""

import difflib
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from distill import file_digests
from distill.tasks import fingerprint

FILE = "manifest.json"
FORMAT = 1
VERSION = "1.0.0"
INDEX_COLUMNS = ("input tokens", "target tokens", "task id of the last target")


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
    try:
        manifest = json.loads(path.read_text())
        found = manifest["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no manifest of a cache: {error!r}") from None
    if found != FORMAT:
        raise ValueError(f"{path} is of format {found}; this version reads format {FORMAT}: build the cache again")
    return manifest


def entry(directory: epath.PathLike, manifest: Mapping[str, Any], task_name: str, split: str) -> dict[str, Any]:
    """Returns the manifest entry of one task and split.

    Raises:
      ValueError: the cache has no such task or split.
    """
    tasks = manifest["tasks"]
    for kind, name, known in (("task", task_name, tasks), ("split", split, tasks.get(task_name, {}))):
        if name not in known:
            near = difflib.get_close_matches(name, list(known), n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"the cache at {directory} has no {kind} {name!r}{hint} (it has {', '.join(known)})")
    return tasks[task_name][split]


def check_settings(directory: epath.PathLike, theirs: Mapping[str, Any], ours: Mapping[str, Any], remedy: str) -> None:
    """Raises ValueError, listing every setting that differs, unless a cache was built with our settings."""
    differ = fingerprint.differences(json.loads(json.dumps(theirs)), json.loads(json.dumps(ours)))
    if differ:
        differences = "; ".join(f"{name} is {there!r} there and {here!r} here" for name, there, here in differ)
        raise ValueError(f"the cache at {directory} was built with other settings: {differences}. {remedy}")


def files(entries: Sequence[Mapping[str, Any]], tfrecords: bool = True) -> list[Mapping[str, Any]]:
    """Returns all file entries of the given split entries; without TFRecords, only the files that training reads."""
    found = [file for part in entries for file in (part["index"], *part["shards"]) if file]
    return found + [file for part in entries if tfrecords for file in part.get("tfrecords", ())]
