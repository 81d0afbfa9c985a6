"""Worker processes of this machine: each trains one group of runs, on its share of the processors and devices."""

import dataclasses
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from distill import exit_codes
from distill.experiments.sweep.levels import SweepError
from distill.experiments.sweep.runs import Run

LOG = "sweep.log"
REPEAT = "--retry_failed repeats the run"
PARENT = "DISTILL_SWEEP_PARENT"
"""The environment variable with the process number of the scheduler: a worker stops, with a checkpoint, when it is gone."""


@dataclasses.dataclass(frozen=True)
class Slot:
    """The share of one worker.

    Attributes:
      number: from 1.
      environment: variables that restrict its devices and threads.
      processors: the processors that it may use; empty for all.
    """

    number: int
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    processors: tuple[int, ...] = ()


def slots(count: int, processors: Sequence[int] | None = None, gpus: Sequence[str] | None = None) -> list[Slot]:
    """Divides the processors, and the GPUs where there are any, between ``count`` workers.

    Args:
      count: the number of workers.
      processors: those of this process by default.
      gpus: those of ``CUDA_VISIBLE_DEVICES``, or all of this machine, by default.

    Raises:
      SweepError: fewer GPUs than workers, or TPUs, which one process uses at a time.
    """
    if processors is None:
        processors = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else ()
    gpus = visible_gpus() if gpus is None else gpus
    if gpus and count > len(gpus):
        raise SweepError(f"--workers must be at most the number of GPUs, {len(gpus)}; got {count}")
    if count > 1 and not gpus and tpu_chips():
        raise SweepError(
            f"--workers must be 1 on a machine with TPUs, which one process uses at a time; got {count}; start one worker "
            "per slice on a shared directory (distill launch … --split=runs)"
        )
    out = []
    for number in range(count):
        environment = {}
        if gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(_share(gpus, number, count))
        mine = tuple(_share(processors, number, count)) if count > 1 else ()
        if mine:
            environment |= dict.fromkeys(("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"), str(len(mine)))
        out.append(Slot(number + 1, environment, mine))
    return out


def _share(items: Sequence, number: int, count: int) -> list:
    """Returns the share ``number`` of ``count``; with fewer items than shares, one item, which several have."""
    if len(items) < count:
        return [items[number % len(items)]] if items else []
    return list(items[len(items) * number // count : len(items) * (number + 1) // count])


def visible_gpus() -> list[str]:
    """Returns the NVIDIA GPUs that a process may use, without starting a driver."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name.strip() for name in given.split(",") if name.strip() not in ("", "-1")]
    found = (re.fullmatch(r"nvidia(\d+)", path.name) for path in Path("/dev").glob("nvidia*"))
    return sorted((match[1] for match in found if match), key=int)


def tpu_chips() -> int:
    """Returns the number of TPU chips that the machine's files name."""
    return len(list(Path("/dev").glob("accel[0-9]*")))


class Processes:
    """Starts workers; see :class:`~distill.experiments.sweep.scheduler.Executor`.

    Args:
      command: trains the runs that ``--run=NAME`` adds.
      slots: one worker each.
    """

    def __init__(self, command: Sequence[str], slots: Sequence[Slot]):
        self._command, self._free = command, list(slots)
        self.capacity = len(slots)

    def start(self, runs: Sequence[Run]) -> "Process":
        """Starts a worker for runs that are trained together."""
        return Process([*self._command, *(f"--run={run.name}" for run in runs)], runs, self._free.pop(0), self._free)

    def close(self) -> None:
        """Nothing is left to close."""


class Process:
    """A worker process. Its output is appended to ``sweep.log`` in the folder of its first run."""

    def __init__(self, command: Sequence[str], runs: Sequence[Run], slot: Slot, free: list[Slot]):
        self.log, self._slot, self._free = runs[0].directory / LOG, slot, free
        self.log.parent.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, **slot.environment, PARENT: str(os.getpid()), "PYTHONUNBUFFERED": "1"}
        self._output: IO[bytes] = self.log.open("ab")
        self._process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a terminal's SIGINT reaches the scheduler, which stops the workers
        )
        if slot.processors and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(self._process.pid, slot.processors)  # threads that are started later inherit it

    @property
    def where(self) -> str:
        """The worker, for progress lines."""
        return f"worker {self._slot.number}"

    def poll(self) -> int | None:
        """Returns the exit code, that of a signal as 128 + its number; None while the process lives."""
        code = self._process.poll()
        if code is None:
            return None
        if not self._output.closed:
            self._output.close()
            self._free.append(self._slot)
            self._free.sort(key=lambda slot: slot.number)
        return 128 - code if code < 0 else code

    def stop(self) -> None:
        """Requests that the worker saves and stops."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)


def command(sweep: str, passed_on: Sequence[str]) -> list[str]:
    """Returns the command line of a worker for a sweep directory."""
    return [sys.executable, "-m", "distill", "sweep", sweep, *passed_on]


def reason(code: int, log: Path, times: int = 1) -> str:
    """Returns why a worker ended without recording it: the signal, or the last line of its log.

    Args:
      code: its exit code.
      log: its log.
      times: how often workers of the run have ended this way.
    """
    often = f" {times} times" if times > 1 else ""
    if code == LOST_CODE:
        return f"the worker was lost{often} ({last_line(log)}); its log is {log}; {REPEAT}"
    if code > 128:
        try:
            name = signal.Signals(code - 128).name
        except ValueError:
            name = f"signal {code - 128}"
        hint = "; the machine's memory may be exhausted" if name == "SIGKILL" else ""
        return f"the worker was ended by {name}{often}{hint}; its log is {log}; {REPEAT}"
    return f"{last_line(log) or 'no output'} (exit code {code})"


def last_line(log: Path) -> str:
    """Returns the last line of a log that is not empty."""
    lines = _tail(log, 4096).splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _tail(log: Path, length: int) -> str:
    """The end of a log, at most ``length`` bytes; empty if it cannot be read."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - length))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


_STEP = re.compile(r"step (\d+)/(\d+)")


def last_step(log: Path) -> str:
    """Returns the newest ``step N/M`` of a log; empty before the first one."""
    found = _STEP.findall(_tail(log, 16384))
    return "step {}/{}".format(*found[-1]) if found else ""


KILLED_CODE = 128 + signal.SIGKILL
"""Exit code of a worker that was killed, such as by a system without memory."""
LOST_CODE = -1
"""In place of an exit code: the worker was lost, most likely together with its machine."""
CHANGED_CODE = 5
"""Exit code of a worker that did not start its run: gin files or rows have changed since the sweep was planned."""
STOPPED_CODES = (exit_codes.STOPPED, 128 + signal.SIGTERM)
"""Exit codes of a worker that was stopped and can continue."""
