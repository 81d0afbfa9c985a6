"""The leg ``infer``: a student answers rows from a pipe that has no end."""

import itertools
import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.soak.commands import distill, prepared
from benchmarks.soak.sampling import Sampler, ended

ROWS_PER_SECOND = 2000  # so that the other legs have processors, too
LARGE_EVERY, DAMAGED_EVERY = 1000, 1500  # rows from one large or damaged row to the next
LARGE = 200_000  # characters of a large row


def questions(directory: Path) -> Iterator[bytes]:
    """Lines for ``infer`` without end: the example's questions, large ones and damaged ones between them."""
    texts = [json.loads(line)["question"] for line in (directory / "rows" / "train.jsonl").read_text().splitlines()]
    for number in itertools.count(1):
        text = texts[number % len(texts)]
        if number % DAMAGED_EVERY == 0:
            yield b'{"id": %d, "question": "no end\n' % number
            continue
        if number % LARGE_EVERY == 0:
            text = " ".join([text] * (LARGE // len(text)))
        yield json.dumps({"id": number, "question": text}).encode() + b"\n"


def run(directory: Path, sampler: Sampler, minutes: float) -> None:
    """Answers rows from a pipe that has no end until ``minutes`` have passed."""
    model_dir = prepared(directory, student=True)
    pipe, output = directory / "infer.pipe", directory / "infer.answers.jsonl"
    for path in (pipe, output, directory / f"{output.name}.run.json"):
        path.unlink(missing_ok=True)
    os.mkfifo(pipe)
    end = threading.Event()
    fed = 0

    def feed() -> None:
        nonlocal fed
        with pipe.open("wb") as file:
            begun = time.monotonic()
            for line in questions(directory):
                if end.is_set():
                    return
                file.write(line)
                fed += 1
                if fed % 100 == 0:
                    time.sleep(max(0.0, begun + fed / ROWS_PER_SECOND - time.monotonic()))

    def answered() -> int:
        try:
            return int(json.loads((directory / f"{output.name}.run.json").read_text())["rows"])
        except (OSError, ValueError):
            return 0

    feeding = threading.Thread(target=feed, daemon=True)
    feeding.start()
    with (directory / "infer.log").open("wb") as log:
        process = subprocess.Popen(
            distill("infer", f"--model_dir={model_dir}", f"--input={pipe}", f"--output={output}"),
            stdout=log,
            stderr=log,
        )
    sampler.started = time.monotonic()
    sampler.watch(process, 0, answered, sampler.started + 60 * minutes)
    early = process.poll() is not None
    end.set()
    code = ended(process)
    feeding.join(10)
    lines = bad = 0
    with output.open("rb") as file:
        for line in file:
            lines, bad = lines + 1, bad + (b'"error"' in line)
    right = lines == fed and bad == fed // DAMAGED_EVERY
    sampler.write(
        attempt=0, exit_code=code, expected=0, ok=code == 0 and not early and right, fed=fed, lines=lines, errors=bad
    )
