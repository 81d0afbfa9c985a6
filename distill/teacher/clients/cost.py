"""What a job costs: before it starts, so far, and at most."""

import contextvars
import dataclasses
from collections.abc import Awaitable, Callable

from distill.teacher.clients.replies import Request, Usage


@dataclasses.dataclass(frozen=True)
class Prices:
    """Money per million tokens, in any currency. ``batch_discount`` is taken off where the batch API is used."""

    prompt: float
    completion: float
    batch_discount: float = 0.5

    def __post_init__(self):
        if self.prompt < 0 or self.completion < 0 or not 0 <= self.batch_discount <= 1:
            raise ValueError(f"Prices must be ≥ 0 and batch_discount in [0, 1]; got {self}")

    def of(self, usage: Usage, *, batch: bool = False) -> float:
        """What ``usage`` costs."""
        full = (usage.prompt_tokens * self.prompt + usage.completion_tokens * self.completion) / 1e6
        return full * (1.0 - self.batch_discount) if batch else full


@dataclasses.dataclass
class Tokenizing:
    """Characters per token, guessed until replies say better."""

    characters_per_token: float = 3.5
    _characters: int = 0
    _tokens: int = 0

    def learn(self, request: Request, usage: Usage | None) -> None:
        """Takes a finished request into account."""
        if usage is not None and usage.prompt_tokens > 0:
            self._characters += request.characters
            self._tokens += usage.prompt_tokens

    def tokens(self, characters: float) -> int:
        """About how many tokens so many characters are."""
        rate = self._characters / self._tokens if self._tokens else self.characters_per_token
        return int(characters / rate + 0.999)

    @property
    def learned(self) -> bool:
        """Whether this is measured."""
        return self._tokens > 0


def most(request: Request, tokenizing: Tokenizing) -> Usage:
    """The tokens that a request can take at most (the prompt's estimated, with a tenth on top)."""
    prompt = int(1.1 * tokenizing.tokens(request.characters)) + 8 * (len(request.messages) + 1)
    return Usage(prompt, request.sampling.max_tokens * request.samples)


class Budget:
    """Keeps the cost of a job below a cap: what is under way counts at its worst until it is known.

    Args:
      cap: the most that the job's replies may cost together; None: no cap.
    """

    def __init__(self, cap: float | None = None):
        if cap is not None and cap <= 0:
            raise ValueError(f"a cost cap must be positive; got {cap}")
        self.cap = cap
        self.spent = 0.0
        self.reserved = 0.0
        self.perhaps_spent = 0.0

    def fits(self, amount: float) -> bool:
        """Whether ``amount`` more can be risked."""
        return self.cap is None or self.spent + self.perhaps_spent + self.reserved + amount <= self.cap

    def reserve(self, amount: float) -> None:
        """Sets ``amount`` aside for a request that starts."""
        self.reserved += amount

    def settle(self, amount: float, actual: float) -> None:
        """The request that had ``amount`` set aside cost ``actual``."""
        self.reserved -= amount
        self.spent += actual

    def lost(self, amount: float) -> None:
        """The request came to nothing, but the server may have charged for it."""
        self.reserved -= amount
        self.perhaps_spent += amount

    def release(self, amount: float) -> None:
        """The request came to nothing and cost nothing."""
        self.reserved -= amount


class Reservation:
    """The money set aside for one request: one attempt at a time, at its worst, until its usage is known.

    Args:
      budget: where ``amount`` has been reserved for the first attempt.
      amount: what one attempt can cost at most.
      wait_for_room: waits until another ``amount`` fits into the budget; returns whether it ever will.
      discarded: called with the usage of every attempt that gave no reply; None where it is not known.
    """

    def __init__(
        self,
        budget: Budget,
        amount: float,
        wait_for_room: Callable[[float], Awaitable[bool]],
        discarded: Callable[[Usage | None], None],
    ):
        self._budget, self._amount = budget, amount
        self._wait_for_room, self._discarded = wait_for_room, discarded
        self._held = True

    async def attempt(self) -> bool:
        """Call before every attempt: reserves its worst, unless the last reservation is unused. False: do not send it."""
        if not self._held:
            if not await self._wait_for_room(self._amount):
                return False
            self._budget.reserve(self._amount)
            self._held = True
        return True

    def failed(self, usage: Usage | None = None) -> None:
        """The attempt gave no reply, but may have been charged: with ``usage``, if it is known, else at its worst."""
        if self._held:
            self._held = False
            (self._budget.release if usage is not None else self._budget.lost)(self._amount)
            self._discarded(usage)

    def close(self, perhaps_paid: bool = False) -> None:
        """The request is over. What is still held was not used, or, if ``perhaps_paid``, may have been charged."""
        if perhaps_paid:
            self.failed()
        elif self._held:
            self._held = False
            self._budget.release(self._amount)


reservation: contextvars.ContextVar[Reservation | None] = contextvars.ContextVar("reservation", default=None)
"""The reservation of the request that the current task works on."""


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A job's price before it starts.

    Attributes:
      requests: how many must be asked.
      cached: how many have been answered before and are free.
      prompt_tokens: to be read by the teacher (about).
      completion_tokens: to be written, if replies are as long as the worked examples (or as earlier replies).
      most_completion_tokens: the same, if every reply is as long as allowed.
      cost, most_cost: in the currency of the prices; None without prices.
      at_least_minutes: by the limits per minute alone; None without limits.
      measured: whether tokens per character come from earlier replies of this model.
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
            at_least_minutes=max(minutes) if minutes else None,  # teachers work side by side
            measured=self.measured and other.measured,
        )

    def __str__(self) -> str:
        lines = [
            f"{self.requests:,} requests to ask, {self.cached:,} answered before",
            f"about {self.prompt_tokens:,} tokens to read and {self.completion_tokens:,} to write "
            f"(at most {self.most_completion_tokens:,})",
        ]
        if self.cost is not None and self.most_cost is not None:
            lines.append(f"about {self.cost:,.2f}, at most {self.most_cost:,.2f}, in the currency of the prices given")
        else:
            lines.append("cost unknown: give prices to see it")
        if self.at_least_minutes is not None:
            lines.append(f"at least {self.at_least_minutes:,.1f} minutes at the limits per minute")
        lines.append("tokens per character: " + ("measured on earlier replies" if self.measured else "a guess"))
        return "\n".join(lines)
