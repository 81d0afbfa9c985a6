"""Where the time of a run goes: phases of the loop, speed, utilisation, and goodput over all attempts.

All figures are read from the host's clock and from metrics that a log line fetches anyway. Nothing here waits for a
device or transfers an array.
"""

import contextlib
import dataclasses
import itertools
import json
import logging
import math
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from distill import atomic_files
from distill.counting import counted
from distill.inference.own_files import ATTEMPTS, REACHED
from distill.training.config import Progress

PHASES = ("step", "data", "evaluation", "checkpoint", "compile", "profile", "other")
_HOST = ("data", "other")  # phases of the host alone, in which one process can delay all others
_SEEN_S = 20.0  # seconds between two notes of the step that the run has reached


@dataclasses.dataclass(frozen=True)
class StepCosts:
    """What the training step does.

    Attributes:
      flops: model FLOPs of one update of a run on all devices, see :mod:`distill.precompile.model_flops`; None if not
        known.
      peak_flops: the bfloat16 peak of one device, operations per second; None if the chip is not known, or a CPU.
    """

    flops: float | None = None
    peak_flops: float | None = None

    def times(self, number: float) -> "StepCosts":
        """The costs of ``number`` runs that share the step."""
        return dataclasses.replace(self, flops=None if self.flops is None else self.flops * number)


# Counts a step, given the compiled program and the number of devices: distill.precompile.step_costs.of_run.
CostModel = Callable[[jax.stages.Compiled, int], StepCosts]


class Counting:
    """Counts the operations of a step in a thread.

    Args:
      cost_model: None counts nothing.
      compiled: the step; None counts nothing.
      devices: number of devices, over all processes.
    """

    def __init__(
        self,
        cost_model: CostModel | None = None,
        compiled: jax.stages.Compiled | None = None,
        devices: int = 1,
    ):
        self._found, self._thread = StepCosts(), None
        if cost_model is None or compiled is None:
            return

        def count() -> None:
            self._found = cost_model(compiled, devices)

        self._thread = threading.Thread(target=count, daemon=True, name="count operations")
        self._thread.start()

    def result(self) -> StepCosts:
        """The costs of one run; waits until they are counted."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        return self._found


def charged(devices: int) -> int:
    """What a second of the run costs in ``chip_seconds``: the devices; on CPUs the cores that its processes may use."""
    if jax.default_backend() != "cpu":
        return devices
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return own * jax.process_count()


class Clock:
    """Assigns the time since its construction to phases, and adds it to the progress of the lanes.

    Time outside of every phase is ``other``. Each lane gets an equal share.

    Args:
      progresses: one per lane.
      chips: what is charged for a second, see :func:`charged`.
    """

    def __init__(self, progresses: Sequence[Progress], chips: int):
        self._progresses, self._chips = progresses, chips
        self._open = ["other"]
        self._last = time.monotonic()
        self._unread: dict[str, float] = {}
        self._window: dict[str, float] = {}

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Assigns the time of the block to a phase of :data:`PHASES`; of nested blocks, the innermost counts."""
        self._assign()
        self._open.append(name)
        try:
            with jax.profiler.TraceAnnotation(f"distill/{name}"):
                yield
        finally:
            self._assign()
            self._open.pop()

    def _assign(self) -> None:
        now = time.monotonic()
        for times in (self._unread, self._window):
            times[self._open[-1]] = times.get(self._open[-1], 0.0) + now - self._last
        self._last = now

    def read(self) -> None:
        """Adds the time since the last call to the progress of every lane."""
        self._assign()
        seconds = sum(self._unread.values()) / len(self._progresses)
        for progress in self._progresses:
            progress.seconds += seconds
            progress.chip_seconds += seconds * self._chips
            for name, value in self._unread.items():
                progress.phases[name] = progress.phases.get(name, 0.0) + value / len(self._progresses)
        self._unread = {}

    def window(self) -> dict[str, float]:
        """Returns the seconds of every phase since the last call, over all lanes."""
        self._assign()
        window, self._window = self._window, {}
        return {name: window.get(name, 0.0) for name in PHASES}


def rates(window: Mapping[str, float], steps: int, tokens: float, devices: int, costs: StepCosts) -> dict[str, float]:
    """Speeds between two log lines; validation, checkpoints and compilation do not count.

    Args:
      window: phase → seconds.
      steps: updates in the window.
      tokens: tokens in the window that are not padding, inputs and targets of both tasks.
      devices: number of devices.
      costs: of the step.

    Returns:
      ``steps_per_second``, ``tokens_per_second_per_device`` and, where the chip's peak is known, ``mfu``: operations per
      second and device divided by the peak. Recomputed operations (``REMAT_POLICY``) do not count.
    """
    seconds = sum(window[name] for name in ("step", "data", "other"))
    if steps == 0 or seconds <= 0.0:
        return {}
    found = {"steps_per_second": steps / seconds, "tokens_per_second_per_device": tokens / seconds / devices}
    if costs.flops is not None and costs.peak_flops is not None:
        found["mfu"] = costs.flops * steps / seconds / devices / costs.peak_flops
    return found


