"""Progress of a job: counts, tokens, cost and remaining time."""

import collections
import dataclasses
import sys
import time
from collections.abc import Callable
from typing import Any, Protocol

from distill.counting import counted
from distill.teacher.clients.cost import amount, perhaps

_LINE_EVERY_S = 10.0


@dataclasses.dataclass
class State:
    """State of a job.

    Attributes:
      total: requests of the job.
      cached: of these, answered in earlier runs.
      finished, failed: of these, in this run.
      prompt_tokens, completion_tokens: of all attempts of known usage, earlier runs included.
      cost: of the same attempts; None without prices.
      unknown_usage: attempts that may have been charged and whose usage the server did not report, earlier runs included.
      perhaps_cost: their highest possible cost; None without prices.
      active: running requests.
      waits_until: when a job that stops waits for running requests no longer, by the monotonic clock; None if it goes on.
      repeated: attempts of this run that failed and were made again, by reason.
    """

    total: int = 0
    cached: int = 0
    finished: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = None
    unknown_usage: int = 0
    perhaps_cost: float | None = None
    active: int = 0
    waits_until: float | None = None
    repeated: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    started: float = dataclasses.field(default_factory=time.monotonic)

    @property
    def done(self) -> int:
        """Requests that need no more work in this run."""
        return self.cached + self.finished + self.failed

    @property
    def per_second(self) -> float:
        """Finished requests per second in this run."""
        seconds = time.monotonic() - self.started
        return (self.finished + self.failed) / seconds if seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Remaining time at the average speed so far; None before the first reply."""
        return (self.total - self.done) / self.per_second if self.per_second else None

    def __str__(self) -> str:
        if not self.total:
            return "reading rows and prompt"
        left = self.seconds_left
        parts = [
            f"{self.done:,} of {self.total:,} requests",
            f"{self.per_second:.1f}/s",
            f"{self.prompt_tokens:,} + {self.completion_tokens:,} tokens",
        ]
        if self.cached:
            parts.append(f"{self.cached:,} from before")
        if self.failed:
            parts.append(f"{self.failed:,} failed")
        if self.cost is not None:
            parts.append(f"cost {amount(self.cost)}{perhaps(self.perhaps_cost or 0.0)}")
        if self.waits_until is not None:
            if self.active:
                rest = _clock(max(0.0, self.waits_until - time.monotonic()))
                parts.append(f"stopping: waiting for {counted(self.active, 'running request')}, at most {rest}")
            return ", ".join(parts)
        if self.active:
            parts.append(f"{self.active:,} running")
        if left is not None and self.done < self.total:
            parts.append(f"{_clock(left)} left")
        return ", ".join(parts)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


class Progress(Protocol):
    """Receives every change of the state."""

    def __call__(self, state: State) -> None:
        """Displays the state; must return quickly."""
        ...

    def close(self) -> None:
        """Ends the display."""
        ...


class Silent:
    """Displays nothing."""

    def __call__(self, state: State) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""


class Logged:
    """Log lines at regular intervals, for jobs without a terminal.

    Args:
      every_s: seconds between two lines; the first is written immediately.
      log: writes a line; by default to stderr.
    """

    def __init__(self, every_s: float = _LINE_EVERY_S, log: Callable[[str], None] | None = None):
        self._every_s, self._last, self._shown = every_s, float("-inf"), (-1, False)
        self._log = log or (lambda line: print(f"extract: {line}", file=sys.stderr, flush=True))
        self._state: State | None = None

    def __call__(self, state: State) -> None:
        """Writes a line if ``every_s`` has passed, the number of requests has changed, or the job now stops."""
        self._state = state
        now, shown = time.monotonic(), (state.total, state.waits_until is not None)
        if now - self._last >= self._every_s or shown != self._shown:
            self._last, self._shown = now, shown
            self._log(str(state))

    def close(self) -> None:
        """Writes the final state."""
        if self._state is not None:
            self._log(str(self._state))


class Bar:
    """A progress bar on the terminal, redrawn four times per second."""

    def __init__(self, console: Any = None):
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as RichProgress

        self._bar = RichProgress(BarColumn(), TextColumn("{task.description}"), console=console, refresh_per_second=4)
        self._task: Any = None

    def __call__(self, state: State) -> None:
        """Updates the bar."""
        if self._task is None:
            self._bar.start()
            self._task = self._bar.add_task("", total=state.total or None)
        self._bar.update(self._task, total=state.total or None, completed=state.done, description=str(state))

    def close(self) -> None:
        """Leaves the last state on the screen."""
        if self._task is not None:
            self._bar.stop()


def automatic() -> Progress:
    """A progress bar on a terminal, otherwise lines on stderr."""
    from rich.console import Console

    console = Console(stderr=True)
    return Bar(console) if console.is_terminal else Logged()
