"""Real W&B (offline) and MLflow (a local database): one run over a stop and a restart, and failures that end nothing."""

import importlib.util
import json
import logging
import threading
import time

import pytest
from etils import epath

from distill.terminal import Terminal
from distill.training import checks, tracking, train

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    for name in ("WANDB_PROJECT", "WANDB_NAME", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")


class Stop(BaseException):
    """Simulates a process that ends here."""


def test_a_restarted_run_continues_the_same_runs(tmp_path, arguments, monkeypatch, capsys):
    """Also sends what TensorBoard gets, and names the selected score."""
    from mlflow.tracking import MlflowClient

    directory = tmp_path / "run"

    class StopAtFive(train.StopRequest):
        def requested(self, step):
            if step == 5:
                self.name = "SIGTERM"
            return super().requested(step)

    with monkeypatch.context() as patch:
        patch.setattr(train, "StopRequest", StopAtFive)
        assert train.train(str(directory), **arguments, trackers=("wandb", "mlflow")).stopped == "SIGTERM"
    ids = json.loads((directory / "trackers.json").read_text())
    client = MlflowClient(tracking_uri=f"sqlite:///{directory / 'mlflow.db'}")
    assert client.get_run(ids["mlflow"]).info.status == "KILLED"
    result = train.train(str(directory), **arguments, trackers=("wandb", "mlflow"))
    assert json.loads((directory / "trackers.json").read_text()) == ids
    found = client.get_run(ids["mlflow"])
    assert found.info.status == "FINISHED"
    assert [point.step for point in client.get_metric_history(ids["mlflow"], "train/loss")] == [4, 8]
    assert found.data.metrics["test/accuracy"] == pytest.approx(result.test["accuracy"])
    assert found.data.metrics["selected/validation/accuracy"] == pytest.approx(result.best)
    assert len(client.search_runs([found.info.experiment_id])) == 1
    folders = sorted(path.name for path in (directory / "wandb").glob("offline-run-*"))
    assert len(folders) == 2
    assert all(name.endswith(ids["wandb"]) for name in folders)
    assert all(path.stat().st_size > 1000 for path in (directory / "wandb").glob("*/run-*.wandb"))
    assert "WARNING wandb" not in capsys.readouterr().err


class Broken:
    def __init__(self, fails="log"):
        self.fails, self.calls = fails, []

    def start(self):
        self._do("start")

    def log(self, step, values):
        self._do("log")

    def finish(self, summary, complete):
        self._do("finish")

    def _do(self, name):
        self.calls.append(name)
        if name == self.fails:
            raise ConnectionError("no route\nto host")


def test_a_service_that_fails_is_reported_once_and_ends_nothing(capsys):
    service, dead = Broken(), Broken("start")
    trackers = tracking.Trackers({"wandb": service, "mlflow": dead}, Terminal())
    for step in range(3):
        trackers.log(step, {"loss": 1.0})
    trackers.finish({}, complete=True)
    assert service.calls == ["start", "log", "log", "log", "finish"]
    assert dead.calls == ["start"]
    lines = sorted(line for line in capsys.readouterr().err.splitlines() if "WARNING" in line)
    assert lines == [f"WARNING {name}: ConnectionError: no route; training continues" for name in ("mlflow", "wandb")]


def test_a_service_that_hangs_does_not_delay_the_steps_and_is_left(monkeypatch, capsys):
    hanging, goes_on = Broken(None), threading.Event()
    hanging.log = lambda step, values: goes_on.wait()
    monkeypatch.setattr(tracking, "_FINISH_S", 0.2)
    trackers = tracking.Trackers({"mlflow": hanging}, Terminal())
    begun = time.monotonic()
    for step in range(1000):
        trackers.log(step, {"loss": 1.0, "nan": float("nan")})
    trackers.finish({}, complete=True)
    assert time.monotonic() - begun < 5.0
    assert "WARNING mlflow: it has not answered for" in capsys.readouterr().err
    goes_on.set()


def test_a_service_without_its_package_or_of_another_name_is_refused_before_any_work(tmp_path, arguments, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "wandb" else find(name, *a))
    message = r"TRACKERS names 'wandb', whose package is not installed: pip install 'distill-step-by-step\[wandb\]'"
    with pytest.raises(ValueError, match=message):
        train.train(str(tmp_path / "run"), **arguments, trackers=("wandb",))
    with pytest.raises(ValueError, match=r"TRACKERS must be one of .*got 'wandbb'; did you mean 'wandb'"):
        checks.check(**arguments, trackers=("wandbb",))
    assert not (tmp_path / "run").exists()


def test_ids_that_cannot_be_read_begin_new_runs(tmp_path, capsys):
    (tmp_path / "trackers.json").write_text("[1")
    trackers = tracking.open_trackers(("wandb",), epath.Path(tmp_path), {}, Terminal(), active=False)
    trackers.finish({}, complete=True)
    assert (tmp_path / "trackers.json").read_text() == "[1"  # of several processes only the first writes
    assert logging.getLogger("distill").level == logging.NOTSET


@pytest.mark.parametrize("text", ["[1", "[1]", "[" * 100_000])
def test_ids_that_cannot_be_read_are_named_by_the_first_process(tmp_path, capsys, text):
    (tmp_path / "trackers.json").write_text(text)
    tracking.open_trackers(("none",), epath.Path(tmp_path), {}, Terminal(), active=True)
    said = capsys.readouterr()
    assert "trackers.json holds no ids of trackers and is replaced" in said.out + said.err
