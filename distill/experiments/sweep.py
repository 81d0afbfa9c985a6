"""Sweeps: grids of runs, and the training of those that are not finished."""

import dataclasses
import hashlib
import itertools
import json
import logging
import re
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from etils import epath

from distill.exit_codes import Stopped
from distill.training import reporting

__all__ = ["Level", "Run", "Stopped", "Sweep", "SweepError", "read", "run"]

SEED = "RANDOM_SEED"
PLAN = "sweep.json"


class SweepError(ValueError):
    """A sweep file that cannot be used."""


@dataclasses.dataclass(frozen=True)
class Level:
    """A value of an axis: its name, and the gin files and bindings that it adds to a run."""

    name: str
    gin_files: tuple[str, ...] = ()
    bindings: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Run:
    """One point of the grid.

    Attributes:
      name: its folder below the sweep's.
      values: axis → the name of its level.
      gin_files: in order.
      bindings: gin bindings, ``MODEL_DIR`` included.
      directory: the model directory.
    """

    name: str
    values: Mapping[str, str]
    gin_files: tuple[str, ...]
    bindings: tuple[str, ...]
    directory: Path

    @property
    def done(self) -> bool:
        """Whether the run is complete: its result exists."""
        return (self.directory / reporting.RESULT).exists()


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A grid of runs.

    Attributes:
      directory: contains the folders of the runs, the table and the plots.
      axes: name → levels. An axis named as a gin macro sets that macro; other axes have levels with files and bindings.
      gin_files: files of every run; those of the axes follow them.
      bindings: bindings of every run; those of the axes override them.
      metric: the test metric that the table and the plot show.
      x: the horizontal axis of the plot, an axis with numbers; None takes the first such axis that is not the seed.
      joint_seeds: train runs that differ only in their seed together (``distill.training.joint_seeds``): for tiny students.
    """

    directory: Path
    axes: Mapping[str, tuple[Level, ...]]
    gin_files: tuple[str, ...] = ()
    bindings: tuple[str, ...] = ()
    metric: str = "accuracy"
    x: str | None = None
    joint_seeds: bool = False

    def runs(self) -> list[Run]:
        """Returns all points of the grid, seeds innermost.

        Raises:
          SweepError: two points have the same name.
        """
        names = sorted(self.axes, key=lambda name: name == SEED)
        out = []
        for point in itertools.product(*(self.axes[name] for name in names)):
            folder = "__".join(f"{_slug(axis)}-{_slug(level.name)}" for axis, level in zip(names, point))
            directory = self.directory / folder
            out.append(
                Run(
                    folder,
                    {axis: level.name for axis, level in zip(names, point)},
                    (*self.gin_files, *(file for level in point for file in level.gin_files)),
                    (
                        *self.bindings,
                        *(binding for level in point for binding in level.bindings),
                        f"MODEL_DIR = {str(directory)!r}",
                    ),
                    directory,
                )
            )
        if len({run.name for run in out}) != len(out):
            raise SweepError("two runs of the sweep have the same name; are two levels of an axis equal?")
        return out

    def groups(self, without: Collection[str] = ()) -> list[list[Run]]:
        """Returns the unfinished runs in groups that are trained together.

        Args:
          without: names of runs to leave out, as finished runs are.
        """
        key = _without_seed if self.joint_seeds else lambda run: run.name
        groups = [list(runs) for _, runs in itertools.groupby(self.runs(), key=key)]
        waiting = [[run for run in runs if not run.done and run.name not in without] for runs in groups]
        return [runs for runs in waiting if runs]

    def fingerprint(self) -> str:
        """Returns a hash of the configurations of all runs."""
        plan = [(run.name, run.gin_files, run.bindings) for run in self.runs()]
        return hashlib.sha256(json.dumps(plan).encode()).hexdigest()[:16]


def _without_seed(run: Run) -> str:
    return json.dumps([(axis, value) for axis, value in run.values.items() if axis != SEED])


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.+-]+", "_", text).strip("_") or "_"


def read(path: str | Path, directory: str | Path | None = None) -> Sweep:
    """Reads a sweep from its JSON file.

    ``{"gin_files": […], "bindings": {NAME: value}, "axes": {AXIS: […] or {level: {"gin_files": […], "bindings": {…}}}},
    "metric": …, "x": …, "joint_seeds": …, "directory": …}``; an axis given as a list is a gin macro with those values.

    Raises:
      SweepError: the file has another form; the message names the place.
    """
    path = Path(path)
    raw = _read_json(path)
    if not isinstance(raw, dict) or not isinstance(raw.get("axes"), dict) or not raw["axes"]:
        raise SweepError(f"{path} must hold an object with 'axes', an object of at least one axis")
    if set(raw) - set(_TYPES):
        raise SweepError(f"{path}: unknown key {sorted(set(raw) - set(_TYPES))}; the keys are {sorted(_TYPES)}")
    _check_types(str(path), raw)
    where = directory or raw.get("directory")
    if not where:
        raise SweepError(f"{path} names no 'directory'; give one there or with --directory")
    sweep = Sweep(
        Path(where),
        {axis: _levels(path, axis, values) for axis, values in raw["axes"].items()},
        tuple(raw.get("gin_files", ())),
        tuple(_binding(name, value) for name, value in raw.get("bindings", {}).items()),
        raw.get("metric", "accuracy"),
        raw.get("x"),
        bool(raw.get("joint_seeds", False)),
    )
    if sweep.x is not None and sweep.x not in sweep.axes:
        raise SweepError(f"{path}: x must be one of the axes {sorted(sweep.axes)}; got {sweep.x!r}")
    return sweep


# The keys of a sweep file, and of a level in it.
_TYPES: dict[str, type] = {
    "gin_files": list,
    "bindings": dict,
    "axes": dict,
    "metric": str,
    "x": str,
    "joint_seeds": bool,
    "directory": str,
}
_JSON_NAMES = {list: "a list of strings", dict: "an object", str: "a string", bool: "true or false"}


def _read_json(path: Path) -> Any:
    """Reads a JSON file. Raises SweepError with its name."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise SweepError(f"{path} is not JSON that can be read: it is nested too deeply") from None
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise SweepError(f"{path} is not JSON: {error}") from None


