"""``distill sweep --dry_run``: lists and checks the runs, and estimates their time and cost."""

import argparse
import contextlib
import dataclasses
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from distill import exit_codes, terminal
from distill.cli import experiments, sweep_planning
from distill.cli import runs as command_runs
from distill.counting import counted, form

if TYPE_CHECKING:
    from distill.experiments.sweep import Run, Sweep


def dry_run(sweep: "Sweep", options: argparse.Namespace) -> int:
    """Lists and checks the runs and estimates their time and cost; leaves no file."""
    with _vocabulary_for_checks(sweep):
        return _dry_run(sweep, options)


def _dry_run(sweep: "Sweep", options: argparse.Namespace) -> int:
    from distill.cli import sweep_checks
    from distill.experiments.sweep import estimates, outcomes, plan, planning, remarks

    if options.topology:
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    if options.price_per_chip_hour is not None and not options.price_per_chip_hour > 0:
        raise ValueError(f"--price_per_chip_hour must be > 0; got {options.price_per_chip_hour}")
    command_runs.load_tensorflow(options)
    configurations, console = experiments.configurations_of(sweep, options), terminal.output()
    accept = configurations.check if options.topology is None else configurations.check_without_devices

    def check(run: "Run") -> None:
        accept(run)
        configurations.measure(run)
        configurations.note_seen_rows(run)

    shown = terminal.Terminal(quiet=command_runs.is_quiet(options))
    made, probes, stale = sweep_planning.checked(sweep, options, configurations, shown, check, write=False)
    all_runs, numbers = made.runs, {run.name: number for number, run in enumerate(made.runs)}
    if options.run or options.index is not None:
        chosen = sweep_planning.chosen(sweep, made, options)
        made = dataclasses.replace(made, runs=[run for runs in chosen for run in runs])
        configurations.describe(made.runs)
    only_checked = bool(probes) and not made.runs
    shown_runs = probes if only_checked else made.runs
    console.print(sweep_checks.table(shown_runs, configurations.costs, numbers, only_checked=only_checked))
    if only_checked:
        text = "these runs have the levels and the ends of the ranges; the search chooses the points that are trained"
        console.print(text, highlight=False, soft_wrap=True)
    long, rare = (
        sweep_checks.lines_of_runs([*made.runs, *probes], lines)
        for lines in (configurations.truncated, configurations.advice)
    )
    found = remarks.remarks(sweep, [*made.runs, *probes], configurations.settings)
    seen = configurations.seen_rows([*made.runs, *probes])
    for text in (*long, *rare, *found, *stale, *seen):
        console.print(f"WARNING {text}", highlight=False, markup=False, soft_wrap=True)
    finished = [run for run in made.runs if run.done]
    restarted = planning.restarted(sweep, made.runs, configurations.differs)
    failed = [] if options.retry_failed else outcomes.given_up(made.runs, options.retries)
    failed = [run for run in failed if run not in restarted]
    waiting = [run for run in made.runs if not run.done and run not in failed and outcomes.pruned(run) is None]
    if sweep.search is not None:
        ended = len(made.runs) - len(waiting)
        waiting = probes[:1] * max(0, sweep.search.trials * max(1, len(sweep.seeds())) - ended)
    bounds = None
    if options.topology is not None:
        bounds = configurations.bounds(waiting, options.topology)
        for line in sweep_checks.bound_lines(bounds):
            console.print(line, highlight=False)
    if restarted:
        count, verb = counted(len(restarted)), form(len(restarted), "starts", "start")
        what = f"{count} that failed {verb} from the beginning: the configuration has changed"
        named = f"{restarted[0].name}{', …' * (len(restarted) > 1)}"
        console.print(f"{what} ({named})", highlight=False, markup=False, soft_wrap=True)
    if failed:
        count = counted(len(failed))
        console.print(f"{count} failed before; --retry_failed repeats failed runs", highlight=False)
    if finished:  # else the forecast's line has the number
        pruned = sum(outcomes.pruned(run) is not None for run in made.runs)
        parts = [f"{len(finished)} finished, which are kept"]
        parts += [f"{number} {name}" for number, name in ((len(failed), "failed"), (pruned, "pruned")) if number]
        total = len(finished) + len(failed) + pruned + len(waiting)
        console.print(f"{total} runs: {', '.join(parts)}, and {len(waiting)} to do", highlight=False)
    left_out = plan.left_out(sweep.directory, all_runs)
    others = [run for run in plan.left_out(sweep.directory, made.runs) if run.done]
    for line in sweep_planning.left_out_lines(sweep.directory, left_out):
        used = "; the time below is also from those that are done" if any(run.done for run in left_out) else ""
        console.print(f"{line}{used}", highlight=False, markup=False, soft_wrap=True)
    anew = made.runs if made.joint_seeds else restarted  # joint seeds save no training state
    forecast = estimates.forecast(
        waiting, configurations.costs, finished, bounds, others=others, anew=anew, is_search=sweep.search is not None
    )
    for line in forecast.lines(options.workers or 1, options.price_per_chip_hour):
        console.print(line, highlight=False, soft_wrap=True)
    too_large = bounds is not None and not all(bound.fits for bound in bounds.values())
    return exit_codes.NO_ROOM if too_large else exit_codes.DONE


@contextlib.contextmanager
def _vocabulary_for_checks(sweep: "Sweep") -> Iterator[None]:
    """The demo's vocabulary, which its checks read, for the block; a file and folders that were not there are removed."""
    from distill.experiments import demo
    from distill.experiments.sweep import files

    path = sweep.directory / demo.VOCABULARY
    existed = path.exists()
    with files.no_empty_folders(path.parent):
        sweep_planning.write_vocabulary(sweep)
        try:
            yield
        finally:
            if not existed:
                path.unlink(missing_ok=True)
