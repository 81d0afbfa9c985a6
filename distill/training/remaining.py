"""How much longer a run trains: an estimate from its newest log lines and its evaluations."""

import collections

_FEWEST = 5  # updates that must be timed before there is an estimate
_LINES = 10  # newest log lines that an estimate is made from: the speed of a shared machine changes


class Remaining:
    """Estimates the seconds until the last update; compilation of the step does not count.

    The estimate is the updates left × the seconds of an update, measured between the newest log lines, plus the
    evaluations left × the seconds of the shortest one so far: the first one compiles the decoder.

    Args:
      train_steps: the last update.
      step: the update that this attempt continues from.
      evaluation_period: updates between two evaluations of the validation split; None without one.

    >>> left = Remaining(100, evaluation_period=50)
    >>> left.logged(10, 30.0, 2.0)  # the clock reads 30 s, and the last updates ran at 2 per second
    >>> left.seconds(10)
    45.0
    """

    def __init__(self, train_steps: int, step: int = 0, evaluation_period: int | None = None):
        self._train_steps, self._begun, self._period = train_steps, step, evaluation_period
        self._lines: collections.deque[tuple[int, float]] = collections.deque(maxlen=_LINES)
        self._evaluating = 0.0  # seconds of all evaluations, which the seconds of an update exclude
        self._shortest: float | None = None
        self._first: float | None = None  # updates per second before the first line

    def logged(self, step: int, now: float, steps_per_second: float | None = None) -> None:
        """Notes a log line.

        Args:
          step: updates made.
          now: the clock, seconds.
          steps_per_second: speed since the last line without compilation; read at the first line only.
        """
        if not self._lines and step - self._begun > _FEWEST:
            self._first = steps_per_second
        self._lines.append((step, now - self._evaluating))

    def evaluated(self, seconds: float) -> None:
        """Notes an evaluation of the validation split, which took ``seconds``."""
        self._evaluating += seconds
        self._shortest = seconds if self._shortest is None else min(self._shortest, seconds)

    def seconds(self, step: int) -> float | None:
        """Returns the seconds from ``step`` to the last update; None if too few updates were timed."""
        per_step = self._seconds_per_step()
        if per_step is None:
            return None
        seconds = max(0, self._train_steps - step) * per_step
        if self._period is not None and self._shortest is not None:
            evaluations = -(-self._train_steps // self._period) - step // self._period  # the last step validates, too
            seconds += max(0, evaluations) * self._shortest
        return seconds

    def _seconds_per_step(self) -> float | None:
        if not self._lines:
            return None
        (first, began), (last, ended) = self._lines[0], self._lines[-1]
        if last - first >= _FEWEST:
            return (ended - began) / (last - first)
        return 1.0 / self._first if self._first else None


def words(seconds: float | None) -> str:
    """The estimate as it is printed; empty without one.

    >>> words(8.2), words(130), words(8000), words(200_000), words(None)
    ('9 s left', '3 min left', '2 h 14 min left', '2 d 8 h left', '')
    """
    if seconds is None:
        return ""
    if seconds < 100:
        return f"{int(-(-seconds // 1))} s left"
    minutes = int(-(-seconds // 60))
    if minutes < 100:
        return f"{minutes} min left"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min left"
    hours = -(-minutes // 60)
    return f"{hours // 24} d {hours % 24} h left"
