"""Durable storage of replies.

An SQLite file in WAL mode with full synchronisation: a commit is on disk when it returns. One thread
writes; all replies that arrive during a commit share the next one, so a slow disk costs latency but not throughput. The
process that opens the file locks it, so that two concurrent jobs never pay for the same request.
"""

import asyncio
import contextlib
import os
import pathlib
import queue
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from typing import Any

from distill.teacher.clients.replies import Reply

_LAYOUT = 1
_APPLICATION = 0x44535253  # "DSRS", in the file's header
_AT_ONCE = 500


class StoreError(ValueError):
    """The file cannot be used as a reply store: wrong type or version, damaged, or in use."""


class ReplyStore:
    """Replies by request key. Use as a context manager.

    Args:
      path: the file, created if missing. ``:memory:`` stores nothing on disk.

    Raises:
      StoreError: the file is not a reply store, or another process has it open.
    """

    def __init__(self, path: str | pathlib.Path):
        self.path = str(path)
        if self.path != ":memory:":
            pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
        self._connection = self._open()
        self._lock = threading.Lock()
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._writer: threading.Thread | None = None

    def _check_own(self) -> None:
        """Raises :class:`StoreError` if the file is another database, which stays as it is, with its journal mode.

        Replies in the journal beside the file are read, too: a job that was killed may have written all to it.
        """
        if self.path == ":memory:" or not os.path.exists(self.path) or not os.path.getsize(self.path):
            return
        mode = "mode=ro" if os.path.exists(f"{self.path}-wal") else "immutable=1"  # which makes no files beside it
        uri = f"{pathlib.Path(self.path).absolute().as_uri()}?{mode}"
        with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=0.5)) as connection:
            _check(connection, self.path)

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=0.5)
        try:
            self._check_own()
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("BEGIN IMMEDIATE")
            if not _check(connection, self.path):
                connection.execute(f"PRAGMA application_id = {_APPLICATION}")
                connection.execute(f"PRAGMA user_version = {_LAYOUT}")
                connection.execute(
                    "CREATE TABLE replies (key TEXT PRIMARY KEY, record TEXT, teacher TEXT, sample INTEGER, reply TEXT)"
                )
                connection.execute("CREATE TABLE notes (name TEXT PRIMARY KEY, value TEXT)")
            connection.execute("COMMIT")
        except sqlite3.DatabaseError as error:
            connection.close()
            if "locked" in str(error):
                raise StoreError(
                    f"{self.path} is in use by another run; wait for it, or set another store for this run"
                ) from error
            raise StoreError(f"{self.path} cannot be used as a reply store: {error}") from error
        except StoreError:
            connection.close()
            raise
        return connection

    def __enter__(self) -> "ReplyStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Writes pending replies and closes the file."""
        if self._writer is not None:
            self._queue.put(None)
            self._writer.join()
            self._writer = None
        with self._lock:
            self._connection.close()

    def __len__(self) -> int:
        with self._lock:
            return int(self._connection.execute("SELECT count(*) FROM replies").fetchone()[0])

    def find(self, keys: Iterable[str]) -> dict[str, Reply]:
        """The stored replies among ``keys``, by key."""
        wanted = list(dict.fromkeys(keys))
        found: dict[str, Reply] = {}
        for start in range(0, len(wanted), _AT_ONCE):
            part = wanted[start : start + _AT_ONCE]
            marks = ",".join("?" * len(part))
            with self._lock:
                rows = self._connection.execute(
                    f"SELECT key, reply FROM replies WHERE key IN ({marks})", part
                ).fetchall()
            found.update((key, Reply.from_json(key, text)) for key, text in rows)
        return found

    def __iter__(self) -> Iterator[tuple[str, str, int, Reply]]:
        """``(record id, teacher, first sample, reply)`` of every reply, in the order of arrival."""
        last = 0
        while True:
            with self._lock:
                rows = self._connection.execute(
                    "SELECT rowid, key, record, teacher, sample, reply FROM replies WHERE rowid > ? ORDER BY rowid LIMIT ?",
                    (last, _AT_ONCE),
                ).fetchall()
            if not rows:
                return
            last = rows[-1][0]
            for _, key, record, teacher, sample, text in rows:
                yield record, teacher, sample, Reply.from_json(key, text)

    async def put(self, reply: Reply, *, record: str, teacher: str, sample: int = 0) -> None:
        """Returns once the reply is on disk. An existing key keeps its first reply."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        if self._writer is None:
            self._writer = threading.Thread(target=self._write, name="reply-store", daemon=True)
            self._writer.start()
        names = [text.encode("utf-8", "replace").decode() for text in (record, teacher)]
        self._queue.put(((reply.key, *names, sample, reply.to_json()), loop, done))
        await done

    def note(self, name: str, value: str | None) -> None:
        """Stores a short text under a name, durably; None deletes it."""
        with self._lock:
            if value is None:
                self._connection.execute("DELETE FROM notes WHERE name = ?", (name,))
            else:
                self._connection.execute("INSERT OR REPLACE INTO notes VALUES (?, ?)", (name, value))

    def notes(self, prefix: str = "") -> list[tuple[str, str]]:
        """``(name, text)`` of all notes whose names begin with ``prefix``."""
        with self._lock:
            rows = self._connection.execute("SELECT name, value FROM notes ORDER BY name").fetchall()
        return [(name, value) for name, value in rows if name.startswith(prefix)]

    def _write(self) -> None:
        closing = False
        while not closing:
            waiting = [self._queue.get()]
            while True:
                try:
                    waiting.append(self._queue.get_nowait())
                except queue.Empty:
                    break
            closing = None in waiting
            waiting = [item for item in waiting if item is not None]
            if not waiting:
                continue
            error: BaseException | None = None
            try:
                with self._lock:
                    self._connection.execute("BEGIN")
                    self._connection.executemany(
                        "INSERT OR IGNORE INTO replies VALUES (?, ?, ?, ?, ?)", [row for row, _, _ in waiting]
                    )
                    self._connection.execute("COMMIT")
            except BaseException as caught:  # errors such as a full disk are raised in the waiting tasks
                error = StoreError(f"{self.path}: the reply could not be written: {caught}")
                with self._lock:
                    if self._connection.in_transaction:
                        self._connection.execute("ROLLBACK")
            for _, loop, done in waiting:
                with contextlib.suppress(RuntimeError):  # the event loop of the waiting task is closed
                    loop.call_soon_threadsafe(_settle, done, error)


class StoredReplies:
    """The replies of a store, read when they are needed: a job's memory does not grow with its replies.

    Args:
      store: the open store.
    """

    _RECENT = 64

    def __init__(self, store: ReplyStore):
        self._store = store
        self._recent: dict[str, Reply] = {}  # of the row being read, which is looked up several times

    def get(self, key: str) -> Reply | None:
        """The reply of the request ``key``; None without one."""
        found = self._recent.get(key)
        if found is None and (found := self._store.find([key]).get(key)) is not None:
            if len(self._recent) >= self._RECENT:
                self._recent.clear()
            self._recent[key] = found
        return found

    def __getitem__(self, key: str) -> Reply:
        found = self.get(key)
        if found is None:
            raise KeyError(key)
        return found

    def __contains__(self, key: str) -> bool:
        return self.get(key) is not None


def _check(connection: sqlite3.Connection, path: str) -> int:
    """Returns the number of tables. Raises :class:`StoreError` if there are any, and not those of a reply store."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (layout,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if tables and application != _APPLICATION:
        raise StoreError(f"{path} is an SQLite file, but not a reply store")
    if tables and layout != _LAYOUT:
        raise StoreError(f"{path} has layout {layout}; expected {_LAYOUT}")
    return int(tables)


def _settle(done: "asyncio.Future[None]", error: BaseException | None) -> None:
    if done.done():
        return
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)
