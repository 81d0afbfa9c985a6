"""Digests of the files of a checkpoint step: written before the step is committed, checked when it is read.

Orbax stores no digest of array data: a flipped bit is restored as another number. ``digests.json`` in the step's folder
lists every other file with its size, SHA-256 and XXH3. A restore compares the XXH3, which detects accidental damage at
about a tenth of the processor time of SHA-256. The SHA-256 is for audits, for other tools, and for runs that choose it.
The list is written into Orbax's temporary folder, after all other files and before the commit (the rename of the folder,
or the commit file of an object store), so that a committed step always has its digests. Only steps of earlier versions,
and steps saved with ``verify=False``, have none.
"""

import asyncio
import concurrent.futures
import hashlib
import json
import os
import re
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from etils import epath
from orbax.checkpoint.path import atomicity

from distill import atomic_files, file_digests, validation
from distill.checkpoints import storage_errors
from distill.validation import quoted

FILE = "digests.json"
FORMAT, VERSION = "distill-digests", 3
# The keys of a file's entry, by version. Version 1 listed pairs of a size and a SHA-256; version 2 listed a BLAKE3 for
# restores, which is not compared any more: the SHA-256 is.
_KEYS = {
    1: ("bytes", file_digests.SHA256),
    2: ("bytes", file_digests.SHA256, "blake3"),
    VERSION: ("bytes", file_digests.SHA256, file_digests.XXH3),
}
METADATA_FILE = "_CHECKPOINT_METADATA"
# Written by Orbax at the commit, after the digests; nothing reads its content.
COMMIT_FILE = "commit_success.txt"
_NO_ARRAYS = frozenset({"_sharding", COMMIT_FILE})

_THREADS = 8
_SMALL_BYTES = 2**20
_MAX_BYTES = 256 * 2**20
_HEXADECIMAL = re.compile(r"[0-9a-f]+")
_NAMES = {file_digests.SHA256: "SHA-256", file_digests.XXH3: "XXH3"}


class Damaged(ValueError):
    """A checkpoint step cannot be trusted; the text names the step, the file and the reason in one line."""


def unreadable(folder: epath.PathLike, error: BaseException) -> OSError:
    """The error for a step that the storage or the machine cannot read now, which is no damage.

    Args:
      folder: of the step.
      error: for which :func:`distill.checkpoints.storage_errors.of_machine` finds a fault.
    """
    reason = " ".join(str(error).split())[:240]
    return OSError(
        f"checkpoint {folder} cannot be read now: {type(error).__name__}: {reason}; wait for the storage, or change the "
        "permission, and run the same command again; if it stays unreadable, move the folder away to use an older step"
    )


def chosen(verify: bool | str) -> str | None:
    """The digest that a setting selects: ``"xxh3_128"`` for True, ``"sha256"`` for itself, None for False.

    Raises:
      ValueError: another value.
    """
    if isinstance(verify, bool):
        return file_digests.XXH3 if verify else None
    if verify != file_digests.SHA256:
        raise ValueError(
            "the check of digests (verify, CHECKPOINT_DIGESTS) must be True (XXH3), 'sha256' or False (none); "
            f"got {verify!r}"
        )
    return verify


def write(folder: epath.Path) -> None:
    """Writes ``digests.json`` into the folder of a step; replaces an existing one."""
    names = sorted(_files(folder))
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        found = pool.map(lambda name: file_digests.several_of_file(folder / name, _NAMES), names)
        files = {name: {"bytes": size, **hashes} for name, (size, hashes) in zip(names, found)}
    described = {"format": FORMAT, "version": VERSION, "files": files, "sha256": _own_digest(files)}
    atomic_files.replace(folder / FILE, json.dumps(described, indent=0) + "\n")


class _Listed(NamedTuple):
    """One file in ``digests.json``: its size in bytes, and the digest to compare with its kind (``"xxh3_128"``)."""

    size: int
    kind: str
    digest: str


