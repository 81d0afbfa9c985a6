"""Schedules the groups of a plan, or the trials of a search, on an executor: processes of this machine, or Ray."""

import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from distill import exit_codes
from distill.counting import counted, form
from distill.experiments.sweep import files, leases, outcomes, workers
from distill.experiments.sweep.execution import open_runs
from distill.experiments.sweep.inputs import Changed
from distill.experiments.sweep.plan import Plan
from distill.experiments.sweep.runs import Run, named_together

_POLL_S = 0.2
_OTHERS_S = 2.0  # seconds between two looks at the leases of other workers
_STATUS_S = 30.0
_RESTARTS = 5  # of a worker that was stopped by somebody else
_KILLED_RESTARTS = (
    1  # of a worker that was killed or lost: one for which the memory is too small would be killed each time
)

_KILLED = (workers.KILLED_CODE, workers.LOST_CODE)


class Job(Protocol):
    """A group of runs that is being trained."""

    log: Path

    @property
    def where(self) -> str:
        """The worker, for progress lines."""

    def poll(self) -> int | None:
        """Returns the exit code of ``distill sweep --run``, ``workers.LOST_CODE`` if it was lost, or None while it runs."""

    def stop(self) -> None:
        """Requests that the job saves and stops; it then ends with exit code 75."""


class Executor(Protocol):
    """Runs groups; ``capacity`` of them at once."""

    capacity: int

    def start(self, runs: Sequence[Run]) -> Job:
        """Starts the training of runs that are trained together."""

    def close(self) -> None:
        """Releases what the executor holds."""


class Work(Protocol):
    """The groups to train."""

    def next(self) -> list[Run] | None:
        """Returns an open group that no running job of this process trains and no living worker holds, or None."""

    def finished(self, group: Sequence[Run]) -> None:
        """Takes note of a group whose lease was given back."""

    def is_over(self) -> bool:
        """Returns whether no group is open, those of other workers included."""

    def is_hopeless(self, group: Sequence[Run]) -> bool:
        """Returns whether a running group is to be ended early, and records it."""


class PlannedWork:
    """The groups of a plan, in order."""

    def __init__(self, plan: Plan, retries: int = 0):
        self._plan, self._retries = plan, retries
        self._groups = plan.groups()

    def next(self) -> list[Run] | None:
        """See :class:`Work`."""
        for group in self._groups:
            if open_runs(group, self._retries) and not outcomes.is_running(self._plan.directory, group):
                return group
        return None

    def finished(self, group: Sequence[Run]) -> None:
        """See :class:`Work`."""

    def is_over(self) -> bool:
        """See :class:`Work`."""
        return not any(open_runs(group, self._retries) for group in self._groups)

    def is_hopeless(self, group: Sequence[Run]) -> bool:
        """See :class:`Work`."""
        return False


class _Active:
    def __init__(self, group: list[Run], runs: list[Run], job: Job, lease: leases.Lease):
        self.group, self.runs, self.job, self.lease = group, runs, job, lease
        self.started, self.ending = time.monotonic(), False
        self._step = workers.last_step(job.log)  # of an earlier attempt

    @property
    def name(self) -> str:
        return named_together(self.runs)

    @property
    def trains(self) -> bool:
        """Whether it has logged a step since it was started, so that its inputs were accepted."""
        return workers.last_step(self.job.log) != self._step


class Signals:
    """Notes SIGTERM and SIGINT instead of ending the process, inside its ``with`` block."""

    def __init__(self) -> None:
        self.name: str | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Signals":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: object) -> None:
        self.name = signal.Signals(number).name


