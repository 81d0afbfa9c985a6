"""Admission of requests: adaptive concurrency and limits per minute.

The number of running requests follows the rule that TCP uses (additive increase, multiplicative decrease; Chiu &
Jain 1989, "Analysis of the increase and decrease algorithms for congestion avoidance"): it is halved when the server
answers "too many requests", and otherwise grows by about one per round trip. No request is sent during a pause that the
server requests.
"""

import asyncio
import collections
import math
import random
import time
from collections.abc import Callable

_SHORTEST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
_SLACK_S = 0.1  # how early a request may be sent, so that late timers do not reduce throughput


class GateClosedError(Exception):
    """The gate admits no more requests: the job is stopping."""


class Pace:
    """A limit per minute, spread evenly (the generic cell rate algorithm).

    Args:
      per_minute: the limit, in any unit; None for no limit.
    """

    def __init__(self, per_minute: float | None):
        if per_minute is not None and per_minute <= 0:
            raise ValueError(f"a limit per minute must be positive; got {per_minute}")
        # The rate is reduced by the slack, so that no minute exceeds the limit.
        self._seconds_each = 0.0 if per_minute is None else (60.0 + _SLACK_S) / per_minute
        self._next = float("-inf")

    def wait(self, now: float) -> float:
        """Seconds until the next request may be sent; 0 if now."""
        return max(0.0, self._next - _SLACK_S - now)

    def charge(self, now: float, amount: float) -> None:
        """Counts ``amount`` against the limit; a larger amount delays the next request longer."""
        self._next = max(self._next, now) + amount * self._seconds_each

    def correct(self, amount: float) -> None:
        """Corrects earlier charges by ``amount``, which may be negative."""
        self._next += amount * self._seconds_each


class Gate:
    """Admits requests in the order of their arrival.

    Args:
      concurrency: maximum number of running requests.
      requests_per_minute, tokens_per_minute: limits; None for none.
      patience_s: seconds without a usable reply, from the start of the first failed attempt, after which :attr:`patience`
        is used up.
      clock: a monotonic clock in seconds.
    """

    def __init__(
        self,
        concurrency: int,
        *,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        patience_s: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
    ):
        if concurrency < 1:
            raise ValueError(f"concurrency must be ≥ 1; got {concurrency}")
        self.concurrency = concurrency
        self.limit = float(concurrency)
        self.active = 0
        self.most_active = 0
        self.patience_s = patience_s
        self._last_reply = clock()
        self._trouble_since: float | None = None
        self._requests = Pace(requests_per_minute)
        self._tokens = Pace(tokens_per_minute)
        self._clock = clock
        self._paused_until = float("-inf")
        self._last_decrease = float("-inf")
        self._refusals = 0
        self._closed = False
        self._waiting: collections.deque[tuple[asyncio.Future[float], float]] = collections.deque()
        self._timer: asyncio.TimerHandle | None = None

    async def enter(self, tokens: float = 0.0) -> float:
        """Waits for admission and returns its time. Every ``enter`` needs one ``leave``.

        Args:
          tokens: number to count against the limit of tokens per minute.

        Raises:
          GateClosedError: the gate was closed before admission; ``leave`` must not be called.
        """
        if self._closed:
            raise GateClosedError
        turn: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._waiting.append((turn, tokens))
        self._admit()
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.leave()
            raise

    def close(self) -> None:
        """Raises GateClosedError in all waiting requests; admitted requests may finish."""
        self._closed = True
        while self._waiting:
            turn, _ = self._waiting.popleft()
            if not turn.done():
                turn.set_exception(GateClosedError())

    def leave(self) -> None:
        """Ends an admitted request."""
        self.active -= 1
        self._admit()

    def succeeded(self) -> None:
        """Records a response without an error: the concurrency limit grows."""
        self._refusals = 0
        self.limit = min(float(self.concurrency), self.limit + 1.0 / self.limit)

    def replied(self) -> None:
        """Records a usable reply: the patience is whole again."""
        self._last_reply, self._trouble_since = self._clock(), None

    def failed(self, entered: float) -> None:
        """Records an attempt without a usable reply; ``entered`` is what ``enter`` returned for it."""
        if self._trouble_since is None:
            self._trouble_since = max(entered, self._last_reply)

    @property
    def troubled(self) -> float:
        """Seconds without a usable reply since the first failed attempt began; 0 if the last attempt succeeded."""
        return 0.0 if self._trouble_since is None else self._clock() - self._trouble_since

    @property
    def patience(self) -> float:
        """Seconds for which failing attempts may still continue; infinite as long as none has failed."""
        return math.inf if self._trouble_since is None else self.patience_s - self.troubled

    def refused(self, entered: float, retry_after: float | None) -> None:
        """Records a "too many requests" response.

        Args:
          entered: what ``enter`` returned for the refused request. Requests admitted before the last
            decrease do not cause another one.
          retry_after: the pause that the server requests, in seconds; None: a growing default.
        """
        now = self._clock()
        if entered >= self._last_decrease:
            self._last_decrease = now
            self._refusals += 1
            self.limit = max(1.0, self.limit / 2.0)
        if retry_after is None:
            longest = min(_LONGEST_PAUSE_S, _SHORTEST_PAUSE_S * 2.0 ** (self._refusals - 1))
            retry_after = longest * random.uniform(0.75, 1.0)
        self._paused_until = max(self._paused_until, now + retry_after)

    @property
    def pause(self) -> float:
        """Seconds until the current pause ends; 0 without one."""
        return max(0.0, self._paused_until - self._clock())

    def correct_tokens(self, amount: float) -> None:
        """Corrects the token limit for a request that took ``amount`` more tokens than were counted."""
        self._tokens.correct(amount)

    def _admit(self) -> None:
        while self._waiting and self.active < int(self.limit):
            turn, tokens = self._waiting[0]
            if turn.cancelled():
                self._waiting.popleft()
                continue
            now = self._clock()
            wait = max(self._paused_until - now, self._requests.wait(now), self._tokens.wait(now))
            if wait > 0:
                if self._timer is None:
                    self._timer = asyncio.get_running_loop().call_later(wait, self._timer_rang)
                return
            self._waiting.popleft()
            self._requests.charge(now, 1.0)
            self._tokens.charge(now, tokens)
            self.active += 1
            self.most_active = max(self.most_active, self.active)
            turn.set_result(now)

    def _timer_rang(self) -> None:
        self._timer = None
        self._admit()
