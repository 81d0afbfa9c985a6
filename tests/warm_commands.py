"""``distill`` in new processes that start at once: forks of one process that has imported TensorFlow, SeqIO and JAX.

Importing takes four seconds of processor time, which a test that needs several processes pays once. A fork has no JAX
backend, no distributed runtime and no compiled program: what it runs, it sets up as any process does.

As a program, reads one JSON object per line: the arguments, log, environment, wrapper and folder of a command.
"""

import contextlib
import gc
import importlib
import json
import os
import pathlib
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence

import compiled_programs

ROOT = pathlib.Path(__file__).resolve().parents[1]
PATIENCE_S = 300  # for whatever has to happen, however loaded the machine
IMPORTED = (
    "tensorflow", "tensorflow_datasets", "seqio", "clu.metric_writers", "orbax.checkpoint", "distill.cli.main",
    "distill.cli.training", "distill.api.configuration", "distill.training.train", "distill.inference.evaluate",
    "distill.tasks.jsonl", "scipy.stats",
)  # fmt: skip


class Command:
    """A running ``distill``.

    Attributes:
      pid: its process.
      log: the file with its output and errors.
    """

    def __init__(self, pid: int, log: pathlib.Path):
        self.pid, self.log = pid, log

    @property
    def output(self) -> str:
        return self.log.read_text()

    def lines(self, word: str) -> list[str]:
        """The rest of each line of the output that starts with a word."""
        return [line.removeprefix(f"{word} ") for line in self.output.splitlines() if line.startswith(f"{word} ")]

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while the process runs."""
        with contextlib.suppress(FileNotFoundError):
            return int(_exit_file(self.log).read_text())
        return None

    def wait(self, timeout: float = PATIENCE_S) -> int:
        """Returns the exit code.

        Raises:
          TimeoutError: the process still runs after ``timeout`` seconds.
        """
        until = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > until:
                raise TimeoutError(f"still running after {timeout} s:\n{self.output}")
            time.sleep(0.05)
        return code

    def wait_for(self, text: str) -> None:
        """Returns once the process has printed ``text``."""
        until = time.monotonic() + PATIENCE_S
        while text not in self.output:
            assert self.poll() is None, self.output
            assert time.monotonic() < until, f"no {text!r} in {PATIENCE_S} s:\n{self.output}"
            time.sleep(0.05)

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


class Starter:
    """The process that is forked."""

    def __init__(self, running: subprocess.Popen[str]):
        self._running = running

    def start(
        self,
        arguments: Sequence[str],
        log: pathlib.Path,
        environment: Mapping[str, str],
        wrapper: str,
        folder: pathlib.Path = ROOT,
    ) -> Command:
        """Runs ``distill`` with arguments.

        Args:
          arguments: of the command line.
          log: receives output and errors.
          environment: added to the environment before JAX reads it.
          wrapper: module whose function ``main`` is called instead of :func:`distill.cli.main.main`.
          folder: the working directory.
        """
        given = {"arguments": list(arguments), "log": str(log), "environment": dict(environment), "wrapper": wrapper}
        given["folder"] = str(folder)
        log.touch()
        self._running.stdin.write(json.dumps(given) + "\n")
        self._running.stdin.flush()
        return Command(int(self._running.stdout.readline()), log)


@contextlib.contextmanager
def starter() -> Iterator[Starter]:
    """A process to fork; neither it nor a fork outlives the context."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__]
    running = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield Starter(running)
    finally:
        running.stdin.close()  # which ends it, after its forks
        running.wait(PATIENCE_S)


def _exit_file(log: pathlib.Path) -> pathlib.Path:
    return log.with_name(f"{log.name}.exit")


def _run(arguments: list[str], log: str, environment: dict[str, str], wrapper: str, folder: str) -> None:
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    os.chdir(folder)
    os.environ.update(environment)
    sys.argv = ["distill", *arguments]
    compiled_programs.write_in_every_process()
    sys.exit(importlib.import_module(wrapper).main())


def _serve() -> None:
    for name in IMPORTED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # no fork's collector visits, and thereby copies, what was imported
    gc.set_threshold(10_000, 20, 20)
    running: dict[int, pathlib.Path] = {}
    while True:
        ready, _, _ = select.select([0], [], [], 0.05)
        if ready:
            line = b""
            while not line.endswith(b"\n"):
                piece = os.read(0, 1)
                if not piece:
                    break
                line += piece
            if not line:
                break
            given = json.loads(line)
            if (pid := os.fork()) == 0:
                _run(**given)
            running[pid] = pathlib.Path(given["log"])
            os.write(1, f"{pid}\n".encode())
        _note_exits(running)
    for pid in running:
        os.kill(pid, signal.SIGKILL)
    while running:
        _note_exits(running)
        time.sleep(0.02)


def _note_exits(running: dict[int, pathlib.Path]) -> None:
    """Writes the exit codes of the forks that ended."""
    for pid in list(running):
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            target = _exit_file(running.pop(pid))
            part = target.with_name(f"{target.name}.part")
            part.write_text(str(os.waitstatus_to_exitcode(status)))
            part.rename(target)


if __name__ == "__main__":
    _serve()