@dataclasses.dataclass(frozen=True)
class Straggler:
    """The process with the most host time per step.

    Attributes:
      process: its index.
      seconds: its host seconds per step: waiting for data, logging and callbacks.
      median: the median over all processes.
      step_seconds: seconds of a step.
    """

    process: int
    seconds: float
    median: float
    step_seconds: float

    @property
    def notable(self) -> bool:
        """Whether it is the cause of at least a tenth of the step time, and not all processes are alike."""
        return self.seconds > 1.5 * self.median and self.seconds - self.median > 0.1 * self.step_seconds

    def __str__(self) -> str:
        return (
            f"slowest process: {self.process}, {self.seconds:.3g} s of host work per step (median {self.median:.3g} s, "
            f"step {self.step_seconds:.3g} s)"
        )


def straggler(window: Mapping[str, float], steps: int) -> Straggler | None:
    """Gathers one small array over processes, so that every process knows the slowest; None for one process.

    Collectives make all processes equally slow as seen from their step time. The time that a process spends outside of
    the device shows which one the others wait for.

    Args:
      window: phase → seconds since the last log line, of this process.
      steps: updates since then.
    """
    if jax.process_count() == 1 or steps == 0:
        return None
    host, every = sum(window[name] for name in _HOST), sum(window[name] for name in (*_HOST, "step"))
    gathered = multihost_utils.process_allgather(np.array([host / steps, every / steps], np.float32))
    return slowest(np.asarray(gathered).reshape(-1, 2))


def slowest(gathered: np.ndarray) -> Straggler:
    """The straggler among ``gathered``, float32 [processes, 2]: host seconds per step, seconds per step."""
    process = int(np.argmax(gathered[:, 0]))
    return Straggler(
        process, float(gathered[process, 0]), float(np.median(gathered[:, 0])), float(np.max(gathered[:, 1]))
    )


def device_memory() -> tuple[int | None, int | None]:
    """Bytes in use now and at the peak, of the fullest device of this process; None where the backend has no figure."""
    stats = [found for device in jax.local_devices() if (found := device.memory_stats())]
    used = [found["bytes_in_use"] for found in stats if "bytes_in_use" in found]
    peak = [found["peak_bytes_in_use"] for found in stats if "peak_bytes_in_use" in found]
    return max(used, default=None), max(peak, default=None)


@dataclasses.dataclass
class Attempt:
    """One start of a run.

    Attributes:
      started: seconds since 1970.
      first_step: the step that it continued from.
      seen: when it was last seen alive, seconds since 1970.
      step: the step it had reached then.
      complete: whether it ended with a complete run.
    """

    started: float
    first_step: int
    seen: float
    step: int
    complete: bool = False


class Attempts:
    """The starts of a run, in ``attempts.json``: what a kill loses is in no checkpoint.

    On a local disk, the step that the newest attempt has reached is also in ``attempts.step``, one line that is rewritten
    in place at every step and survives a kill. On an object store, a kill hides the steps since ``attempts.json`` was
    written.

    Args:
      directory: the model directory.
      step: the step that this attempt continues from.
      started: when this attempt began, seconds since 1970.
      writes: whether this process writes; of several processes only the first.
    """

    def __init__(self, directory: epath.Path, step: int, *, started: float, writes: bool = True):
        self._path, self._writes = directory / ATTEMPTS, writes
        self.all = [*read_attempts(directory), Attempt(started, step, time.time(), step)]
        self._write()
        self._reached: int | None = None
        if writes and "://" not in str(directory):
            self._reached = os.open(directory / REACHED, os.O_RDWR | os.O_CREAT, 0o644)
            weakref.finalize(self, os.close, self._reached)
            self.made(step)

    def made(self, step: int) -> None:
        """Notes in ``attempts.step`` that the update of ``step`` was begun; takes microseconds, for every step."""
        if self._reached is not None:
            os.pwrite(self._reached, f"{len(self.all):10d} {step:20d}\n".encode(), 0)

    def seen(self, step: int, *, complete: bool = False, now: bool = False) -> None:
        """Notes that ``step`` was reached; writes it at most every ``_SEEN_S`` seconds, or ``now``."""
        moment, last = time.time(), self.all[-1]
        if complete or now or moment - last.seen >= _SEEN_S:
            self.all[-1] = dataclasses.replace(last, seen=moment, step=step, complete=complete)
            self._write()

    def _write(self) -> None:
        if self._writes:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps([dataclasses.asdict(each) for each in self.all], indent=1) + "\n"
            atomic_files.replace(self._path, text)

    @property
    def wall_seconds(self) -> float:
        """Seconds since the first start, with lost work and the time between attempts.

        The time between a complete run and its continuation (``TRAIN_STEPS`` was raised) does not count.
        """
        paused = [after.started - before.seen for before, after in zip(self.all, self.all[1:]) if before.complete]
        return time.time() - self.all[0].started - sum(paused)

    def first_updates(self, steps: int) -> int:
        """The number of ``steps`` updates that were the first of an attempt: their seconds count as compilation."""
        starts = [one.first_step for one in self.all] + [steps]
        return sum(after > before for before, after in itertools.pairwise(starts))

    @property
    def lost_steps(self) -> int:
        """Updates that were begun again because a kill or an error had undone them, as far as attempts were seen."""
        return sum(max(0, before.step - after.first_step) for before, after in zip(self.all, self.all[1:]))


