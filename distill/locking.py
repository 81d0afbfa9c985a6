"""One process at a time: locks for directories and output files, on local disks, shared file systems and ``gs://``.

On file systems the lock is filelock's :class:`filelock.SoftFileLease`: a file that names host, process and the process's
start, and that the holder touches at intervals. A dead process of this machine is recognised by its number and start
time; the lock of another machine expires when it was not touched for ``LEASE`` seconds of the waiting process's own
clock, so the machines' clocks need not agree. Object stores have no exclusive creation through epath, so there the
holder writes a record, waits, and holds the lock if the record is still its own.
"""

import contextlib
import datetime
import json
import os
import secrets
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import filelock
from etils import epath

LEASE = 60.0  # seconds without a sign of life after which another machine's lock is taken over
HEARTBEAT = 10.0  # seconds between signs of life
_SETTLE = 2.0  # seconds in which two processes that write the same object at once see which write came last
_POLL = 0.2
_MARKER = b"filelock/"  # the first bytes of a lock file


class Locked(ValueError):
    """Another process holds the lock; the text names it."""


class LockLost(OSError):
    """The lock that this process held was taken over or removed."""


class _Lease(Protocol):
    """A lock with signs of life. ``lost`` is the reason why it was lost, or None."""

    lost: str | None

    def acquire(self) -> bool: ...

    def release(self) -> None: ...

    def owner(self) -> dict[str, Any]: ...

    def sign_of_life(self) -> object: ...


class Lock:
    """A lock that is held.

    Attributes:
      path: of the lock file.
    """

    def __init__(self, path: epath.Path, lease: _Lease | None):
        self.path, self._lease = path, lease

    def check(self) -> None:
        """Raises :class:`LockLost` if the lock is no longer this process's; call it before overwriting guarded files."""
        if self._lease is not None and self._lease.lost:
            raise LockLost(
                f"the lock {self.path} was lost ({self._lease.lost}): another process may be writing here; this one stops"
            )


def of_directory(directory: epath.PathLike) -> epath.Path:
    """The lock file of a directory, inside it."""
    return epath.Path(directory) / ".lock"


def owner_file(directory: epath.PathLike) -> Path:
    """The file that names the process with a directory's lock; its time is when the lock was taken."""
    return _owner_file(Path(os.fspath(of_directory(directory))))


def _owner_file(lock: Path) -> Path:
    return lock.with_name(lock.name + ".owner")


def of_output(output: epath.PathLike) -> epath.Path:
    """The lock file of an output file, or of a folder that has to be new or empty, beside it."""
    output = epath.Path(output)
    return output.with_name(output.name + ".lock")


@contextlib.contextmanager
def held(path: epath.PathLike, what: str, remedy: str = "") -> Iterator[Lock]:
    """Holds a lock; see :func:`of_directory` and :func:`of_output`.

    The lock of a process of this machine that is alive is refused within a second; that of another machine once it shows
    a sign of life, after at most ``HEARTBEAT`` seconds, and it is taken over if it shows none for ``LEASE`` seconds.

    Args:
      path: the lock file; its folder is made.
      what: the locked thing, for the message.
      remedy: an alternative to waiting, for the message, such as ``choose another MODEL_DIR``.

    Raises:
      Locked: another process holds it; names the host, the process and since when.
      ValueError: the file is no lock, as ``uv.lock`` beside an output ``uv``.
      OSError: the lock file cannot be written.
    """
    path = epath.Path(path)
    _check_own(path, what)
    lease: _Lease = _ObjectLease(path) if "://" in str(path) else _FileLease(path)
    _acquire(lease, what, remedy)
    try:
        yield Lock(path, lease)
    finally:
        lease.release()


@contextlib.contextmanager
def held_together(path: epath.PathLike, what: str, remedy: str = "") -> Iterator[Lock]:
    """:func:`held` by process 0 of a multi-process JAX run for all of them; each raises :class:`Locked` if it cannot."""
    import jax

    if jax.process_count() == 1:
        with held(path, what, remedy) as lock:
            yield lock
        return
    from jax.experimental import multihost_utils

    with contextlib.ExitStack() as stack:
        refusal, lock = "", Lock(epath.Path(path), None)
        if jax.process_index() == 0:
            try:
                lock = stack.enter_context(held(path, what, remedy))
            except (Locked, OSError) as error:
                refusal = str(error) or type(error).__name__
        refusal = _broadcast(refusal, multihost_utils.broadcast_one_to_all)
        if refusal:
            raise Locked(refusal)
        yield lock


