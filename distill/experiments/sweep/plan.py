"""``sweep.json``: the runs of a sweep directory, so that they need not be computed again, and :func:`read_directory`.

Format 2 holds ``folder`` (where relative paths begin), ``source`` (the contents of the sweep file), ``added`` (bindings of
the command line), ``added_points`` (those of ``source`` that the command line added), ``axes``, ``metric``, ``x``,
``joint_seeds``, ``runs``: name → ``values``, ``numbers``, ``gin_files``, ``bindings``, ``dropped``: the same of runs
that had begun when they were deleted from the sweep, and ``inputs``:
:class:`~distill.experiments.sweep.inputs.Inputs`. A directory of the older format, which held ``runs`` and ``failed`` only,
is converted when its sweep is started again (:mod:`distill.experiments.sweep.planning`).
"""

import dataclasses
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from distill.counting import form, joined
from distill.experiments.sweep import files, outcomes, same_sweep
from distill.experiments.sweep.inputs import Inputs
from distill.experiments.sweep.levels import SweepError
from distill.experiments.sweep.runs import Run, grouped

PLAN = "sweep.json"
RESULTS = ("results.csv", "results.png", *(f"report.{suffix}" for suffix in ("html", "md", "csv", "png")))
"""What a sweep writes beside its plan and its runs."""
FORMAT = 2
_REMEDY = "delete it if its folder holds runs of this sweep alone"


def check_directory(directory: Path) -> None:
    """Raises SweepError if a directory that holds no sweep holds a file that the results of one would replace."""
    found = [] if (directory / PLAN).exists() else [name for name in RESULTS if (directory / name).exists()]
    if found:
        raise SweepError(
            f"{directory} holds no sweep, but {joined(found)}, which the results would replace; move "
            f"{form(len(found), 'it', 'them')} away, or give a new folder, such as --directory={directory / 'sweep'}"
        )


@dataclasses.dataclass(frozen=True)
class Plan:
    """The runs of a sweep directory.

    Attributes:
      directory: the directory.
      runs: all runs, in the order of the design; of a search, those that were started.
      joint_seeds: whether runs that differ only in their seed are trained together.
      metric: the test metric that the sweep is about.
      x: the horizontal axis, or None.
      axes: name → ``{"levels": [[name, number or null], …], "log": bool}``.
      source: the contents of the sweep file; None for a sweep that was made in Python.
      added: the bindings of the command line.
      added_points: the points of ``source`` that the command line added.
      start: the run that is trained first, or None.
      validation: split and metric that select the best parameters; None before the runs were checked.
      dropped: runs that had begun when they were deleted from the sweep: name → entry, as in ``sweep.json``.
      inputs: gin files and rows of the runs when they were planned; empty before they were checked.
    """

    directory: Path
    runs: Sequence[Run]
    joint_seeds: bool = False
    metric: str = "accuracy"
    x: str | None = None
    axes: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    source: Mapping[str, Any] | None = None
    added: tuple[str, ...] = ()
    added_points: tuple[Any, ...] = ()
    start: Run | None = None
    validation: tuple[str, str] | None = None
    dropped: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    inputs: Inputs = dataclasses.field(default_factory=Inputs)

    @property
    def selected_by(self) -> tuple[str, str]:
        """Split and metric that select the best parameters; the defaults of a run before the runs were checked."""
        return self.validation or ("validation", "accuracy")

    def groups(self) -> list[list[Run]]:
        """Returns the runs in groups that are trained together, finished ones included."""
        return grouped(self.runs, self.joint_seeds)

    def write(self) -> None:
        """Replaces ``sweep.json``."""
        runs = {run.name: _described(run) for run in self.runs}
        value = {
            "format": FORMAT,
            "folder": os.getcwd(),
            "source": self.source,
            "added": list(self.added),
            "added_points": list(self.added_points),
            "metric": self.metric,
            "x": self.x,
            "joint_seeds": self.joint_seeds,
            "axes": self.axes,
            "start": None if self.start is None else _described(self.start),
            "validation": self.validation,
            "dropped": self.dropped,
            "inputs": dataclasses.asdict(self.inputs),
            "runs": runs,
        }
        files.replace_text(self.directory / PLAN, json.dumps(value, indent=1) + "\n")

    def with_runs(self, runs: Iterable[Run]) -> "Plan":
        """Returns the plan with more runs after its own."""
        return dataclasses.replace(self, runs=(*self.runs, *runs))


