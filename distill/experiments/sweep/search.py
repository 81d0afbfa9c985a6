"""Searches by Optuna: each trial is one point of the sweep, with one run per seed.

The study is ``optuna.journal`` in the sweep's directory (``JournalStorage``, ``load_if_exists``), which workers of several
machines share. The value of a trial is the mean over its seeds of the best validation score; the test split has no part
in it. Trial n is drawn by a sampler with the seed ``seed + n``, so that one worker repeats a search exactly, also after
a restart, and several workers draw different points.

Pruning compares the validation scores of a trial's first seed while it trains, from ``evaluations.jsonl``, with those of
the other trials at the same step (``MedianPruner``); equal scores prune nothing. The first validation, where little is
learned yet, is reported only. A pruned trial's runs end early and are recorded as pruned.
"""

import importlib.util
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.study import StudyDirection
from optuna.trial import TrialState

from distill.counting import counted
from distill.experiments.sweep import files, leases, outcomes
from distill.experiments.sweep.execution import open_runs
from distill.experiments.sweep.levels import SEED, Level, SweepError, is_active, rounded
from distill.experiments.sweep.plan import Plan, read_plan
from distill.experiments.sweep.runs import Point, Run, Search, Sweep, grouped
from distill.tasks import metrics

JOURNAL = "optuna.journal"
STUDY = "sweep"
_PREFIX = "trial-"
_OVER = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


def distributions(sweep: Sweep, point: Point) -> dict[str, BaseDistribution]:
    """Returns the distributions of the axes whose conditions hold at a point and that the point does not have yet."""
    out: dict[str, BaseDistribution] = {}
    for name, levels in sweep.axes.items():
        if name == SEED or name in point or not _can_exist(sweep, name, point):
            continue
        if name not in sweep.ranges:
            out[name] = CategoricalDistribution([level.name for level in levels])
            continue
        interval, _ = sweep.ranges[name]
        if interval.whole:
            out[name] = IntDistribution(int(interval.low), int(interval.high), log=interval.log)
        else:
            out[name] = FloatDistribution(float(interval.low), float(interval.high), log=interval.log)
    return out


def _can_exist(sweep: Sweep, name: str, point: Point) -> bool:
    return all(other in point and point[other].name in names for other, names in sweep.when.get(name, {}).items())


def sampler(search: Search, number: int) -> optuna.samplers.BaseSampler:
    """Returns the seeded sampler of trial ``number``.

    Raises:
      SweepError: ``gp`` without PyTorch, which Optuna's GP sampler needs.
    """
    seed = search.seed + number
    if search.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    if search.sampler == "gp":
        if importlib.util.find_spec("torch") is None:
            raise SweepError("the sampler 'gp' needs PyTorch, which is not installed; install torch, or use 'tpe'")
        return optuna.samplers.GPSampler(seed=seed, n_startup_trials=search.startup, deterministic_objective=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=search.startup, multivariate=True, group=True, constant_liar=True
        )


