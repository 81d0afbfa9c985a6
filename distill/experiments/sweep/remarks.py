"""Errors and warnings about a sweep whose axes cannot matter, and warnings about too few seeds."""

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from distill.counting import counted, form, with_more
from distill.experiments.sweep.levels import FEW_SEEDS, RATES, SEED, SweepError
from distill.experiments.sweep.runs import Run, Sweep
from distill.tasks import task_ids

_WHOLE = re.compile(r"(?<![\w.])(-?\d+)\.0(?![\w.])")  # 16.0 is 16
_RATIONALE_WEIGHT = ("LAMBDA", "ALPHA")


@dataclasses.dataclass(frozen=True)
class Setting:
    """The parts of a configured run that decide whether an axis matters.

    Attributes:
      task: the task or mixture that it trains on, such as ``svamp_mixed``, or ``FORM=mixed`` before it is registered.
      normalizer: of the loss.
      configuration: a text that runs share which differ at most in their seed and directory; empty if it is not known.
    """

    task: str
    normalizer: str
    configuration: str = ""

    @property
    def form(self) -> str:
        """The form of the task: ``label``, ``paired``, ``mixed``, ``shared`` or ``single``."""
        return re.split("[_=]", self.task)[-1]


def refuse_idle_axes(
    sweep: Sweep,
    runs: Sequence[Run],
    settings: Mapping[str, Setting],
    shown: Callable[[str], str] = lambda axis: f"axis {axis!r}",
) -> None:
    """Refuses a sweep with an axis that changes nothing in any run: its runs would only repeat each other.

    Args:
      sweep: the sweep.
      runs: its runs, or of a search some of them.
      settings: name of a run → its setting.
      shown: an axis in the message, such as its name with the file and line.

    Raises:
      SweepError: names each such axis and its levels.
    """
    problems = []
    for axis in sweep.axes:
        there = [run for run in runs if axis in run.values and run.name in settings]
        levels = list(dict.fromkeys(run.values[axis] for run in there))
        if axis == SEED or len(levels) < 2:
            continue
        why = _why_idle(sweep, axis, [settings[run.name] for run in there])
        if why is None and _is_idle(axis, there, settings):
            why = "every level gives the same configuration; give its levels different bindings, or delete the axis"
        if why is not None:
            problems.append(f"{shown(axis)} (levels {', '.join(levels)}) changes nothing in any run: {why}")
    if problems:
        raise SweepError("; ".join(problems))


def _is_idle(axis: str, runs: Sequence[Run], settings: Mapping[str, Setting]) -> bool:
    """Whether runs that differ in this axis alone have one configuration; False if no two runs do."""
    groups: dict[str, dict[str, set[str]]] = {}
    for run in runs:
        others = repr({name: value for name, value in run.values.items() if name not in (axis, SEED)})
        found = groups.setdefault(others, {"levels": set(), "configurations": set()})
        found["levels"].add(run.values[axis])
        found["configurations"].add(settings[run.name].configuration)
    compared = [found["configurations"] for found in groups.values() if len(found["levels"]) > 1]
    return bool(compared) and all(len(texts) == 1 and texts != {""} for texts in compared)


