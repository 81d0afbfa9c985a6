"""Equal steps and equal compute: the number of updates of each run, from those of a reference configuration.

An axis ``{"budget": ["steps", "compute"], "reference": {AXIS: level}}`` compares configurations at two budgets. The
reference of a run is the point with the levels of ``reference`` and otherwise the run's own. With S and F the updates
of a run and the floating-point operations of one of its updates, and S₀ and F₀ those of the reference:

- ``steps``: S = S₀;
- ``compute``: S = max(1, round(S₀ · F₀ / F)), so that S · F = S₀ · F₀ up to one update.
"""

import dataclasses
from collections.abc import Callable

from distill.experiments.sweep.levels import SEED, SweepError, is_active
from distill.experiments.sweep.runs import Point, Run, Sweep

STEPS = "TRAIN_STEPS"


@dataclasses.dataclass(frozen=True)
class Cost:
    """The cost of a configured run.

    Attributes:
      steps: updates.
      flops: floating-point operations of one update, all devices together.
    """

    steps: int
    flops: float


def resolved(sweep: Sweep, cost: Callable[[Run], Cost]) -> list[Run]:
    """Returns the runs of the sweep with ``TRAIN_STEPS`` set by its budget axes.

    Args:
      sweep: the sweep.
      cost: of a run without the budget. Called once for runs that differ only in their seed.

    Raises:
      SweepError: a reference that is no point of the sweep, or two budget axes at one point.
    """
    if not sweep.budgets:
        return sweep.runs()
    known: dict[str, Cost] = {}

    def cost_at(point: Point) -> Cost:
        run = sweep.run_at({axis: level for axis, level in point.items() if axis != SEED})
        key = repr(run.configuration())
        if key not in known:
            known[key] = cost(run)
        return known[key]

    out = []
    for run, point in zip(sweep.runs(), sweep.all_points(), strict=True):
        steps = [_steps(sweep, axis, point, cost_at) for axis in sweep.budgets if axis in point]
        if len(steps) > 1:
            raise SweepError(f"{run.name} has {len(steps)} budgets; give the sweep one budget axis")
        bindings = tuple(f"{STEPS} = {number}" for number in steps)
        out.append(dataclasses.replace(run, bindings=(*run.bindings[:-1], *bindings, run.bindings[-1])))
    return out


def _steps(sweep: Sweep, axis: str, point: Point, cost_at: Callable[[Point], Cost]) -> int:
    reference = reference_point(sweep, axis, point)
    wanted = cost_at(reference)
    if point[axis].name == "steps":
        return wanted.steps
    return max(1, round(wanted.steps * wanted.flops / cost_at(point).flops))


def reference_point(sweep: Sweep, axis: str, point: Point) -> Point:
    """Returns the point whose budget a point gets. Axes that do not exist there are left out.

    Raises:
      SweepError: an axis that exists only at the reference, so that its level there is unknown.
    """
    levels = {name: {level.name: level for level in found} for name, found in sweep.axes.items()}
    changed = {**point, **{name: levels[name][level] for name, level in sweep.budgets[axis].reference.items()}}
    there = {name: level for name, level in changed.items() if is_active(name, sweep.when, changed)}
    for name in sweep.axes:
        if (
            name not in there
            and name != SEED
            and is_active(name, sweep.when, {**there, name: point.get(name, point[axis])})
        ):
            raise SweepError(
                f"axis {axis!r}: the reference {dict(sweep.budgets[axis].reference)} has an axis {name!r}, which the other "
                "configurations do not have; choose a reference without it"
            )
    return there
