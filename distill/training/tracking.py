"""Sends the metrics of a run to Weights & Biases and to MLflow.

Each service has a thread and a queue, so that a slow service delays no step. A service that fails is reported by one
warning and does not end the run. A run that continues after a stop continues the same run of the service: its id is in
``trackers.json``.

W&B's own environment variables choose the project, the entity and the mode (``WANDB_MODE=offline`` needs no network), and
MLflow's the server and the experiment. Without ``MLFLOW_TRACKING_URI``, MLflow writes ``MODEL_DIR/mlflow.db``.
"""

import importlib.util
import json
import logging
import math
import os
import queue
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from etils import epath

from distill import atomic_files, validation
from distill.terminal import Terminal

IDS = "trackers.json"
PROJECT = "distill"
_PACKAGES = {"wandb": "wandb", "mlflow": "mlflow"}
_FINISH_S = 60.0  # seconds that the end of a run waits for a service


class Service(Protocol):
    """A tracking service. All methods run in one thread."""

    def start(self) -> None:
        """Opens the run, or the run of the same id again."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Sends values of a step."""

    def finish(self, summary: Mapping[str, Any], complete: bool) -> None:
        """Sends the outcome, and closes the run."""


class WandB:
    """A run of Weights & Biases.

    Args:
      directory: the model directory; offline runs are written to its ``wandb`` folder.
      id: of the run.
      configuration: macros of the run.
    """

    def __init__(self, directory: epath.Path, id: str, configuration: Mapping[str, Any]):
        self._directory, self._id, self._configuration = directory, id, dict(configuration)

    def start(self) -> None:
        """See :meth:`Service.start`."""
        import wandb

        mode = os.environ.get("WANDB_MODE", "online")
        if mode == "online" and not wandb.api.api_key:
            raise RuntimeError("W&B has no API key; run `wandb login`, or set WANDB_MODE=offline")
        local = "://" not in str(self._directory)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=os.environ.get("WANDB_NAME", self._directory.name),
            id=self._id,
            resume="allow",
            dir=str(self._directory) if local else None,
            config=self._configuration,
            reinit="create_new",  # joint seeds have several runs at once
            settings=wandb.Settings(silent=True, console="off"),
        )
        # After a kill, steps are repeated. W&B's own step may not decrease, so the run's step is a metric.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See :meth:`Service.log`."""
        self._run.log({**values, "step": step})

    def finish(self, summary: Mapping[str, Any], complete: bool) -> None:
        """See :meth:`Service.finish`."""
        self._run.summary.update(dict(summary))
        self._run.finish(exit_code=0 if complete else 1)


class MLflow:
    """A run of MLflow.

    Args:
      directory: the model directory.
      ids: ids by service; the run's is added when MLflow has given it.
      configuration: macros of the run, sent as parameters.
      save: writes the ids.
    """

    def __init__(
        self, directory: epath.Path, ids: dict[str, str], configuration: Mapping[str, Any], save: Callable[[], None]
    ):
        self._directory, self._ids, self._configuration, self._save = directory, ids, configuration, save

    def start(self) -> None:
        """See :meth:`Service.start`."""
        from mlflow.tracking import MlflowClient

        for noisy in ("mlflow", "alembic"):  # they print how they make the tables of a new database
            logging.getLogger(noisy).setLevel(logging.WARNING)

        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if not uri:
            if "://" in str(self._directory):
                raise RuntimeError("MLflow needs MLFLOW_TRACKING_URI for a MODEL_DIR that is not a local folder")
            uri = f"sqlite:///{os.path.abspath(self._directory / 'mlflow.db')}"
        self._client = MlflowClient(tracking_uri=uri)
        if "mlflow" in self._ids:
            self._run = self._ids["mlflow"]
            self._client.update_run(self._run, status="RUNNING")
            return
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            try:
                made = self._client.create_experiment(name)
            except Exception:  # another process has created it in the meantime
                experiment = self._client.get_experiment_by_name(name)
                if experiment is None:
                    raise
        number = made if experiment is None else experiment.experiment_id
        self._run = self._client.create_run(number, run_name=self._directory.name).info.run_id
        self._ids["mlflow"] = self._run
        self._save()
        for key, value in self._configuration.items():
            text = value if isinstance(value, str) else json.dumps(value)
            self._client.log_param(self._run, _mlflow_name(key), text[:500])

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See :meth:`Service.log`."""
        from mlflow.entities import Metric

        now = int(time.time() * 1e3)
        metrics = [Metric(_mlflow_name(name), value, now, step) for name, value in values.items()]
        self._client.log_batch(self._run, metrics=metrics)

    def finish(self, summary: Mapping[str, Any], complete: bool) -> None:
        """See :meth:`Service.finish`."""
        for name, value in summary.items():
            self._client.set_tag(self._run, _mlflow_name(name), str(value))
        self._client.set_terminated(self._run, status="FINISHED" if complete else "KILLED")


def _mlflow_name(name: str) -> str:
    """MLflow's names have letters, digits and ``_-. /`` only."""
    return "".join(each if each.isalnum() or each in "_-. /" else "_" for each in name)


