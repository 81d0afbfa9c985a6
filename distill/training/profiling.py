"""A profile of some steps: ``jax.profiler`` traces them, and the operations are summed by time.

The trace is in ``MODEL_DIR/profile``, which XProf, TensorBoard's profile plugin and Perfetto open. It has an annotation
per step (``train``) and per phase of the loop (``distill/data``, ``distill/step`` …).
"""

import contextlib
import dataclasses
import gzip
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
from etils import epath

FOLDER = "profile"
STEP = "train"  # XProf's name of a training step
_MAX_TRACE_BYTES = 2**30  # decompressed; XProf writes at most a million events, some 200 MiB


class Profiler:
    """Traces the updates ``first`` to ``last``, both included. A trace that fails is logged and does not end the run.

    Args:
      directory: the model directory.
      steps: ``(first, last)``; None traces nothing.
      phase: makes a context that takes the time inside: as ``step`` that of updates, as ``profile`` that of starting the
        trace and writing it.
    """

    def __init__(
        self,
        directory: epath.Path,
        steps: tuple[int, int] | None,
        phase: Callable[[str], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,  # type: ignore[assignment]
    ):
        self._directory, self._steps, self._phase = directory / FOLDER, steps, phase
        self._running = False

    @contextlib.contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Surrounds the dispatch of update ``number``, from 1; starts the trace if it is the first traced one."""
        if self._steps is not None and not self._running and self._steps[0] <= number <= self._steps[1]:
            self._start()
        with jax.profiler.StepTraceAnnotation(STEP, step_num=number) if self._running else contextlib.nullcontext():
            yield

    def after(self, number: int, metrics: Any) -> None:
        """Ends the trace if update ``number`` was the last traced one; only then, waits for ``metrics``."""
        if self._running and self._steps is not None and number >= self._steps[1]:
            with self._phase("step"):
                jax.block_until_ready(metrics)
            self.stop()

    def _start(self) -> None:
        try:
            with self._phase("profile"):
                jax.profiler.start_trace(str(self._directory))
            self._running = True
        except Exception as error:  # another trace is running, or the folder cannot be written
            self._steps = None
            logging.warning("no profile is taken: %s: %s", type(error).__name__, error)

    def stop(self) -> None:
        """Ends the trace if it is running, such as at the end of the run."""
        if self._running:
            self._running, self._steps = False, None
            try:
                with self._phase("profile"):
                    jax.profiler.stop_trace()
            except Exception as error:  # a full disk
                logging.warning("the profile was not written: %s: %s", type(error).__name__, error)


@dataclasses.dataclass(frozen=True)
class Operation:
    """An operation of the compiled programs, summed over the trace.

    Attributes:
      name: the HLO instruction, without its number: ``dot.12`` and ``dot.13`` are both ``dot``.
      program: the compiled program, such as ``jit_step``.
      count: number of executions.
      milliseconds: total time, over all threads or streams; without nested operations.
    """

    name: str
    program: str
    count: int
    milliseconds: float


@dataclasses.dataclass(frozen=True)
class Profile:
    """A trace.

    Attributes:
      path: the file.
      steps: numbers of the traced updates.
      operations: the longest first.
      phases: phase of the loop → milliseconds on the host.
    """

    path: epath.Path
    steps: list[int]
    operations: list[Operation]
    phases: Mapping[str, float]

    @property
    def milliseconds(self) -> float:
        """Total time of all operations."""
        return sum(operation.milliseconds for operation in self.operations)


def read(model_dir: epath.PathLike, *, by_instruction: bool = False) -> Profile:
    """Reads the newest trace of a model directory.

    Args:
      model_dir: the directory of the run.
      by_instruction: keep ``dot.12`` and ``dot.13`` apart.

    Raises:
      FileNotFoundError: the run has no trace.
      ValueError: the file is not a trace with operations.
    """
    folder = epath.Path(model_dir) / FOLDER
    found = sorted(folder.glob("plugins/profile/*/*.trace.json.gz")) if folder.exists() else []
    if not found:
        raise FileNotFoundError(f"{folder} holds no trace; train with --gin.PROFILE_STEPS='(100, 105)' to make one")
    path = found[-1]
    try:
        with path.open("rb") as packed, gzip.open(packed) as file:
            text = file.read(_MAX_TRACE_BYTES + 1)
        if len(text) > _MAX_TRACE_BYTES:
            raise ValueError(f"it holds more than {_MAX_TRACE_BYTES // 2**20} MiB; trace fewer steps")
        events = json.loads(text)["traceEvents"]
        complete = [event for event in events if event.get("ph") == "X"]
        names = {
            (event["pid"], event["tid"]): event["args"]["name"]
            for event in events
            if event.get("ph") == "M" and event["name"] == "thread_name"
        }
        operations = _operations(complete, names, by_instruction)
        steps = sorted({int(e["args"]["step_num"]) for e in complete if e["name"] == STEP and "step_num" in e["args"]})
        phases: dict[str, float] = {}
        for event in complete:
            if event["name"].startswith("distill/"):
                name = event["name"].removeprefix("distill/")
                phases[name] = phases.get(name, 0.0) + event["dur"] / 1e3
    except (OSError, EOFError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is no trace that can be read: {type(error).__name__}: {error}") from None
    if not operations:
        raise ValueError(f"{path} has no operation of a compiled program; trace more steps")
    return Profile(path, steps, operations, phases)


def _operations(events: list[dict[str, Any]], threads: Mapping[tuple, str], by_instruction: bool) -> list[Operation]:
    """Sums the events of HLO instructions by name; a loop's own time excludes the instructions in it."""
    by_thread: dict[tuple, list[dict[str, Any]]] = {}
    for event in events:
        key = (event["pid"], event["tid"])
        # A TPU's operations have a line of their own, without the argument hlo_op.
        if "hlo_op" in event.get("args", {}) or threads.get(key) == "XLA Ops":
            by_thread.setdefault(key, []).append(event)
    sums: dict[tuple[str, str], list[float]] = {}
    for mine in by_thread.values():
        for event, own in _own_times(mine):
            args = event.get("args", {})
            name = args.get("hlo_op", event["name"])
            head, _, number = name.rpartition(".")
            if not by_instruction and head and number.isdecimal():
                name = head
            total = sums.setdefault((name, args.get("hlo_module", "")), [0, 0.0])
            total[0] += 1
            total[1] += own / 1e3
    found = [Operation(name, program, int(n), ms) for (name, program), (n, ms) in sums.items()]
    return sorted(found, key=lambda operation: -operation.milliseconds)


def _own_times(events: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], float]]:
    """Yields each event of one thread with its microseconds, without those of the events inside it."""
    inside: list[tuple[dict[str, Any], float, float]] = []  # open events: event, end, time of its children
    for event in sorted(events, key=lambda event: (event["ts"], -event["dur"])):
        while inside and event["ts"] >= inside[-1][1] - 1e-6:
            yield _closed(inside)
        inside.append((event, event["ts"] + event["dur"], 0.0))
    while inside:
        yield _closed(inside)


def _closed(inside: list[tuple[dict[str, Any], float, float]]) -> tuple[dict[str, Any], float]:
    event, _, children = inside.pop()
    if inside:
        parent, end, before = inside[-1]
        inside[-1] = (parent, end, before + event["dur"])
    return event, max(0.0, event["dur"] - children)
