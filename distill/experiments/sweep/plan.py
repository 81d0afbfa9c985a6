"""``sweep.json``: the runs of a sweep directory, so that they need not be computed again, and :func:`read_directory`.

Format 2 holds ``folder`` (where relative paths begin), ``source`` (the contents of the sweep file), ``added`` (bindings of
the command line), ``added_points`` (those of ``source`` that the command line added), ``axes``, ``metric``, ``x``,
``joint_seeds``, ``runs``: name → ``values``, ``numbers``, ``gin_files``, ``bindings``, ``dropped``: the same of runs
that had begun when they were deleted from the sweep, and ``inputs``: :class:`~distill.experiments.sweep.inputs.Inputs`. A
directory of the older format, which held ``runs`` and ``failed``
only, is converted when its sweep is started again.
"""

import dataclasses
import json
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from distill.counting import counted
from distill.experiments.sweep import files, leases, outcomes, same_sweep
from distill.experiments.sweep.inputs import Inputs
from distill.experiments.sweep.levels import SEED, SweepError
from distill.experiments.sweep.runs import Run, Sweep, grouped

PLAN = "sweep.json"
FORMAT = 2
_REMEDY = "delete it if its folder holds runs of this sweep alone"


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
        [_run(directory, name, entry) for name, entry in value["runs"].items()],
        value.get("joint_seeds", False),
        value.get("metric", "accuracy"),
        value.get("x"),
        value.get("axes", {}),
        value.get("source"),
        tuple(value.get("added", ())),
        tuple(_added_points(value)),
        None if value.get("start") is None else _run(directory, value["start"]["name"], value["start"]),
        _validation(value),
        value.get("dropped", {}),
        _inputs(value),
    )


def source(directory: Path) -> Mapping[str, Any]:
    """Returns the contents of the sweep file that a directory's plan was made from; empty without one.

    Raises:
      SweepError: the plan cannot be read.
    """
    return (_read(directory / PLAN) or {}).get("source") or {}


def added_points(directory: Path) -> list[Any]:
    """Returns the points that the command line added to the sweep of a directory, as in a sweep file; empty without a plan.

    Raises:
      SweepError: the plan cannot be read.
    """
    return _added_points(_read(directory / PLAN) or {})


def _added_points(value: Mapping[str, Any]) -> list[Any]:
    """Those of a plan; of one that does not tell them apart, all its points beside the design."""
    found = value.get("added_points", (value.get("source") or {}).get("more"))
    return found if isinstance(found, list) else []


def inputs(directory: Path) -> Inputs:
    """Returns gin files and rows of a directory's runs when they were planned; none without a plan.

    Raises:
      SweepError: the plan cannot be read.
    """
    return _inputs(_read(directory / PLAN) or {})


def _inputs(value: Mapping[str, Any]) -> Inputs:
    return Inputs(**value.get("inputs", {}))


def _validation(value: Mapping[str, Any]) -> tuple[str, str] | None:
    found = value.get("validation")
    return (found[0], found[1]) if found else None


def folder(directory: Path) -> str | None:
    """Returns the working folder of the command that planned a directory last; None if it is not known."""
    found = (_read(directory / PLAN) or {}).get("folder")
    return found if isinstance(found, str) else None


def left_out(directory: Path, runs: Sequence[Run]) -> list[Run]:
    """Returns the runs of a directory's plan that are not among ``runs``, such as those of a level that was deleted."""
    names, there = {run.name for run in runs}, _read(directory / PLAN) or {}
    if "format" not in there:
        return []
    return [_run(directory, name, entry) for name, entry in there["runs"].items() if name not in names]


