"""``distill sweep``: trains, checks or forecasts the runs of a sweep."""

import argparse
import contextlib
import dataclasses
import json
import logging
import os
import subprocess
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from distill import exit_codes, terminal
from distill.api import tensorflow_log
from distill.cli import (
    experiments,
    interrupts,
    next_steps,
    sweep_dry_run,
    sweep_files,
    sweep_first_checks,
    sweep_planning,
)
from distill.cli import runs as command_runs

if TYPE_CHECKING:
    from distill.experiments.sweep import Sweep
    from distill.experiments.sweep.plan import Plan

_POLL_S = 1.0


class _Once(logging.Filter):
    """Lets each warning pass once: runs on the same rows have the same remarks about them. Notices are of one run."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the message is a notice or new."""
        if getattr(record, "notice", False):
            return True
        text = record.getMessage()
        new = text not in self._seen
        self._seen.add(text)
        return new


@contextlib.contextmanager
def _each_message_once() -> Iterator[None]:
    added = [(handler, _Once()) for handler in logging.getLogger().handlers]
    for handler, once in added:
        handler.addFilter(once)
    try:
        yield
    finally:
        for handler, once in added:
            handler.removeFilter(once)


def sweep_command(options: argparse.Namespace) -> int:
    from distill.experiments.sweep import inputs, scheduler, workers

    scheduler.stop_with_parent()
    with _each_message_once(), terminal.comparing_runs():
        if not options.leased:
            return _command(options)
        try:
            return _command(options)
        except inputs.Changed as error:
            terminal.error(str(error))
            return workers.CHANGED_CODE


def _command(options: argparse.Namespace) -> int:
    if options.list or options.print_name is not None:
        return sweep_files.show(options)
    if options.sweep[:1] == ["status"]:
        return sweep_files.status(options)
    sweep = sweep_files.read(options, sweep_files.only_target(options.sweep))
    if options.report_only:
        return _report_only(sweep, options)
    if not options.leased:
        sweep_files.check_index(sweep, options.index)
        sweep_files.check_runs(sweep, options.run)
        sweep_first_checks.check(sweep, options)
    if options.dry_run:
        return sweep_dry_run.dry_run(sweep, options)
    if options.prepare:
        sweep_planning.load(sweep, options)
        sweep_planning.prepare(sweep, options)
        return exit_codes.DONE
    if options.run or options.index is not None:
        return _some_runs(sweep, options)
    if options.workers or options.executor == "ray" or sweep.search is not None:
        return _with_workers(sweep, options)
    return _in_this_process(sweep, options)


def _in_this_process(sweep: "Sweep", options: argparse.Namespace) -> int:
    from distill.experiments.sweep import execution, leases

    with leases.preparing(sweep.directory):
        sweep_planning.load(sweep, options)
        plan = sweep_planning.prepare(sweep, options)
    _start(plan, options)
    failures = execution.train(
        plan, lambda runs, joint: experiments.train_group(runs, joint, options), retries=options.retries
    )
    return _report(sweep, plan, failures, options)


def _report(sweep: "Sweep", plan: "Plan", failures: dict[str, str], options: argparse.Namespace) -> int:
    _write_results(sweep, plan, options)
    return experiments.exit_code(failures, plan.directory)


def _write_results(sweep: "Sweep", plan: "Plan", options: argparse.Namespace) -> None:
    """Writes table, plot and report, and says what follows."""
    from distill.experiments.report import terminal as sweep_report
    from distill.experiments.sweep import leases

    with leases.exclusively(plan.directory):
        sweep_report.write_all(dataclasses.replace(sweep, planned=tuple(plan.runs)))
    next_steps.show(next_steps.after_sweep(plan.directory), quiet=command_runs.is_quiet(options))


