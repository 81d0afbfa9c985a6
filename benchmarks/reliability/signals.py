"""SIGTERM to ``distill train`` at random moments from its first second on: exit code 75, or a finished run.

    python -m benchmarks.reliability.signals --moments=20

Each attempt is a new process, with all its imports. The same directory continues until the run is complete; its
state must be that of a run that was not stopped, bit by bit.
"""

import argparse
import math
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

from benchmarks.reliability import states
from benchmarks.reliability.rows import Row, finish
from benchmarks.reliability.small_run import ROOT, SmallRun, environment

_FIRST_S = 1.0  # the interpreter itself needs a tenth of a second, and longer on a loaded machine
_RUN_S = 900.0


def _start(arguments: list[str], cache: pathlib.Path, log: pathlib.Path) -> "subprocess.Popen[bytes]":
    given = {**os.environ, "PYTHONPATH": os.fspath(ROOT), "XLA_FLAGS": "", **environment(cache)}
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "distill", "train", *arguments], env=given, stdout=output, stderr=output
        )


def run(moments: int = 20, seed: int = 0, minutes: float = math.inf) -> list[Row]:
    """One row; after ``minutes`` no signal is sent, and the last run is completed and compared."""
    row = Row("SIGTERM at any moment gives exit code 75 or a finished run", "a random moment from the first second on")
    started, lot = time.monotonic(), random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="signals-") as temporary:
        folder = pathlib.Path(temporary)
        small = SmallRun(folder / "rows").write()

        def attempt(name: str) -> "subprocess.Popen[bytes]":
            return _start(small.arguments(folder / name), folder / "compiled", folder / f"{name}.log")

        def compare(name: str) -> None:
            if found := states.difference(folder / "reference", folder / name):
                row.lose(f"{name}: {found}")

        begun = time.monotonic()
        assert attempt("reference").wait(_RUN_S) == 0, (folder / "reference.log").read_text()
        duration = time.monotonic() - begun
        number = 0
        until = time.monotonic() + 60.0 * minutes
        while row.tried < moments and time.monotonic() < until:
            name = f"victim_{number}"
            begun, fresh = time.monotonic(), not (folder / name).exists()
            process = attempt(name)
            moment = lot.uniform(_FIRST_S, 1.1 * duration)
            time.sleep(moment)
            signalled = process.poll() is None
            process.send_signal(signal.SIGTERM)
            code, output = process.wait(_RUN_S), (folder / f"{name}.log").read_text(errors="replace")
            row.tried += signalled
            if fresh and not signalled:  # the reference compiled what later runs share, or the machine is faster now
                duration = min(duration, time.monotonic() - begun)
            line = f"{name}: {'SIGTERM' if signalled else 'ended'} after {moment:.1f} s, exit code {code}"
            print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)
            complete = (folder / name / "result.json").exists()
            if code not in (0, 75) or (code == 0 and not complete) or "Traceback" in output:
                row.lose(f"after {moment:.1f} s: exit code {code}: {output[-600:]}")
            if complete:
                compare(name)
                number += 1
        name = f"victim_{number}"
        if (folder / name).exists() and not (folder / name / "result.json").exists():
            assert attempt(f"victim_{number}").wait(_RUN_S) == 0, (folder / f"victim_{number}.log").read_text()
            compare(f"victim_{number}")
    row.seconds = time.monotonic() - started
    return [row]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moments", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=math.inf, help="send no signal later")
    options = parser.parse_args()
    finish(run(options.moments, options.seed, options.minutes))


if __name__ == "__main__":
    main()