def prepare(
    sweep: Sweep,
    *,
    check: Callable[[Run], None] = lambda run: None,
    resolve: Callable[[Sweep], Sequence[Run]] = lambda sweep: sweep.runs(),
    retry_failed: bool = False,
    differs: Callable[[Run], str] = lambda run: "",
    read: Callable[[], Inputs] = Inputs,
    write: bool = True,
) -> Plan:
    """Compares a sweep with its directory, checks the runs that are to be trained, and writes the plan.

    Args:
      sweep: the sweep. A directory with the runs of another configuration is refused, failed runs excepted: a failed run
        whose configuration has changed is repeated from its start.
      check: raises ValueError or OSError for a run that cannot be trained.
      resolve: returns the runs of the sweep, their budgets resolved.
      retry_failed: repeat runs that failed before.
      differs: returns how a run that has begun was configured otherwise than now, in words; empty if it was not.
      read: returns gin files and rows of the runs that ``check`` has accepted.
      write: False changes nothing: it checks only.

    Raises:
      SweepError: the directory belongs to another sweep, its plan cannot be read, or a run cannot be trained.
    """
    checked = _prepared(sweep, check, resolve, retry_failed, differs, read, write=False)
    if not write:
        return checked
    with leases.exclusively(sweep.directory):  # the checks may take minutes; other workers need not wait for them
        return _prepared(sweep, lambda run: None, resolve, retry_failed, differs, read, write=True)


def _prepared(
    sweep: Sweep,
    check: Callable[[Run], None],
    resolve: Callable[[Sweep], Sequence[Run]],
    retry_failed: bool,
    differs: Callable[[Run], str],
    read: Callable[[], Inputs],
    *,
    write: bool,
) -> Plan:
    there = _read(sweep.directory / PLAN) or {}
    if write:
        _convert_failures(sweep.directory, there)
    sweep = sweep.respelled(there.get("axes", {}))
    runs = list(resolve(sweep))
    if sweep.search is not None:
        runs = [_run(sweep.directory, name, entry) for name, entry in there.get("runs", {}).items()]
    failed = _failed(runs, there)
    same_sweep.refuse(sweep, runs, there, failed)
    _check_metric(sweep, runs, there)
    changed = same_sweep.changed(sweep, runs, there)
    start = sweep.start_run()
    begun = [run for run in (*filter(None, [start]), *runs) if same_sweep.has_begun(run.directory)]
    otherwise = {run.name: what for run in begun if run not in changed and (what := differs(run))}
    same_sweep.refuse_trained_otherwise(sweep, {name: what for name, what in otherwise.items() if name not in failed})
    changed += [run for run in runs if run.name in otherwise]
    repeated = failed if retry_failed else {run.name for run in changed}
    skipped = failed - repeated
    check_all([run for run in runs if outcomes.is_open(run) or run.name in repeated], check, skipped)
    plan = dataclasses.replace(
        planned(sweep, runs),
        validation=_validation(there),  # until the runs are checked again
        inputs=_inputs(there).updated(read()),
        dropped=_dropped(sweep.directory, runs, there),
    )
    if write:
        for run in runs:
            if run in changed:
                outcomes.discard(run)
            elif run.name in repeated:
                outcomes.forget_failure(run)
        plan.write()
    return plan


