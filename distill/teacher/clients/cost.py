"""Cost of a job: estimate, amount spent, and cap."""

import contextvars
import dataclasses
import math
from collections.abc import Awaitable, Callable

from distill.counting import counted
from distill.teacher.clients.replies import Request, Usage


def amount(cost: float) -> str:
    """A cost in words: with two decimals, or as many as show three digits of it.

    >>> amount(1234.5), amount(0.00012345), amount(0.0)
    ('1,234.50', '0.000123', '0.00')
    """
    decimals = 2 - math.floor(math.log10(cost)) if cost > 0 else 0
    return f"{cost:,.{max(2, decimals)}f}"


def perhaps(cost: float) -> str:
    """The highest possible cost of attempts of unknown usage as an addition in brackets, or "" without any."""
    return f" (and perhaps {amount(cost)} for attempts of unknown usage)" if cost else ""


@dataclasses.dataclass(frozen=True)
class Prices:
    """Price per million tokens, in any currency. ``batch_discount`` is the share deducted for the batch API."""

    prompt: float
    completion: float
    batch_discount: float = 0.5

    def __post_init__(self) -> None:
        if self.prompt < 0 or self.completion < 0 or not 0 <= self.batch_discount <= 1:
            raise ValueError(f"Prices must be ≥ 0 and batch_discount in [0, 1]; got {self}")

    def of(self, usage: Usage, *, batch: bool = False) -> float:
        """The price of ``usage``."""
        full = (usage.prompt_tokens * self.prompt + usage.completion_tokens * self.completion) / 1e6
        return full * (1.0 - self.batch_discount) if batch else full


@dataclasses.dataclass
class Tokenizing:
    """Characters per token: a default until replies provide a measurement."""

    characters_per_token: float = 3.5
    _characters: int = 0
    _tokens: int = 0

    def learn(self, request: Request, usage: Usage | None) -> None:
        """Updates the measurement with a finished request."""
        if usage is not None and usage.prompt_tokens > 0:
            self._characters += request.characters
            self._tokens += usage.prompt_tokens

    def tokens(self, characters: float) -> int:
        """The approximate number of tokens in ``characters`` characters."""
        rate = self._characters / self._tokens if self._tokens else self.characters_per_token
        return int(characters / rate + 0.999)

    @property
    def learned(self) -> bool:
        """Whether the ratio is measured."""
        return self._tokens > 0


def most(request: Request, tokenizing: Tokenizing) -> Usage:
    """An upper bound on a request's tokens (the prompt's are estimated, plus 10 %)."""
    prompt = int(1.1 * tokenizing.tokens(request.characters)) + 8 * (len(request.messages) + 1)
    return Usage(prompt, request.sampling.max_tokens * request.samples)


class Budget:
    """Keeps the cost of a job below a cap: a running request counts at its highest possible cost until its usage is known.

    A server that writes more tokens than requested can exceed the cap by the running requests.

    Args:
      cap: highest total cost of the job's replies; None: no cap.
    """

    def __init__(self, cap: float | None = None):
        if cap is not None and cap <= 0:
            raise ValueError(f"a cost cap must be positive; got {cap}")
        self.cap = cap
        self.spent = 0.0
        self.reserved = 0.0
        self.perhaps_spent = 0.0

    def fits(self, amount: float) -> bool:
        """Whether another ``amount`` stays within the cap."""
        return self.cap is None or self.spent + self.perhaps_spent + self.reserved + amount <= self.cap

    def reserve(self, amount: float) -> None:
        """Reserves ``amount`` for a request that starts."""
        self.reserved += amount

    def lost(self, amount: float) -> None:
        """Records a failed attempt that the server may have charged."""
        self.reserved -= amount
        self.perhaps_spent += amount

    def release(self, amount: float) -> None:
        """Frees a reservation that cost nothing."""
        self.reserved -= amount