class Trackers:
    """The services of one run. All methods return at once, except :meth:`finish`.

    Args:
      services: by name.
      terminal: for warnings.
    """

    def __init__(self, services: Mapping[str, Service], terminal: Terminal):
        self._workers = [_Worker(name, service, terminal) for name, service in services.items()]

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Sends the finite values of a step."""
        finite = {name: float(value) for name, value in values.items() if math.isfinite(value)}
        for worker in self._workers:
            worker.put(lambda service: service.log(step, finite))

    def finish(self, summary: Mapping[str, Any], *, complete: bool) -> None:
        """Sends the outcome and closes the runs; waits for the services, a minute at most."""
        for worker in self._workers:
            worker.put(lambda service: service.finish(summary, complete))
        until = time.monotonic() + _FINISH_S
        for worker in self._workers:
            worker.join(max(0.0, until - time.monotonic()))


class _Worker:
    """Runs the calls of one service in a thread, in order."""

    def __init__(self, name: str, service: Service, terminal: Terminal):
        self._name, self._service, self._terminal, self._warned = name, service, terminal, False
        self._calls: queue.Queue[Callable[[Service], None] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._work, daemon=True, name=f"tracker {name}")
        self._thread.start()

    def put(self, call: Callable[[Service], None]) -> None:
        self._calls.put(call)

    def join(self, seconds: float) -> None:
        self._calls.put(None)
        self._thread.join(seconds)
        if self._thread.is_alive():
            self._warn(f"it has not answered for {seconds:.0f} s; the last values may be lost")

    def _work(self) -> None:
        open_ = self._tried(lambda service: service.start())
        while (call := self._calls.get()) is not None:
            if open_:
                self._tried(call)

    def _tried(self, call: Callable[[Service], None]) -> bool:
        try:
            call(self._service)
        except Exception as error:  # of the service's library, the network or the server
            first = f"{type(error).__name__}: {error}".splitlines()[0]
            self._warn(f"{first:.300}; training continues")
            return False
        return True

    def _warn(self, text: str) -> None:
        if not self._warned:
            self._warned = True
            self._terminal.warn(f"{self._name}: {text}")


def check(names: Sequence[str]) -> None:
    """Raises ValueError unless every service is known and its package is installed."""
    for name in names:
        validation.check("TRACKERS", name, tuple(_PACKAGES))
        if importlib.util.find_spec(_PACKAGES[name]) is None:
            raise ValueError(
                f"TRACKERS names {name!r}, whose package is not installed: pip install 'distill-step-by-step[{name}]', or "
                "remove it from TRACKERS"
            )


def open_trackers(
    names: Sequence[str], directory: epath.Path, configuration: Mapping[str, Any], terminal: Terminal, *, active: bool
) -> Trackers:
    """Starts the services of a run, each in its thread.

    Args:
      names: of ``wandb`` and ``mlflow``.
      directory: the model directory; its ``trackers.json`` has the ids of the runs that are continued.
      configuration: macros of the run.
      terminal: for warnings.
      active: False opens none: of several processes only the first sends.
    """
    if not names or not active:
        return Trackers({}, terminal)
    path = directory / IDS
    try:
        ids = {str(name): str(id) for name, id in json.loads(path.read_text()).items()} if path.exists() else {}
    except (ValueError, AttributeError, RecursionError) as error:
        terminal.warn(f"{path} holds no ids of trackers and is replaced, so new runs begin there: {error}")
        ids = {}

    def save() -> None:
        directory.mkdir(parents=True, exist_ok=True)
        atomic_files.replace(path, json.dumps(ids, indent=1) + "\n")

    services: dict[str, Service] = {}
    if "wandb" in names:
        if "wandb" not in ids:
            ids["wandb"] = secrets.token_hex(4)
            save()
        services["wandb"] = WandB(directory, ids["wandb"], configuration)
    if "mlflow" in names:
        services["mlflow"] = MLflow(directory, ids, configuration, save)
    return Trackers(services, terminal)
