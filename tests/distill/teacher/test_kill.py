"""kill -9 at any moment: no finished request is paid twice, none is missing, and the output is whole or not there."""

import asyncio
import contextlib
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest

from distill.teacher import ReplyStore
from tests.distill.teacher.stub_server import serving

ROWS = 1000
CONCURRENCY = 16
VICTIM = pathlib.Path(__file__).with_name("kill_victim.py")


class Victim:
    """A job that can be started and killed again and again."""

    def __init__(self):
        root = pathlib.Path(__file__).parents[3]
        self.process = subprocess.Popen(
            [sys.executable, str(VICTIM)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(root)},
        )
        assert self.line() == "ready"

    def line(self):
        return self.process.stdout.readline().strip()

    def start(self, **arguments):
        self.process.stdin.write(json.dumps(arguments) + "\n")
        self.process.stdin.flush()
        return int(self.line())

    def ended(self):
        return int(self.line())

    def close(self):
        self.process.stdin.close()
        self.process.wait(10)


@pytest.fixture
def victim():
    victim = Victim()
    yield victim
    victim.close()


def finished(path):
    with ReplyStore(path) as store:
        assert store._connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return {record for record, _, _, reply in store if reply.candidates[0].text}


def test_killed_twenty_times(tmp_path, victim):
    lot = random.Random(os.environ.get("KILL_SEED", "twenty"))
    output, store = tmp_path / "out.jsonl", tmp_path / "out.replies.sqlite"

    async def behaviour(call):
        await asyncio.sleep(0.005)
        number = int(call.question.split("number ")[1].split("\n")[0])
        return call.reply(f"Message {number} asks for money. So the answer is billing.")

    with serving(behaviour) as stub:
        arguments = {"url": stub.url, "output": str(output), "rows": ROWS}
        done: set[str] = set()
        kills = mid_flight = 0
        while kills < 20:
            before = len(stub.calls)
            pid = victim.start(**arguments)
            if kills % 5 == 0:
                time.sleep(lot.uniform(0, 0.1))  # perhaps before the first request
            else:
                target = before + lot.randrange(1, 60)
                deadline = time.monotonic() + 10
                while len(stub.calls) < target and time.monotonic() < deadline:
                    time.sleep(0.001)
                time.sleep(lot.uniform(0, 0.01))
            os.kill(pid, signal.SIGKILL)
            assert victim.ended() == -signal.SIGKILL
            kills += 1
            mid_flight += len(stub.calls) > before

            now = finished(store) if store.exists() else set()
            assert done <= now, "a finished request got lost"
            asked_again = {
                f"r{int(call.question.split('number ')[1].split(chr(10))[0])}" for call in stub.calls[before:]
            }
            assert not asked_again & done, "a finished request was paid twice"
            assert not output.exists()
            done = now
        assert mid_flight >= 12 and 100 < len(done) < ROWS

        before = len(stub.calls)
        victim.start(**arguments)
        assert victim.ended() == 0
        assert len(stub.calls) - before == ROWS - len(done)
        # Only what was on its way when the process died can have been paid without being kept.
        assert len(stub.calls) <= ROWS + kills * CONCURRENCY

        rows = [json.loads(line) for line in output.read_text().splitlines()]
        assert [row["id"] for row in rows] == [f"r{n}" for n in range(ROWS)]
        assert all(row["rationales"] == [f"Message {n} asks for money."] for n, row in enumerate(rows))

        # Nothing is left to ask; killed while it writes, it leaves the old output or the new one.
        whole = output.read_bytes()
        calls = len(stub.calls)
        for _ in range(4):
            pid = victim.start(**arguments)
            time.sleep(lot.uniform(0.0, 0.3))
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            victim.ended()
            assert output.read_bytes() == whole
        assert len(stub.calls) == calls