class Reservation:
    """The amount reserved for one request: the highest cost of one attempt, until its usage is known.

    Args:
      budget: where ``amount`` has been reserved for the first attempt.
      amount: highest possible cost of one attempt.
      wait_for_room: waits until another ``amount`` fits into the budget; returns False if it never will.
      discarded: called with the usage of every attempt without a reply (None if unknown).
      repeated: called with the reason of every attempt that is made again.
    """

    def __init__(
        self,
        budget: Budget,
        amount: float,
        wait_for_room: Callable[[float], Awaitable[bool]],
        discarded: Callable[[Usage | None], None],
        repeated: Callable[[str], None],
    ):
        self._budget, self._amount = budget, amount
        self._wait_for_room, self._discarded, self.repeated = wait_for_room, discarded, repeated
        self._held = True

    async def attempt(self) -> bool:
        """Reserves the cost of the next attempt unless a reservation is unused. Returns False if it must not be sent."""
        if not self._held:
            if not await self._wait_for_room(self._amount):
                return False
            self._budget.reserve(self._amount)
            self._held = True
        return True

    def failed(self, usage: Usage | None = None) -> None:
        """Records an attempt without a reply: charges ``usage`` if known, otherwise the highest possible cost."""
        if self._held:
            self._held = False
            (self._budget.release if usage is not None else self._budget.lost)(self._amount)
            self._discarded(usage)

    def close(self, perhaps_paid: bool = False) -> None:
        """Ends the request. A reservation still held is freed, or charged if ``perhaps_paid``."""
        if perhaps_paid:
            self.failed()
        elif self._held:
            self._held = False
            self._budget.release(self._amount)


reservation: contextvars.ContextVar[Reservation | None] = contextvars.ContextVar("reservation", default=None)
"""The reservation of the request in the current asyncio task."""


@dataclasses.dataclass(frozen=True)
class Estimate:
    """The estimated cost of a job.

    Attributes:
      requests: requests to send.
      cached: requests with a stored reply, which cost nothing.
      prompt_tokens: estimated prompt tokens.
      completion_tokens: estimated completion tokens, from the length of the worked examples (or of earlier replies).
      most_completion_tokens: completion tokens if every reply has the maximum length.
      cost, most_cost: in the currency of the prices; None without prices.
      at_least_minutes: duration implied by the limits per minute; None without limits.
      measured: whether tokens per character come from earlier replies of this model.
      first: the texts of the first request as they are sent; empty without a request.
    """

    requests: int
    cached: int
    prompt_tokens: int
    completion_tokens: int
    most_completion_tokens: int
    cost: float | None = None
    most_cost: float | None = None
    at_least_minutes: float | None = None
    measured: bool = False
    first: str = ""

    def __add__(self, other: "Estimate") -> "Estimate":
        def both(a: float | None, b: float | None) -> float | None:
            return None if a is None or b is None else a + b

        minutes = [m for m in (self.at_least_minutes, other.at_least_minutes) if m is not None]
        return Estimate(
            requests=self.requests + other.requests,
            cached=self.cached + other.cached,
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            most_completion_tokens=self.most_completion_tokens + other.most_completion_tokens,
            cost=both(self.cost, other.cost),
            most_cost=both(self.most_cost, other.most_cost),
            at_least_minutes=max(minutes) if minutes else None,  # teachers run concurrently
            measured=self.measured and other.measured,
            first=self.first or other.first,
        )

    def __str__(self) -> str:
        lines = [
            f"{counted(self.requests, 'request')} to send, {self.cached:,} already answered",
            f"about {self.prompt_tokens:,} tokens to read and {self.completion_tokens:,} to write "
            f"(at most {self.most_completion_tokens:,})",
        ]
        if self.cost is not None and self.most_cost is not None:
            lines.append(
                f"about {amount(self.cost)}, at most {amount(self.most_cost)}, in the currency of the prices given"
            )
        else:
            lines.append("cost unknown: give prices to see it")
        if self.at_least_minutes is not None:
            lines.append(f"at least {self.at_least_minutes:,.1f} minutes at the limits per minute")
        lines.append("tokens per character: " + ("measured on earlier replies" if self.measured else "a guess"))
        if self.first:
            lines.append(f"the first request:\n{self.first}")
        return "\n".join(lines)