def read_attempts(directory: epath.Path) -> list[Attempt]:
    """The attempts so far, the newest one as far as it was seen; none, with a warning, if the file is damaged."""
    path = directory / ATTEMPTS
    if not path.exists():
        return []
    try:
        return _as_far_as_seen([Attempt(**each) for each in json.loads(path.read_text())], directory / REACHED)
    except (ValueError, TypeError, RecursionError) as error:
        logging.warning("%s is no list of attempts; goodput and attempts are counted from now: %s", path, error)
        return []


def _as_far_as_seen(attempts: list[Attempt], path: epath.Path) -> list[Attempt]:
    """Replaces the newest attempt's step and time by those of ``attempts.step``, if they are later and of this attempt."""
    if not attempts or not path.exists():
        return attempts
    try:
        number, step = map(int, path.read_text().split())
    except ValueError:
        logging.warning("%s does not hold an attempt and a step; lost steps are counted from %s alone", path, ATTEMPTS)
        return attempts
    if number == len(attempts) and step > (last := attempts[-1]).step:
        attempts[-1] = dataclasses.replace(last, step=step, seen=max(last.seen, float(path.stat().mtime)))
    return attempts


def log_values(window: Mapping[str, float], attempts: Attempts, progress: Progress, lanes: int) -> dict[str, float]:
    """The values of a log line: seconds by phase since the last one, waiting, memory and goodput.

    Args:
      window: phase → seconds since the last log line.
      attempts: the starts of the run.
      progress: of the run, up to now.
      lanes: runs that share the steps.
    """
    values = {f"seconds/{name}": seconds for name, seconds in window.items()}
    working = sum(window[name] for name in ("step", "data", "other"))
    values["data_wait_share"] = window["data"] / working if working > 0.0 else 0.0
    values["goodput"] = goodput(progress, attempts, lanes)
    used, peak = device_memory()
    values |= {} if used is None else {"device_memory_bytes": float(used)}
    return values | ({} if peak is None else {"device_memory_peak_bytes": float(peak)})


def goodput(progress: Progress, attempts: Attempts, lanes: int) -> float:
    """The share of the seconds since the first start in which the devices made updates that count."""
    wall = attempts.wall_seconds
    return min(1.0, lanes * progress.phases.get("step", 0.0) / wall) if wall > 0.0 else 0.0


def summary_lines(summary: Mapping[str, Any]) -> list[str]:
    """The lines that a run ends with: where its time went, its speed and its goodput.

    The one duration is that of the training loop, over all attempts: start-up and the test at the end are not in it.

    Args:
      summary: the ``training`` part of the record, as JSON values.
    """
    seconds = summary["seconds"] or math.inf
    phases = [name for name in PHASES if name != "profile" or name in summary["phases"]]
    shares = [f"{name} {summary['phases'].get(name, 0.0) / seconds:.0%}" for name in phases]
    loop = "training loop" if summary["attempts"] == 1 else f"{summary['attempts']} attempts"
    lines = [f"{loop}: {summary['seconds']:.1f} s, {', '.join(shares)}"]
    speed = []
    if summary["tokens_per_second_per_device"] is not None:
        speed.append(f"{summary['tokens_per_second_per_device']:,.0f} tokens/s per device")
    speed.append(f"padding {summary['padding_share']:.0%}")
    if summary["flops_per_step"] is not None:
        speed.append(f"{summary['flops_per_step']:.3g} FLOP/step")
    if summary["mfu"] is not None:
        speed.append(f"MFU {summary['mfu']:.1%}")
    if summary["peak_memory_bytes"] is not None:
        speed.append(f"memory {summary['peak_memory_bytes'] / 2**30:.2f} GiB")
    lines.append("speed: " + ", ".join(speed))
    if summary["goodput"] is not None:
        lost = f", {counted(summary['lost_steps'], 'step')} lost" if summary["lost_steps"] else ""
        attempts = counted(summary["attempts"], "attempt")
        lines.append(f"goodput (share of all time in updates that count): {summary['goodput']:.0%}, {attempts}{lost}")
    return lines