def _report_only(sweep: "Sweep", options: argparse.Namespace) -> int:
    """Writes table, CSV and plot of the finished runs; returns the exit code. Changes no run, and no plan of this format.

    The runs are those of the plan; a warning says how the sweep file differs from it.

    Raises:
      FileNotFoundError: the directory does not exist.
      SweepError: it has no plan, or none of its runs has ended.
    """
    from distill.experiments.report import terminal as sweep_report
    from distill.experiments.sweep import SweepError, failures, plan, planning

    sweep_files.check_begun(sweep.directory, options.sweep[0])
    tensorflow_log.import_quietly()
    if (sweep.directory / plan.PLAN).exists() and sweep.search is None and not sweep.budgets:
        planning.convert(sweep)
    made = plan.read_plan(sweep.directory)
    differences = planning.differences(sweep)
    if differences:
        target = options.sweep[0]
        terminal.Terminal().warn(
            f"{target} differs from the sweep in {sweep.directory}, which is reported: {'; '.join(differences)}; "
            f"`distill sweep {target}` trains and reports that of the file; runs of another configuration that have begun "
            "need another --directory"
        )
    sweep = sweep_files.recorded(sweep, made)
    failed = failures(sweep)
    if not failed and not any(run.done for run in sweep.runs()):
        raise SweepError(
            f"no run of {sweep.directory} has ended, so nothing was written; "
            f"`distill sweep status {sweep.directory}` shows the state of its runs"
        )
    sweep_report.write_all(sweep)
    return experiments.exit_code(failed, sweep.directory)


def _start(plan: "Plan", options: argparse.Namespace) -> None:
    """Trains the run that the others start from, or waits for the worker that trains it.

    Raises:
      ValueError: it failed.
    """
    from distill.experiments import demo
    from distill.experiments.sweep import leases

    run = plan.start
    if run is None:
        return
    if not run.done and run.gin_files == demo.PRETRAINING_FILES:
        print(demo.INTRODUCTION)
    if _is_one_of_several(options):  # all processes train it together
        for error in experiments.train_group([run], False, options).values():
            raise ValueError(f"{run.name}, which all runs start from, failed: {error}")
    while not run.done:
        lease = leases.claim(plan.directory, run.name)
        if lease is None:
            time.sleep(_POLL_S)
            continue
        with lease:
            if not run.done:
                for error in experiments.train_group([run], False, options).values():
                    raise ValueError(f"{run.name}, which all runs start from, failed: {error}")


def _is_one_of_several(options: argparse.Namespace) -> bool:
    """Whether this process is one of several that train a run together; the lock of the model directory is theirs."""
    return options.multiprocess or options.coordinator_address is not None


def _some_runs(sweep: "Sweep", options: argparse.Namespace) -> int:
    """Trains the runs that ``--run`` or ``--index`` names: a worker of a scheduler, or a job of a launcher.

    Raises:
      SweepError: no such run, another worker trains it, or several processes were to train joint seeds.
    """
    from distill.experiments.sweep import SweepError, execution, leases, outcomes, plan, status

    sweep_planning.load(sweep, options)
    made = plan.read_plan(sweep.directory) if options.leased else sweep_planning.prepare(sweep, options, check=False)
    start = [] if made.start is None else [made.start]
    chosen = sweep_planning.chosen(sweep, made, options)
    named = [run for runs in chosen for run in runs]
    if made.joint_seeds and chosen != [start]:
        _refuse_processes()
    if chosen != [start]:
        _start(made, options)
    with contextlib.ExitStack() as stack:
        if not options.leased and not _is_one_of_several(options):
            for runs in chosen:
                group = next(group for group in (start, *made.groups()) if runs[0] in group)
                lease = leases.claim(made.directory, outcomes.lease_name(group))
                if lease is None:
                    raise SweepError(f"{runs[0].name} is being trained by another worker; wait until it ends")
                stack.enter_context(lease)
        if options.retry_failed:  # of these runs alone: others may belong to jobs that have failed since
            for run in named:
                outcomes.forget_failure(run)
        if options.leased:
            waiting = [[run for run in runs if not run.done and outcomes.pruned(run) is None] for runs in chosen]
        else:
            waiting = [execution.open_runs(runs, options.retries) for runs in chosen]
        waiting = [runs for runs in waiting if runs]
        if waiting and not options.leased:  # the scheduler has checked its runs; of an array, each task checks its own
            configurations = experiments.configurations_of(sweep, options)
            for runs in waiting:
                configurations.check_and_note(runs[0])
            with leases.exclusively(made.directory):
                newest = plan.read_plan(made.directory)
                dataclasses.replace(newest, inputs=newest.inputs.updated(configurations.inputs)).write()
        for runs in waiting:
            failed = experiments.train_group(runs, made.joint_seeds and runs != start, options)
            for run in runs:
                if run.name in failed and command_runs.is_first():
                    outcomes.note_failure(run, failed[run.name])
    if not options.leased and command_runs.is_first():
        trained = {run.name for runs in waiting for run in runs}
        for run in named:
            if run.done and run.name not in trained:
                _say(options)(f"{run.name} was finished: nothing was trained")
        newest = plan.read_plan(made.directory)
        _say(options)(status.line(newest))
        if trained and sweep.search is None and not any(outcomes.is_open(run) for run in newest.runs):
            _write_results(sweep, newest, options)
        elif trained and (made.directory / "results.csv").exists():
            _say(options)(f"results.csv and report lack these runs: distill sweep {made.directory} --report_only")
    failures = {run.name: found.error for run in named if (found := outcomes.failure(run)) is not None}
    return experiments.exit_code(failures)