def wait_for_all(what: str) -> None:
    """Returns when all processes of a multi-process JAX run have called this with the same ``what``."""
    import jax

    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(what)


def _broadcast(text: str, broadcast: Any) -> str:
    """Process 0's text, on every process."""
    import numpy as np

    buffer = np.zeros(2048, np.uint8)
    data = text.encode()[: len(buffer)]
    buffer[: len(data)] = np.frombuffer(data, np.uint8)
    return bytes(np.asarray(broadcast(buffer))).rstrip(b"\0").decode("utf-8", "ignore")


def holder(path: epath.PathLike) -> dict[str, Any] | None:
    """The process that holds the lock of a file system: host, pid and since when, as far as known; None if none does.

    Does not wait. The age of another machine's sign of life is measured by the clock of the file system.
    """
    file = Path(os.fspath(path))
    try:
        beat = file.stat().st_mtime
        owner = _record(epath.Path(_owner_file(file)))
        if owner.get("machine") == _machine() and owner.get("started") is not None:
            return owner if _started(int(owner["pid"])) == owner["started"] else None
        return owner if _now(file.parent) - beat < LEASE else None
    except FileNotFoundError:
        return None


def _now(folder: Path) -> float:
    """The time by the clock of a folder's file system; this machine's where the folder cannot be written."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".clock") as file:
            return os.stat(file.name).st_mtime
    except OSError:
        return time.time()


def _acquire(lease: _Lease, what: str, remedy: str) -> None:
    seen = lease.sign_of_life()
    begun = time.monotonic()
    deadline = begun + 2 * LEASE + 10
    while not lease.acquire():
        owner, now = lease.owner(), lease.sign_of_life()
        same_machine = owner.get("machine") == _machine() and time.monotonic() - begun > 5 * _POLL
        moved = seen is not None and now is not None and now != seen
        if same_machine or moved or time.monotonic() > deadline:
            raise Locked(_refusal(owner, what, remedy))
        seen = now if now is not None else seen
        time.sleep(_POLL)


def _check_own(path: epath.Path, what: str) -> None:
    """Raises ValueError if the files of a lock hold something else: they would be removed as those of a damaged lock."""
    try:
        content = path.read_bytes() if path.exists() else b""
    except IsADirectoryError:
        content = b"a folder"
    except OSError:  # released meanwhile, or of another user
        return
    # A marker of filelock, which may be incomplete; in its first format the number of a process comes first.
    own = content.startswith(_MARKER[: len(content)]) or content.split(b"\n")[0].strip().isdigit()
    if not own and not ("://" in str(path) and "token" in _record(path)):
        raise ValueError(
            f"{path} is the lock file of {what}, and holds something else, which would be lost: move it away, or choose "
            "another name"
        )
    if "://" in str(path):
        return
    owner, content = _owner_file(Path(os.fspath(path))), b""
    with contextlib.suppress(OSError):  # there is none, or it was released meanwhile
        content = owner.read_bytes()
    if content and b'"machine"' not in content:
        raise ValueError(
            f"{owner} names the process with the lock of {what}, and holds something else, which would be lost: move it "
            "away, or choose another name"
        )


def _refusal(owner: dict[str, Any], what: str, remedy: str) -> str:
    who = f"process {owner['pid']}" if "pid" in owner else "another process"
    if owner.get("pid") == os.getpid() and owner.get("machine") == _machine():
        who = f"this process ({owner['pid']})"
    host = f" on {owner['host']}" if "host" in owner else ""
    since = f" since {owner['since']}" if "since" in owner else ""
    return f"{what} is in use by {who}{host}{since}; wait until it ends" + (f", or {remedy}" if remedy else "")


def _machine() -> str:
    """Identifies the scope in which process numbers are unique: one boot of a machine, and one PID namespace."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _started(pid: int) -> str | None:
    """When a process of this machine was started, in the kernel's ticks; None if that is unknown."""
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return None


def _me() -> dict[str, Any]:
    now = datetime.datetime.now(datetime.UTC)
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "since": now.strftime("%Y-%m-%d %H:%M:%S UTC"),
        "machine": _machine(),
        "started": _started(os.getpid()),
    }


def _record(path: epath.Path) -> dict[str, Any]:
    """A JSON object; empty if there is no file, or if it holds no object."""
    try:
        found = json.loads(path.read_text()) if path.exists() else {}
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