def _check_types(where: str, raw: Mapping[str, Any]) -> None:
    for key, value in raw.items():
        wanted = _TYPES[key]
        good = isinstance(value, wanted) or (key == "x" and value is None)
        if not good or (wanted is list and not all(isinstance(item, str) for item in value)):
            raise SweepError(f"{where}: {key!r} must be {_JSON_NAMES[wanted]}; got {value!r}")


def _levels(path: Path, axis: str, values: Any) -> tuple[Level, ...]:
    if isinstance(values, list) and values:
        return tuple(Level(str(value), bindings=(_binding(axis, value),)) for value in values)
    if isinstance(values, dict) and values:
        out = []
        for name, level in values.items():
            if not isinstance(level, dict) or set(level) - {"gin_files", "bindings"}:
                raise SweepError(
                    f"{path}: axis {axis!r}, level {name!r} must be an object of 'gin_files' and 'bindings'"
                )
            _check_types(f"{path}: axis {axis!r}, level {name!r}", level)
            bindings = tuple(_binding(key, value) for key, value in level.get("bindings", {}).items())
            out.append(Level(name, tuple(level.get("gin_files", ())), bindings))
        return tuple(out)
    raise SweepError(
        f"{path}: axis {axis!r} must be a list of values or an object of levels, not empty; got {values!r}"
    )


def _binding(name: str, value: Any) -> str:
    """``NAME = value``; a string that begins with ``@`` or ``%`` is a gin reference."""
    if isinstance(value, str) and value[:1] in ("@", "%"):
        return f"{name} = {value}"
    return f"{name} = {value!r}"


def failures(sweep: Sweep) -> dict[str, str]:
    """Returns the runs of the sweep that failed and were not repeated since: name → error.

    Raises:
      SweepError: the plan in the folder of the sweep cannot be read.
    """
    failed = _read_plan(sweep.directory / PLAN)["failed"]
    return {run.name: failed[run.name]["error"] for run in sweep.runs() if run.name in failed and not run.done}


