"""Compares a sweep with the plan of its directory, checks its runs, and writes the plan."""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from distill.counting import counted, with_more
from distill.experiments.sweep import files, leases, outcomes, plan, same_sweep
from distill.experiments.sweep.inputs import Inputs
from distill.experiments.sweep.levels import SEED, SweepError
from distill.experiments.sweep.plan import Plan
from distill.experiments.sweep.runs import Run, Sweep


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
    there = plan.contents(sweep.directory)
    if write:
        _convert_failures(sweep.directory, there)
    sweep = sweep.respelled(there.get("axes", {}))
    runs = list(resolve(sweep))
    if sweep.search is not None:
        runs = [plan.run_of(sweep.directory, name, entry) for name, entry in there.get("runs", {}).items()]
    failed = _failed(runs, there)
    same_sweep.refuse(sweep, runs, there, failed)
    _check_metric(sweep, runs, there)
    changed = same_sweep.changed(sweep, runs, there)
    start = sweep.start_run()
    begun = [run for run in (*filter(None, [start]), *runs) if same_sweep.has_begun(run.directory)]
    otherwise = {run.name: what for run in begun if run not in changed and (what := differs(run))}
    same_sweep.refuse_trained_otherwise(sweep, {name: what for name, what in otherwise.items() if name not in failed})
    changed += [run for run in runs if run.name in otherwise]
    for run in changed:
        outcomes.check_discarded(run)
    repeated = failed if retry_failed else {run.name for run in changed}
    skipped = failed - repeated
    check_all([run for run in runs if outcomes.is_open(run) or run.name in repeated], check, skipped)
    made = dataclasses.replace(
        planned(sweep, runs),
        validation=plan.validation_of(there),  # until the runs are checked again
        inputs=plan.inputs_of(there).updated(read()),
        dropped=_dropped(sweep.directory, runs, there),
    )
    if write:
        for run in runs:
            if run in changed:
                outcomes.discard(run)
            elif run.name in repeated:
                outcomes.forget_failure(run)
        made.write()
    return made


def restarted(sweep: Sweep, runs: Sequence[Run], differs: Callable[[Run], str]) -> list[Run]:
    """The failed runs whose configuration has changed, which :func:`prepare` repeats from their beginning.

    Args:
      sweep, differs: as for :func:`prepare`, which has accepted them.
      runs: of the sweep.
    """
    there = plan.contents(sweep.directory)
    sweep = sweep.respelled(there.get("axes", {}))
    failed = [run for run in runs if run.name in _failed(runs, there)]
    changed = same_sweep.changed(sweep, failed, there)
    return [run for run in failed if run in changed or (same_sweep.has_begun(run.directory) and differs(run))]


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
    if "format" in plan.contents(sweep.directory):
        return
    with leases.exclusively(sweep.directory):
        there = plan.contents(sweep.directory)
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
    there = plan.contents(sweep.directory)
    sweep = sweep.respelled(there.get("axes", {}))
    return same_sweep.differences(sweep, sweep.runs(), there)


def refuse_other_sweep(sweep: Sweep) -> None:
    """Refuses a directory that holds another sweep, as :func:`prepare` does, before the runs are configured.

    Raises:
      SweepError: names what differs first; or the plan of the directory cannot be read, or the directory holds no sweep and
        files that the results would replace.
    """
    plan.check_directory(sweep.directory)
    there = plan.contents(sweep.directory)
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
    old = plan.contents(sweep.directory).get("failed", {})
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
        problem = "; ".join(f"{with_more(names)}: {error}" for error, names in problems.items())
        raise SweepError(f"{number} of {counted(len(runs))} cannot be trained, so none was started: {problem}")


def _convert_failures(directory: Path, there: Mapping[str, Any]) -> None:
    """Writes the failures of an older plan into the folders of their runs."""
    for name, entry in there.get("failed", {}).items():
        run = Run(name, {}, (), (), directory / name)
        if not run.done and outcomes.failure(run) is None:
            outcomes.note_failure(run, entry["error"])
