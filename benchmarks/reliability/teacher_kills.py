"""SIGKILL to ``distill extract`` at random moments: no reply is lost, and only what was in flight is paid twice.

    python -m benchmarks.reliability.teacher_kills --kills=20

A teacher on loopback counts every request that it answers, by question. After each kill the store is opened: every reply
that an earlier attempt had stored must be in it, and none of them may have been requested again.
"""

import argparse
import collections
import contextlib
import json
import pathlib
import random
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from benchmarks.reliability.nursery import Nursery
from benchmarks.reliability.rows import Row, finish
from benchmarks.reliability.small_run import environment

ROWS = 600
CONCURRENCY = 8
_LATENCY_S = 0.02
_ENDS_S = 600.0


class Teacher(ThreadingHTTPServer):
    """An OpenAI-compatible server.

    Attributes:
      url: its address.
      answered: requests by question.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        self.answered: collections.Counter[str] = collections.Counter()
        self.lock = threading.Lock()

    def handle_error(self, request: object, client_address: object) -> None:
        """A killed process resets its connections."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Teacher

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.answered[body["messages"][-1]["content"]] += 1
        time.sleep(_LATENCY_S)
        message = {"role": "assistant", "content": "It wants money back. So the answer is billing."}
        usage = {"prompt_tokens": 10, "completion_tokens": 10, "total_tokens": 20}
        choices = [{"index": 0, "finish_reason": "stop", "message": message}]
        reply = {
            "id": "x",
            "object": "chat.completion",
            "created": 1,
            "model": "stub",
            "choices": choices,
            "usage": usage,
        }
        content = json.dumps(reply).encode()
        with contextlib.suppress(OSError):  # the killed process's connection
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)


@contextlib.contextmanager
def serving() -> Iterator[Teacher]:
    """A teacher for the length of a ``with`` block."""
    server = Teacher()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def _stored(store: pathlib.Path) -> set[str]:
    """The keys of the stored replies; reads the file as SQLite recovers it."""
    if not store.exists():
        return set()
    with contextlib.closing(sqlite3.connect(store)) as connection:
        if not connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'replies'").fetchone()[0]:
            return set()
        return {key for (key,) in connection.execute("SELECT key FROM replies")}


def run(kills: int = 20, seed: int = 0) -> list[Row]:
    """One row."""
    row = Row(
        "extract loses no stored reply, and pays twice at most what was in flight",
        f"SIGKILL at a random moment of a job of {ROWS} rows, {CONCURRENCY} requests at once; the teacher counts",
    )
    started, lot = time.monotonic(), random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="teacher-kills-") as temporary, serving() as teacher:
        folder = pathlib.Path(temporary)
        inputs, store, output = folder / "rows.jsonl", folder / "replies.sqlite", folder / "out.jsonl"
        inputs.write_text("".join(json.dumps({"id": f"r{n}", "input": f"message {n}"}) + "\n" for n in range(ROWS)))
        argv = ["extract", f"--inputs={inputs}", f"--output={output}", "--prompt=template", f"--base_url={teacher.url}"]
        argv += ["--model=stub", f"--store={store}", f"--concurrency={CONCURRENCY}"]
        with Nursery(environment(folder / "compiled"), training=False) as nursery:
            before: set[str] = set()
            while row.tried < kills:
                child, target = nursery.start(argv, folder / "log.txt"), teacher.answered.total()
                target += lot.randrange(0, ROWS // (kills + 1))
                until = time.monotonic() + lot.uniform(0.0, 20.0)
                while teacher.answered.total() < target and time.monotonic() < until and child.wait(0.001) is None:
                    pass
                time.sleep(lot.uniform(0.0, 0.05))
                row.tried += child.wait(0.001) is None
                child.kill()
                child.wait(30)
                now = _stored(store)
                if before - now:
                    row.lose(f"kill {row.tried}: {len(before - now)} stored replies are gone")
                if output.exists() and len(output.read_text().splitlines()) != ROWS:
                    row.lose(f"kill {row.tried}: the output is not whole")
                before = now
            code = nursery.start(argv, folder / "last.txt").wait(_ENDS_S)
        if code != 0:
            row.lose(f"the last attempt ended with {code}: {(folder / 'last.txt').read_text()[-600:]}")
        answered = [json.loads(line) for line in output.read_text().splitlines()] if output.exists() else []
        if [line["id"] for line in answered] != [f"r{n}" for n in range(ROWS)]:
            row.lose(f"the output has {len(answered)} rows of {ROWS}")
        twice = teacher.answered.total() - ROWS
        if twice > row.tried * CONCURRENCY:
            row.lose(f"{twice} requests were paid twice, more than {row.tried} × {CONCURRENCY} in flight")
        row.how += f"; {twice} requests paid twice, of at most {row.tried * CONCURRENCY}"
    row.seconds = time.monotonic() - started
    return [row]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    finish(run(options.kills, options.seed))


if __name__ == "__main__":
    main()