@dataclasses.dataclass(frozen=True)
class Entry:
    """A run of a sweep directory.

    Attributes:
      name: its folder.
      values: axis → the name of its level; an axis that does not exist at this point is absent.
      numbers: axis → number, for levels with one.
      directory: the model directory.
      state: ``done``, ``failed``, ``pruned``, ``running`` or ``waiting``.
      error: of a failed run, one line.
    """

    name: str
    values: Mapping[str, str]
    numbers: Mapping[str, float]
    directory: Path
    state: str
    error: str | None = None


def read_directory(directory: str | Path) -> list[Entry]:
    """Returns the runs of a sweep directory, in the order of the design. Changes nothing.

    Raises:
      SweepError: no sweep directory, or one of another format; the message has the remedy.
    """
    plan = read_plan(directory)
    out = []
    for group in plan.groups():
        held = outcomes.is_running(plan.directory, group)
        for run in group:
            failed = outcomes.failure(run)
            state = outcomes.state(run, held)
            error = failed.error if failed is not None and state == "failed" else None
            out.append(Entry(run.name, run.values, run.numbers, run.directory, state, error))
    return out


def read_plan(directory: str | Path) -> Plan:
    """Returns the plan of a sweep directory.

    Raises:
      SweepError: no sweep directory, or one of another format; the message has the remedy.
    """
    directory = Path(directory)
    value = _read(directory / PLAN)
    if value is None:
        raise SweepError(f"{directory} holds no {PLAN}; is it the directory of a sweep?")
    if "format" not in value:
        raise SweepError(
            f"{directory / PLAN} has the format of an older version, without the runs' axes; convert it with: "
            f"distill sweep FILE --directory={directory} --report_only"
        )
    return Plan(
        directory,
        [run_of(directory, name, entry) for name, entry in value["runs"].items()],
        value.get("joint_seeds", False),
        value.get("metric", "accuracy"),
        value.get("x"),
        value.get("axes", {}),
        value.get("source"),
        tuple(value.get("added", ())),
        tuple(_added_points(value)),
        None if value.get("start") is None else run_of(directory, value["start"]["name"], value["start"]),
        validation_of(value),
        value.get("dropped", {}),
        inputs_of(value),
    )


def source(directory: Path) -> Mapping[str, Any]:
    """Returns the contents of the sweep file that a directory's plan was made from; empty without one.

    Raises:
      SweepError: the plan cannot be read.
    """
    return contents(directory).get("source") or {}


def added_points(directory: Path) -> list[Any]:
    """Returns the points that the command line added to the sweep of a directory, as in a sweep file; empty without a plan.

    Raises:
      SweepError: the plan cannot be read.
    """
    return _added_points(contents(directory))


def _added_points(value: Mapping[str, Any]) -> list[Any]:
    """Those of a plan; of one that does not tell them apart, all its points beside the design."""
    found = value.get("added_points", (value.get("source") or {}).get("more"))
    return found if isinstance(found, list) else []


def inputs(directory: Path) -> Inputs:
    """Returns gin files and rows of a directory's runs when they were planned; none without a plan.

    Raises:
      SweepError: the plan cannot be read.
    """
    return inputs_of(contents(directory))


def inputs_of(value: Mapping[str, Any]) -> Inputs:
    """Returns gin files and rows of a plan's contents."""
    return Inputs(**value.get("inputs", {}))


def validation_of(value: Mapping[str, Any]) -> tuple[str, str] | None:
    """Returns split and metric that select the best parameters, of a plan's contents; None before the runs were checked."""
    found = value.get("validation")
    return (found[0], found[1]) if found else None