class _FileLease:
    """On file systems. A second file, ``<lock>.owner``, records in JSON who holds it and since when."""

    def __init__(self, path: epath.Path):
        self._path = Path(os.fspath(path))
        self.lost: str | None = None
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._owner = _owner_file(self._path)
        self._lease = filelock.SoftFileLease(
            self._path,
            lease_duration=LEASE,
            heartbeat_interval=HEARTBEAT,
            on_compromise=self._compromised,
            thread_local=False,
        )

    def _compromised(self, compromise: Any) -> None:
        self.lost = compromise.reason

    def acquire(self) -> bool:
        try:
            self._lease.acquire(timeout=_POLL, poll_interval=_POLL / 4)
        except (filelock.Timeout, filelock.LeaseSettingsMismatch):  # held; or by a version with other times
            self._mark_empty()
            return False
        part = self._owner.with_name(f"{self._owner.name}.{os.getpid()}")
        try:
            part.write_text(json.dumps(_me()) + "\n")
            part.replace(self._owner)
        except BaseException:
            self._lease.release()
            raise
        return True

    def _mark_empty(self) -> None:
        """Makes an empty lock file, which filelock takes for a held lock for ever, a damaged one, which it takes over.

        A process that is killed after it has created the file and before it has written to it leaves one. It is changed
        once it is as old as a lock that another machine's process has left. If its process writes meanwhile, nothing
        changes: a lock begins with the same bytes.
        """
        with contextlib.suppress(OSError):
            found = self._path.stat()
            if found.st_size == 0 and _now(self._path.parent) - found.st_mtime >= LEASE:
                handle = os.open(self._path, os.O_WRONLY | os.O_NOFOLLOW)
                try:
                    os.pwrite(handle, _MARKER, 0)
                    os.utime(handle, ns=(found.st_atime_ns, found.st_mtime_ns))  # it is no sign of life
                finally:
                    os.close(handle)

    def release(self) -> None:
        if not self.lost:
            self._owner.unlink(missing_ok=True)
        self._lease.release()

    def owner(self) -> dict[str, Any]:
        found, pid = _record(epath.Path(self._owner)), self._lease.pid
        if found.get("pid") != pid:  # written by an earlier holder
            return {} if pid is None else {"pid": pid}
        return found

    def sign_of_life(self) -> object:
        try:
            return self._path.stat().st_mtime_ns
        except OSError:
            return None


class _ObjectLease:
    """On object stores, through epath."""

    def __init__(self, path: epath.Path):
        self._path, self._token = path, secrets.token_hex(8)
        self.lost: str | None = None
        self._seen: tuple[object, float] | None = None
        self._stop = threading.Event()
        self._mine: dict[str, Any] = {}
        self._thread = threading.Thread(target=self._live, name="lock", daemon=True)

    def acquire(self) -> bool:
        there = _record(self._path)
        if there and not self._is_dead(there):
            return False
        self._mine = _me() | {"token": self._token, "beat": 0}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps(self._mine) + "\n")
        time.sleep(_SETTLE)
        if _record(self._path).get("token") != self._token:
            return False
        self._thread.start()
        return True

    def _is_dead(self, there: dict[str, Any]) -> bool:
        if there.get("machine") == _machine() and there.get("started") is not None:
            return _started(int(there["pid"])) != there["started"]
        life = (there.get("token"), there.get("beat"))
        if self._seen is None or self._seen[0] != life:
            self._seen = (life, time.monotonic())
        return time.monotonic() - self._seen[1] >= LEASE

    def _live(self) -> None:
        while not self._stop.wait(HEARTBEAT):
            with contextlib.suppress(Exception):  # a store that is briefly unavailable; the next beat tries again
                if _record(self._path).get("token", self._token) != self._token:
                    self.lost = "another process wrote its own"
                    return
                self._mine["beat"] += 1
                self._path.write_text(json.dumps(self._mine) + "\n")

    def release(self) -> None:
        self._stop.set()
        self._thread.join()  # a write after the removal would recreate the lock
        if _record(self._path).get("token") == self._token:
            self._path.unlink(missing_ok=True)

    def owner(self) -> dict[str, Any]:
        return _record(self._path)

    def sign_of_life(self) -> object:
        there = _record(self._path)
        return (there["token"], there.get("beat")) if "token" in there else None
