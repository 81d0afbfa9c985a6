"""Memory, files, threads and processor time of a process tree, and the file of samples."""

import contextlib
import dataclasses
import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

STOP_S = 300.0  # seconds that a command may take to end after a signal


def tree(pid: int) -> list[int]:
    """The process ``pid`` and its descendants."""
    found = [pid]
    for each in found:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{each}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
    return found


def usage(pid: int) -> dict[str, float]:
    """Memory, processor time, threads and open files of a process tree.

    Returns:
      ``rss_mb`` (MB, resident), ``anonymous_mb`` (the part of it that no file backs), ``cpu_s`` (user and system time of
      the tree, its ended children included), ``threads`` and ``files``.

    Raises:
      ProcessLookupError: the process has ended.
    """
    total = dict.fromkeys(("rss_mb", "anonymous_mb", "cpu_s", "threads", "files"), 0.0)
    ticks = os.sysconf("SC_CLK_TCK")
    for each in tree(pid):
        try:
            status = dict(
                line.split(":", 1) for line in Path(f"/proc/{each}/status").read_text().splitlines() if ":" in line
            )
            times = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
            files = len(os.listdir(f"/proc/{each}/fd"))
        except OSError:
            if each == pid:
                raise ProcessLookupError(pid) from None
            continue
        if "VmRSS" not in status:  # it has ended and is not reaped
            if each == pid:
                raise ProcessLookupError(pid)
            continue
        total["rss_mb"] += int(status["VmRSS"].split()[0]) * 1024 / 1e6
        total["anonymous_mb"] += int(status["RssAnon"].split()[0]) * 1024 / 1e6
        total["cpu_s"] += sum(map(int, times[11:15])) / ticks
        total["threads"] += int(status["Threads"])
        total["files"] += files
    return total


def control() -> float:
    """Processor seconds of a fixed computation: how fast the machine is now, whatever the measured program does."""
    started, value = time.thread_time(), 0
    for number in range(200_000):
        value = (value * 31 + number) & 0xFFFF
    return time.thread_time() - started


@dataclasses.dataclass
class Sampler:
    """Appends samples of one leg to its file.

    Attributes:
      file: the open ``LEG.jsonl``.
      period: seconds between samples.
      started: of the leg, by :func:`time.monotonic`.
    """

    file: IO[str]
    period: float
    started: float = dataclasses.field(default_factory=time.monotonic)

    def write(self, **values: Any) -> None:
        """Writes one object; ``seconds`` is the time since the leg began."""
        self.file.write(json.dumps({"seconds": round(time.monotonic() - self.started, 2), **values}) + "\n")
        self.file.flush()

    def watch(self, process: subprocess.Popen[bytes], attempt: int, work: Callable[[], int], until: float) -> None:
        """Samples ``process`` until ``until`` (by :func:`time.monotonic`) or until it ends.

        Args:
          process: the command.
          attempt: counts its starts.
          work: returns the steps or rows done so far.
          until: when to return.
        """
        begun = time.monotonic()
        while process.poll() is None and time.monotonic() < until:
            with contextlib.suppress(ProcessLookupError):
                measured = {name: round(value, 3) for name, value in usage(process.pid).items()}
                age = round(time.monotonic() - begun, 2)
                self.write(attempt=attempt, age=age, work=work(), control_s=round(control(), 5), **measured)
            time.sleep(max(0.0, min(self.period, until - time.monotonic())))


def stopped(process: subprocess.Popen[bytes]) -> int:
    """The exit code after SIGTERM; see :func:`ended`."""
    process.terminate()
    return ended(process)


def ended(process: subprocess.Popen[bytes]) -> int:
    """The exit code of a process that is about to end; it is killed after ``STOP_S`` seconds."""
    try:
        return process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