def _dropped(directory: Path, runs: Sequence[Run], there: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of begun or failed runs that a plan has, or has dropped, and that are not among ``runs``."""
    if "format" not in there:
        return {}
    names, out = {run.name for run in runs}, {}
    for name, entry in same_sweep.known(there).items():
        folder = directory / name
        if name not in names and (same_sweep.has_begun(folder) or (folder / outcomes.FAILURE).exists()):
            out[name] = entry
    return out


def convert(sweep: Sweep) -> None:
    """Writes a plan of the older format in this one, with its failures in the folders of the runs; changes no other plan.

    A failed run whose configuration has changed since keeps that of the plan: it is discarded when the sweep is started.

    Raises:
      SweepError: as :func:`prepare`.
    """
    if "format" in (_read(sweep.directory / PLAN) or {}):
        return
    with leases.exclusively(sweep.directory):
        there = _read(sweep.directory / PLAN) or {}
        if "format" in there:  # another process converted it
            return
        made = prepare(sweep, write=False)
        changed = {run.name for run in same_sweep.changed(sweep, made.runs, there)}
        runs = [_as_planned(run, there["runs"][run.name]) if run.name in changed else run for run in made.runs]
        _convert_failures(sweep.directory, there)
        dataclasses.replace(made, runs=runs).write()


def _as_planned(run: Run, entry: Sequence[Sequence[str]]) -> Run:
    """A run with the files and bindings that a plan of the older format has for it."""
    files, bindings = entry
    return dataclasses.replace(run, gin_files=tuple(files), bindings=tuple(bindings))


def _check_metric(sweep: Sweep, runs: Sequence[Run], there: Mapping[str, Any]) -> None:
    """Raises SweepError if the metric is not that of the plan, and a finished run does not have it."""
    if sweep.metric == there.get("metric", Plan.metric):
        return
    for run in runs:
        if run.done:
            known = files.read_result(run.directory).get("test", {})
            if sweep.metric not in known:
                raise SweepError(f"metric: {files.no_metric(run.directory, sweep.metric, known)}")


def differences(sweep: Sweep) -> list[str]:
    """Returns how a sweep differs from the plan of its directory, in words; none if it does not.

    Raises:
      SweepError: the plan cannot be read.
    """
    there = _read(sweep.directory / PLAN) or {}
    sweep = sweep.respelled(there.get("axes", {}))
    return same_sweep.differences(sweep, sweep.runs(), there)


def refuse_other_sweep(sweep: Sweep) -> None:
    """Refuses a directory that holds another sweep, as :func:`prepare` does, before the runs are configured.

    Raises:
      SweepError: names what differs first; or the plan of the directory cannot be read.
    """
    there = _read(sweep.directory / PLAN) or {}
    sweep = sweep.respelled(there.get("axes", {}))
    runs = sweep.runs()
    same_sweep.refuse(sweep, runs, there, _failed(runs, there), steps=False)


def _failed(runs: Sequence[Run], there: Mapping[str, Any]) -> set[str]:
    """The names of runs that failed, and were not repeated since."""
    older = there.get("failed", {})
    return {run.name for run in runs if not run.done and (outcomes.failure(run) is not None or run.name in older)}


def planned(sweep: Sweep, runs: Sequence[Run]) -> Plan:
    """Returns the plan of a sweep with these runs."""
    axes = {
        name: {
            "levels": [[level.name, level.number] for level in levels],
            "log": name in sweep.log_axes,
            "seed": name == SEED,
        }
        for name, levels in sweep.all_axes().items()
    }
    return Plan(
        sweep.directory,
        runs,
        sweep.joint_seeds,
        sweep.metric,
        sweep.x,
        axes,
        sweep.source,
        sweep.added,
        sweep.added_points,
        sweep.start_run(),
    )


def failures(sweep: Sweep) -> dict[str, str]:
    """Returns the runs of the sweep that failed and were not repeated since: name → error.

    Raises:
      SweepError: the plan in the folder of the sweep cannot be read.
    """
    old = (_read(sweep.directory / PLAN) or {}).get("failed", {})
    out = {}
    for run in sweep.runs():
        failed = outcomes.failure(run)
        if failed is not None:
            out[run.name] = failed.error
        elif run.name in old and not run.done:
            out[run.name] = old[run.name]["error"]
    return out


def check_all(runs: Sequence[Run], check: Callable[[Run], None], skipped: Collection[str] = ()) -> None:
    """Raises SweepError with all runs that ``check`` refuses."""
    problems: dict[str, list[str]] = {}
    runs = [run for run in runs if run.name not in skipped]
    for run in runs:
        try:
            check(run)
        except (ValueError, OSError, FloatingPointError) as error:
            problems.setdefault(str(error), []).append(run.name)
    if problems:
        number = sum(len(names) for names in problems.values())
        problem = "; ".join(
            f"{names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}: {error}"
            for error, names in problems.items()
        )
        raise SweepError(f"{number} of {counted(len(runs))} cannot be trained, so none was started: {problem}")


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


def _run(directory: Path, name: str, entry: Mapping[str, Any]) -> Run:
    where = directory / name
    bindings = (*entry["bindings"], f"MODEL_DIR = {str(where)!r}")
    return Run(name, entry["values"], tuple(entry["gin_files"]), bindings, where, entry["numbers"])


def _convert_failures(directory: Path, there: Mapping[str, Any]) -> None:
    """Writes the failures of an older plan into the folders of their runs."""
    for name, entry in there.get("failed", {}).items():
        run = Run(name, {}, (), (), directory / name)
        if not run.done and outcomes.failure(run) is None:
            outcomes.note_failure(run, entry["error"])