def _why_idle(sweep: Sweep, axis: str, there: Sequence[Setting]) -> str | None:
    """Why an axis of the seed, rates or the rationale's weight changes nothing in these runs; None if it does in one."""
    macros = _macros(sweep, axis)
    if macros == {SEED}:
        return f"it sets the seed; name the axis {SEED}, so that its levels are repetitions of one setting"
    if macros and macros <= set(RATES) and all(one.form != "mixed" for one in there):
        return f"{there[0].task} draws no mixture; set FORM=mixed, or delete the axis"
    weighs = macros & set(_RATIONALE_WEIGHT) and macros <= {*_RATIONALE_WEIGHT, *RATES}
    if weighs and all(task_ids.one_task(one.task) for one in there):
        return (
            f"{there[0].task} trains one task, which has no weight between tasks; set another FORM, or delete the axis"
        )
    return None


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
    varies_in_more = any(set(point) & set(_RATIONALE_WEIGHT) - set(sweep.axes) for point in sweep.more)
    for axis, macros in sets.items():
        there = [settings[run.name] for run in runs if axis in run.values and run.name in settings]
        if macros & set(RATES):
            unweighed = [run for run in runs if not varies_in_more and not any(other in run.values for other in weigh)]
            out += _rates(
                axis, there, [settings[run.name] for run in unweighed if run.name in settings and axis in run.values]
            )
        if macros & set(_RATIONALE_WEIGHT) and macros <= {*_RATIONALE_WEIGHT, *RATES}:
            idle = [one for one in there if task_ids.one_task(one.task)]
            if idle:
                out.append(
                    f"axis {axis!r} changes nothing in {len(idle)} of {len(there)} runs: {idle[0].task} trains one task, "
                    "which has no weight between tasks; give the axis a condition ('when')"
                )
    out += _repeated(sweep) + _equal(sweep, runs, settings)
    seeds = _seeds(sweep, runs)
    few = sum(number < FEW_SEEDS for number in seeds)
    if few:
        counts = f"{counted(seeds[0], 'seed')} per setting"
        if min(seeds) < max(seeds):
            least = min(seeds) if few == 1 else f"the least: {min(seeds)}"
            counts = f"{few} of {len(seeds)} settings {form(few, 'has', 'have')} fewer than {FEW_SEEDS} seeds ({least})"
        out.append(f"{counts}: an interval over fewer than {FEW_SEEDS} seeds is unreliable; add values of RANDOM_SEED")
    return out


def _seeds(sweep: Sweep, runs: Sequence[Run]) -> list[int]:
    """The number of seeds of each setting; of a search, whose runs are not known before, that of a trial."""
    if sweep.search is not None:
        return [max(1, len(sweep.seeds()))]
    return list(Counter(tuple(pair for pair in run.values.items() if pair[0] != SEED) for run in runs).values())


def _repeated(sweep: Sweep) -> list[str]:
    """A line about points of ``more`` that the sweep has without them."""
    points = sweep.repeated_points() if sweep.more else []
    levels = (", ".join(f"{axis}={level.name}" for axis, level in point.items() if axis != SEED) for point in points)
    found = [f"[{text}]" for text in dict.fromkeys(levels)]
    if not found:
        return []
    once = f"which {form(len(found), 'is', 'are')} trained once"
    return [f"'more' repeats {counted(len(found), 'point')} of the sweep, {once}: {with_more(found)}"]


def _equal(sweep: Sweep, runs: Sequence[Run], settings: Mapping[str, Setting]) -> list[str]:
    """A line about settings that have one configuration; those that differ in their budget alone are one by design."""
    found: dict[str, dict[str, None]] = {}
    for run in runs:
        text = settings[run.name].configuration if run.name in settings else ""
        levels = [f"{axis}={level}" for axis, level in run.values.items() if axis != SEED and axis not in sweep.budgets]
        if text:
            found.setdefault(_WHOLE.sub(r"\1", text), {})[", ".join(levels)] = None
    equal = [list(points) for points in found.values() if len(points) > 1]
    if not equal:
        return []
    others = f" ({len(equal) - 1} other such)" if len(equal) > 1 else ""
    first = " and ".join(f"[{point}]" for point in equal[0])
    return [
        f"{first} have equal configurations{others}: each is trained, and table and report compare them as different "
        "settings; delete all but one"
    ]


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
            "task_tokens the effective λ is LAMBDA at every rate if each batch contains both tasks, and rates change only "
            "how often a task is drawn; a log line gives the effective λ"
        )
    return out


def _macro(binding: str) -> str:
    return re.split(r"\s*=", binding, maxsplit=1)[0]
