"""``distill sweep status``: the runs of a sweep directory, their states, and which worker trains what."""

from collections import Counter
from pathlib import Path
from typing import Any

from rich.table import Table

from distill import locking
from distill.counting import counted
from distill.experiments.sweep import files, leases, outcomes
from distill.experiments.sweep.plan import Plan


def table(plan: Plan) -> Table:
    """Returns one row per run: its levels, its state, the step it has reached, and its worker or its error."""
    names = list(dict.fromkeys(axis for run in plan.runs for axis in run.values))
    out = Table(title=str(plan.directory))
    for name in ("run", *names, "state", "step", "about"):
        out.add_column(name, overflow="fold", justify="right" if name == "step" else "left")
    for group in plan.groups():
        holder = locking.holder(leases.path_of(plan.directory, outcomes.lease_name(group)))
        held = outcomes.is_running(plan.directory, group)  # also by a worker that outlives its scheduler, to save
        for run in group:
            state = outcomes.state(run, held)
            about = _about(run.directory, state, holder, plan.joint_seeds)
            failed = outcomes.failure(run)
            if state == "failed" and failed is not None:
                times = f" ({failed.attempts}×)" if failed.attempts > 1 else ""
                about = outcomes.brief(failed.error) + times
            step = files.reached_step(run.directory)
            levels = (run.values.get(name, "–") for name in names)
            out.add_row(run.name, *levels, state, "" if step is None else str(step), about)
    return out


def _about(directory: Path, state: str, holder: dict[str, Any] | None, joint: bool = False) -> str:
    if state == "running":
        training = locking.holder(locking.of_directory(directory))
        where = f"trained by {process(training)}" if training else f"sweep command: {process(holder)}" if holder else ""
        return "; ".join(filter(None, (files.progress(directory), where)))
    if state != "waiting":
        return ""
    if not joint and outcomes.checkpoint_step(directory) is not None:
        return "continues from its checkpoint"
    return "starts again: no checkpoint was saved" if files.reached_step(directory) is not None else ""


def process(holder: dict[str, Any]) -> str:
    """Returns the process that holds a lock, in words."""
    return f"process {holder.get('pid', '?')} on the machine {holder.get('host', '?')}"


def counts(plan: Plan) -> dict[str, int]:
    """Returns the number of runs by state."""
    found: Counter[str] = Counter()
    for group in plan.groups():
        held = outcomes.is_running(plan.directory, group)
        found.update(outcomes.state(run, held) for run in group)
    return {state: found[state] for state in outcomes.STATES}


def line(plan: Plan) -> str:
    """Returns the counts as one line, such as ``12 runs: 8 done, 1 failed, 2 running, 1 waiting``."""
    shown = ", ".join(f"{number} {state}" for state, number in counts(plan).items() if number)
    return f"{counted(len(plan.runs))}: {shown or 'none yet'}"
