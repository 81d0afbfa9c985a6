"""Ending a process in which nothing happens any more: a collective, a data thread, a checkpoint or a decoder that hangs.

The code of a run reports each activity with :func:`doing`, and progress in it with :func:`alive`. Without a report for
too long, :func:`watching` writes the stack of every thread and ends the process.
"""

import contextlib
import faulthandler
import json
import math
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import jax
from etils import epath

from distill import exit_codes

FOLDER = "stacks"
_LONGEST_CHECK_S = 10.0  # seconds between two checks, and between two reports to the other processes
_ANSWER_S = 5.0  # seconds that the coordinator and the file system have once the process is stuck
_SILENT = 3  # reports that a process may miss before the others warn of it
_KEY = "distill/alive"

_watch: "_Watch | None" = None


def doing(what: str, step: int | None = None) -> None:
    """Notes what this process begins, for the message should it not end.

    Args:
      what: such as ``waiting for a training batch``.
      step: the number of updates made so far, if it has changed.
    """
    if _watch is not None:
        _watch.begin(what, step)


def alive() -> None:
    """Notes that the current stage makes progress."""
    if _watch is not None:
        _watch.last = time.monotonic()


@contextlib.contextmanager
def watching(
    after_s: float | None, directory: epath.PathLike, remedy: Callable[[], str] = lambda: "start all processes again"
) -> Iterator[None]:
    """Ends the process with exit code 75 if its block shows no sign of life for ``after_s`` seconds.

    Before that, the stacks of all threads go to standard error and to ``<directory>/stacks``, with a message that names
    what the process was in, its last step, and, of several processes, what each of them last reported. Locks of files are
    not released: they are those of a dead process.

    In a run of several processes, one that stops reporting is named in a warning, with the remedy. JAX ends the others
    at its heartbeat's timeout, which is longer, and cannot name either.

    Args:
      after_s: seconds, longer than the longest single operation (a compilation, a checkpoint); None watches nothing.
      directory: of the run.
      remedy: makes the end of that warning.
    """
    global _watch
    if after_s is None:
        yield
        return
    before, _watch = _watch, _Watch(after_s, directory, remedy)
    _watch.start()
    try:
        yield
    finally:
        _watch.end()
        _watch = before


