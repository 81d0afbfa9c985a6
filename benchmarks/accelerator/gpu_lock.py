"""Timings exclude each other, while programs of several processes compile side by side."""

import contextlib
import fcntl
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Waits until all programs of the phase have compiled, and until no other process times anything on the device.

    :mod:`benchmarks.accelerator.measure` names the process in ``BENCHMARK_PART`` and all parts of its phase in
    ``BENCHMARK_PARTS``. Without them it waits for the lock alone.
    """
    part, parts = os.environ.get("BENCHMARK_PART"), os.environ.get("BENCHMARK_PARTS", "")
    if part:
        ready(folder, part)
        while not all((folder / f"ready_{one}").exists() for one in parts.split()):
            time.sleep(0.1)
    with open(folder / "device.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def ready(folder: Path, part: str) -> None:
    """Notes that a part compiles nothing from now on, or has ended."""
    (folder / f"ready_{part}").touch()


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
