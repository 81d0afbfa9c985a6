"""Grids of runs: which runs there are, which are done, and doing the rest."""

import dataclasses
import hashlib
import itertools
import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from distill import reporting
from distill.exit_codes import Stopped

__all__ = ["Choice", "Run", "Stopped", "Sweep", "SweepError", "read", "run"]

SEED = "RANDOM_SEED"
PLAN = "sweep.json"


class SweepError(ValueError):
    """A sweep file that cannot be used."""


@dataclasses.dataclass(frozen=True)
class Choice:
    """One value of an axis: what it is called, and the gin files and bindings it stands for."""

    name: str
    gin_files: tuple[str, ...] = ()
    bindings: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Run:
    """One point of the grid.

    Attributes:
      name: its folder below the sweep's.
      values: axis → the name of its choice.
      gin_files: in order.
      bindings: gin bindings, ``MODEL_DIR`` included.
      directory: its model directory.
    """

    name: str
    values: Mapping[str, str]
    gin_files: tuple[str, ...]
    bindings: tuple[str, ...]
    directory: Path

    @property
    def done(self) -> bool:
        """Whether its result is there."""
        return (self.directory / reporting.RESULT).exists()


@dataclasses.dataclass(frozen=True)
class Sweep:
    """What to run.

    Attributes:
      directory: the runs' folders, the table and the plots go here.
      axes: name → choices. An axis called like a gin macro sets that macro; others name files and bindings.
      gin_files: of every run; an axis's files come behind them.
      bindings: of every run; an axis's override them.
      metric: which of the test metrics the table and the plot show.
      x: the plot's horizontal axis, an axis with numbers; None: the first such axis that is not the seed.
      joint_seeds: train runs that differ only in their seed together (``distill.replicas``): for tiny students.
    """

    directory: Path
    axes: Mapping[str, tuple[Choice, ...]]
    gin_files: tuple[str, ...] = ()
    bindings: tuple[str, ...] = ()
    metric: str = "accuracy"
    x: str | None = None
    joint_seeds: bool = False

    def runs(self) -> list[Run]:
        """Every point of the grid, seeds innermost.

        Raises:
          SweepError: two points have the same name.
        """
        names = sorted(self.axes, key=lambda name: name == SEED)
        out = []
        for point in itertools.product(*(self.axes[name] for name in names)):
            folder = "__".join(f"{_slug(axis)}-{_slug(choice.name)}" for axis, choice in zip(names, point))
            directory = self.directory / folder
            out.append(
                Run(
                    folder,
                    {axis: choice.name for axis, choice in zip(names, point)},
                    (*self.gin_files, *(file for choice in point for file in choice.gin_files)),
                    (
                        *self.bindings,
                        *(binding for choice in point for binding in choice.bindings),
                        f"MODEL_DIR = {str(directory)!r}",
                    ),
                    directory,
                )
            )
        if len({run.name for run in out}) != len(out):
            raise SweepError("two runs of the sweep have the same name; are two choices of an axis equal?")
        return out

    def groups(self) -> list[list[Run]]:
        """The runs to do, those to be trained together side by side; finished ones are left out."""
        key = _without_seed if self.joint_seeds else lambda run: run.name
        groups = [list(runs) for _, runs in itertools.groupby(self.runs(), key=key)]
        waiting = [[run for run in runs if not run.done] for runs in groups]
        return [runs for runs in waiting if runs]

    def fingerprint(self) -> str:
        """Changes when any run's configuration does."""
        plan = [(run.name, run.gin_files, run.bindings) for run in self.runs()]
        return hashlib.sha256(json.dumps(plan).encode()).hexdigest()[:16]


def _without_seed(run: Run) -> str:
    return json.dumps([(axis, value) for axis, value in run.values.items() if axis != SEED])


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.+-]+", "_", text).strip("_") or "_"


