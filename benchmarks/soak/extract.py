"""The leg ``extract``: a long job against a teacher on loopback, which fails some of the requests."""

import asyncio
import contextlib
import json
import math
import os
import sqlite3
import subprocess
import threading
import time
from pathlib import Path

from benchmarks.soak.commands import distill
from benchmarks.soak.sampling import Sampler, stopped

REPLIES_PER_SECOND = 50  # at most
PARALLEL = 16  # requests at the same time
LARGE_EVERY = 1000  # rows from one large row to the next


class Teacher:
    """An OpenAI-compatible server on loopback: fixed delay, one failure in 200 requests, one cut connection in 1,000.

    Attributes:
      url: its address.
      answered: replies given.
    """

    def __init__(self, delay_s: float):
        self.url, self.answered, self._delay_s, self._calls = "", 0, delay_s, 0
        self._ready = threading.Event()
        threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True).start()
        if not self._ready.wait(30):
            raise TimeoutError("the teacher on loopback did not start within 30 s")

    async def _serve(self) -> None:
        from aiohttp import web

        async def handle(request: web.Request) -> web.StreamResponse:
            body = await request.json()
            self._calls += 1
            call = self._calls
            await asyncio.sleep(self._delay_s)
            if call % 1000 == 0 and request.transport is not None:
                request.transport.abort()
            if call % 200 == 0:
                return web.json_response({"error": {"message": "busy"}}, status=503, headers={"retry-after": "1"})
            text = f"The customer of message {call} wants money back. So the answer is billing."
            self.answered += 1
            return web.json_response(
                {
                    "id": f"reply-{call}",
                    "object": "chat.completion",
                    "created": 1,
                    "model": body["model"],
                    "choices": [
                        {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
                    ],
                    "usage": {"prompt_tokens": 300, "completion_tokens": 20, "total_tokens": 320},
                }
            )

        app = web.Application(client_max_size=2**24)
        app.add_routes([web.post("/v1/chat/completions", handle)])
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        self._ready.set()
        await asyncio.Event().wait()


def run(directory: Path, sampler: Sampler, minutes: float) -> None:
    """Extracts from a teacher that answers a fixed number of requests per second, until ``minutes`` have passed."""
    teacher = Teacher(PARALLEL / REPLIES_PER_SECOND)
    inputs, output = directory / "extract.rows.jsonl", directory / "extract.records.jsonl"
    store = directory / "extract.sqlite"
    for path in (*directory.glob("extract.records*"), *directory.glob("extract.sqlite*")):
        path.unlink()
    with inputs.open("w") as file:
        for number in range(math.ceil(minutes * 60 * REPLIES_PER_SECOND * 1.25) + 1000):
            text = f"Message {number}: I was charged twice for March."
            if number % LARGE_EVERY == 0:
                text += " Please help." * 1000
            file.write(json.dumps({"id": number, "input": text, "label": "billing"}) + "\n")
    command = distill(
        "extract",
        f"--inputs={inputs}",
        f"--output={output}",
        "--prompt=template",
        "--model=soak",
        f"--base_url={teacher.url}",
        f"--concurrency={PARALLEL}",
        f"--store={store}",
    )
    environment = {**os.environ, "OPENAI_API_KEY": "none"}
    with (directory / "extract.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    sampler.started = time.monotonic()
    sampler.watch(process, 0, lambda: teacher.answered, sampler.started + 60 * minutes)
    early = process.poll() is not None
    code = stopped(process)
    with contextlib.closing(sqlite3.connect(store)) as connection:
        (stored,) = connection.execute("SELECT count(*) FROM replies").fetchone()
    right = stored == teacher.answered
    sampler.write(
        attempt=0,
        exit_code=code,
        expected=75,
        ok=code == 75 and not early and right,
        answered=teacher.answered,
        stored=stored,
    )