def run(
    sweep: Sweep,
    train_group: Callable[[Sequence[Run], bool], Mapping[str, str]],
    say: Callable[[str], None] = print,
    *,
    check: Callable[[Run], None] = lambda run: None,
    retry_failed: bool = False,
) -> dict[str, str]:
    """Trains the unfinished runs of the sweep.

    Args:
      sweep: the runs. Its plan is written beside them; a folder with the runs of another plan is refused.
      train_group: trains runs (several only if they differ only in their seed; the flag is then True), and returns
        those that failed: name → error. Failed runs are noted in the plan, and the others are trained.
      say: prints the progress.
      check: raises ValueError or OSError for a run that cannot be trained; all runs are checked before the first is
        trained.
      retry_failed: repeat runs that failed before. A run whose configuration has changed since is always
        repeated from its start.

    Returns:
      All runs of the sweep that failed, now or before: name → error.

    Raises:
      SweepError: the folder belongs to another sweep, its plan cannot be read, or a run cannot be trained.
    """
    plan = sweep.directory / PLAN
    runs = sweep.runs()
    there = _read_plan(plan)
    configurations = {run.name: [list(run.gin_files), list(run.bindings)] for run in runs}
    failed = {name: entry for name, entry in there["failed"].items() if not _is_done(runs, name)}
    changed = [name for name, mine in configurations.items() if there["runs"].get(name, mine) != mine]
    refused = [name for name in changed if name not in failed]
    if refused:
        raise SweepError(
            f"{sweep.directory} holds runs of another configuration ({', '.join(refused[:3])}, …); "
            "use another directory, or delete it"
        )
    repeated = set(failed) if retry_failed else set(changed)
    skipped = {name for name in failed if name in configurations and name not in repeated}
    groups = sweep.groups(skipped)
    waiting = [run for group in groups for run in group]
    _check_all(waiting, check)
    for run in waiting:
        if run.name in changed and run.directory.exists():
            shutil.rmtree(run.directory)  # a failed attempt with other settings; it must not be continued
    failed = {name: entry for name, entry in failed.items() if name not in repeated}
    sweep.directory.mkdir(parents=True, exist_ok=True)
    _write_plan(plan, configurations, failed)
    before = f", {len(skipped)} failed before (--retry_failed repeats them)" if skipped else ""
    done = len(runs) - len(waiting) - len(skipped)
    say(f"{len(runs)} runs, {done} done already{before}, {len(waiting)} to do")
    for number, group in enumerate(groups, 1):
        names = group[0].name if len(group) == 1 else f"{group[0].name} and {len(group) - 1} more seeds"
        say(f"[{number}/{len(groups)}] {names}")
        for name, error in train_group(group, sweep.joint_seeds).items():
            say(f"{name} failed: {error}")
            failed[name] = {"error": error}
            _write_plan(plan, configurations, failed)
        logging.info("finished %s", names)
    return {name: entry["error"] for name, entry in failed.items() if name in configurations}


def _is_done(runs: Sequence[Run], name: str) -> bool:
    return any(run.done for run in runs if run.name == name)


def _check_all(runs: Sequence[Run], check: Callable[[Run], None]) -> None:
    """Raises SweepError with all runs that ``check`` refuses."""
    problems: dict[str, list[str]] = {}
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
        raise SweepError(f"{number} of {len(runs)} runs cannot be trained, so none was started: {problem}")


def _read_plan(path: Path) -> dict[str, dict[str, Any]]:
    """Returns ``runs``: name → gin files and bindings, and ``failed``: name → error. Both are empty without a file."""
    if not path.exists():
        return {"runs": {}, "failed": {}}
    remedy = "delete it if its folder holds runs of this sweep alone"
    try:
        raw = _read_json(path)
    except SweepError as error:
        raise SweepError(f"{error}; {remedy}") from None
    plan: dict[str, Any] = {"failed": {}, **raw} if isinstance(raw, dict) else {}
    sound = isinstance(plan.get("runs"), dict) and isinstance(plan.get("failed"), dict)
    if not sound or not all(isinstance(e, dict) and isinstance(e.get("error"), str) for e in plan["failed"].values()):
        raise SweepError(f"{path} is no plan of a sweep: it must hold objects 'runs' and 'failed'; {remedy}")
    return plan


def _write_plan(path: Path, runs: Mapping[str, Any], failed: Mapping[str, Any]) -> None:
    reporting.replace_text(epath.Path(path), json.dumps({"runs": runs, "failed": failed}, indent=1) + "\n")
