"""What happens before the runs of a sweep train: everything is loaded, checked and planned."""

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill import terminal
from distill.cli import compilation_cache, experiments, sweep_files
from distill.cli import runs as command_runs
from distill.counting import counted, form

if TYPE_CHECKING:
    from distill.cli.sweep_checks import Configurations
    from distill.experiments.sweep import Sweep
    from distill.experiments.sweep.plan import Plan
    from distill.experiments.sweep.runs import Run

CACHE = ".compiled"
"""The folder of compiled steps in a sweep's directory, which runs with the same shapes share."""
_NAMED = 3  # runs in a message, at most


def load(sweep: "Sweep", options: argparse.Namespace) -> None:
    """Imports TensorFlow and JAX, and turns on the compilation cache that all workers of the directory share."""
    command_runs.load_tensorflow(options)
    command_runs.join(options)
    compilation_cache.enable(sweep.directory / CACHE)


def prepare(sweep: "Sweep", options: argparse.Namespace, *, check: bool = True) -> "Plan":
    """Checks all runs and prints the warnings, and writes the plan.

    Args:
      sweep: the sweep.
      options: the flags of the command.
      check: False only writes the plan, for a command that trains some of the runs: it checks those, and repeats them if
        they failed.

    Raises:
      SweepError: see :func:`checked`.
    """
    from distill.cli import sweep_checks
    from distill.experiments.sweep import plan, planning, remarks

    shown = terminal.Terminal(quiet=command_runs.is_quiet(options))
    configurations = experiments.configurations_of(sweep, options)
    write_vocabulary(sweep)
    if not check:
        compared: dict[str, Any] = {"resolve": configurations.resolve, "differs": configurations.differs}
        made = planning.prepare(sweep, write=False, **compared)
        named = [run for runs in chosen(sweep, made, options) for run in runs]
        restarted = planning.restarted(sweep, named, configurations.differs)
        if todo := [run for run in named if run in restarted or _is_to_do(run, options)]:
            configurations.refuse_changed_rows(made.runs, _continued(todo, restarted, made))
        for line in left_out_lines(sweep.directory, plan.left_out(sweep.directory, made.runs)):
            shown.say(line)
        return planning.prepare(sweep, **compared)

    def checks(run: "Run") -> None:
        configurations.check_and_note(run)
        if options.prepare:  # the workers' warnings are in their logs
            configurations.note_seen_rows(run)

    made, probes, stale = checked(sweep, options, configurations, shown, checks)
    made = dataclasses.replace(made, validation=configurations.validation or made.validation)
    made.write()
    found = remarks.remarks(sweep, [*made.runs, *probes], configurations.settings)
    rare = sweep_checks.lines_of_runs([*made.runs, *probes], configurations.advice)
    for text in (*rare, *found, *stale, *configurations.seen_rows([*made.runs, *probes])):
        shown.warn(text)
    return made


def checked(
    sweep: "Sweep",
    options: argparse.Namespace,
    configurations: "Configurations",
    shown: terminal.Terminal,
    check: Callable[["Run"], None],
    write: bool = True,
) -> tuple["Plan", list["Run"], list[str]]:
    """Checks and describes all runs.

    Returns:
      The plan, written unless ``write`` is False; the probes of a search; and lines on rows that have changed since the
      runs of a sweep with none to do.

    Raises:
      SweepError: runs cannot be trained; or rows have changed since runs were trained, and others are to do.
    """
    from distill.experiments.sweep import plan, planning, remarks

    todo: list[Run] = []

    def noted(run: "Run") -> None:
        check(run)
        todo.append(run)

    with shown.stage("checking the runs"):
        probes = configurations.probes()
        for probe in probes:
            check(probe)
        compared: dict[str, Any] = {"resolve": configurations.resolve, "differs": configurations.differs}
        given = {**compared, "retry_failed": options.retry_failed, "read": lambda: configurations.inputs}
        made = planning.prepare(sweep, check=noted, write=False, **given)
        changed: list[str] = []
        if todo or _searches(sweep, made):
            restarted = planning.restarted(sweep, todo, configurations.differs)
            configurations.refuse_changed_rows(made.runs, _continued(todo, restarted, made))
        else:
            changed = configurations.changed_rows(made.runs)
        configurations.describe([*made.runs, *probes])
        remarks.refuse_idle_axes(sweep, [*made.runs, *probes], configurations.settings)
        left_out = plan.left_out(sweep.directory, made.runs)
        if write:
            made = planning.prepare(sweep, **given)
    if write:
        for line in left_out_lines(sweep.directory, left_out):
            shown.say(line)
    return made, probes, changed


def _is_to_do(run: "Run", options: argparse.Namespace) -> bool:
    from distill.experiments.sweep import outcomes

    repeated = options.retry_failed and outcomes.failure(run) is not None
    return repeated or outcomes.is_open(run, options.retries)


def _continued(todo: Sequence["Run"], restarted: Sequence["Run"], made: "Plan") -> list["Run"]:
    """The runs to do that continue from their checkpoints: joint seeds start from the beginning, as ``restarted`` do."""
    return [] if made.joint_seeds else [run for run in todo if run not in restarted]


def _searches(sweep: "Sweep", made: "Plan") -> bool:
    """Whether a search has trials to do."""
    from distill.experiments.sweep import outcomes

    if sweep.search is None:
        return False
    ended = sum(not outcomes.is_open(run) for run in made.runs)
    return ended < sweep.search.trials * max(1, len(sweep.seeds()))


def left_out_lines(directory: Path, left_out: Sequence["Run"]) -> list[str]:
    """A line about the runs of a directory's plan that the sweep no longer has; none if there are none."""
    from distill.experiments.sweep import outcomes

    if not left_out:
        return []
    named = [f"{run.name} ({outcomes.state(run, outcomes.is_running(directory, [run]))})" for run in left_out[:_NAMED]]
    shown = ", ".join(named) + ", …" * (len(left_out) > _NAMED)
    kept = "left out of table and report"
    if any(run.directory.exists() for run in left_out):
        kept += "; the folders are kept, for when they are added again"
    what = f"{counted(len(left_out), 'run')} of {directory} {form(len(left_out), 'is', 'are')}"
    return [f"{what} not in this sweep any more ({shown}): {kept}"]


def write_vocabulary(sweep: "Sweep") -> None:
    """Writes the demo's vocabulary into the directory of a sweep that starts from the demo."""
    if sweep.start is not None and sweep.start.demo:
        from distill.experiments import demo

        demo.write_vocabulary(sweep.directory)


def chosen(sweep: "Sweep", made: "Plan", options: argparse.Namespace) -> list[list["Run"]]:
    """The runs that ``--run`` or ``--index`` names, in the groups of the plan; raises SweepError if there are none.

    The common start, if it is named, is a group and the first.
    """
    groups = made.groups()
    if not options.run:
        sweep_files.check_index(sweep, options.index, len(groups))
        return [groups[options.index]]
    if made.start is not None:
        groups.insert(0, [made.start])
    sweep_files.check_runs(sweep, options.run, [run.name for group in groups for run in group])
    named = ([run for run in group if run.name in options.run] for group in groups)
    return [group for group in named if group]