def open_study(directory: Path, search: Search, metric: str, number: int = 0) -> optuna.Study:
    """Opens the study of a sweep directory, or makes it, with the sampler of trial ``number``.

    Raises:
      SweepError: the study of the directory selects by the other end of the metric.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    directory.mkdir(parents=True, exist_ok=True)
    path = str(directory / JOURNAL)
    # A lock file opened exclusively works on shared file systems, too.
    storage = JournalStorage(JournalFileBackend(path, lock_obj=JournalFileOpenLock(path)))
    pruner: Any = optuna.pruners.NopPruner()
    if search.prune:
        pruner = optuna.pruners.MedianPruner(n_startup_trials=search.startup, n_min_trials=2)
    direction = StudyDirection.MAXIMIZE if metrics.higher_is_better(metric) else StudyDirection.MINIMIZE
    study = optuna.create_study(
        storage=storage,
        sampler=sampler(search, number),
        pruner=pruner,
        study_name=STUDY,
        direction=direction,
        load_if_exists=True,
    )
    if study.direction != direction:
        raise SweepError(
            f"{directory / JOURNAL}: trials are selected by the metric {metric!r}: expected a study that was begun to "
            f"{direction.name.lower()} it; got one to {study.direction.name.lower()} its metric. Begin the search again "
            "with another --directory"
        )
    return study


def _number(name: str) -> int:
    return int(name.removeprefix(_PREFIX).partition("__")[0])


class SearchWork:
    """The trials of a search; see :class:`~distill.experiments.sweep.scheduler.Work`.

    Args:
      sweep: with a search.
      retries: how often a run that fails is repeated.
      validation_split: the split whose scores are compared for pruning.
      metric: the validation metric that selects the best parameters.
    """

    def __init__(
        self,
        sweep: Sweep,
        *,
        retries: int = 0,
        validation_split: str = "validation",
        metric: str = "accuracy",
    ):
        assert sweep.search is not None
        self._sweep, self._search = sweep, sweep.search
        self._retries, self._split, self._metric = retries, validation_split, metric
        self._study = open_study(sweep.directory, sweep.search, metric)
        self._seen: dict[str, int] = {}

    def next(self) -> list[Run] | None:
        """Returns open runs of an earlier trial, or those of a new one; None if there are enough trials."""
        with leases.exclusively(self._sweep.directory):
            plan = read_plan(self._sweep.directory)
            self._settle(plan)
            for group in plan.groups():
                if open_runs(group, self._retries) and not outcomes.is_running(plan.directory, group):
                    return group
            trials = self._study.get_trials(deepcopy=False)
            if len(trials) >= self._search.trials:
                return None
            runs = self._ask(len(trials))
            plan.with_runs(runs).write()
        return grouped(runs, self._sweep.joint_seeds)[0]

    def finished(self, group: Sequence[Run]) -> None:
        """Gives the study the value of the group's trial, once all its runs have ended."""
        with leases.exclusively(self._sweep.directory):
            self._settle(read_plan(self._sweep.directory))

    def is_over(self) -> bool:
        """Returns whether all trials have ended."""
        if len(self._study.get_trials(deepcopy=False)) < self._search.trials:
            return False
        return not any(open_runs(group, self._retries) for group in read_plan(self._sweep.directory).groups())

    def is_hopeless(self, group: Sequence[Run]) -> bool:
        """Reports new validation scores of the trial's first seed; returns whether the pruner ends the trial."""
        name = group[0].name
        if not self._search.prune or self._first_seed not in (None, group[0].values.get(SEED)):
            return False
        scores = validation_scores(group[0].directory, self._split, self._metric)
        if len(scores) <= self._seen.get(name, 0):
            return False
        trial = optuna.trial.Trial(self._study, self._trial_id(_number(name)))
        for step, value in scores[self._seen.get(name, 0) :]:
            self._seen[name] = self._seen.get(name, 0) + 1
            trial.report(value, step)
            if self._seen[name] > 1 and trial.should_prune():
                for run in read_plan(self._sweep.directory).runs:
                    if _number(run.name) == _number(name):
                        outcomes.note_pruned(run, step, value)
                return True
        return False

    @property
    def _first_seed(self) -> str | None:
        return next((level.name for level in self._sweep.seeds()), None)

    def _trial_id(self, number: int) -> int:
        return self._study.get_trials(deepcopy=False)[number]._trial_id

    def _ask(self, number: int) -> list[Run]:
        """Draws a trial; the axes that exist only at some levels of others are drawn after those."""
        study = open_study(self._sweep.directory, self._search, self._metric, number)
        trial = study.ask()
        point: dict[str, Level] = {}
        while wanted := distributions(self._sweep, point):
            for name, distribution in wanted.items():
                point[name] = _level(self._sweep, name, _suggested(trial, name, distribution))
        return _runs_at(self._sweep, point, f"{_PREFIX}{trial.number:04d}")

    def _settle(self, plan: Plan) -> None:
        """Gives the study the outcome of every trial whose runs have all ended."""
        trials = self._study.get_trials(deepcopy=False)
        by_trial: dict[int, list[Run]] = {}
        for run in plan.runs:
            by_trial.setdefault(_number(run.name), []).append(run)
        for number, runs in by_trial.items():
            if number >= len(trials) or trials[number].state in _OVER:
                continue
            if any(outcomes.pruned(run) for run in runs):
                self._study.tell(number, state=TrialState.PRUNED)
            elif all(run.done for run in runs):
                self._study.tell(number, sum(_best(run) for run in runs) / len(runs))
            elif not any(outcomes.is_open(run, self._retries) for run in runs):
                self._study.tell(number, state=TrialState.FAIL)


def probes(sweep: Sweep) -> list[Run]:
    """Returns runs with every level and both ends of every range, for checks before the first trial."""
    out: dict[str, Run] = {}
    for axis in [None, *(name for name in sweep.axes if name != SEED)]:
        for end in _ends(sweep, axis):
            point: dict[str, Level] = {} if axis is None else {axis: end}
            # An axis with a condition is probed where the condition holds.
            for other, names in sweep.when.get(axis or "", {}).items():
                point.setdefault(other, next(level for level in sweep.axes[other] if level.name == names[0]))
            while wanted := distributions(sweep, point):
                point.update({name: next(_ends(sweep, name)) for name in wanted})
            point = {name: point[name] for name in sweep.axes if is_active(name, sweep.when, point) and name in point}
            run = _runs_at(sweep, point, f"probe{len(out)}")[0]  # names are keys of costs and settings
            out.setdefault(repr(run.configuration()), run)
    return list(out.values())


