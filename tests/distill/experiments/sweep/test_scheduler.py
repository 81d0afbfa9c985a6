"""The scheduler, with programs in place of training: every run once, taken over, retried, stopped."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from distill import exit_codes
from distill.experiments.sweep import leases, outcomes, plan, scheduler, workers
from distill.experiments.sweep.inputs import Changed
from distill.experiments.sweep.runs import Run

# Stands in for `distill sweep DIRECTORY --run=NAME`: notes its start, and does what the file `does` of its run says.
PROGRAM = """
import json, os, pathlib, signal, sys, time
name = next(word.removeprefix("--run=") for word in sys.argv if word.startswith("--run="))
folder = pathlib.Path(sys.argv[1]) / name
with (folder / "starts").open("a") as file:
    file.write(f"{os.getpid()}\\n")
does = (folder / "does").read_text().split(",")
number = len((folder / "starts").read_text().split()) - 1
what = does[min(number, len(does) - 1)]
if what == "wait":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
    (folder / "ready").touch()
    time.sleep(60)
if what == "slow":
    print("step 1/2  loss 1.0", flush=True)
    time.sleep(1)
    what = "done"
if what == "done":
    (folder / "result.json").write_text(json.dumps({"best": 0.5, "best_step": 3}))
    sys.exit(0)
if what == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
print("the last line", flush=True)
sys.exit(int(what))
"""


@pytest.fixture
def directory(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    return tmp_path / "out"


def planned(directory, **does):
    runs = [Run(name, {}, (), (), directory / name) for name in does]
    made = plan.Plan(directory, runs)
    for run in runs:
        run.directory.mkdir(parents=True)
        (run.directory / "does").write_text(does[run.name])
    made.write()
    return made


def schedule(made, count=2, retries=0, say=lambda text: None):
    program = [sys.executable, str(made.directory.parent / "program.py"), str(made.directory)]
    executor = workers.Processes(program, workers.slots(count, gpus=[]))
    work = scheduler.PlannedWork(made, retries)
    scheduler.Scheduler(made.directory, work, executor, say, retries=retries).run()


def starts(made, name):
    path = made.directory / name / "starts"
    return len(path.read_text().split()) if path.exists() else 0


def test_every_run_is_trained_once_and_failures_are_recorded(directory):
    made, lines = planned(directory, a="done", b="4", c="2", d="done"), []
    schedule(made, say=lines.append)
    assert [starts(made, name) for name in "abcd"] == [1, 1, 1, 1]
    states = [entry.state for entry in plan.read_directory(directory)]
    assert states == ["done", "failed", "failed", "done"]
    assert outcomes.failure(made.runs[2]).error == "the last line (exit code 2)"
    assert any(line.startswith("a done: validation 0.5000 at step 3 after ") for line in lines)
    schedule(made)  # nothing is open
    assert [starts(made, name) for name in "abcd"] == [1, 1, 1, 1]


def test_after_a_run_that_was_refused_none_starts_and_those_that_train_end(directory):
    made, lines = planned(directory, a="5,done", b="slow", c="done"), []
    (directory / "b" / "sweep.log").write_text("step 5/9  loss 1.0\n")  # of an earlier attempt
    with pytest.raises(Changed, match=r"^the last line$"):
        schedule(made, say=lines.append)
    assert [starts(made, name) for name in "abc"] == [1, 1, 0] and made.runs[1].done
    assert "the last line; 1 run that had started before goes on" in lines
    assert [entry.state for entry in plan.read_directory(directory)] == ["waiting", "done", "waiting"]
    schedule(made)
    assert all(run.done for run in made.runs)


def test_runs_that_are_refused_alike_are_one_message(directory):
    made, lines = planned(directory, a="5", b="5"), []
    with pytest.raises(Changed, match=r"^the last line$"):
        schedule(made, say=lines.append)
    assert [starts(made, name) for name in "ab"] == [1, 1] and not any("the last line" in line for line in lines)


def test_a_failed_run_is_repeated_as_often_as_told(directory):
    made = planned(directory, a="2,2,done", b="2")
    schedule(made, retries=2)
    assert (starts(made, "a"), starts(made, "b")) == (3, 3)
    assert made.runs[0].done and outcomes.failure(made.runs[1]).attempts == 3


def test_a_worker_that_somebody_stopped_continues(directory):
    made = planned(directory, a="75,143,done")
    schedule(made)
    assert starts(made, "a") == 3 and made.runs[0].done


def test_a_worker_that_is_stopped_again_and_again_is_given_up(directory, monkeypatch):
    monkeypatch.setattr(scheduler, "_RESTARTS", 1)
    made, lines = planned(directory, a="75"), []
    schedule(made, say=lines.append)
    assert starts(made, "a") == 2
    assert lines[1] == "a was stopped and continues"
    log = directory / "a" / "sweep.log"
    assert lines[3:] == [f"a failed: the worker was stopped 2 times; its log is {log}; --retry_failed repeats the run"]


def test_a_killed_worker_s_run_is_repeated_once(directory):
    made, lines = planned(directory, a="kill,done", b="kill"), []
    schedule(made, say=lines.append)
    assert (starts(made, "a"), starts(made, "b")) == (2, 2) and made.runs[0].done
    failed = outcomes.failure(made.runs[1])
    assert failed.attempts == 1 and failed.error == (
        "the worker was ended by SIGKILL 2 times; the machine's memory may be exhausted; its log is "
        f"{directory / 'b' / 'sweep.log'}; --retry_failed repeats the run"
    )
    assert f"b was killed and is started again; log {directory / 'b' / 'sweep.log'}" in lines


def test_an_error_of_the_machine_ends_the_sweep_and_records_no_failure(directory):
    made = planned(directory, a="74", b="wait")
    with pytest.raises(OSError, match="a: the last line"):
        schedule(made)
    assert [entry.state for entry in plan.read_directory(directory)] == ["waiting", "waiting"]


DRIVER = """
import pathlib, sys
sys.path.insert(0, {tests!r})
from distill.experiments.sweep import plan, scheduler, workers
made = plan.read_plan(sys.argv[1])
program = [sys.executable, str(made.directory.parent / "program.py"), str(made.directory)]
executor = workers.Processes(program, workers.slots(2, gpus=[]))
try:
    scheduler.Scheduler(made.directory, scheduler.PlannedWork(made), executor, print).run()
