"""The reply store keeps what it was given, belongs to one process at a time, and knows what it is."""

import asyncio
import contextlib
import sqlite3
import subprocess
import sys

import pytest

from distill.teacher import ReplyStore, StoreError
from distill.teacher.clients.replies import Candidate, Reply, Usage
from distill.teacher.clients.store import StoredReplies
from tests_support import files_of


def reply(n, text="because"):
    return Reply(
        f"key{n}",
        (Candidate(text), Candidate("other", "length")),
        "model",
        Usage(3, 4),
        "2025-01-01T00:00:00+00:00",
        0.5,
    )


def put(store, *replies):
    async def run():
        await asyncio.gather(*(store.put(each, record=f"r-{each.key}", teacher="t", sample=2) for each in replies))

    asyncio.run(run())


def test_replies_come_back_as_they_were(tmp_path):
    path = tmp_path / "deep" / "er" / "store.sqlite"
    odd = reply(1, "line\u2028end \ud800 half, nul \x00, ü, 🦆 and 'quotes\"; DROP TABLE replies;--")
    with ReplyStore(path) as store:
        put(store, odd, reply(2))
    with ReplyStore(path) as store:
        assert len(store) == 2
        assert store.find(["key1", "key2", "key3", "key1"]) == {"key1": odd, "key2": reply(2)}
        assert [(record, teacher, sample, each.key) for record, teacher, sample, each in store] == [
            ("r-key1", "t", 2, "key1"),
            ("r-key2", "t", 2, "key2"),
        ]


def test_the_first_reply_stays(tmp_path):
    with ReplyStore(tmp_path / "s") as store:
        put(store, reply(1, "first"))
        put(store, reply(1, "second"))
        assert store.find(["key1"])["key1"].candidates[0].text == "first"


def test_many_at_once_and_many_looked_up(tmp_path):
    with ReplyStore(tmp_path / "s") as store:
        put(store, *(reply(n) for n in range(2000)))
        assert len(store.find(f"key{n}" for n in range(5000))) == 2000
        assert len(list(store)) == 2000


def test_stored_replies_are_read_when_they_are_needed(tmp_path):
    with ReplyStore(tmp_path / "s") as store:
        replies = StoredReplies(store)
        assert replies.get("key1") is None and "key1" not in replies
        put(store, *(reply(n) for n in range(500)))
        assert replies["key1"] == reply(1)
        assert all(f"key{n}" in replies for n in range(500))
        assert len(replies._recent) <= StoredReplies._RECENT
        with pytest.raises(KeyError, match="key500"):
            replies["key500"]


def test_put_returns_when_another_connection_could_read_it(tmp_path):
    path = tmp_path / "s"
    script = (
        "import asyncio, os, sys; sys.path.insert(0, '.');"
        "from distill.teacher.clients.store import ReplyStore;"
        "from distill.teacher.clients.replies import Candidate, Reply;"
        f"store = ReplyStore({str(path)!r});"
        "asyncio.run(store.put(Reply('k', (Candidate('kept'),)), record='r', teacher='t'));"
        "os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == -9
    with ReplyStore(path) as store:
        assert store.find(["k"])["k"].candidates[0].text == "kept"


def test_a_second_process_is_told_to_wait(tmp_path):
    with ReplyStore(tmp_path / "s"), pytest.raises(StoreError, match="in use by another run"):
        ReplyStore(tmp_path / "s")


@pytest.mark.parametrize(
    "content", [b"not a database at all, but long enough to look at" * 20, b"SQLite format 3\0" + b"x" * 500]
)
def test_another_file_is_refused(tmp_path, content):
    path = tmp_path / "s"
    path.write_bytes(content)
    with pytest.raises(StoreError, match="cannot be used as a reply store"):
        ReplyStore(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize("mode", ["delete", "wal"])
@pytest.mark.parametrize("is_open", [False, True])
def test_another_database_is_refused_and_not_changed(tmp_path, mode, is_open):
    path = tmp_path / "their data?.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA journal_mode = {mode}")
        connection.execute("CREATE TABLE accounts (id)")
        connection.commit()
        if not is_open:
            connection.close()
        before = files_of(tmp_path)
        with pytest.raises(StoreError, match="not a reply store"):
            ReplyStore(path)
        after = files_of(tmp_path)
    shared = f"{path.name}-shm"  # memory that processes share
    assert after | {shared: b""} == before | {shared: b""}


def test_another_layout_is_refused(tmp_path):
    ReplyStore(tmp_path / "s").close()
    with contextlib.closing(sqlite3.connect(tmp_path / "s")) as connection:
        connection.execute("PRAGMA user_version = 99")
    before = files_of(tmp_path)
    with pytest.raises(StoreError, match="has layout 99; expected 1"):
        ReplyStore(tmp_path / "s")
    assert files_of(tmp_path) == before


def test_a_store_whose_replies_are_still_in_its_journal_is_opened(tmp_path):
    (tmp_path / "killed").mkdir()
    with ReplyStore(tmp_path / "s") as store:
        put(store, reply(1))
        for name, content in files_of(tmp_path).items():
            (tmp_path / "killed" / name).write_bytes(content)
    assert (tmp_path / "killed" / "s-wal").stat().st_size
    with ReplyStore(tmp_path / "killed" / "s") as store:
        assert store.find(["key1"]) == {"key1": reply(1)}


def test_a_write_that_fails_reaches_who_waits(tmp_path):
    with ReplyStore(tmp_path / "s") as store:
        store._connection.execute("PRAGMA max_page_count = 8")  # as a full disk
        with pytest.raises(StoreError, match="could not be written"):
            put(store, *(reply(n, "x" * 3000) for n in range(50)))
        assert len(store) == 0
        store._connection.execute("PRAGMA max_page_count = 100000")
        put(store, reply(1))
        assert len(store) == 1


def test_notes_stay(tmp_path):
    with ReplyStore(tmp_path / "s") as store:
        store.note("batch 1", "a")
        store.note("batch 2", "b")
        store.note("other", "c")
        store.note("batch 1", "changed")
    with ReplyStore(tmp_path / "s") as store:
        assert store.notes("batch") == [("batch 1", "changed"), ("batch 2", "b")]
        store.note("batch 1", None)
        assert store.notes("batch") == [("batch 2", "b")]
