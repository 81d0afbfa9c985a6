"""Long runs of ``train``, ``infer`` and ``extract``: whether memory, open files and processor time per step stay constant.

Three legs, each of which starts the command as a user does and samples its process tree from ``/proc``:

- ``train``: the quickstart recipe. Every ``--restart_minutes`` the run gets SIGTERM, must exit with 75, and the same
  command continues it.
- ``infer``: that student answers an endless stream of rows from a named pipe. Some rows are large, some are damaged.
- ``extract``: a job of many rows against a teacher on loopback, which fails some of the requests. It ends with SIGTERM,
  and its store is compared with the replies that the teacher gave.

A leg writes ``LEG.jsonl`` into the directory: one JSON object per sample. The verdict fits a line to values of blocks
and reports the drift over the whole leg, with a 95 % interval. For ``train`` a block is one attempt, from a minute after
its first step; the first attempt, which compiles what later ones read from the cache, is left out. A leg passes if

- resident memory, the median of each block, drifts by at most 2 % (buffers of batches in flight come and go, depending
  on the load of the machine: mean and peak are reported);
- the smallest number of open files is the same in every block;
- processor time per step, row or reply drifts by at most 5 %, as a multiple of the time of a fixed computation that is
  sampled with it: other programs of the machine slow both;
- all exit codes and counts are as expected.

Wall time per step is reported and drawn, but has no limit: it depends on other programs of the machine.

    python -m benchmarks.soak train --minutes=120 --directory=build/soak
    python -m benchmarks.soak infer extract --minutes=60 --directory=build/soak
    python -m benchmarks.soak --report_only --directory=build/soak   # the verdict and soak.png of finished or running legs
"""

import argparse
import asyncio
import contextlib
import dataclasses
import itertools
import json
import math
import os
import re
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

LEGS = ("train", "infer", "extract")
UNITS = {"train": "step", "infer": "row", "extract": "reply"}
MEMORY_LIMIT, TIME_LIMIT = 0.02, 0.05
BLOCKS = 12  # of a leg with one attempt
WARM_UP_S = (
    60.0  # of training, after the first step of an attempt; other legs leave out their first sixth, at most 300 s
)
STOP_S = 300.0  # seconds that a command may take to end after a signal
EVERY_LARGE, EVERY_DAMAGED = 1000, 1500  # one row in so many
LARGE = 200_000  # characters of a large row
ROWS_PER_SECOND = 2000  # of infer, so that the other legs have processors, too
REPLIES_PER_SECOND = 50  # of extract, at most
PARALLEL = 16  # requests of extract at the same time


# -- Measuring ---------------------------------------------------------------------------------------------------------


def tree(pid: int) -> list[int]:
    """The process ``pid`` and its descendants."""
    found = [pid]
    for each in found:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{each}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
    return found


def usage(pid: int) -> dict[str, float]:
    """Memory, processor time, threads and open files of a process tree.

    Returns:
      ``rss_mb`` (MB, resident), ``anonymous_mb`` (the part of it that no file backs), ``cpu_s`` (user and system time of
      the tree, its ended children included), ``threads`` and ``files``.

    Raises:
      ProcessLookupError: the process has ended.
    """
    total = dict.fromkeys(("rss_mb", "anonymous_mb", "cpu_s", "threads", "files"), 0.0)
    ticks = os.sysconf("SC_CLK_TCK")
    for each in tree(pid):
        try:
            status = dict(
                line.split(":", 1) for line in Path(f"/proc/{each}/status").read_text().splitlines() if ":" in line
            )
            times = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
            files = len(os.listdir(f"/proc/{each}/fd"))
        except OSError:
            if each == pid:
                raise ProcessLookupError(pid) from None
            continue
        if "VmRSS" not in status:  # it has ended and is not reaped
            if each == pid:
                raise ProcessLookupError(pid)
            continue
        total["rss_mb"] += int(status["VmRSS"].split()[0]) * 1024 / 1e6
        total["anonymous_mb"] += int(status["RssAnon"].split()[0]) * 1024 / 1e6
        total["cpu_s"] += sum(map(int, times[11:15])) / ticks
        total["threads"] += int(status["Threads"])
        total["files"] += files
    return total


