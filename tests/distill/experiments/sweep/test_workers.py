"""Worker processes: their shares, their logs and the reasons of their end."""

import os
import signal
import sys
import time

import pytest

from distill.experiments.sweep import SweepError, workers
from distill.experiments.sweep.runs import Run


def test_processors_and_gpus_are_divided(monkeypatch):
    one, two = workers.slots(2, processors=[0, 1, 2, 3], gpus=["4", "5", "7"])
    assert (one.processors, two.processors) == ((0, 1), (2, 3))
    assert (one.environment["CUDA_VISIBLE_DEVICES"], two.environment["CUDA_VISIBLE_DEVICES"]) == ("4", "5,7")
    assert one.environment["OMP_NUM_THREADS"] == "2"
    assert [slot.processors for slot in workers.slots(3, processors=[0, 1], gpus=[])] == [(0,), (1,), (0,)]
    assert workers.slots(1, processors=[0, 1], gpus=[])[0].processors == ()
    with pytest.raises(SweepError, match="--workers must be at most the number of GPUs, 1; got 2"):
        workers.slots(2, gpus=["0"])
    monkeypatch.setattr(workers, "tpu_chips", lambda: 4)
    with pytest.raises(SweepError, match="--workers must be 1 on a machine with TPUs"):
        workers.slots(2, gpus=[])


def test_gpus_of_the_environment(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-1, 3")
    assert workers.visible_gpus() == ["GPU-1", "3"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert workers.visible_gpus() == []


def start(tmp_path, program):
    executor = workers.Processes([sys.executable, "-c", program], workers.slots(1, gpus=[]))
    run = Run("a", {}, (), (), tmp_path / "a")
    return executor, executor.start([run])


def ended(job, seconds=20):
    deadline = time.monotonic() + seconds
    while (code := job.poll()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return code


def test_output_goes_to_the_log_and_the_slot_is_free_again(tmp_path):
    program = (
        "import os, sys; print('step 3/9 loss'); print(sys.argv[1], os.environ['DISTILL_SWEEP_PARENT']); sys.exit(4)"
    )
    executor, job = start(tmp_path, program)
    assert ended(job) == ended(job) == 4
    assert job.log.read_text() == f"step 3/9 loss\n--run=a {os.getpid()}\n"
    assert workers.last_step(job.log) == "step 3/9"
    assert workers.reason(2, job.log).endswith("(exit code 2)")
    assert ended(executor.start([Run("b", {}, (), (), tmp_path / "b")])) == 4


def test_the_signal_that_ended_a_worker_is_named(tmp_path):
    _, job = start(tmp_path, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert ended(job) == 128 + signal.SIGKILL
    assert "ended by SIGKILL; the machine's memory may be exhausted" in workers.reason(137, job.log)


def test_a_worker_is_asked_to_stop(tmp_path):
    stops = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))"
    _, job = start(tmp_path, f"import signal, sys, time\n{stops}\nprint(1, flush=True)\ntime.sleep(60)")
    while not job.log.read_text():
        time.sleep(0.02)
    job.stop()
    assert ended(job) in workers.STOPPED_CODES


def test_a_missing_log_is_empty(tmp_path):
    assert workers.last_line(tmp_path / "none") == workers.last_step(tmp_path / "none") == ""
