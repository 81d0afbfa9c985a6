"""A sweep and its runs: the points of a design, each with a name, gin files, bindings and a model directory."""

import dataclasses
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distill.counting import counted
from distill.experiments.sweep import files
from distill.experiments.sweep.levels import SEED, Kind, Level, Range, SweepError, is_active

START = "pretraining"
Point = Mapping[str, Level]


@dataclasses.dataclass(frozen=True)
class Run:
    """One point of a sweep.

    Attributes:
      name: its folder below the sweep's.
      values: axis → the name of its level; an axis that does not exist at this point is absent.
      gin_files: in order.
      bindings: gin bindings, ``MODEL_DIR`` included.
      directory: the model directory.
      numbers: axis → number, for levels with one.
    """

    name: str
    values: Mapping[str, str]
    gin_files: tuple[str, ...]
    bindings: tuple[str, ...]
    directory: Path
    numbers: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def done(self) -> bool:
        """Whether the run is complete: its result exists."""
        return (self.directory / files.RESULT).exists()

    def configuration(self) -> tuple[list[str], list[str]]:
        """Returns gin files and bindings without ``MODEL_DIR``, so that a directory may be moved."""
        return list(self.gin_files), [text for text in self.bindings if not text.startswith("MODEL_DIR = ")]


@dataclasses.dataclass(frozen=True)
class Start:
    """A run that is trained first; the others start from its parameters.

    Attributes:
      gin_files, bindings: of that run; without files there is none.
      demo: whether the runs use the demo's vocabulary, which is written into the directory first.
    """

    gin_files: tuple[str, ...]
    bindings: tuple[str, ...] = ()
    demo: bool = False