def read(path: str | Path, directory: str | Path | None = None) -> Sweep:
    """A sweep from its JSON file.

    ``{"gin_files": […], "bindings": {NAME: value}, "axes": {AXIS: […] or {choice: {"gin_files": […], "bindings": {…}}}},
    "metric": …, "x": …, "joint_seeds": …, "directory": …}``; an axis given as a list is a gin macro with those values.

    Raises:
      SweepError: not such a file; says what is wrong and where.
    """
    path = Path(path)
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise SweepError(f"{path} is not JSON: {error}") from None
    known = {"gin_files", "bindings", "axes", "metric", "x", "joint_seeds", "directory"}
    if not isinstance(raw, dict) or not isinstance(raw.get("axes"), dict) or not raw["axes"]:
        raise SweepError(f"{path} must hold an object with 'axes', an object of at least one axis")
    if set(raw) - known:
        raise SweepError(f"{path}: unknown key {sorted(set(raw) - known)}; there are {sorted(known)}")
    where = directory or raw.get("directory")
    if not where:
        raise SweepError(f"{path} names no 'directory'; give one there or with --directory")
    sweep = Sweep(
        Path(where),
        {axis: _choices(path, axis, values) for axis, values in raw["axes"].items()},
        tuple(raw.get("gin_files", ())),
        tuple(_binding(name, value) for name, value in raw.get("bindings", {}).items()),
        raw.get("metric", "accuracy"),
        raw.get("x"),
        bool(raw.get("joint_seeds", False)),
    )
    if sweep.x is not None and sweep.x not in sweep.axes:
        raise SweepError(f"{path}: x must be one of the axes {sorted(sweep.axes)}; got {sweep.x!r}")
    return sweep


def _choices(path: Path, axis: str, values: Any) -> tuple[Choice, ...]:
    if isinstance(values, list) and values:
        return tuple(Choice(str(value), bindings=(_binding(axis, value),)) for value in values)
    if isinstance(values, dict) and values:
        out = []
        for name, choice in values.items():
            if not isinstance(choice, dict) or set(choice) - {"gin_files", "bindings"}:
                raise SweepError(
                    f"{path}: axis {axis!r}, choice {name!r} must be an object of 'gin_files' and 'bindings'"
                )
            bindings = tuple(_binding(key, value) for key, value in choice.get("bindings", {}).items())
            out.append(Choice(name, tuple(choice.get("gin_files", ())), bindings))
        return tuple(out)
    raise SweepError(
        f"{path}: axis {axis!r} must be a list of values or an object of choices, not empty; got {values!r}"
    )


def _binding(name: str, value: Any) -> str:
    """``NAME = value``; a string that begins with ``@`` or ``%`` is a gin reference."""
    if isinstance(value, str) and value[:1] in ("@", "%"):
        return f"{name} = {value}"
    return f"{name} = {value!r}"


def run(sweep: Sweep, train_group: Callable[[Sequence[Run], bool], None], say: Callable[[str], None] = print) -> None:
    """Does what is left of the sweep.

    Args:
      sweep: what to run. Its plan is written beside the runs; a folder that holds another plan's runs is refused.
      train_group: trains runs (several only if they differ in their seed alone; then the flag is True).
      say: is told what goes on.

    Raises:
      SweepError: the folder belongs to another sweep.
    """
    plan = sweep.directory / PLAN
    sweep.directory.mkdir(parents=True, exist_ok=True)
    if plan.exists():
        there = json.loads(plan.read_text())
        changed = [
            run.name
            for run in sweep.runs()
            if run.name in there["runs"] and there["runs"][run.name] != [list(run.gin_files), list(run.bindings)]
        ]
        if changed:
            raise SweepError(
                f"{sweep.directory} holds runs of another configuration ({', '.join(changed[:3])}, …); "
                "use another directory, or delete it"
            )
    runs = sweep.runs()
    plan.write_text(
        json.dumps({"runs": {run.name: [list(run.gin_files), list(run.bindings)] for run in runs}}, indent=1) + "\n"
    )
    groups = sweep.groups()
    waiting = sum(len(group) for group in groups)
    say(f"{len(runs)} runs, {len(runs) - waiting} done already, {waiting} to do")
    for number, group in enumerate(groups, 1):
        names = group[0].name if len(group) == 1 else f"{group[0].name} and {len(group) - 1} more seeds"
        say(f"[{number}/{len(groups)}] {names}")
        train_group(group, sweep.joint_seeds)
        logging.info("finished %s", names)
