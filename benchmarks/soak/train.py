"""The leg ``train``: a training run that is stopped and continued again and again."""

import itertools
import re
import shutil
import subprocess
import time
from pathlib import Path

from benchmarks.soak.commands import prepared, training
from benchmarks.soak.sampling import Sampler, stopped


def run(directory: Path, sampler: Sampler, minutes: float, restart_minutes: float) -> None:
    """Trains, and restarts the run every ``restart_minutes``."""
    prepared(directory, student=False)
    shutil.rmtree(directory / "trained", ignore_errors=True)
    settings = ("TRAIN_STEPS=100000000", "CHECKPOINT_PERIOD=500", "EVAL_PERIOD=250", "LOG_PERIOD=10")
    command = training(directory, directory / "trained", *settings, "LEARNING_RATE=5e-3")
    end = sampler.started + 60 * minutes
    for attempt in itertools.count():
        log = directory / f"train.{attempt}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output)
        until = min(end, time.monotonic() + 60 * restart_minutes)
        sampler.watch(process, attempt, lambda path=log: last_step(path), until)
        early = process.poll() is not None
        code = stopped(process)
        sampler.write(attempt=attempt, exit_code=code, expected=75, ok=code == 75 and not early, log=log.name)
        if early or code != 75 or time.monotonic() >= end:
            return


def last_step(log: Path) -> int:
    """The newest step that a training log names; 0 without one."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 2**14))
        found = re.findall(rb"^step (\d+)/", file.read(), re.MULTILINE)
    return int(found[-1]) if found else 0