@dataclasses.dataclass(frozen=True)
class Budget:
    """An axis of equal steps and equal compute.

    Attributes:
      reference: axis → level of the configurations whose budget the others get.
    """

    reference: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Search:
    """A search by Optuna, see :mod:`distill.experiments.sweep.search`.

    Attributes:
      trials: number of trials that are complete, pruned or failed at the end.
      sampler: ``tpe``, ``gp`` or ``random``.
      seed: of the sampler.
      prune: whether a trial ends early that validates worse than the median of the others at the same step.
      startup: trials that are drawn at random, and that none is pruned before.
    """

    trials: int
    sampler: str = "tpe"
    seed: int = 0
    prune: bool = True
    startup: int = 5


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A set of runs.

    Attributes:
      directory: contains the folders of the runs, the table and the plots.
      axes: name → levels. An axis named as a gin macro sets that macro; other axes have levels with files and bindings.
      gin_files: files of every run; those of the axes follow them.
      bindings: bindings of every run; those of the axes override them.
      metric: the test metric that the table and the plot show.
      x: the horizontal axis of the plot, an axis with numbers; None takes the first such axis that is not the seed.
      joint_seeds: train runs that differ only in their seed together (``distill.training.joint_seeds``): for tiny students.
      points: the points of the design without the seed; None takes the product of the axes.
      when: axis → other axis → names of its levels at which the axis exists.
      budgets: axes of equal steps and equal compute.
      ranges: axis → its range and how a number becomes a level; of a search.
      search: a search by Optuna, whose runs are added to the plan one after another.
      start: a run that is trained first.
      log_axes: axes on a logarithmic scale.
      source: the contents of the sweep file.
      added: the bindings of the command line; they are contained in ``bindings``.
      planned: the runs of the directory's plan, which :meth:`runs` then returns.
      more: points beside the design, with their seeds (:mod:`distill.experiments.sweep.more`).
      added_points: those of the command line, as in a sweep file; they are contained in ``more``.
    """

    directory: Path
    axes: Mapping[str, tuple[Level, ...]]
    gin_files: tuple[str, ...] = ()
    bindings: tuple[str, ...] = ()
    metric: str = "accuracy"
    x: str | None = None
    joint_seeds: bool = False
    points: tuple[Point, ...] | None = None
    when: Mapping[str, Mapping[str, tuple[str, ...]]] = dataclasses.field(default_factory=dict)
    budgets: Mapping[str, Budget] = dataclasses.field(default_factory=dict)
    ranges: Mapping[str, tuple[Range, Kind]] = dataclasses.field(default_factory=dict)
    search: Search | None = None
    start: Start | None = None
    log_axes: tuple[str, ...] = ()
    source: Mapping[str, Any] | None = dataclasses.field(default=None, compare=False)
    added: tuple[str, ...] = ()
    planned: tuple[Run, ...] | None = None
    more: tuple[Point, ...] = ()
    added_points: tuple[Any, ...] = dataclasses.field(default=(), compare=False)

    def with_bindings(self, bindings: Sequence[str]) -> "Sweep":
        """Returns the sweep with bindings of the command line, which override all others but those of the axes."""
        return dataclasses.replace(self, bindings=(*self.bindings, *bindings), added=(*self.added, *bindings))

    def seeds(self) -> tuple[Level, ...]:
        """Returns the levels of the seed; empty without such an axis."""
        return self.axes.get(SEED, ())

    def runs(self) -> list[Run]:
        """Returns all runs of the design, seeds innermost; of a search, none.

        Raises:
          SweepError: two points have the same name.
        """
        if self.planned is not None:
            return list(self.planned)
        if self.search is not None:
            return []
        out = [self.run_at(point) for point in self.all_points()]
        if len({run.name for run in out}) != len(out):
            raise SweepError("two runs of the sweep have the same name; are two levels of an axis equal?")
        return out

    def all_axes(self) -> dict[str, tuple[Level, ...]]:
        """Returns the axes with their levels in the order of the file, those of ``more`` last."""
        out = {name: {level.name: level for level in levels} for name, levels in self.axes.items()}
        for point in self.more:
            for name, level in point.items():
                out.setdefault(name, {}).setdefault(level.name, level)
        return {name: tuple(levels.values()) for name, levels in out.items()}

    def respelled(self, axes: Mapping[str, Mapping[str, Any]]) -> "Sweep":
        """Returns the sweep with levels named as in a plan: ``16``, where an edited range has ``16.0``.

        Args:
          axes: those of the plan, as in ``sweep.json``.
        """
        names = {
            axis: {number: name for name, number in found.get("levels", []) if number is not None}
            for axis, found in axes.items()
        }

        def of(axis: str, level: Level) -> Level:
            name = None if level.number is None else names.get(axis, {}).get(level.number)
            return level if name is None else dataclasses.replace(level, name=name)

        def points(given: Sequence[Point]) -> tuple[Point, ...]:
            return tuple({axis: of(axis, level) for axis, level in point.items()} for point in given)

        return dataclasses.replace(
            self,
            axes={axis: tuple(of(axis, level) for level in levels) for axis, levels in self.axes.items()},
            points=None if self.points is None else points(self.points),
            more=points(self.more),
        )

    def all_points(self) -> list[Point]:
        """Returns the points of all runs, those of ``more`` last, seeds innermost."""
        return self._with_more()[0]

    def repeated_points(self) -> list[Point]:
        """Returns the points of ``more`` that are points of the design, or earlier ones of ``more``."""
        return self._with_more()[1]

    def _with_more(self) -> tuple[list[Point], list[Point]]:
        """The points of all runs, and those of ``more`` that repeat one."""
        points = self._design_points()
        repeated: list[Point] = []
        known = {tuple((name, level.name) for name, level in point.items()) for point in points}
        for point in self.more:
            key = tuple((name, level.name) for name, level in point.items())
            (repeated if key in known else points).append(point)
            known.add(key)
        return points, repeated

    def _design_points(self) -> list[Point]:
        names = sorted(self.axes, key=lambda name: name == SEED)
        if self.points is not None:
            seeds: list[Point] = [{SEED: level} for level in self.seeds()] or [{}]
            return [{**point, **seed} for point in self.points for seed in seeds]
        out: dict[Any, Point] = {}
        for number, chosen in enumerate(itertools.product(*(self.axes[name] for name in names))):
            everything = dict(zip(names, chosen))
            point = {name: level for name, level in everything.items() if is_active(name, self.when, everything)}
            # Points that differ only in axes that do not exist there are one; equal levels are not.
            out.setdefault(tuple(point.items()) if len(point) < len(names) else number, point)
        return list(out.values())

    def run_at(self, point: Point, prefix: str = "") -> Run:
        """Returns the run at a point; its name has the axes and levels, or ``prefix`` and the seed."""
        shown = {name: level for name, level in point.items() if not prefix or name == SEED}
        folder = "__".join(
            [prefix] * bool(prefix) + [f"{slug(axis)}-{slug(level.name)}" for axis, level in shown.items()]
        )
        directory = self.directory / folder
        return Run(
            folder,
            {axis: level.name for axis, level in point.items()},
            (*self.gin_files, *(file for level in point.values() for file in level.gin_files)),
            (
                *self._start_bindings(),
                *self.bindings,
                *(binding for level in point.values() for binding in level.bindings),
                f"MODEL_DIR = {str(directory)!r}",
            ),
            directory,
            {axis: level.number for axis, level in point.items() if level.number is not None},
        )

    def _start_bindings(self) -> tuple[str, ...]:
        if self.start is None or not self.start.gin_files:
            return self.vocabulary()
        return (*self.vocabulary(), f"INITIAL_CHECKPOINT_PATH = {str(self.directory / START)!r}")

    def vocabulary(self) -> tuple[str, ...]:
        """Returns the binding of the demo's vocabulary, for sweeps that start as the demo does."""
        demo = self.start is not None and self.start.demo
        return (f"VOCABULARY_PATH = {str(self.directory / 'vocabulary.model')!r}",) if demo else ()

    def start_run(self) -> Run | None:
        """Returns the run that is trained first, or None."""
        if self.start is None or not self.start.gin_files:
            return None
        where = self.directory / START
        given = (*self.vocabulary(), *self.start.bindings, f"MODEL_DIR = {str(where)!r}")
        return Run(START, {}, self.start.gin_files, given, where)


def grouped(runs: Sequence[Run], joint_seeds: bool) -> list[list[Run]]:
    """Returns the runs in groups that are trained together: those that differ only in their seed, or single ones."""
    key = (lambda run: without_seed(run)) if joint_seeds else (lambda run: run.name)
    return [list(group) for _, group in itertools.groupby(runs, key=key)]


def named_together(runs: Sequence[Run]) -> str:
    """Returns the name of runs that are trained together: that of the first, and the number of the other seeds."""
    more = f" and {counted(len(runs) - 1, 'more seed')}" if len(runs) > 1 else ""
    return f"{runs[0].name}{more}"


def without_seed(run: Run) -> str:
    """Returns a text that runs share which differ only in their seed."""
    return json.dumps([(axis, value) for axis, value in run.values.items() if axis != SEED])


def slug(text: str) -> str:
    """Returns the text as a part of a folder's name."""
    return re.sub(r"[^A-Za-z0-9.+-]+", "_", text).strip("_") or "_"
