"""Phases of the loop, speeds, stragglers, and goodput over attempts."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from etils import epath

from distill.training import timing
from distill.training.config import Progress


@pytest.fixture
def now(monkeypatch):
    """A clock that is set by hand: ``now[0]`` is the monotonic time, and the time since 1970."""
    moment = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: moment[0])
    monkeypatch.setattr(time, "time", lambda: moment[0])
    return moment


def test_every_second_belongs_to_the_innermost_phase(now):
    lanes = [Progress(seconds=5.0), Progress()]
    clock = timing.Clock(lanes, chips=4)
    now[0] += 1.0
    with clock.phase("step"):
        now[0] += 2.0
        with clock.phase("data"):
            now[0] += 4.0
        now[0] += 8.0
    assert clock.window() == {
        "step": 10.0, "data": 4.0, "other": 1.0, "evaluation": 0.0, "checkpoint": 0.0, "compile": 0.0, "profile": 0.0,
    }  # fmt: skip
    clock.read()
    clock.read()
    assert lanes[0].phases == lanes[1].phases == {"other": 0.5, "step": 5.0, "data": 2.0}
    assert (lanes[0].seconds, lanes[1].seconds, lanes[1].chip_seconds) == (12.5, 7.5, 30.0)
    with pytest.raises(KeyError), clock.phase("evaluation"):
        now[0] += 3.0
        raise KeyError
    assert clock.window()["evaluation"] == 3.0


def test_rates_leave_out_evaluation_checkpoints_and_compilation():
    window = {"step": 3.0, "data": 1.0, "other": 0.0, "evaluation": 50.0, "checkpoint": 20.0, "compile": 90.0}
    costs = timing.StepCosts(flops=8e12, peak_flops=4e12)
    found = timing.rates(window, steps=10, tokens=800.0, devices=2, costs=costs)
    assert found == {"steps_per_second": 2.5, "tokens_per_second_per_device": 100.0, "mfu": 2.5}
    assert "mfu" not in timing.rates(window, 10, 800.0, 2, timing.StepCosts(flops=8e12))  # a CPU has no peak
    assert timing.rates(window, 0, 0.0, 2, costs) == {}


def test_the_process_that_the_others_wait_for_is_named():
    found = timing.slowest(np.array([[0.01, 0.5], [0.3, 0.5], [0.02, 0.5]], np.float32))
    assert (found.process, found.notable) == (1, True)
    assert str(found) == "slowest process: 1, 0.3 s of host work per step (median 0.02 s, step 0.5 s)"
    alike = timing.slowest(np.array([[0.30, 0.5], [0.31, 0.5]], np.float32))
    assert not alike.notable
    short = timing.slowest(np.array([[0.001, 0.5], [0.004, 0.5]], np.float32))
    assert not short.notable  # less than a tenth of the step
    assert timing.straggler(dict.fromkeys(timing.PHASES, 1.0), 5) is None  # one process


def test_goodput_counts_lost_work_and_the_time_between_attempts(tmp_path, now, monkeypatch):
    directory = epath.Path(tmp_path) / "run"
    first = timing.Attempts(directory, 0, started=90.0)
    now[0] = 130.0
    first.seen(37)  # and then it is killed; its newest checkpoint is of step 20
    now[0] = 190.0
    second = timing.Attempts(directory, 20, started=180.0)
    progress = Progress(phases={"step": 25.0, "compile": 5.0})
    assert timing.goodput(progress, second, lanes=1) == 0.25
    assert (second.wall_seconds, second.lost_steps, len(second.all)) == (100.0, 17, 2)
    second.seen(40, complete=True)
    now[0] = 1190.0
    third = timing.Attempts(directory, 40, started=1190.0)  # the finished run is continued: the pause is not its fault
    assert third.wall_seconds == 100.0
    assert [third.first_updates(steps) for steps in (40, 60)] == [2, 3]
    assert [each["step"] for each in json.loads((directory / "attempts.json").read_text())] == [37, 40, 40]


def test_the_step_is_noted_seldom(tmp_path, now):
    attempts = timing.Attempts(epath.Path(tmp_path), 0, started=now[0])
    written = (tmp_path / "attempts.json").read_text()
    now[0] += 1.0
    attempts.seen(5)
    assert (tmp_path / "attempts.json").read_text() == written
    attempts.seen(6, now=True)
    assert json.loads((tmp_path / "attempts.json").read_text())[0]["step"] == 6


def test_the_step_that_a_killed_attempt_reached_is_in_a_file_of_its_disk(tmp_path, caplog):
    """SIGKILL leaves no time for a note: the process writes the step at every update."""
    code = (
        "import os, signal, sys, time\nfrom etils import epath\nfrom distill.training import timing\n"
        "attempts = timing.Attempts(epath.Path(sys.argv[1]), 4, started=time.time())\n"
        "for step in range(5, 1208):\n    attempts.made(step)\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == -signal.SIGKILL
    [seen] = timing.read_attempts(epath.Path(tmp_path))
    assert (seen.first_step, seen.step) == (4, 1207)
    after = timing.Attempts(epath.Path(tmp_path), 1200, started=time.time())
    assert (after.lost_steps, [each.step for each in after.all]) == (7, [1207, 1200])
    again = timing.Attempts(epath.Path(tmp_path), 1200, started=time.time())  # the second attempt made no step
    assert (again.lost_steps, [each.step for each in again.all]) == (7, [1207, 1200, 1200])
    assert again.first_updates(1300) == 2
    (tmp_path / "attempts.step").write_text("")
    assert timing.Attempts(epath.Path(tmp_path), 1200, started=time.time()).lost_steps == 7
    assert "attempts.step does not hold an attempt and a step" in caplog.text


@pytest.mark.parametrize("text", ['[{"started": 1', "[" * 100_000])
def test_damaged_attempts_are_reported_and_counted_anew(tmp_path, caplog, text):
    (tmp_path / "attempts.json").write_text(text)
    attempts = timing.Attempts(epath.Path(tmp_path), 3, started=time.time())
    assert len(attempts.all) == 1
    assert "attempts.json is no list of attempts; goodput and attempts are counted from now" in caplog.text


def test_operations_are_counted_while_the_first_steps_run():
    def slowly(compiled, devices):
        time.sleep(0.05)
        return timing.StepCosts(flops=6.0 * devices, peak_flops=1.0)

    counting = timing.Counting(slowly, object(), devices=2)
    assert counting.result() == counting.result() == timing.StepCosts(flops=12.0, peak_flops=1.0)
    assert timing.Counting().result() == timing.StepCosts()


def test_the_summary_fits_a_terminal():
    summary = {
        "seconds": 200.0, "phases": dict.fromkeys(timing.PHASES, 30.0), "tokens_per_second_per_device": 123456.7,
        "padding_share": 0.123, "flops_per_step": 1.25e15, "mfu": 0.4321, "peak_memory_bytes": 70 * 2**30, "goodput": 0.9,
        "lost_steps": 17, "attempts": 2, "wall_seconds": 222.2,
    }  # fmt: skip
    lines = timing.summary_lines(summary)
    assert all(len(line) <= 110 for line in lines)
    speed = "speed: 123,457 tokens/s per device, padding 12%, 1.25e+15 FLOP/step, MFU 43.2%, memory 70.00 GiB"
    assert lines[0].startswith("2 attempts: 200.0 s, step 15%") and "profile 15%, other 15%" in lines[0]
    untraced = {name: 30.0 for name in timing.PHASES if name != "profile"}
    assert "profile" not in timing.summary_lines(summary | {"phases": untraced})[0]
    assert timing.summary_lines(summary | {"attempts": 1})[0].startswith("training loop: 200.0 s, step 15%")
    assert lines[1] == speed
    assert lines[2] == "goodput (share of all time in updates that count): 90%, 2 attempts, 17 steps lost"
