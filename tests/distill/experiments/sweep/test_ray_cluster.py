"""Ray as an executor: with Ray where it is installed, and with a module in its place that runs tasks in threads."""

import concurrent.futures
import importlib.util
import sys
import time
import types

import pytest

from distill.experiments.sweep import SweepError, outcomes, plan, ray_cluster, scheduler
from distill.experiments.sweep.runs import Run

PROGRAM = """
import json, pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1]) / sys.argv[2].removeprefix("--run=")
if folder.name == "wait" and not (folder / "ready").exists():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
    (folder / "ready").touch()
    time.sleep(60)
if folder.name == "bad":
    print("the last line")
    sys.exit(2)
(folder / "result.json").write_text(json.dumps({"best": 0.5, "best_step": 3}))
"""


def fake_ray():
    pool = concurrent.futures.ThreadPoolExecutor(2)
    made = types.ModuleType("ray")
    made.asked = []

    def init(address, **options):
        if address == "auto":
            raise ConnectionError("Could not find any running Ray instance.")

    def remote(**options):
        made.asked.append(options)
        return lambda function: types.SimpleNamespace(remote=lambda *given: pool.submit(function, *given))

    def wait(references, timeout):
        return [r for r in references if r.done()], [r for r in references if not r.done()]

    made.init, made.remote, made.wait = init, remote, wait
    made.get, made.shutdown = lambda reference: reference.result(), lambda: None
    return made


@pytest.fixture(params=["fake", "ray"])
def ray(request, monkeypatch):
    if request.param == "ray":
        if importlib.util.find_spec("ray") is None:
            pytest.skip("Ray is not installed")
        return None
    monkeypatch.setitem(sys.modules, "ray", made := fake_ray())
    return made


def planned(tmp_path, *names):
    (tmp_path / "program.py").write_text(PROGRAM)
    made = plan.Plan(tmp_path / "out", [Run(name, {}, (), (), tmp_path / "out" / name) for name in names])
    made.write()
    return made, [str(tmp_path / "program.py"), str(tmp_path / "out")]


@pytest.mark.filterwarnings("ignore")
def test_runs_are_trained_and_failures_recorded(ray, tmp_path):
    made, command = planned(tmp_path, "a", "bad", "c")
    executor = ray_cluster.Cluster(command, 3, "local", cpus=0.5)
    scheduler.Scheduler(made.directory, scheduler.PlannedWork(made), executor).run()
    assert [entry.state for entry in plan.read_directory(made.directory)] == ["done", "failed", "done"]
    assert outcomes.failure(made.runs[1]).error == "the last line (exit code 2)"
    if ray is not None:
        assert ray.asked == [{"num_cpus": 0.5, "num_gpus": 0, "resources": {}, "max_retries": 0}]


def test_a_run_that_ray_loses_is_started_again_once(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", fake_ray())
    lost = {"a": 1, "b": 2}

    def train(command, log, *given, real=ray_cluster.train):
        name = command[-1].removeprefix("--run=")
        lost[name] -= 1
        if lost[name] >= 0:
            raise RuntimeError("the node\ndied")
        return real(command, log, *given)

    monkeypatch.setattr(ray_cluster, "train", train)
    (made, command), lines = planned(tmp_path, "a", "b"), []
    executor = ray_cluster.Cluster(command, 2, "local")
    scheduler.Scheduler(made.directory, scheduler.PlannedWork(made), executor, lines.append).run()
    assert [entry.state for entry in plan.read_directory(made.directory)] == ["done", "failed"]
    assert any(line.startswith("a was lost and is started again; log ") for line in lines)
    error = outcomes.failure(made.runs[1]).error
    assert error.startswith("the worker was lost 2 times (Ray lost the run: the node died); its log is ")


@pytest.mark.filterwarnings("ignore")
def test_a_run_is_stopped_with_its_own_signal_handler_and_continues(ray, tmp_path):
    made, command = planned(tmp_path, "wait")
    executor = ray_cluster.Cluster(command, 1, "local")
    job = executor.start(made.runs)
    deadline = time.monotonic() + 60
    while not (made.runs[0].directory / "ready").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert job.poll() is None
    job.stop()
    while (code := job.poll()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert code == 75
    again = executor.start(made.runs)
    while again.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert again.poll() == 0 and made.runs[0].done
    executor.close()


def test_no_ray_and_no_cluster(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", fake_ray())
    with pytest.raises(SweepError, match=r"no Ray cluster at 'auto' \(Could not find any running Ray instance\.\)"):
        ray_cluster.Cluster([], 1)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SweepError, match=r"needs Ray; install it with: pip install 'distill-step-by-step\[ray\]'"):
        ray_cluster.Cluster([], 1)