def _ends(sweep: Sweep, name: str | None) -> Iterator[Level]:
    if name is None:
        yield Level("")
    elif name in sweep.ranges:
        interval, kind = sweep.ranges[name]
        yield from (kind.level(interval.at(0.0)), kind.level(interval.at(1.0)))
    else:
        yield from sweep.axes[name]


def _suggested(trial: optuna.Trial, name: str, distribution: BaseDistribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(name, distribution.choices)
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(name, distribution.low, distribution.high, log=distribution.log)
    assert isinstance(distribution, FloatDistribution)
    return trial.suggest_float(name, distribution.low, distribution.high, log=distribution.log)


def _level(sweep: Sweep, name: str, value: Any) -> Level:
    if name in sweep.ranges:
        interval, kind = sweep.ranges[name]
        return kind.level(value if interval.whole else rounded(value))
    return next(level for level in sweep.axes[name] if level.name == value)


def _runs_at(sweep: Sweep, point: Point, prefix: str) -> list[Run]:
    """The runs of a trial, one per seed."""
    ordered = {name: point[name] for name in sweep.axes if name in point and name != SEED}
    seeds: list[Point] = [{SEED: level} for level in sweep.seeds()] or [{}]
    return [sweep.run_at({**ordered, **seed}, prefix) for seed in seeds]


def _best(run: Run) -> float:
    """The best validation score of a finished run."""
    result = files.read_result(run.directory)
    if not isinstance(result.get("best"), int | float):
        raise SweepError(f"{run.directory / files.RESULT} has no validation score; a search needs validation")
    return float(result["best"])


def validation_scores(directory: Path, split: str, metric: str) -> list[tuple[int, float]]:
    """Returns step and score of each validation that a run has made; the scores of the test split are not used."""
    entries = files.read_evaluations(directory)
    return [
        (entry["step"], float(entry[metric]))
        for entry in entries
        if entry["split"] == split and isinstance(entry.get(metric), int | float)
    ]


def opening(plan: Plan, search: Search, retries: int = 0) -> str:
    """Returns the line that a search begins with: how many trials there are, have ended and are to do.

    Args:
      plan: the runs of the trials that have begun.
      search: the search.
      retries: how often a run that fails is repeated.
    """
    trials: dict[int, list[Run]] = {}
    for run in plan.runs:
        trials.setdefault(_number(run.name), []).append(run)
    ended = [runs for runs in trials.values() if not open_runs(runs, retries)]
    parts = [counted(search.trials, "trial"), f"{sum(all(run.done for run in runs) for runs in ended)} done already"]
    pruned = sum(any(outcomes.pruned(run) for run in runs) for runs in ended)
    failed = sum(bool(outcomes.given_up(runs, retries)) for runs in ended)
    parts += [f"{number} {name} before" for number, name in ((failed, "failed"), (pruned, "pruned")) if number]
    return ", ".join([*parts, f"{max(0, search.trials - len(ended))} to do"])


_STATES = {"complete": "done", "fail": "failed"}  # Optuna's names of states → those of a run


def summary(directory: Path, search: Search, metric: str = "accuracy") -> str:
    """Returns one line: the numbers of trials by state, and the best validation score with its values.

    Args:
      directory: of the sweep.
      search: its search.
      metric: the validation metric that selects the best parameters.
    """
    study = open_study(directory, search, metric)
    trials = study.get_trials(deepcopy=False)
    counts = {state.name.lower(): sum(trial.state == state for trial in trials) for state in TrialState}
    shown = ", ".join(f"{count} {_STATES.get(name, name)}" for name, count in counts.items() if count)
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE and trial.value is not None]
    if not complete:
        return f"{len(trials)} of {search.trials} trials ({shown or 'none'})"
    best = (max if metrics.higher_is_better(metric) else min)(complete, key=lambda trial: trial.value or 0.0)
    run = next(run for run in read_plan(directory).runs if _number(run.name) == best.number)
    values = ", ".join(f"{name}={value}" for name, value in run.values.items() if name != SEED)  # as table and CSV
    of = f"{_PREFIX}{best.number:04d}"
    return (
        f"{len(trials)} of {search.trials} trials ({shown}); best on validation: {best.value:.4f}, {of} with {values}"
    )