class Scheduler:
    """Trains all work on an executor.

    Args:
      directory: of the sweep.
      work: the groups.
      executor: trains them.
      say: prints the progress.
      retries: how often a run that fails is repeated.
    """

    def __init__(
        self,
        directory: Path,
        work: Work,
        executor: Executor,
        say: Callable[[str], None] = print,
        *,
        retries: int = 0,
    ):
        self._directory, self._work, self._executor, self._say = directory, work, executor, say
        self._retries = retries
        self._active: list[_Active] = []
        self._restarts: dict[str, int] = {}
        self._kills: dict[str, int] = {}
        self._spoke = time.monotonic()
        self._waited = False
        self._refusal: str | None = None  # of a run that was not started
        self._told = False  # that others train on

    def run(self) -> None:
        """Trains until no group is open.

        Raises:
          distill.exit_codes.Stopped: a signal; all workers have saved and stopped.
          distill.experiments.sweep.inputs.Changed: gin files or rows have changed since the sweep was planned; the runs
            that had started before have ended.
          OSError: a worker ended with an error of the machine, such as a full disk; the others have stopped.
        """
        with Signals() as signals:
            try:
                while True:
                    if signals.name is not None:
                        self._stop(signals.name)
                        raise exit_codes.Stopped(signals.name)
                    self._fill()
                    if not self._active:
                        if self._refusal is not None:
                            raise Changed(self._refusal)
                        if self._work.is_over():
                            return
                        if not self._waited:
                            self._say("waiting for the runs of other workers; a dead worker's run is taken over")
                            self._waited = True
                        time.sleep(_OTHERS_S)
                    for active in list(self._active):
                        self._watch(active)
                    self._tell_refusal()
                    self._speak()
                    time.sleep(_POLL_S)
            finally:
                self._stop("the end of the scheduler")
                self._executor.close()

    def _fill(self) -> None:
        while self._refusal is None and len(self._active) < self._executor.capacity:
            group = self._work.next()
            if group is None:
                return
            lease = leases.claim(self._directory, outcomes.lease_name(group))
            if lease is None:
                return
            runs = open_runs(group, self._retries)
            if not runs:
                lease.release()
                continue
            try:
                active = _Active(group, runs, self._executor.start(runs), lease)
            except BaseException:
                lease.release()
                raise
            self._active.append(active)
            self._say(f"{active.name} started on {active.job.where}, log {active.job.log}")

    def _watch(self, active: _Active) -> None:
        code = active.job.poll()
        if code is None:
            if not active.ending and self._work.is_hopeless(active.runs):
                active.ending = True
                active.job.stop()
            return
        self._active.remove(active)
        try:
            self._note(active, code)
        finally:
            active.lease.release()
        self._work.finished(active.group)

    def _note(self, active: _Active, code: int) -> None:
        """Records the outcome of a job that ended."""
        seconds = time.monotonic() - active.started
        if code == exit_codes.MACHINE:
            raise OSError(f"{active.runs[0].name}: {workers.last_line(active.job.log)}")
        if code == workers.CHANGED_CODE:
            self._refusal = self._refusal or workers.last_line(active.job.log)
            return
        first: dict[str, str] = {}  # error → the first run that has it
        for run in active.runs:
            if run.done:
                self._say(f"{run.name} done: {_score(run)} after {seconds:.0f} s")
            elif outcomes.pruned(run) is not None:
                self._say(f"{run.name} pruned")
            elif code in workers.STOPPED_CODES:
                self._stopped(run, active)
            elif code in _KILLED and self._kills.get(run.name, 0) < _KILLED_RESTARTS:
                self._kills[run.name] = self._kills.get(run.name, 0) + 1
                what = "killed" if code == workers.KILLED_CODE else "lost"
                self._say(f"{run.name} was {what} and is started again; log {active.job.log}")
            else:
                failed = outcomes.failure(run)
                if code != exit_codes.SOME_FAILED or failed is None:
                    times = 1 + (self._kills.get(run.name, 0) if code in _KILLED else 0)
                    failed = outcomes.note_failure(run, workers.reason(code, active.job.log, times))
                self._failed(run, failed, first.setdefault(failed.error, run.name))

    def _tell_refusal(self) -> None:
        """Says once why no more runs start while others train to their end; the error at the end says it again.

        A run that has not logged a step may be refused, too.
        """
        if self._refusal is None or self._told or not self._active or not all(one.trains for one in self._active):
            return
        number = len(self._active)
        self._say(f"{self._refusal}; {counted(number)} that had started before {form(number, 'goes', 'go')} on")
        self._told = True

    def _stopped(self, run: Run, active: _Active) -> None:
        """A worker that somebody else stopped continues, a limited number of times."""
        self._restarts[run.name] = self._restarts.get(run.name, 0) + 1
        if self._restarts[run.name] > _RESTARTS:
            reason = f"the worker was stopped {_RESTARTS + 1} times; its log is {active.job.log}; {workers.REPEAT}"
            self._failed(run, outcomes.note_failure(run, reason), run.name)
        else:
            self._say(f"{run.name} was stopped and continues")

    def _failed(self, run: Run, failed: outcomes.Failure, first: str) -> None:
        """Says the error of a run, or the first run of its group that has it."""
        again = "; it is repeated" if failed.attempts <= self._retries else ""
        what = f"failed: {failed.error}" if first == run.name else f"failed as {first} did"
        self._say(f"{run.name} {what}{again}")

    def _stop(self, reason: str) -> None:
        """Stops all jobs, and waits until they have saved."""
        if self._active:
            self._say(f"{reason}: stopping {counted(len(self._active))}")
        for active in self._active:
            active.job.stop()
        while self._active:
            for active in list(self._active):
                if active.job.poll() is not None:
                    self._active.remove(active)
                    active.lease.release()
            time.sleep(_POLL_S / 4)

    def _speak(self) -> None:
        if time.monotonic() - self._spoke < _STATUS_S or not self._active:
            return
        self._spoke = time.monotonic()
        steps = (f"{active.name} {files.progress(active.runs[0].directory)}" for active in self._active)
        self._say("running: " + "; ".join(steps))


def _score(run: Run) -> str:
    """The validation score of a finished run."""
    try:
        result = files.read_result(run.directory)
        return f"validation {result['best']:.4f} at step {result['best_step']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "no validation score"


def stop_with_parent(poll_s: float = 1.0) -> None:
    """In a worker: a thread that sends this process SIGTERM when its scheduler is gone, so that it saves and stops."""
    parent = os.environ.get(workers.PARENT)
    if parent is None:
        return

    def watch() -> None:
        while os.getppid() == int(parent):
            time.sleep(poll_s)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True, name="parent").start()
