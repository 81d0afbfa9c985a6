"""Starts commands of ``distill`` in processes that are forked from one that has imported TensorFlow and JAX already.

A kill costs a restart, and a restart costs ten seconds of imports; forked from here, it costs none. Run as a program,
this module reads one JSON object per line (``argv``, ``env``, ``log``) and prints the process number of the child, and
later ``[number, exit code]``. Nothing initialises a device, opens a connection or starts a thread before the fork.
"""

import json
import os
import pathlib
import queue
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence

from benchmarks.reliability.small_run import ROOT


class Child:
    """A command that runs, or has run.

    Attributes:
      pid: its process number.
      log: its output.
    """

    def __init__(self, pid: int, log: pathlib.Path):
        self.pid, self.log = pid, log
        self._ended: queue.Queue[int] = queue.Queue()
        self._code: int | None = None

    def end(self, code: int) -> None:
        """Notes the exit code."""
        self._ended.put(code)

    def wait(self, timeout: float) -> int | None:
        """The exit code (negative: the signal), or None if it still runs after ``timeout`` seconds."""
        if self._code is None:
            try:
                self._code = self._ended.get(timeout=timeout)
            except queue.Empty:
                return None
        return self._code

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Sends a signal; none if it has ended."""
        if self.wait(0.001) is None:
            os.kill(self.pid, number)

    @property
    def output(self) -> str:
        """What it has printed."""
        return self.log.read_text(errors="replace")


class Nursery:
    """A process that forks commands. Use as a context manager; its children do not outlive it.

    Args:
      environment: for the process and all children; JAX reads most of its variables when it is imported.
      training: whether TensorFlow and JAX are imported before the forks; ``extract`` needs neither.
    """

    def __init__(self, environment: Mapping[str, str], *, training: bool = True):
        given = {**os.environ, "PYTHONPATH": os.fspath(ROOT), **environment}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.reliability.nursery", *(["training"] if training else [])],
            cwd=ROOT, env=given, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        self._children: dict[int, Child] = {}
        self._started: queue.Queue[int] = queue.Queue()
        self._lock = threading.Lock()
        assert self._process.stdout is not None and self._process.stdin is not None
        if self._process.stdout.readline() != "ready\n":
            raise RuntimeError("the process that forks commands did not start")
        threading.Thread(target=self._read, daemon=True).start()

    def __enter__(self) -> "Nursery":
        return self

    def __exit__(self, *_: object) -> None:
        for child in list(self._children.values()):
            child.kill()
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def start(self, argv: Sequence[str], log: pathlib.Path, **env: str) -> Child:
        """Runs ``distill ARGV`` with its output in ``log``."""
        assert self._process.stdin is not None
        log.parent.mkdir(parents=True, exist_ok=True)
        with self._lock:
            self._log = log
            self._process.stdin.write(json.dumps({"argv": list(argv), "env": env, "log": str(log)}) + "\n")
            self._process.stdin.flush()
            pid = self._started.get(timeout=60)
            return self._children[pid]

    def run(self, argv: Sequence[str], log: pathlib.Path, timeout: float) -> tuple[int | None, str]:
        """The exit code and the output of ``distill ARGV``; it is killed after ``timeout`` seconds."""
        child = self.start(argv, log)
        code = child.wait(timeout)
        child.kill()
        return code, child.output

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            pid, code = json.loads(line)
            if code is None:
                self._children[pid] = Child(pid, self._log)
                self._started.put(pid)
            else:
                self._children[pid].end(code)


def _run(argv: Sequence[str], env: Mapping[str, str], log: str) -> int:
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, file in enumerate((nothing, output, output)):
        os.dup2(file, number)
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(number, mode, buffering=1) for number, mode in enumerate("rww"))
    os.environ.update(env)
    sys.argv = ["distill", *argv]
    from distill.cli import main

    return main.main()


def _forget_ended(alive: set[int]) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        alive.discard(pid)
        print(json.dumps([pid, os.waitstatus_to_exitcode(status)]), flush=True)


def main() -> None:
    """Forks what it reads."""
    from distill.cli import main as command_line  # noqa: F401

    if sys.argv[1:] == ["training"]:
        import seqio  # noqa: F401

        from distill.api import configuration  # noqa: F401
        from distill.training import train  # noqa: F401
    else:
        import openai.resources.chat  # noqa: F401

        from distill.cli import teacher  # noqa: F401
        from distill.teacher.clients import transport  # noqa: F401

    print("ready", flush=True)
    buffer, alive = b"", set[int]()
    while True:
        if select.select([0], [], [], 0.05)[0]:
            got = os.read(0, 65536)
            if not got:
                for pid in alive:
                    os.kill(pid, signal.SIGKILL)
                os._exit(0)  # the end of an interpreter with TensorFlow takes seconds
            buffer += got
        while b"\n" in buffer:
            line, _, buffer = buffer.partition(b"\n")
            job = json.loads(line)
            pid = os.fork()
            if pid == 0:
                sys.exit(_run(**job))
            alive.add(pid)
            print(json.dumps([pid, None]), flush=True)
        _forget_ended(alive)


if __name__ == "__main__":
    main()
