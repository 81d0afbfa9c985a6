"""The soak test's sampler counts a process tree, and its verdict finds a leak of memory, of files or of time."""

import json
import os
import random
import subprocess
import sys

import pytest

from benchmarks.soak import __main__ as command_line
from benchmarks.soak import sampling, train, verdict

_CHILD = """
import subprocess, sys, threading
held = bytearray(b"1" * 80_000_000)
files = [open("/dev/null") for _ in range(10)]
wait = threading.Event()
threading.Thread(target=wait.wait, daemon=True).start()
inner = subprocess.Popen([sys.executable, "-c", "held = bytearray(b'1' * 40_000_000); print(1, flush=True); input()"],
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE)
inner.stdout.readline()
print("ready", flush=True)
input()
inner.communicate(b"\\n")
"""


def test_usage_is_of_the_whole_tree():
    # Without the settings of the tests' own processes, which keep freed memory.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    process = subprocess.Popen(
        [sys.executable, "-c", _CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    )
    try:
        process.stdout.readline()
        assert len(sampling.tree(process.pid)) == 2
        found = sampling.usage(process.pid)
        assert 120 < found["anonymous_mb"] < 220
        assert found["rss_mb"] >= found["anonymous_mb"]
        assert found["threads"] == 3
        assert found["files"] >= 13
    finally:
        process.communicate(b"\n")
    assert process.returncode == 0
    with pytest.raises(ProcessLookupError):
        sampling.usage(process.pid)


def samples(leg, *, attempts=1, memory=0.0, files=0, slower=0.0):
    """An hour, one sample per 10 s, with noise; the faults grow evenly to the given share or number at the end."""
    draw, rows, cpu, work = random.Random(0), [], 0.0, 0
    for number in range(360):
        attempt, at = divmod(number, 360 // attempts)
        done = number / 360
        cpu, work = (0.0, 0) if at == 0 else (cpu, work)
        cpu, work = cpu + 10 * (1 + slower * done) * draw.uniform(0.9, 1.1), work + 100
        rows.append(
            {
                "seconds": 10.0 * number,
                "attempt": attempt,
                "age": 10.0 * at,
                "work": work,
                "control_s": 0.01,
                "rss_mb": 1000 * (1 + memory * done) + draw.choice((0, 0, 0, 25, 75)) + (400 if number < 20 else 0),
                "cpu_s": cpu,
                "threads": 9,
                "files": 7 + draw.choice((0, 0, 2)) + int(files * done),
            }
        )
    return rows


ENDED = [{"seconds": 3600.0, "attempt": 0, "exit_code": 75, "expected": 75, "ok": True}]


@pytest.mark.parametrize(("leg", "attempts"), [("train", 15), ("infer", 1)])
def test_the_verdict(leg, attempts):
    def failed(ends=ENDED, **faults):
        found = verdict.verdict(leg, samples(leg, attempts=attempts, **faults), ends)
        assert ("FAILED" in verdict.table(found)) is not found["passed"]
        return [name for name, passed in found["checks"].items() if not passed]

    assert failed() == []
    assert failed(memory=0.05) == ["memory"]
    assert failed(memory=-0.05) == ["memory"]
    assert failed(files=3) == ["open files"]
    assert failed(slower=0.12) == ["processor time"]
    assert failed(slower=-0.12) == []
    assert failed(ends=[]) == ["exit codes and counts"]
    assert failed(ends=[*ENDED, {**ENDED[0], "exit_code": 1, "ok": False}]) == ["exit codes and counts"]


def test_the_drift_has_an_interval_that_covers_it():
    found = verdict.drift([0, 1, 2, 3], [10.0, 11.0, 12.0, 13.0])
    assert found.mean == 11.5
    assert found.share == pytest.approx(3 / 11.5)
    assert found.low == pytest.approx(found.share)
    noisy = verdict.drift([0, 1, 2, 3], [10.0, 12.0, 11.0, 13.0])
    assert noisy.low < noisy.share < noisy.high
    with pytest.raises(ValueError, match="at least two blocks"):
        verdict.drift([1.0], [2.0])


def test_report_reads_the_files_of_a_running_leg_and_draws_them(tmp_path, capsys):
    lines = [json.dumps(row) for row in samples("infer")]
    (tmp_path / "infer.jsonl").write_text("\n".join(lines) + '\n{"seconds": 3600, "att')  # torn
    assert not command_line.report(tmp_path)  # no exit code yet
    assert "infer: 59.8 min" in capsys.readouterr().out
    assert json.loads((tmp_path / "verdict.json").read_text())[0]["checks"]["memory"]
    assert (tmp_path / "soak.png").stat().st_size > 10_000


def test_the_newest_step_of_a_log(tmp_path):
    (tmp_path / "log").write_text(
        "compiling\n" + "step 10/100  loss 1\n" * 2000 + "step 20/100  loss 1\nstep 20  validation: 1\n"
    )
    assert train.last_step(tmp_path / "log") == 20
