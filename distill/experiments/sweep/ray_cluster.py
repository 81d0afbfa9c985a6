"""Ray as the executor of a sweep: Ray chooses the machine and the devices of each run (extra ``ray``).

Every group of runs is one Ray task, which starts ``distill sweep DIRECTORY --run=NAME`` on its machine, so that the
memory of a run is freed with its process. The sweep directory must be on a file system that all machines share.
"""

import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distill.experiments.sweep.levels import SweepError
from distill.experiments.sweep.runs import Run
from distill.experiments.sweep.workers import LOG, LOST_CODE

_STOP_POLL_S = 0.5


def train(command: Sequence[str], log: str, stop: str, directory: str) -> int:
    """Runs in a Ray task: trains the runs of a command line; returns its exit code.

    Args:
      command: the arguments after the interpreter.
      log: the file that its output is appended to.
      stop: a file that ends the training, with a checkpoint, when it appears. Ray cannot send a signal to a process.
      directory: the working directory.
    """
    with open(log, "ab") as output:
        process = subprocess.Popen(
            [sys.executable, *command], cwd=directory, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            while (code := process.poll()) is None:
                if os.path.exists(stop):
                    process.send_signal(signal.SIGTERM)
                    code = process.wait()
                    break
                time.sleep(_STOP_POLL_S)
        finally:
            if process.poll() is None:  # Ray cancels the task
                process.terminate()
                process.wait()
    return 128 - code if code < 0 else code


class Cluster:
    """Runs groups on a Ray cluster; see :class:`~distill.experiments.sweep.scheduler.Executor`.

    Args:
      command: the arguments after the interpreter; ``--run=NAME`` is added.
      capacity: groups that are handed to Ray at once, of which it runs as many as the cluster has resources for.
      address: of the cluster; "auto" is the one that this machine belongs to, "local" starts one here.
      cpus, gpus: of one run.
      resources: other resources of one run, such as ``{"TPU": 4}``.

    Raises:
      SweepError: Ray is not installed, or there is no cluster.
    """

    def __init__(
        self,
        command: Sequence[str],
        capacity: int,
        address: str = "auto",
        cpus: float = 1,
        gpus: float = 0,
        resources: dict[str, float] | None = None,
    ):
        self._ray = _imported()
        self._command, self.capacity = command, capacity
        try:
            self._ray.init(address=address, ignore_reinit_error=True, log_to_driver=False)
        except ConnectionError as error:
            reason = " ".join(str(error).split())[:160]
            raise SweepError(
                f"no Ray cluster at {address!r} ({reason}); start one with `ray start --head`, or use --ray_address=local"
            ) from None
        options = {"num_cpus": cpus, "num_gpus": gpus, "resources": resources or {}, "max_retries": 0}
        self._task = self._ray.remote(**options)(train)

    def start(self, runs: Sequence[Run]) -> "Task":
        """Hands a group to Ray, which queues it until its resources are free."""
        return Task(self._ray, self._task, [*self._command, *(f"--run={run.name}" for run in runs)], runs)

    def close(self) -> None:
        """Leaves the cluster."""
        self._ray.shutdown()


class Task:
    """A group that Ray trains."""

    where = "Ray"

    def __init__(self, ray: Any, task: Any, command: Sequence[str], runs: Sequence[Run]):
        self._ray = ray
        folder = runs[0].directory.absolute()
        folder.mkdir(parents=True, exist_ok=True)
        self.log, self._stop_file = folder / LOG, folder / ".stop"
        self._stop_file.unlink(missing_ok=True)
        self._reference = task.remote(list(command), str(self.log), str(self._stop_file), os.getcwd())
        self._code: int | None = None

    def poll(self) -> int | None:
        """Returns the exit code; ``LOST_CODE`` if Ray lost the task, None while it is queued or runs."""
        if self._code is None:
            ready, _ = self._ray.wait([self._reference], timeout=0)
            if ready:
                self._code = self._result()
        return self._code

    def _result(self) -> int:
        self._stop_file.unlink(missing_ok=True)
        try:
            return int(self._ray.get(self._reference))
        except Exception as error:  # of Ray: a machine was lost
            with Path(self.log).open("a") as log:
                log.write(f"Ray lost the run: {' '.join(str(error).split())[:300]}\n")
            return LOST_CODE

    def stop(self) -> None:
        """Requests that the run saves and stops; a queued one stops when it starts."""
        self._stop_file.touch()


def _imported() -> Any:
    try:
        return importlib.import_module("ray")
    except ImportError:
        raise SweepError(
            "the executor 'ray' needs Ray; install it with: pip install 'distill-step-by-step[ray]'"
        ) from None
