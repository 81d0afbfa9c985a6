"""Copying and checking the files of a cached split, by all processes of a run together.

Processes that see the same files (those of one machine, or all of them on a shared disk) divide the hashing among
themselves, and the copying where files are remote. An error that any process finds is raised in all of them.
"""

import hashlib
import json
import os
import tempfile
import uuid
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
import tensorflow as tf
from etils import epath
from jax.experimental import multihost_utils

from distill.data.cache import manifest
from distill.tasks import registration
from distill.tasks.feeding import RecordDataSource

_REMEDY = "Build another with `distill cache`, or set CACHE_DIR=None."
_MACHINE = "machine"  # a file next to the copies; processes that read the same content share the copies
_ROOM = 8192  # bytes of the message that a process sends to the others
Result = TypeVar("Result")


def entry_of(directory: epath.PathLike, task_name: str, split: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the manifest of a cache, and its entry of one split of a registered task. Reads no other file.

    Raises:
      ValueError: no cache, other settings, or no such task or split.
    """
    found = manifest.read(directory)
    entry = manifest.entry(directory, found, task_name, split)
    manifest.check_settings(directory, found["settings"], registration.settings_of(task_name), _REMEDY)
    return found, entry


def opened(directory: epath.PathLike, task_name: str, split: str) -> tuple[epath.Path, dict[str, Any], dict[str, Any]]:
    """Returns a local folder with the checked files of one split, the manifest, and its entry of the split.

    Every process of the run must call this with the same arguments and in the same order; the processes synchronise.

    Raises:
      ValueError: no cache, other settings, or a damaged cache; the same error in every process.
    """

    def look() -> tuple[epath.Path, str, dict[str, Any], dict[str, Any]]:
        found, entry = entry_of(directory, task_name, split)
        return *_place(epath.Path(directory), found), found, entry

    (root, here, found, entry), places = _together(look, lambda looked: looked[1])
    group = [index for index, place in enumerate(places) if place == here]
    every = [*manifest.files([entry], tfrecords=False), found["rows"][split]["input_keys"]]
    files = every[group.index(jax.process_index()) :: len(group)]
    _together(lambda: _check(epath.Path(directory), root, files), lambda _: "")
    return root, found, entry


def check_rows(directory: epath.PathLike, sha256: str, source: Any, split: str) -> None:
    """Checks that the files of a split, if they exist, hold the rows that a cache was built from; reads them.

    Every process of the run must call this; the processes synchronise. Training from a cache does not need the files, so
    those that are missing or cannot be read are not checked. Nor are sources that may download their data.

    Args:
      directory: of the cache, for the message.
      sha256: the cache's hash of the rows.
      source: of the task.
      split: SeqIO split.

    Raises:
      ValueError: other rows, or a file that holds none that can be used; the same error in every process.
    """

    def compare() -> None:
        if not isinstance(source, RecordDataSource) or getattr(source.dataset.source, "may_download", False):
            return
        try:
            here = source.files_sha256(split)
        except (OSError, tf.errors.OpError):
            return
        if here != sha256:
            raise ValueError(
                f"the files of split {split!r} hold other rows than the cache at {directory} was built from: expected the "
                f"hash {sha256[:12]}…, got {here[:12]}…. Restore them, or move them away, since training from a cache "
                f"does not need them. {_REMEDY}"
            )

    _together(compare, lambda _: "")


def _together(call: Callable[[], Result], as_text: Callable[[Result], str]) -> tuple[Result, list[str]]:
    """Calls ``call`` in every process; returns its own result and all processes' ``as_text`` texts. Errors are shared."""
    if jax.process_count() == 1:
        result = call()
        return result, [as_text(result)]
    results, message = [], {}
    try:
        results.append(call())
        message["text"] = as_text(results[0])
    except Exception as error:  # raised below, by all processes
        message["error"] = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        message["error"] = message["error"][: _ROOM // 16]  # a character is at most 12 bytes of JSON
    text = json.dumps(message).encode()
    gathered = multihost_utils.process_allgather(np.frombuffer(text.ljust(_ROOM), np.uint8))
    messages = [json.loads(row.tobytes()) for row in gathered]
    for index, other in enumerate(messages):
        if "error" in other:
            raise ValueError(f"{other['error']} (found by process {index} of {len(messages)})")
    return results[0], [other["text"] for other in messages]


def _place(directory: epath.Path, found: Mapping[str, Any]) -> tuple[epath.Path, str]:
    """The folder of the local files, and a text that is equal in all processes that see the same files."""
    if manifest.is_local(directory):
        # Inode and change time are equal for all processes that see this file; those of another copy differ.
        stat = os.stat(directory / manifest.FILE)
        return directory, f"{stat.st_ino} {stat.st_ctime_ns}"
    digest = hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()
    root = epath.Path(tempfile.gettempdir()) / f"distill-cache-{digest[:16]}"
    root.mkdir(parents=True, exist_ok=True)
    handle, own = tempfile.mkstemp(dir=os.fspath(root))
    with os.fdopen(handle, "w") as file:
        file.write(uuid.uuid4().hex)
    try:
        os.link(own, root / _MACHINE)  # the first process wins
    except FileExistsError:
        pass
    finally:
        os.unlink(own)
    return root, (root / _MACHINE).read_text()


def _check(directory: epath.Path, root: epath.Path, files: list[Mapping[str, Any]]) -> None:
    """Raises ValueError unless all these files match their entries; copies those that are missing in ``root``."""
    for file in files:
        path = root / file["file"]
        if root != directory and not path.exists():
            _copy(directory / file["file"], path, file)
        else:
            manifest.check_file(path, file)


def _copy(source: epath.Path, path: epath.Path, file: Mapping[str, Any]) -> None:
    if not source.exists():
        manifest.check_file(source, file)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Several runs on a machine may copy at once. Each writes its own temporary file and renames it when it is complete.
    handle, partial = tempfile.mkstemp(dir=os.fspath(path.parent))
    os.close(handle)
    try:
        try:
            source.copy(partial, overwrite=True)
        except Exception as error:  # of TensorFlow or the operating system
            raise ValueError(f"cannot copy {source} to {path.parent}: {error}") from error
        try:
            manifest.check_file(epath.Path(partial), file)
        except ValueError:
            raise ValueError(
                f"the cache is damaged: {source} does not match {manifest.FILE}; delete the folder and build it again"
            ) from None
        os.replace(partial, path)
    except BaseException:
        os.unlink(partial)
        raise