class Check:
    """Compares files of a step with their digests while the ``with`` block reads them.

    Small files (metadata, indices, JSON) and all sizes are compared at once, so that no parser reads a damaged one. Large
    files, which hold array data, are hashed in background threads during the block; its end waits for them. What the
    block has read is valid only after it.

    Files that ``digests.json`` does not list are ignored: no listed file refers to them.

    Args:
      folder: of the step.
      digest: ``"xxh3_128"`` or ``"sha256"``. A step of an earlier version lists no XXH3; its SHA-256 is compared.
      share: the files to compare, as a slice of all, largest first. Each process of a multi-process run takes a share.
      threads: for large files. By default, half of the processors, so that the block has the other half.

    Raises:
      ValueError: another ``digest``.
      Damaged: a file is missing, has another size or another content, or ``digests.json`` itself is damaged. At the end
        of the block, this error replaces one that the block has raised, which damage may have caused.
      OSError: the storage cannot read a file now.
    """

    def __init__(
        self,
        folder: epath.PathLike,
        digest: str = file_digests.XXH3,
        *,
        share: slice = slice(None),
        threads: int | None = None,
    ):
        if digest not in _NAMES:
            raise ValueError(f"the digest to check must be one of {', '.join(_NAMES)}; got {digest!r}")
        self.folder = epath.Path(folder)
        self.has_digests = (self.folder / FILE).exists()
        self._files = _read(self.folder, digest) if self.has_digests else {}
        local = "://" not in str(self.folder)
        self._threads = threads or (max(1, min(_THREADS, (os.cpu_count() or 1) // 2)) if local else _THREADS)
        names = sorted(self._files, key=lambda name: (-self._files[name].size, name))[share]
        self._large = [name for name in names if self._files[name].size > _SMALL_BYTES]
        self._pending: list[concurrent.futures.Future[str | None]] = []
        with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
            sizes = pool.map(self._size_fault, self._large)
            small = pool.map(self._fault, names[len(self._large) :])
            self._raise([*sizes, *small])

    def __enter__(self) -> "Check":
        self._pool = concurrent.futures.ThreadPoolExecutor(self._threads, "digests")
        self._pending = [self._pool.submit(self._fault, name) for name in self._large]
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None or issubclass(kind, Exception):
                self._raise([future.result() for future in self._pending])
        finally:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _size_fault(self, name: str) -> str | None:
        size, path = self._files[name].size, self.folder / name
        try:
            held = path.stat().length
        except OSError as error:
            return self._unread(path, error)
        return None if held == size else f"{path} holds {held} bytes, expected {size}"

    def _fault(self, name: str) -> str | None:
        if (fault := self._size_fault(name)) is not None:
            return fault
        listed, path = self._files[name], self.folder / name
        try:
            found = file_digests.several_of_file(path, (listed.kind,))[1][listed.kind]
        except OSError as error:
            return self._unread(path, error)
        wanted = f"{_NAMES[listed.kind]} {listed.digest[:12]}…"
        return None if found == listed.digest else f"{path} does not have the {wanted} that {FILE} lists"

    def _unread(self, path: epath.Path, error: OSError) -> str:
        if storage_errors.of_machine(error):
            raise unreadable(self.folder, error) from error
        return f"{path} is missing" if isinstance(error, FileNotFoundError) else f"{path} cannot be read: {error}"

    def _raise(self, faults: Sequence[str | None]) -> None:
        found = [fault for fault in faults if fault]
        if found:
            more = f" (and {len(found) - 1} more files)" if len(found) > 1 else ""
            raise Damaged(f"checkpoint {self.folder} is damaged: {found[0]}{more}")


def check(folder: epath.PathLike, digest: str = file_digests.XXH3, *, share: slice = slice(None)) -> bool:
    """Compares files of a step with their digests and waits; see :class:`Check`.

    Returns:
      Whether the step has digests. A step without them is not checked.
    """
    with Check(folder, digest, share=share, threads=_THREADS) as done:
        pass
    return done.has_digests


def of_item(folder: epath.PathLike, item: str) -> str:
    """Hashes the arrays of one item of a step, as they are stored: SHA-256, in hexadecimal.

    It is of the names and contents of the item's files, without those that hold neither arrays nor their tree: the devices
    that saved them, and Orbax's commit file. The contents are not read if ``digests.json`` lists their SHA-256.

    Args:
      folder: of the step.
      item: its folder, such as ``"params"``.

    Raises:
      Damaged: ``digests.json`` is damaged.
      OSError: a file cannot be read.
    """
    folder = epath.Path(folder)
    if (folder / FILE).exists():
        held = {name: entry.digest for name, entry in _read(folder, file_digests.SHA256).items()}
    else:
        names = _files(folder / item, f"{item}/")
        with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
            held = dict(zip(names, pool.map(lambda name: file_digests.of_file(folder / name)[1], names)))
    counted = [
        (name, digest)
        for name, digest in sorted(held.items())
        if name.startswith(f"{item}/") and name.rpartition("/")[2] not in _NO_ARRAYS
    ]
    return hashlib.sha256(json.dumps(counted).encode()).hexdigest()


def _own_digest(files: Any) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def _read(folder: epath.Path, digest: str) -> dict[str, _Listed]:
    path = folder / FILE
    try:
        if path.stat().length > _MAX_BYTES:
            raise ValueError(f"it holds more than {_MAX_BYTES} bytes")
        raw = json.loads(path.read_bytes())
        if set(raw) != {"format", "version", "files", "sha256"} or raw["format"] != FORMAT:
            raise ValueError("it is of another format")
        if type(version := raw["version"]) is not int or version not in _KEYS:
            raise ValueError(f"it is of version {version!r}, expected one of {', '.join(map(str, _KEYS))}")
        files = raw["files"]
        if not isinstance(files, dict) or raw["sha256"] != _own_digest(files):
            raise ValueError("its content does not have its own SHA-256")
        return {name: _listed(name, entry, version, digest) for name, entry in files.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OSError) as error:
        if isinstance(error, OSError) and storage_errors.of_machine(error):
            raise unreadable(folder, error) from error
        reason = " ".join(str(error).split())[:160]
        raise Damaged(f"checkpoint {folder} is damaged: {path} is not a list of digests ({reason})") from None


def _listed(name: str, entry: Any, version: int, digest: str) -> _Listed:
    if not all(validation.is_plain_name(part, 1024) for part in name.split("/")):
        raise ValueError(f"it names no file of a step: {quoted(name)}")
    expected = _KEYS[version]
    if version == 1:
        size, sha256 = entry
        entry = {"bytes": size, file_digests.SHA256: sha256}
    if digest not in expected:
        digest = file_digests.SHA256
    if set(entry) != set(expected) or type(entry["bytes"]) is not int:
        raise ValueError(f"expected {', '.join(expected)} of {quoted(name)}")
    if not all(isinstance(entry[kind], str) and _HEXADECIMAL.fullmatch(entry[kind]) for kind in expected[1:]):
        raise ValueError(f"expected digests in hexadecimal of {quoted(name)}")
    return _Listed(entry["bytes"], digest, entry[digest])


def _files(folder: epath.Path, prefix: str = "") -> list[str]:
    """Paths of all files below ``folder``, without the digests and the commit file."""
    found = []
    for path in folder.iterdir():
        if path.is_dir():
            found += _files(path, f"{prefix}{path.name}/")
        elif prefix or path.name not in (FILE, atomic_files.partial(FILE).name, COMMIT_FILE):
            found.append(f"{prefix}{path.name}")
    return found


class _WritesDigests:
    """Completes Orbax's metadata of a step, and writes the digests, before the step is committed."""

    _checkpoint_metadata_store: Any

    async def finalize(self) -> None:
        folder = self.get()  # type: ignore[attr-defined]
        if self.get_final().name.isdecimal():  # type: ignore[attr-defined]  # a step, not one of its items
            if self._checkpoint_metadata_store is not None:
                # Orbax writes the time of the commit at the commit; the digests must include it.
                await asyncio.to_thread(_finish_metadata, self._checkpoint_metadata_store, folder)
                self._checkpoint_metadata_store = None
            await asyncio.to_thread(write, folder)
        await super().finalize()  # type: ignore[misc]


def _finish_metadata(store: Any, folder: epath.Path) -> None:
    store.wait_until_finished()
    store.update(file_path=folder / METADATA_FILE, commit_timestamp_nsecs=time.time_ns())
    store.wait_until_finished()


class _RenamedWithDigests(_WritesDigests, atomicity.AtomicRenameTemporaryPath):
    """A step that is committed by a rename."""


class _CommittedWithDigests(_WritesDigests, atomicity.CommitFileTemporaryPath):
    """A step that is committed by a file, on an object store."""


def temporary_path_class(directory: epath.PathLike) -> Any:
    """The class by which an Orbax checkpoint manager of ``directory`` writes digests at each commit.

    Give it as ``CheckpointManagerOptions(temporary_path_class=…)``.
    """
    return _CommittedWithDigests if str(directory).startswith("gs://") else _RenamedWithDigests