except Exception as error:
    sys.exit(75 if type(error).__name__ == "Stopped" else 1)
"""


def driver(directory):
    text = DRIVER.format(tests=str(pathlib.Path(__file__).resolve().parents[3]))
    process = subprocess.Popen([sys.executable, "-c", text, str(directory)], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    waiting = [path.parent for path in directory.glob("*/does") if path.read_text().startswith("wait")]
    while not all((folder / "ready").exists() for folder in waiting):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    return process


def test_a_signal_stops_all_workers_and_the_same_command_continues(directory):
    made = planned(directory, a="wait,done", b="wait,done", c="done")
    process = driver(directory)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == exit_codes.STOPPED
    assert not any(outcomes.is_running(directory, [run]) for run in made.runs)
    schedule(made)
    assert all(run.done for run in made.runs)
    assert starts(made, "a") == 2


def test_two_schedulers_share_a_directory_and_a_dead_one_is_replaced(directory):
    """The first one is killed; its worker runs on without a lease. The second trains the rest, and that run again."""
    made = planned(directory, a="wait,done", b="done", c="done", d="done")
    process = driver(directory)
    other = threading.Thread(target=lambda: schedule(made, count=1))
    other.start()
    deadline = time.monotonic() + 30
    while not all(run.done for run in made.runs[1:]):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert leases.is_held(directory, "a") and starts(made, "a") == 1  # the other scheduler waits for it
    process.kill()
    process.wait()
    other.join(30)
    assert made.runs[0].done and starts(made, "a") == 2
    assert [starts(made, name) for name in "bcd"] == [1, 1, 1]
    os.kill(int((directory / "a" / "starts").read_text().split()[0]), signal.SIGKILL)


def test_a_worker_stops_when_its_scheduler_is_gone(tmp_path):
    program = (
        "import time, signal, sys\nfrom distill.experiments.sweep import scheduler\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))\nscheduler.stop_with_parent(0.05)\ntime.sleep(60)\n"
    )
    environment = {**os.environ, workers.PARENT: "1"}  # not the parent: it is gone
    assert subprocess.run([sys.executable, "-c", program], env=environment, timeout=60).returncode == 75


def test_signals_are_noted_inside_the_block_only():
    before = signal.getsignal(signal.SIGTERM)
    with scheduler.Signals() as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
        assert signals.name == "SIGTERM"
    assert signal.getsignal(signal.SIGTERM) is before
    assert json.dumps(signals.name) == '"SIGTERM"'