def folder(directory: Path) -> str | None:
    """Returns the working folder of the command that planned a directory last; None if it is not known."""
    found = contents(directory).get("folder")
    return found if isinstance(found, str) else None


def left_out(directory: Path, runs: Sequence[Run]) -> list[Run]:
    """Returns the runs of a directory's plan that are not among ``runs``, such as those of a level that was deleted."""
    names, there = {run.name for run in runs}, contents(directory)
    if "format" not in there:
        return []
    return [run_of(directory, name, entry) for name, entry in there["runs"].items() if name not in names]


def contents(directory: Path) -> dict[str, Any]:
    """Returns the contents of a directory's ``sweep.json``, of this or the older format; empty without a plan.

    Raises:
      SweepError: the plan cannot be read.
    """
    return _read(directory / PLAN) or {}


def _read(path: Path) -> dict[str, Any] | None:
    """Returns the plan's contents, of this or the older format; None without a file."""
    if not path.exists():
        return None
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise SweepError(f"{path} is not JSON that can be read: it is nested too deeply; {_REMEDY}") from None
    except ValueError as error:
        raise SweepError(f"{path} is not JSON: {error}; {_REMEDY}") from None
    if not isinstance(value, dict) or not isinstance(value.get("runs"), dict):
        raise SweepError(f"{path} is no plan of a sweep: it must hold an object 'runs'; {_REMEDY}")
    if value.get("format", FORMAT) != FORMAT:
        raise SweepError(
            f"{path} has format {value['format']!r}; this version reads format {FORMAT}; use the version that wrote it"
        )
    if not isinstance(value.get("dropped", {}), dict):
        raise SweepError(f"{path} is no plan of a sweep: 'dropped' has another form; {_REMEDY}")
    for name, entry in same_sweep.known(value).items():
        if not _is_run(entry, old="format" not in value):
            raise SweepError(f"{path} is no plan of a sweep: run {name!r} has another form; {_REMEDY}")
    if not _is_inputs(value.get("inputs", {})):
        raise SweepError(f"{path} is no plan of a sweep: 'inputs' has another form; {_REMEDY}")
    failed = value.get("failed", {})
    if not isinstance(failed, dict) or not all(
        isinstance(e, dict) and isinstance(e.get("error"), str) for e in failed.values()
    ):
        raise SweepError(f"{path} is no plan of a sweep: 'failed' has another form; {_REMEDY}")
    return value


def _is_run(entry: Any, *, old: bool) -> bool:
    if old:
        return isinstance(entry, list) and len(entry) == 2 and all(map(_is_texts, entry))
    if not isinstance(entry, dict) or not {"values", "numbers", "gin_files", "bindings"} <= set(entry):
        return False
    mappings = isinstance(entry["values"], dict) and isinstance(entry["numbers"], dict)
    return mappings and _is_texts(entry["gin_files"]) and _is_texts(entry["bindings"])


def _is_inputs(value: Any) -> bool:
    if not isinstance(value, dict) or not set(value) <= {"gin", "rows"}:
        return False
    gin, rows = value.get("gin", {}), value.get("rows", {})
    mappings = isinstance(gin, dict) and all(isinstance(bindings, dict) for bindings in gin.values())
    return mappings and isinstance(rows, dict) and all(map(_is_texts, rows.values()))


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _described(run: Run) -> dict[str, Any]:
    files, bindings = run.configuration()
    values, numbers = dict(run.values), dict(run.numbers)
    return {"name": run.name, "values": values, "numbers": numbers, "gin_files": files, "bindings": bindings}


def run_of(directory: Path, name: str, entry: Mapping[str, Any]) -> Run:
    """Returns a run of a plan's contents.

    Args:
      directory: of the sweep.
      name: of the run.
      entry: its values, numbers, gin files and bindings.
    """
    where = directory / name
    bindings = (*entry["bindings"], f"MODEL_DIR = {str(where)!r}")
    return Run(name, entry["values"], tuple(entry["gin_files"]), bindings, where, entry["numbers"])