def control() -> float:
    """Processor seconds of a fixed computation: how fast the machine is now, whatever the measured program does."""
    started, value = time.thread_time(), 0
    for number in range(200_000):
        value = (value * 31 + number) & 0xFFFF
    return time.thread_time() - started


@dataclasses.dataclass
class Sampler:
    """Appends samples of one leg to its file.

    Attributes:
      file: the open ``LEG.jsonl``.
      period: seconds between samples.
      started: of the leg, by :func:`time.monotonic`.
    """

    file: IO[str]
    period: float
    started: float = dataclasses.field(default_factory=time.monotonic)

    def write(self, **values: Any) -> None:
        """Writes one object; ``seconds`` is the time since the leg began."""
        self.file.write(json.dumps({"seconds": round(time.monotonic() - self.started, 2), **values}) + "\n")
        self.file.flush()

    def watch(self, process: subprocess.Popen[bytes], attempt: int, work: Callable[[], int], until: float) -> None:
        """Samples ``process`` until ``until`` (by :func:`time.monotonic`) or until it ends.

        Args:
          process: the command.
          attempt: counts its starts.
          work: returns the steps or rows done so far.
          until: when to return.
        """
        begun = time.monotonic()
        while process.poll() is None and time.monotonic() < until:
            with contextlib.suppress(ProcessLookupError):
                measured = {name: round(value, 3) for name, value in usage(process.pid).items()}
                age = round(time.monotonic() - begun, 2)
                self.write(attempt=attempt, age=age, work=work(), control_s=round(control(), 5), **measured)
            time.sleep(max(0.0, min(self.period, until - time.monotonic())))


def stopped(process: subprocess.Popen[bytes]) -> int:
    """The exit code after SIGTERM; the process is killed after ``STOP_S`` seconds."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        return process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


# -- The legs ----------------------------------------------------------------------------------------------------------


def distill(*arguments: str) -> list[str]:
    """The command line of ``distill``, by this interpreter."""
    return [sys.executable, "-m", "distill", *arguments]


def training(directory: Path, model_dir: Path, *bindings: str) -> list[str]:
    """The command that trains the quickstart's student on the rows in ``directory``."""
    splits = {split: str(directory / "rows" / f"{split}.jsonl") for split in ("train", "validation", "test")}
    given = (f"FILES={json.dumps(splits)}", f"VOCABULARY_PATH={directory / 'rows' / 'vocabulary.model'}")
    return distill(
        "train",
        "--gin_file=gin/recipes/quickstart.gin",
        *(f"--gin.{each}" for each in (*given, f"MODEL_DIR={model_dir}", *bindings)),
    )


def prepared(directory: Path, student: bool) -> Path:
    """Writes the rows and, with ``student``, trains the student that ``infer`` needs; returns its model directory."""
    directory.mkdir(parents=True, exist_ok=True)
    if not (directory / "rows").exists():
        subprocess.run(distill("example", f"--output={directory / 'rows'}"), check=True, stdout=subprocess.DEVNULL)
    model_dir = directory / "student"
    if student and not (model_dir / "result.json").exists():
        settings = ("TRAIN_STEPS=300", "CHECKPOINT_PERIOD=300", "EVAL_PERIOD=300", "LEARNING_RATE=2e-2")
        with (directory / "student.log").open("ab") as log:
            subprocess.run(training(directory, model_dir, *settings), check=True, stdout=log, stderr=log)
    return model_dir


def train(directory: Path, sampler: Sampler, minutes: float, restart_minutes: float) -> None:
    """Trains, and restarts the run every ``restart_minutes``."""
    prepared(directory, student=False)
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


