"""Timings of calls that run on a device."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any


def rounds(call: Callable[[], Any], wait: Callable[[Any], Any], number: int, calls: int) -> list[float]:
    """Returns the seconds per call of ``number`` rounds of ``calls`` calls; every round waits for its last result."""
    seconds = []
    for _ in range(number):
        started = time.perf_counter()
        for _ in range(calls):
            result = call()
        wait(result)
        seconds.append((time.perf_counter() - started) / calls)
    return seconds


def summary(seconds: Sequence[float]) -> dict[str, float]:
    """Median, least and most, in milliseconds."""
    return {
        name: round(of(seconds) * 1e3, 3) for name, of in (("median", statistics.median), ("least", min), ("most", max))
    }
