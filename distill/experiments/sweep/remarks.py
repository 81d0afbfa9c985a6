"""Warnings about a sweep whose axes cannot matter, or that has too few seeds."""

import dataclasses
import re
from collections.abc import Mapping, Sequence

from distill.experiments.sweep.levels import RATES
from distill.experiments.sweep.runs import Run, Sweep

FEW_SEEDS = 3
_RATIONALE_WEIGHT = ("LAMBDA", "ALPHA")


@dataclasses.dataclass(frozen=True)
class Setting:
    """The parts of a configured run that decide whether an axis matters.

    Attributes:
      task: the task or mixture that it trains on, such as ``svamp_mixed``.
      normalizer: of the loss.
    """

    task: str
    normalizer: str

    @property
    def form(self) -> str:
        """The form of the task: ``label``, ``paired``, ``mixed``, ``shared`` or ``single``."""
        return self.task.rpartition("_")[2]


def remarks(sweep: Sweep, runs: Sequence[Run], settings: Mapping[str, Setting]) -> list[str]:
    """Returns one line per problem.

    Args:
      sweep: the sweep.
      runs: its runs, or of a search some of them.
      settings: name of a run → its setting.
    """
    out = []
    sets = {axis: _macros(sweep, axis) for axis in sweep.axes}
    weigh = [axis for axis, macros in sets.items() if macros & set(_RATIONALE_WEIGHT)]
    for axis, macros in sets.items():
        there = [settings[run.name] for run in runs if axis in run.values and run.name in settings]
        if macros & set(RATES):
            unweighed = [run for run in runs if not any(other in run.values for other in weigh)]
            out += _rates(
                axis, there, [settings[run.name] for run in unweighed if run.name in settings and axis in run.values]
            )
        if macros & set(_RATIONALE_WEIGHT) and macros <= {*_RATIONALE_WEIGHT, *RATES}:
            idle = [one for one in there if one.form in ("label", "single")]
            if idle:
                out.append(
                    f"axis {axis!r} changes nothing in {len(idle)} of {len(there)} runs: {idle[0].task} trains one task, "
                    "which has no weight between tasks; give the axis a condition ('when')"
                )
    seeds = len(sweep.seeds())
    if seeds < FEW_SEEDS:
        out.append(
            f"{max(1, seeds)} seed{'s' * (seeds > 1)} per setting: an interval over fewer than {FEW_SEEDS} seeds is "
            "unreliable; add values of RANDOM_SEED"
        )
    return out


def _macros(sweep: Sweep, axis: str) -> set[str]:
    """The macros that an axis sets."""
    macros = {_macro(text) for level in sweep.axes[axis] for text in level.bindings}
    return macros | set(sweep.ranges[axis][1].macros) if axis in sweep.ranges else macros


def _rates(axis: str, there: Sequence[Setting], unweighed: Sequence[Setting]) -> list[str]:
    """Problems of an axis of rates; ``unweighed``: of runs whose weights no other axis sets."""
    out = []
    idle = [one for one in there if one.form != "mixed"]
    if idle:
        out.append(
            f"axis {axis!r} changes nothing in {len(idle)} of {len(there)} runs: {idle[0].task} draws no mixture; set "
            "FORM=mixed, or give the axis a condition ('when')"
        )
    fixed = [one for one in unweighed if one.form == "mixed" and one.normalizer == "task_tokens"]
    if fixed:
        out.append(
            f"axis {axis!r} does not change the weight of the tasks in {len(fixed)} of {len(there)} runs: with NORMALIZER="
            "task_tokens the effective λ is LAMBDA at every rate, and rates change only how often a task is drawn"
        )
    return out


def _macro(binding: str) -> str:
    return re.split(r"\s*=", binding, maxsplit=1)[0]
