"""The HTTP client of the OpenAI client: every attempt passes the gate and has a deadline and a size limit.

Each attempt is one ``send``, which reserves its cost, waits for admission, and reports the response to the gate.
"""

import asyncio
import contextlib
import contextvars
import email.utils
import math
import socket
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx2
import openai

from distill.teacher.clients import cost
from distill.teacher.clients.gate import Gate, GateClosedError

request_tokens: contextvars.ContextVar[float] = contextvars.ContextVar("request_tokens", default=0.0)
"""Tokens that each attempt of the current request counts against the limit per minute."""

admitted: contextvars.ContextVar[float] = contextvars.ContextVar("admitted", default=0.0)
"""When the gate admitted the last attempt of the current request, by the gate's clock."""

Response = httpx2.Response

_BUSY = (429, 503, 529)
_PATIENCE_CHECK_S = 1.0


class NotSentError(openai.OpenAIError):
    """The gate is closed. A subclass of the OpenAI client's error, as :class:`ReplyTooLargeError`."""


class ReplyTooLargeError(openai.OpenAIError):
    """The reply is too long. A subclass of the OpenAI client's error, so that the client does not retry."""


def retry_after(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """The pause in seconds that a server requests: ``Retry-After-Ms``, or ``Retry-After`` in seconds or as a date.

    Args:
      headers: response headers, by lower-case name.
      now: seconds since the epoch.

    Returns:
      A finite number ≥ 0, or None if the headers are missing or invalid.
    """
    for header, scale in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(header, "")) * scale
        except ValueError:
            continue
        return seconds if math.isfinite(seconds) and seconds >= 0 else None
    try:
        date = email.utils.parsedate_to_datetime(headers.get("retry-after", ""))
    except (TypeError, ValueError):
        return None
    return max(0.0, date.timestamp() - (time.time() if now is None else now))


def never_connected(error: BaseException) -> bool:
    """Whether a "timeout" is a lost connection: the aiohttp transport reports those as connect timeouts."""
    return isinstance(error.__cause__, httpx2.ConnectTimeout)


def never_sent(error: BaseException) -> bool:
    """Whether an attempt failed before anything was sent: connection refused, or unknown host name."""
    chain: BaseException | None = error
    for _ in range(10):
        if isinstance(chain, ConnectionRefusedError | socket.gaierror):
            return True
        chain = chain.__cause__ or chain.__context__ if chain is not None else None
    return False


class _Capped(httpx2.AsyncByteStream):
    def __init__(self, stream: Any, limit: int):
        self._stream = stream
        self._limit = limit

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for chunk in self._stream:
            size += len(chunk)
            if size > self._limit:
                raise ReplyTooLargeError(f"the reply is longer than {self._limit:,} bytes")
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()


@contextlib.asynccontextmanager
async def _deadline(gate: Gate, attempt_s: float) -> AsyncIterator[None]:
    """Raises TimeoutError in its block after ``attempt_s``, or earlier, when the gate's patience is used up."""
    loop = asyncio.get_running_loop()
    end = loop.time() + min(attempt_s, gate.patience_s)
    timer: asyncio.Handle
    async with asyncio.timeout_at(end) as timeout:

        def check() -> None:
            nonlocal timer
            left = min(end - loop.time(), gate.patience)
            if left > 0:  # other attempts may fail, or be answered, meanwhile
                timer = loop.call_later(min(left, _PATIENCE_CHECK_S), check)
            elif not timeout.expired():  # at the end, the timer of the timeout may run before this one
                timeout.reschedule(loop.time())

        timer = loop.call_soon(check)
        try:
            yield
        finally:
            timer.cancel()


def gated_client(
    gate: Gate, *, attempt_s: float, connections: int, largest_bytes: int, fast: bool | None = None
) -> httpx2.AsyncClient:
    """An HTTP client for :class:`openai.AsyncOpenAI`.

    Args:
      gate: admits every attempt and records its outcome.
      attempt_s: maximum duration of an attempt, from admission to the last byte. Attempts end earlier when the gate's
        patience is used up.
      connections: maximum number of open connections, which are reused.
      largest_bytes: a longer body raises :class:`ReplyTooLargeError`.
      fast: use aiohttp, which needs about a third less CPU per request; by default if installed.
    """
    base: Any = openai.DefaultAsyncHttpxClient
    if fast is not False:
        try:
            import aiohttp  # noqa: F401

            base = openai.DefaultAioHttpClient
        except ImportError:
            if fast:
                raise

    class GatedClient(base):
        async def send(self, request: httpx2.Request, *, stream: bool = False, **options: Any) -> httpx2.Response:
            reserved = cost.reservation.get()
            if reserved is not None and not await reserved.attempt():
                raise NotSentError("the cost cap leaves no room for another attempt")
            try:
                entered = await gate.enter(request_tokens.get())
            except GateClosedError:
                raise NotSentError("the job is stopping") from None
            admitted.set(entered)
            try:
                try:
                    response = await self._attempt(request, stream, options)
                except BaseException as error:
                    gate.failed(entered)
                    if reserved is not None and not never_sent(error):
                        reserved.failed()
                    raise
                if reserved is not None and response.status_code >= 500:
                    reserved.failed()
                if response.status_code == 429 or response.status_code >= 500:
                    gate.failed(entered)
                wait = retry_after(response.headers) if response.status_code in _BUSY else None
                if response.status_code == 429 or wait is not None:
                    gate.refused(entered, wait)
                elif response.status_code < 500:
                    gate.succeeded()
            finally:
                gate.leave()
            return response

        async def _attempt(self, request: httpx2.Request, stream: bool, options: dict[str, Any]) -> httpx2.Response:
            try:
                async with _deadline(gate, attempt_s):
                    response = await super().send(request, stream=True, **options)
                    response.stream = _Capped(response.stream, largest_bytes)
                    if not stream:
                        try:
                            await response.aread()
                        finally:
                            await response.aclose()
                return response
            except TimeoutError:
                raise httpx2.ReadTimeout(f"no complete reply within {attempt_s:g} s", request=request) from None

    return GatedClient(
        timeout=httpx2.Timeout(attempt_s, connect=min(10.0, attempt_s)),
        limits=httpx2.Limits(max_connections=connections, max_keepalive_connections=connections),
        # Bodies are small, and an uncompressed body cannot expand beyond the size limit.
        headers={"Accept-Encoding": "identity"},
    )