def _refuse_processes() -> None:
    """Raises SweepError if this process is one of several: joint seeds train on one device."""
    import jax

    from distill.experiments.sweep import SweepError

    if jax.process_count() > 1:
        raise SweepError(
            f"joint_seeds trains the seeds of a setting on one device of one process; got {jax.process_count()} processes. "
            "Start the command in one process, without --multiprocess, or set joint_seeds: false"
        )


def _with_workers(sweep: "Sweep", options: argparse.Namespace) -> int:
    """Trains the runs in processes of this machine, or on a Ray cluster. This process imports no JAX."""
    from distill.experiments.sweep import SweepError, execution, leases, plan, scheduler, search, status, workers

    if sweep.search is not None:
        search.sampler(sweep.search, 0)  # whether it is installed, before anything else
    shares = workers.slots(options.workers or 1)
    target = options.sweep[0]
    given = [f"--directory={options.directory}"] if options.directory else []
    given += [f"--gin_bindings={binding}" for binding in options.gin_bindings]
    given += [f"--more={points}" for points in options.more]
    given += [f"--drop_more={json.dumps(values)}" if values else "--drop_more" for values in options.drop_more]
    retry = ["--retry_failed"] if options.retry_failed else []
    with leases.preparing(sweep.directory):
        code = subprocess.run(
            workers.command(target, [*given, *_passed_on(options), *retry, "--prepare"]),
            env={**os.environ, **shares[0].environment},
            stdin=subprocess.DEVNULL,
        ).returncode
    if code != 0:
        return code if code > 0 else exit_codes.STOPPED
    made = plan.read_plan(sweep.directory)
    command = workers.command(str(sweep.directory), [*_passed_on(options), "--leased"])

    def executor() -> scheduler.Executor:
        if options.executor == "ray":
            from distill.experiments.sweep import ray_cluster

            return ray_cluster.Cluster(
                command[1:],
                options.workers or max(1, len(made.runs)),
                options.ray_address,
                options.cpus_per_run,
                options.gpus_per_run,
            )
        return workers.Processes(command, shares)

    def run(work: scheduler.Work, *, joint: bool) -> None:
        of_this_machine = options.executor != "ray"
        with interrupts.workers_train(save=not joint) if of_this_machine else contextlib.nullcontext():
            scheduler.Scheduler(made.directory, work, executor(), _say(options), retries=options.retries).run()

    if made.start is not None and not made.start.done:
        alone = dataclasses.replace(made, runs=[made.start], joint_seeds=False, start=None)
        run(scheduler.PlannedWork(alone, options.retries), joint=False)
        if not made.start.done:
            raise SweepError(f"{made.start.name}, which all runs start from, failed; its log is in its folder")
    if sweep.search is None:
        _say(options)(execution.opening(made, options.retries))
        run(scheduler.PlannedWork(made, options.retries), joint=made.joint_seeds)
    else:
        _say(options)(search.opening(made, sweep.search, options.retries))
        split, metric = made.selected_by
        run(
            search.SearchWork(sweep, retries=options.retries, validation_split=split, metric=metric),
            joint=made.joint_seeds,
        )
    made = plan.read_plan(sweep.directory)
    _say(options)(status.line(made))
    if sweep.search is not None:
        _say(options)(search.summary(sweep.directory, sweep.search, made.selected_by[1]))
    if not options.verbose:
        tensorflow_log.import_quietly()
    return _report(sweep, made, execution.failures(made), options)


def _passed_on(options: argparse.Namespace) -> list[str]:
    """The flags of this command that its workers get."""
    out = [f"--gin_module={module}" for module in options.gin_module]
    out += [f"--gin_search_paths={options.gin_search_paths}"] if options.gin_search_paths else []
    out += ["--verbose"] if options.verbose else []
    return out


def _say(options: argparse.Namespace) -> Any:
    """Prints progress lines, at once also into a pipe."""
    if command_runs.is_quiet(options):
        return lambda text: None
    return lambda text: print(text, flush=True)