def questions(directory: Path) -> Iterator[bytes]:
    """Lines for ``infer`` without end: the example's questions, large ones and damaged ones between them."""
    texts = [json.loads(line)["question"] for line in (directory / "rows" / "train.jsonl").read_text().splitlines()]
    for number in itertools.count(1):
        text = texts[number % len(texts)]
        if number % EVERY_DAMAGED == 0:
            yield b'{"id": %d, "question": "no end\n' % number
            continue
        if number % EVERY_LARGE == 0:
            text = " ".join([text] * (LARGE // len(text)))
        yield json.dumps({"id": number, "question": text}).encode() + b"\n"


def infer(directory: Path, sampler: Sampler, minutes: float, restart_minutes: float) -> None:
    """Answers rows from a pipe that has no end until ``minutes`` have passed."""
    del restart_minutes
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
    try:
        code = process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        code = process.wait()
    feeding.join(10)
    lines = bad = 0
    with output.open("rb") as file:
        for line in file:
            lines, bad = lines + 1, bad + (b'"error"' in line)
    right = lines == fed and bad == fed // EVERY_DAMAGED
    sampler.write(
        attempt=0, exit_code=code, expected=0, ok=code == 0 and not early and right, fed=fed, lines=lines, errors=bad
    )


class Teacher:
    """An OpenAI-compatible server on loopback: fixed delay, one failure in 200 requests, one cut connection in 1,000.

    Attributes:
      url: its address.
      answered: replies given.
    """

    def __init__(self, delay_s: float):
        self.url, self.answered, self._delay_s, self._calls = "", 0, delay_s, 0
        self._ready = threading.Event()
        threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True).start()
        if not self._ready.wait(30):
            raise TimeoutError("the teacher on loopback did not start within 30 s")

    async def _serve(self) -> None:
        from aiohttp import web

        async def handle(request: web.Request) -> web.StreamResponse:
            body = await request.json()
            self._calls += 1
            call = self._calls
            await asyncio.sleep(self._delay_s)
            if call % 1000 == 0 and request.transport is not None:
                request.transport.abort()
            if call % 200 == 0:
                return web.json_response({"error": {"message": "busy"}}, status=503, headers={"retry-after": "1"})
            text = f"The customer of message {call} wants money back. So the answer is billing."
            self.answered += 1
            return web.json_response(
                {
                    "id": f"reply-{call}",
                    "object": "chat.completion",
                    "created": 1,
                    "model": body["model"],
                    "choices": [
                        {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
                    ],
                    "usage": {"prompt_tokens": 300, "completion_tokens": 20, "total_tokens": 320},
                }
            )

        app = web.Application(client_max_size=2**24)
        app.add_routes([web.post("/v1/chat/completions", handle)])
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        self._ready.set()
        await asyncio.Event().wait()


def extract(directory: Path, sampler: Sampler, minutes: float, restart_minutes: float) -> None:
    """Extracts from a teacher that answers a fixed number of requests per second, until ``minutes`` have passed."""
    del restart_minutes
    directory.mkdir(parents=True, exist_ok=True)
    teacher = Teacher(PARALLEL / REPLIES_PER_SECOND)
    inputs, output = directory / "extract.rows.jsonl", directory / "extract.records.jsonl"
    store = directory / "extract.sqlite"
    for path in (*directory.glob("extract.records*"), *directory.glob("extract.sqlite*")):
        path.unlink()
    with inputs.open("w") as file:
        for number in range(math.ceil(minutes * 60 * REPLIES_PER_SECOND * 1.25) + 1000):
            text = f"Message {number}: I was charged twice for March."
            if number % EVERY_LARGE == 0:
                text += " Please help." * 1000
            file.write(json.dumps({"id": number, "input": text, "label": "billing"}) + "\n")
    command = distill(
        "extract",
        f"--inputs={inputs}",
        f"--output={output}",
        "--prompt=template",
        "--model=soak",
        f"--base_url={teacher.url}",
        f"--concurrency={PARALLEL}",
        f"--store={store}",
    )
    environment = {**os.environ, "OPENAI_API_KEY": "none"}
    with (directory / "extract.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    sampler.started = time.monotonic()
    sampler.watch(process, 0, lambda: teacher.answered, sampler.started + 60 * minutes)
    early = process.poll() is not None
    code = stopped(process)
    with contextlib.closing(sqlite3.connect(store)) as connection:
        (stored,) = connection.execute("SELECT count(*) FROM replies").fetchone()
    right = stored == teacher.answered
    sampler.write(
        attempt=0,
        exit_code=code,
        expected=75,
        ok=code == 75 and not early and right,
        answered=teacher.answered,
        stored=stored,
    )


# -- The verdict -------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Drift:
    """A line through block means.

    Attributes:
      mean: of the blocks.
      share: change over the whole leg by the fitted line, as a share of the mean.
      low, high: its 95 % interval (Student's t, blocks - 2 degrees of freedom); infinite with two blocks.
    """

    mean: float
    share: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{100 * self.share:+.2f} % [{100 * self.low:+.2f}, {100 * self.high:+.2f}]"


def drift(times: Sequence[float], values: Sequence[float]) -> Drift:
    """The least-squares line of ``values`` over ``times``, as a change from the first time to the last.

    Raises:
      ValueError: fewer than two different times.
    """
    import numpy as np
    from scipy import stats

    if len(set(times)) < 2:
        raise ValueError(f"a drift needs at least two blocks; got {len(values)}. Run the leg for longer")
    x, y = np.asarray(times, float), np.asarray(values, float)
    span, mean = x.max() - x.min(), float(y.mean())
    fit = stats.linregress(x, y)
    share = float(fit.slope * span / mean)
    width = math.inf if len(x) < 3 else float(stats.t.ppf(0.975, len(x) - 2) * fit.stderr * span / mean)
    return Drift(mean, share, share - width, share + width)


def read(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The samples and the ends of attempts in a leg's file; a torn last line is left out."""
    rows = []
    for line in path.read_text().splitlines():
        with contextlib.suppress(ValueError):
            rows.append(json.loads(line))
    return [row for row in rows if "rss_mb" in row], [row for row in rows if "exit_code" in row]


def blocks(leg: str, samples: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Samples after warm-up, in blocks: attempts of ``train``, else equal spans of time; none of a single sample."""
    if leg == "train":
        parts = []
        for attempt, rows in itertools.groupby(samples, key=lambda row: row["attempt"]):
            stepping = [row for row in rows if row["work"]]
            if attempt and stepping:
                begin = stepping[0]["age"] + WARM_UP_S
                parts.append([row for row in stepping if row["age"] >= begin])
    else:
        end = max((row["age"] for row in samples), default=0.0)
        begin = min(300.0, end / 6)
        warm = [row for row in samples if row["age"] >= begin and row["work"]]
        size = (end - begin) / BLOCKS or 1.0
        keyed = [(min(BLOCKS - 1, int((row["age"] - begin) / size)), row) for row in warm]
        parts = [[row for _, row in rows] for _, rows in itertools.groupby(keyed, key=lambda pair: pair[0])]
    return [part for part in parts if len(part) > 1 and part[-1]["work"] > part[0]["work"]]


def per_unit(part: Sequence[Mapping[str, Any]], of: str) -> float:
    """Milliseconds of ``of`` (``cpu_s`` or ``seconds``) per step or row in a block."""
    return 1e3 * (part[-1][of] - part[0][of]) / (part[-1]["work"] - part[0]["work"])


def verdict(leg: str, samples: Sequence[dict[str, Any]], ends: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The figures of a leg, and whether it passes.

    Raises:
      ValueError: fewer than two blocks.
    """
    parts = blocks(leg, samples)
    middles = [statistics.mean(row["seconds"] for row in part) for part in parts]

    def fitted(values: Sequence[float]) -> Drift:
        return drift(middles, values)

    memory = fitted([statistics.median(row["rss_mb"] for row in part) for part in parts])
    mean = fitted([statistics.mean(row["rss_mb"] for row in part) for part in parts])
    controls = [statistics.mean(row["control_s"] for row in part) for part in parts]
    cpu = fitted([per_unit(part, "cpu_s") for part in parts])
    relative = fitted([per_unit(part, "cpu_s") / 1e3 / control for part, control in zip(parts, controls)])
    wall = fitted([per_unit(part, "seconds") for part in parts])
    speed = fitted(controls)
    # Within an attempt: all attempts laid over each other, each around its own mean.
    centred = [
        (row["age"], row["rss_mb"] - statistics.mean(r["rss_mb"] for r in part)) for part in parts for row in part
    ]
    within = None
    if leg == "train" and len({age for age, _ in centred}) > 1:
        within = drift([age for age, _ in centred], [mean.mean + value for _, value in centred])
    files = [int(min(row["files"] for row in part)) for part in parts]
    checks = {
        "memory": abs(memory.share) <= MEMORY_LIMIT,
        "open files": len(set(files)) == 1,
        "processor time": abs(relative.share) <= TIME_LIMIT,
        "exit codes and counts": bool(ends) and all(end["ok"] for end in ends),
    }
    return {
        "leg": leg,
        "minutes": round((samples[-1]["seconds"] - samples[0]["seconds"]) / 60, 1),
        "attempts": len({row["attempt"] for row in samples}),
        "samples": len(samples),
        "blocks": len(parts),
        "work": sum(part[-1]["work"] - part[0]["work"] for part in parts),
        "unit": UNITS[leg],
        "memory_mb": dataclasses.asdict(memory),
        "memory_mean_mb": dataclasses.asdict(mean),
        "memory_peak_mb": max(row["rss_mb"] for part in parts for row in part),
        "memory_within_an_attempt_mb": dataclasses.asdict(within) if within else None,
        "files": [min(files), max(files)],
        "threads": [int(of(row["threads"] for part in parts for row in part)) for of in (min, max)],
        "cpu_ms_per_unit": dataclasses.asdict(cpu),
        "cpu_in_controls_per_unit": dataclasses.asdict(relative),
        "wall_ms_per_unit": dataclasses.asdict(wall),
        "control_s": dataclasses.asdict(speed),
        "ends": list(ends),
        "checks": checks,
        "passed": all(checks.values()),
    }


def table(found: Mapping[str, Any]) -> str:
    """A verdict in lines to print."""

    def line(name: str, key: str, unit: str, check: str = "") -> str:
        each = Drift(**found[key])
        mark = "" if not check else "  ok" if found["checks"][check] else "  FAILED"
        return f"  {name:34} {each.mean:10.3f} {unit:12} drift {each}{mark}"

    unit = found["unit"]
    units = f"{unit[:-1]}ies" if unit == "reply" else f"{unit}s"
    lines = [
        f"{found['leg']}: {found['minutes']} min, {found['attempts']} attempt(s), {found['samples']} samples, "
        f"{found['work']:,} {units} in {found['blocks']} blocks: {'passed' if found['passed'] else 'FAILED'}",
        line("resident memory, median", "memory_mb", "MB", "memory"),
        line("mean memory (no limit)", "memory_mean_mb", "MB"),
    ]
    if found["memory_within_an_attempt_mb"]:
        lines.append(line("mean within an attempt (no limit)", "memory_within_an_attempt_mb", "MB"))
    lines += [
        f"  {'peak memory':34} {found['memory_peak_mb']:10.3f} MB",
        f"  {'open files, least per block':34} {found['files'][0]:6} to {found['files'][1]}"
        + ("  ok" if found["checks"]["open files"] else "  FAILED"),
        f"  {'threads':34} {found['threads'][0]:6} to {found['threads'][1]}",
        line("processor time", "cpu_ms_per_unit", f"ms/{unit}"),
        line("processor time / control", "cpu_in_controls_per_unit", f"per {unit}", "processor time"),
        line("wall time (no limit)", "wall_ms_per_unit", f"ms/{unit}"),
        line("control computation", "control_s", "s"),
        "  ends: "
        + ("  ok  " if found["checks"]["exit codes and counts"] else "  FAILED  ")
        + "; ".join(
            f"{number} × {json.dumps(end)}"
            for end, number in _counted(
                {name: value for name, value in end.items() if name not in ("seconds", "attempt", "log")}
                for end in found["ends"]
            )
        ),
    ]
    return "\n".join(lines)


def _counted(values: Iterator[dict[str, Any]]) -> list[tuple[dict[str, Any], int]]:
    texts = [json.dumps(value) for value in values]
    return [(json.loads(text), texts.count(text)) for text in dict.fromkeys(texts)]


def plot(directory: Path, legs: Sequence[str]) -> Path:
    """Draws the samples of the legs to ``soak.png``: memory, open files and threads, processor and wall time per unit."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(len(legs), 3, figsize=(13, 3 * len(legs)), squeeze=False, layout="constrained")
    for row, leg in zip(axes, legs):
        samples, ends = read(directory / f"{leg}.jsonl")
        minutes = [each["seconds"] / 60 for each in samples]
        row[0].plot(minutes, [each["rss_mb"] for each in samples], ".", ms=2, color="C0")
        row[0].set_ylabel(f"{leg}\nresident memory (MB)")
        row[0].set_ylim(bottom=0)
        row[1].plot(minutes, [each["files"] for each in samples], ".", ms=2, color="C1", label="open files")
        row[1].plot(minutes, [each["threads"] for each in samples], ".", ms=2, color="C2", label="threads")
        row[1].set_ylim(bottom=0)
        row[1].legend()
        parts = blocks(leg, samples)
        middles = [statistics.mean(each["seconds"] for each in part) / 60 for part in parts]
        for of, name, colour in (("cpu_s", "processor", "C3"), ("seconds", "wall", "C7")):
            row[2].plot(middles, [per_unit(part, of) for part in parts], "o-", ms=3, color=colour, label=f"{name} time")
        row[2].set_ylim(bottom=0)
        row[2].set_ylabel(f"ms per {UNITS[leg]}")
        row[2].legend()
        for axis in row:
            for end in ends[:-1]:
                axis.axvline(end["seconds"] / 60, color="0.85", lw=0.5, zorder=0)
    for axis in axes[-1]:
        axis.set_xlabel("minutes")
    path = directory / "soak.png"
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return path


def report(directory: Path) -> bool:
    """Prints the legs' verdicts; writes ``verdict.json`` and ``soak.png`` into ``directory``. Returns whether all pass."""
    found = []
    for leg in LEGS:
        if (directory / f"{leg}.jsonl").exists():
            try:
                found.append(verdict(leg, *read(directory / f"{leg}.jsonl")))
            except ValueError as error:
                print(f"{leg}: {error}")
                continue
            print(table(found[-1]))
    if not found:
        raise SystemExit(f"{directory} has no leg to judge ({', '.join(f'{leg}.jsonl' for leg in LEGS)})")
    (directory / "verdict.json").write_text(json.dumps(found, indent=1) + "\n")
    print(f"{directory / 'verdict.json'}, {plot(directory, [each['leg'] for each in found])}")
    return all(each["passed"] for each in found)


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("legs", nargs="*", choices=[*LEGS, []], help="the legs to run, one after the other")
    parser.add_argument("--minutes", type=float, default=60, help="minutes of each leg; default: 60")
    parser.add_argument("--restart_minutes", type=float, default=5, help="minutes between restarts; default: 5")
    parser.add_argument("--period", type=float, default=10, help="seconds between samples; default: 10")
    parser.add_argument("--directory", default="build/soak", help="folder of all output; default: build/soak")
    parser.add_argument("--report_only", action="store_true", help="print the verdict and draw the plot; run nothing")
    return parser.parse_args(given)


def main() -> int:
    options = arguments()
    directory = Path(options.directory).absolute()
    if not options.report_only and not options.legs:
        raise SystemExit(f"name at least one leg: {', '.join(LEGS)}")
    if not options.report_only:
        for leg in options.legs:
            if leg == "train":
                shutil.rmtree(directory / "trained", ignore_errors=True)
            directory.mkdir(parents=True, exist_ok=True)
            with (directory / f"{leg}.jsonl").open("w") as file:
                {"train": train, "infer": infer, "extract": extract}[leg](
                    directory, Sampler(file, options.period), options.minutes, options.restart_minutes
                )
    return 0 if report(directory) else 1


if __name__ == "__main__":
    sys.exit(main())
