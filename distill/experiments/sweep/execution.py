"""Trains the runs of a plan in this process, one group after another; other workers may share the directory."""

import time
from collections.abc import Callable, Mapping, Sequence

from distill.counting import counted
from distill.experiments.sweep import leases, outcomes, planning
from distill.experiments.sweep.inputs import Inputs
from distill.experiments.sweep.plan import Plan
from distill.experiments.sweep.runs import Run, Sweep, named_together

TrainGroup = Callable[[Sequence[Run], bool], Mapping[str, str]]
_POLL_S = 2.0


def run(
    sweep: Sweep,
    train_group: TrainGroup,
    say: Callable[[str], None] = print,
    *,
    check: Callable[[Run], None] = lambda run: None,
    resolve: Callable[[Sweep], Sequence[Run]] = lambda sweep: sweep.runs(),
    differs: Callable[[Run], str] = lambda run: "",
    read: Callable[[], Inputs] = Inputs,
    retry_failed: bool = False,
    retries: int = 0,
) -> dict[str, str]:
    """Trains the unfinished runs of the sweep.

    Args:
      sweep: the runs. Its plan is written beside them; a folder with the runs of another plan is refused.
      train_group: trains runs (several only if they differ only in their seed; the flag is then True), and returns
        those that failed: name → error. Failed runs are noted in their folders, and the others are trained.
      say: prints the progress.
      check: raises ValueError or OSError for a run that cannot be trained; all runs are checked before the first is
        trained.
      resolve: returns the runs of the sweep, their budgets resolved.
      differs, read: as for :func:`distill.experiments.sweep.planning.prepare`.
      retry_failed: repeat runs that failed before. A run whose configuration has changed since is always
        repeated from its start.
      retries: how often a run that fails is repeated.

    Returns:
      All runs of the sweep that failed, now or before: name → error.

    Raises:
      SweepError: the folder belongs to another sweep, its plan cannot be read, or a run cannot be trained.
    """
    plan = planning.prepare(sweep, check=check, resolve=resolve, retry_failed=retry_failed, differs=differs, read=read)
    return train(plan, train_group, say, retries=retries)


def train(
    plan: Plan, train_group: TrainGroup, say: Callable[[str], None] = print, *, retries: int = 0
) -> dict[str, str]:
    """Trains the open runs of a plan in this process; see :func:`run`."""
    say(opening(plan, retries))
    groups = [group for group in plan.groups() if open_runs(group, retries)]
    number, waited = 0, False
    while groups:
        progress = False
        for group in list(groups):
            lease = leases.claim(plan.directory, outcomes.lease_name(group))
            if lease is None:
                continue
            with lease:
                waiting = open_runs(group, retries)
                if waiting:
                    number += 1
                    say(f"[{number}/{number - 1 + len(groups)}] {named_together(waiting)}")
                    _train(waiting, train_group, plan.joint_seeds, say)
                progress = True
            if not any(outcomes.failure(run) for run in open_runs(group, retries)):
                groups.remove(group)  # done, or ended without a result, which is not repeated for ever
        groups = [group for group in groups if open_runs(group, retries)]
        if groups and not progress:
            if not waited:
                say(f"waiting for {counted(len(groups))} of other workers; a dead worker's run is taken over")
                waited = True
            time.sleep(_POLL_S)
    return failures(plan)


def _train(runs: Sequence[Run], train_group: TrainGroup, joint: bool, say: Callable[[str], None]) -> None:
    failed = train_group(runs, joint)
    first: dict[str, str] = {}  # error → the first run that has it
    for run in runs:
        if run.name in failed:
            error = failed[run.name]
            outcomes.note_failure(run, error)
            same = first.setdefault(error, run.name)
            say(f"{run.name} failed: {error}" if same == run.name else f"{run.name} failed as {same} did")


def open_runs(group: Sequence[Run], retries: int = 0) -> list[Run]:
    """Returns the runs of a group that are to be trained."""
    return [run for run in group if outcomes.is_open(run, retries)]


def failures(plan: Plan) -> dict[str, str]:
    """Returns the failed runs of a plan: name → error."""
    found = {run.name: outcomes.failure(run) for run in plan.runs}
    return {name: failed.error for name, failed in found.items() if failed is not None}


def opening(plan: Plan, retries: int = 0) -> str:
    """Returns the line that a sweep begins with: how many runs there are, are done, failed before and are to do."""
    waiting = sum(outcomes.is_open(run, retries) for run in plan.runs)
    failed = len(outcomes.given_up(plan.runs, retries))
    pruned = sum(outcomes.pruned(run) is not None for run in plan.runs)
    parts = [counted(len(plan.runs)), f"{len(plan.runs) - waiting - failed - pruned} done already"]
    parts += [f"{failed} failed before (--retry_failed repeats them)"] if failed else []
    parts += [f"{pruned} pruned before"] if pruned else []
    saved = (
        [] if plan.joint_seeds else [run for run in plan.runs if outcomes.checkpoint_step(run.directory) is not None]
    )
    begun = sum(outcomes.is_open(run, retries) for run in saved)
    continued = f", {begun} of them from a checkpoint" if begun else ""
    return ", ".join([*parts, f"{waiting} to do"]) + continued