class _Watch:
    def __init__(self, after_s: float, directory: epath.PathLike, remedy: Callable[[], str]):
        self.after_s, self._directory, self._remedy = after_s, epath.Path(directory), remedy
        self.last = time.monotonic()
        self._what, self._step, self._stepped = "setting up", 0, self.last
        self._process, self._processes = jax.process_index(), jax.process_count()
        self._every = min(_LONGEST_CHECK_S, after_s / 6)
        self._reports: dict[
            int, tuple[float, float]
        ] = {}  # per other process, its newest report's time, and when it came
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._check, daemon=True, name="stuck")]
        if self._processes > 1:
            self._threads.append(threading.Thread(target=self._report, daemon=True, name="stuck-report"))

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        self._over.set()
        self._threads[0].join()
        for thread in self._threads[1:]:
            thread.join(_ANSWER_S)
        faulthandler.cancel_dump_traceback_later()

    def begin(self, what: str, step: int | None) -> None:
        self.last = time.monotonic()
        self._what = what
        if step is not None and step != self._step:
            self._step, self._stepped = step, self.last

    def _check(self) -> None:
        checked = time.monotonic()
        while not self._over.wait(self._every):
            before, checked = checked, time.monotonic()
            if checked - before > self._every + self.after_s / 2:
                self.last = checked  # the whole process was stopped, this thread included, and continues now
            if self._idle() > self.after_s:
                self._end_process()
            # For a call that never returns to Python, which would stop this thread, too.
            faulthandler.dump_traceback_later(2 * self.after_s + 60, exit=True, file=2)

    def _idle(self) -> float:
        return time.monotonic() - self.last

    def _end_process(self) -> None:
        stacks, message = _stacks(), self._message()
        text = f"{message}\n\n{stacks}"
        _write_stderr(text)
        where = self._directory / FOLDER / f"process_{self._process}_{time.strftime('%Y%m%d_%H%M%S')}.txt"
        written = _within(lambda: _write(where, text))
        _write_stderr(f"distill: {message}" + (f"; all stacks are in {where}" if written else "") + "\n")
        os._exit(exit_codes.STOPPED)

    def _message(self) -> str:
        of = f" {self._process} of {self._processes}" if self._processes > 1 else ""
        return (
            f"process{of} is stuck: nothing has happened for {self._idle():.0f} s (STUCK_AFTER_S = {self.after_s:g}) while "
            f"{self._what}, {time.monotonic() - self._stepped:.0f} s after its last step, {self._step}"
            + (f"; {self._others()}" if self._processes > 1 else "")
            + "; run the same command again to continue from the last checkpoint"
        )

    def _report(self) -> None:
        """Stores what this process does, for the message of the others, and warns of one that does so no longer."""
        while not self._over.wait(self._every):
            with contextlib.suppress(Exception):  # the others only lose a report; a lost coordinator ends the process
                report = {"step": self._step, "what": self._what, "idle": self._idle(), "time": time.time()}
                _client().key_value_set(f"{_KEY}/{self._process}", json.dumps(report), allow_overwrite=True)
                for number, each in _stored_reports().items():
                    self._warn_if_silent(number, each["time"])
        with contextlib.suppress(Exception):  # it is not silent, but done
            _client().key_value_delete(f"{_KEY}/{self._process}")

    def _warn_if_silent(self, number: int, reported: float) -> None:
        now = time.monotonic()
        before, came = self._reports.get(number, (None, now))
        if reported != before:
            self._reports[number] = reported, now
        elif now - came > _SILENT * self._every and number != self._process:
            self._reports[number] = reported, math.inf  # once
            _write_stderr(
                f"distill: process {number} of {self._processes} has reported nothing for {now - came:.0f} s; if it has "
                f"ended, this process ends, too, as soon as JAX notices; {self._remedy()}\n"
            )

    def _others(self) -> str:
        reports = _within(_stored_reports)
        if reports is None:
            return "process 0, which holds the reports of all, does not answer"
        lines = [
            self._line(number, reports.get(number)) for number in range(self._processes) if number != self._process
        ]
        return ", ".join(lines)

    def _line(self, number: int, report: dict[str, Any] | None) -> str:
        if report is None:
            return f"process {number} has reported nothing"
        ago = time.time() - report["time"]
        silent = f", no report for {ago:.0f} s" if ago > _SILENT * self._every else ""
        return f"process {number}: step {report['step']}, {report['what']} for {report['idle'] + ago:.0f} s{silent}"


def _client() -> Any:
    """JAX's client of the coordinator, which has no public name."""
    from jax._src import distributed

    return distributed.global_state.client


def _stored_reports() -> dict[int, dict[str, Any]]:
    """The newest report of each process that is watched."""
    return {int(key.rpartition("/")[2]): json.loads(value) for key, value in _client().key_value_dir_get(_KEY)}


def _within(action: Any, seconds: float = _ANSWER_S) -> Any:
    """The result of ``action``, or None if it fails or takes longer than ``seconds``."""
    out: list[Any] = []

    def run() -> None:
        with contextlib.suppress(Exception):
            out.append(action())

    thread = threading.Thread(target=run, daemon=True, name="stuck-answer")
    thread.start()
    thread.join(seconds)
    return out[0] if out else None


def _stacks() -> str:
    """The stack of every thread, the innermost call last."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    parts = []
    for ident, frame in sys._current_frames().items():
        if ident != threading.get_ident():
            stack = "".join(traceback.format_stack(frame))
            parts.append(f"thread {names.get(ident, 'of a library')} ({ident}):\n{stack}")
    return "\n".join(parts)


def _write(path: epath.Path, text: str) -> bool:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return True


def _write_stderr(text: str) -> None:
    """Writes to the process's standard error, whatever ``sys.stderr`` is now."""
    with contextlib.suppress(OSError):
        os.write(2, text.encode(errors="replace"))
