"""An OpenAI-compatible server on loopback that answers, or misbehaves, as a test configures it. Runs in its own thread."""

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from aiohttp import web

Behaviour = Callable[["Call"], Awaitable[web.StreamResponse]]


class Call:
    """One request as the server sees it.

    Attributes:
      number: counts from 0 over the server's life.
      body: its JSON.
      request: the HTTP request.
    """

    def __init__(self, number: int, body: Any, request: web.Request):
        self.number, self.body, self.request = number, body, request
        self.time = time.monotonic()

    @property
    def question(self) -> str:
        """The last message, or the prompt."""
        return self.body["messages"][-1]["content"] if "messages" in self.body else self.body["prompt"]

    def completion(self, *texts: str, finish: str = "stop", usage: bool = True) -> dict[str, Any]:
        """A well-formed response body."""
        chat = "messages" in self.body
        choices = [
            {"index": n, "finish_reason": finish}
            | ({"message": {"role": "assistant", "content": text}} if chat else {"text": text})
            for n, text in enumerate(texts)
        ]
        body = {
            "id": f"reply-{self.number}",
            "object": "chat.completion" if chat else "text_completion",
            "created": 1,
            "model": self.body["model"] + "-as-served",
            "choices": choices,
        }
        read = len(json.dumps(self.body)) // 4
        written = sum(len(text.split()) for text in texts)
        if usage:
            body["usage"] = {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
        return body

    def reply(self, *texts: str, **how: Any) -> web.Response:
        """A well-formed response."""
        return web.json_response(self.completion(*texts, **how))


def error(status: int, message: str = "trouble", headers: dict[str, str] | None = None, **fields: Any) -> web.Response:
    """An error as OpenAI-compatible servers word it."""
    return web.json_response({"error": {"message": message, **fields}}, status=status, headers=headers)


class Stub:
    """A running server.

    Attributes:
      url: what to give as ``base_url``.
      calls: every request to a completion endpoint, in order of arrival.
      most_at_once: the most requests under way at the same time.
    """

    def __init__(self, behaviour: Behaviour, routes: list[web.RouteDef] | None = None):
        self.behaviour = behaviour
        self.calls: list[Call] = []
        self.most_at_once = self._active = 0
        self._routes = routes or []
        self._started = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="stub-server", daemon=True)
        self.url = ""

    def start(self) -> "Stub":
        self._thread.start()
        assert self._started.wait(10)
        return self

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._started.set()
        self._loop.run_forever()
        self._loop.run_until_complete(self._runner.cleanup())
        left = asyncio.all_tasks(self._loop)
        for task in left:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        self._loop.close()

    async def _serve(self) -> None:
        app = web.Application(client_max_size=2**28)
        app.add_routes(
            [
                web.post("/v1/chat/completions", self._handle),
                web.post("/v1/completions", self._handle),
                *self._routes,
            ]
        )
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        port = site._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/v1"

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        call = Call(len(self.calls), await request.json(), request)
        self.calls.append(call)
        self._active += 1
        self.most_at_once = max(self.most_at_once, self._active)
        try:
            return await self.behaviour(call)
        finally:
            self._active -= 1

    def stop(self) -> None:
        """Closes the server and all its connections; what comes later is refused."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)


@contextlib.contextmanager
def serving(behaviour: Behaviour, routes: list[web.RouteDef] | None = None) -> Iterator[Stub]:
    """A server for the length of a ``with`` block."""
    stub = Stub(behaviour, routes).start()
    try:
        yield stub
    finally:
        stub.stop()


def drop(call: Call) -> None:
    """Cuts the connection."""
    transport = call.request.transport
    if transport is not None:
        transport.abort()
