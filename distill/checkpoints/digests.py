"""SHA-256 digests of the files of a checkpoint step: written before the step is committed, checked when it is read.

Orbax stores no digest of array data: a flipped bit is restored as another number. ``digests.json`` in the step's folder
lists every other file with its size and SHA-256. It is written into Orbax's temporary folder, after all other files and
before the commit (the rename of the folder, or the commit file of an object store), so that a committed step always has
its digests. Only steps of earlier versions, and steps saved with ``verify=False``, have none.
"""

import asyncio
import concurrent.futures
import hashlib
import json
import time
from typing import Any

from etils import epath
from orbax.checkpoint.path import atomicity

FILE = "digests.json"
FORMAT, VERSION = "distill-digests", 1
METADATA_FILE = "_CHECKPOINT_METADATA"
# Written by Orbax at the commit, after the digests; nothing reads its content.
COMMIT_FILE = "commit_success.txt"

_THREADS = 8
_BLOCK_BYTES = 2**20
_MAX_BYTES = 256 * 2**20


class Damaged(ValueError):
    """A checkpoint step cannot be trusted; the text names the step, the file and the reason in one line."""


def write(folder: epath.Path) -> None:
    """Writes ``digests.json`` into the folder of a step; replaces an existing one."""
    names = sorted(_files(folder))
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        files = dict(zip(names, pool.map(lambda name: _digest(folder / name), names)))
    part = folder / f"{FILE}.part"
    part.write_text(json.dumps(_described(files), indent=0) + "\n")
    part.rename(folder / FILE)


def check(folder: epath.PathLike) -> bool:
    """Compares every file of a step with its digest; reads all of them, in parallel threads.

    Files that ``digests.json`` does not list are ignored: no listed file refers to them.

    Args:
      folder: of the step.

    Returns:
      Whether the step has digests. A step without them is not checked.

    Raises:
      Damaged: a file is missing, has another size or another content, or ``digests.json`` itself is damaged.
    """
    folder = epath.Path(folder)
    if not (folder / FILE).exists():
        return False
    files = _read(folder)

    def fault(name: str) -> str | None:
        size, digest = files[name]
        path = folder / name
        try:
            if not path.exists():
                return f"{path} is missing"
            held = path.stat().length
            if held != size:
                return f"{path} holds {held} bytes, expected {size}"
            if _digest(path)[1] != digest:
                return f"{path} does not have the SHA-256 {digest[:12]}… that {FILE} lists"
        except OSError as error:
            return f"{path} cannot be read: {error}"
        return None

    largest_first = sorted(files, key=lambda name: -files[name][0])
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        faults = [found for found in pool.map(fault, largest_first) if found]
    if faults:
        more = f" (and {len(faults) - 1} more files)" if len(faults) > 1 else ""
        raise Damaged(f"checkpoint {folder} is damaged: {faults[0]}{more}")
    return True


def _described(files: dict[str, tuple[int, str]]) -> dict[str, Any]:
    return {"format": FORMAT, "version": VERSION, "files": files, "sha256": _own_digest(files)}


def _own_digest(files: Any) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def _read(folder: epath.Path) -> dict[str, tuple[int, str]]:
    path = folder / FILE
    try:
        if path.stat().length > _MAX_BYTES:
            raise ValueError(f"it holds more than {_MAX_BYTES} bytes")
        raw = json.loads(path.read_bytes())
        if set(raw) != {"format", "version", "files", "sha256"} or raw["format"] != FORMAT:
            raise ValueError("it is of another format")
        if raw["version"] != VERSION:
            raise ValueError(f"it is of version {raw['version']!r}, expected {VERSION}")
        files = raw["files"]
        if not isinstance(files, dict) or raw["sha256"] != _own_digest(files):
            raise ValueError("its content does not have its own SHA-256")
        result = {}
        for name, (size, digest) in files.items():
            parts = name.split("/")
            if not all(parts) or ".." in parts or "." in parts or "\\" in name or "\0" in name:
                raise ValueError(f"it names a file outside the step: {name!r:.80}")
            if type(size) is not int or not isinstance(digest, str):
                raise ValueError(f"expected a size and a SHA-256 of {name!r:.80}")
            result[name] = (size, digest)
        return result
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OSError) as error:
        reason = " ".join(str(error).split())[:160]
        raise Damaged(f"checkpoint {folder} is damaged: {path} is not a list of digests ({reason})") from None


def _digest(path: epath.Path) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
            size += len(block)
    return size, digest.hexdigest()


def _files(folder: epath.Path, prefix: str = "") -> list[str]:
    """Paths of all files below ``folder``, without the digests and the commit file."""
    found = []
    for path in folder.iterdir():
        if path.is_dir():
            found += _files(path, f"{prefix}{path.name}/")
        elif prefix or path.name not in (FILE, f"{FILE}.part", COMMIT_FILE):
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
