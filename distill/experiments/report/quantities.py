"""What accuracy is drawn against: amounts of data, sizes, λ, rates, work and time."""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

from distill.experiments.report import settings, statistics
from distill.experiments.report.settings import ABSENT, RATE, Cell, Part
from distill.experiments.sweep.levels import number_of

_SAME = 1.02  # ratio up to which a quantity counts as constant


@dataclasses.dataclass(frozen=True)
class Quantity:
    """A horizontal axis: its name, the section's heading, and its value for a setting (nan if not known).

    ``work`` marks what follows from other choices: settings along an axis of names are not connected there.
    """

    key: str
    name: str
    heading: str
    of: Callable[[Cell], float]
    work: bool = False


def lambda_of(cell: Cell) -> float:
    """``LAMBDA`` of a setting, see :attr:`~distill.experiments.report.collect.Run.weight`."""
    return cell.runs[0].weight


def _lambda(cell: Cell) -> float:
    """``LAMBDA`` of a setting, nan where it weighs nothing: without a rationale task."""
    return math.nan if cell.training("lambda") == 0 else lambda_of(cell)


def rate(cell: Cell) -> float:
    """Label examples per rationale example of a mixture; nan for other forms."""
    rates = cell.runs[0].rates
    return rates[0] / rates[1] if rates is not None and rates[1] > 0 else math.nan


def train_rows(cell: Cell) -> float:
    """Training rows; nan if the record does not have them."""
    entry = cell.runs[0].record["data"].get("train") or {}
    return float(entry.get("rows", math.nan))


def hours_unit(part: Part) -> str:
    """The unit of ``chip_seconds`` / 3600: ``core-hours`` if all runs were on CPUs, else ``chip-hours``."""
    kinds = {str(run.record["environment"]["device_kind"]) for run in part.runs}
    return "core-hours" if kinds == {"cpu"} else "chip-hours"


def chip_hours(cell: Cell) -> float:
    """Mean chip-hours of a run without compilation; core-hours on a CPU."""
    return time(cell, "chip_seconds", 3600).value


def time(cell: Cell, name: str, unit: float = 1.0) -> statistics.Interval:
    """The mean over seeds of a time of the record without compilation, with Student's interval, which begins at 0 or above.

    Seeds that were trained together (``joint_seeds``) share one measured time: equal times give no interval.

    Args:
      cell: the setting.
      name: ``seconds`` or ``chip_seconds``.
      unit: in seconds.
    """
    times = [run.time(name) / unit for run in cell.runs]
    if len(set(times)) < len(times):
        return statistics.Interval(statistics.mean_interval(times).value)
    return statistics.within(statistics.mean_interval(times), 0.0, math.inf)


QUANTITIES = (
    Quantity("data", "training rows", "Accuracy against the amount of data", train_rows),
    Quantity("size", "parameters", "Accuracy against the student's size", lambda cell: cell.training("parameters")),
    Quantity("lambda", "λ", "Accuracy against λ", _lambda),
    Quantity("effective", "effective λ", "Accuracy against the effective λ", lambda cell: cell.training("lambda")),
    Quantity("rate", "labels per rationale in the mixture", "Accuracy against the mixture rate", rate),
    Quantity("flops", "FLOPs of a run", "Accuracy against FLOPs", lambda cell: cell.training("flops"), True),
    Quantity("chip_hours", "chip-hours of a run", "Accuracy against chip-hours", chip_hours, True),
)


@dataclasses.dataclass(frozen=True)
class Line:
    """Settings that differ in one axis only: their common levels as a name, and the settings ordered by the quantity."""

    name: str
    cells: tuple[Cell, ...]
    values: tuple[float, ...]
    connected: bool = True

    @property
    def varies(self) -> bool:
        """Whether the quantity changes along the line."""
        return len(self.cells) > 1 and _ratio(self.values) > _SAME


def _ratio(values: Sequence[float]) -> float:
    known = [value for value in values if math.isfinite(value) and value > 0]
    return max(known) / min(known) if known else 1.0


def quantity(key: str) -> Quantity:
    """Returns the quantity of a key."""
    return next(each for each in QUANTITIES if each.key == key)


def varying(part: Part) -> list[Quantity]:
    """Returns the quantities that differ between settings.

    Chip-hours vary with the load of the machine: they must differ by half, and by more than the same setting's runs do.
    """
    unit = hours_unit(part)
    named = [
        dataclasses.replace(each, name=f"{unit} of a run", heading=f"Accuracy against {unit}")
        if each.key == "chip_hours"
        else each
        for each in QUANTITIES
    ]
    return [
        each
        for each in named
        if (
            _ratio([each.of(cell) for cell in part.cells]) > 1.5 and _times_differ(part)
            if each.key == "chip_hours"
            else _ratio([each.of(cell) for cell in part.cells]) > _SAME
        )
    ]


def _times_differ(part: Part) -> bool:
    """Whether two settings' intervals of chip-hours are disjoint; where none is known, whether their operations differ."""
    known = [each for each in (time(cell, "chip_seconds") for cell in part.cells) if each.known]
    if known:
        return max(each.low for each in known) > min(each.high for each in known)
    return _ratio([cell.training("flops") for cell in part.cells]) > 1.5


def lines(part: Part, of: Quantity) -> list[Line]:
    """Divides the settings into lines along a quantity.

    The axis that changes the quantity most, with all other axes equal, runs along the lines; axes with numbers take
    precedence. The other axes name the lines. Without such an axis (random designs) there is one line.
    """
    cells = [cell for cell in part.cells if math.isfinite(of.of(cell)) and of.of(cell) > 0]
    along = _axis_along(part, cells, of)
    if of.work and along is not None and not _is_numeric(part, along):
        alike = [[cell for cell in cells if cell.values[along] == level] for level in part.axes[along]]
        return [
            Line(found[0].values[along], tuple(found), tuple(of.of(cell) for cell in found), False)
            for found in alike
            if found
        ]
    groups: dict[tuple[str, ...], list[Cell]] = {}
    others = [axis for axis in part.axes if axis != along and not (along and _exclusive(part, cells, along, axis))]
    for cell in cells:
        key = tuple(cell.values[axis] for axis in others) if along else ()
        groups.setdefault(key, []).append(cell)
    points = [cell.values for cell in cells]
    optional = {axis for axis in others if settings.optional(points, axis)}
    out = []
    for key, found in groups.items():
        found.sort(key=of.of)
        named = []
        for axis, level in zip(others, key):
            shown = {settings.unset_level(cell.runs[0], axis) for cell in found} if axis in optional else {level}
            known = shown.pop() if level == ABSENT and len(shown) == 1 else level
            named += [_level_name(axis, known)] if known != ABSENT else []
        name = ", ".join(named) or "all settings"
        out.append(Line(name, tuple(found), tuple(of.of(cell) for cell in found), along is not None))
    return out


def _exclusive(part: Part, cells: Sequence[Cell], along: str, axis: str) -> bool:
    """Whether an axis of numbers applies only where ``along`` does not, such as rates of a mixture and λ of pairs."""
    absent = any(cell.values[along] == ABSENT for cell in cells)
    return (
        absent and _is_numeric(part, axis) and all(ABSENT in (cell.values[along], cell.values[axis]) for cell in cells)
    )


def _level_name(axis: str, level: str) -> str:
    """A level in the name of a line: with its axis if it is a number or a ratio."""
    if number_of(level) is None:
        return level
    return f"rates {level}" if axis == RATE else f"{axis} {level}"


def _axis_along(part: Part, cells: Sequence[Cell], of: Quantity) -> str | None:
    squares: dict[str, float] = {}
    for axis in part.axes:
        groups: dict[tuple[str, ...], list[float]] = {}
        for cell in cells:
            key = tuple(cell.values[other] for other in part.axes if other != axis)
            groups.setdefault(key, []).append(math.log(of.of(cell)))
        squares[axis] = sum(float(np.var(values)) * len(values) for values in groups.values())
    strong = {axis: square for axis, square in squares.items() if square > 1e-3}
    if not strong:
        return None
    numeric = {axis: square for axis, square in strong.items() if _is_numeric(part, axis)}
    candidates = numeric if numeric and max(numeric.values()) > 0.05 * max(strong.values()) else strong
    return max(candidates, key=candidates.__getitem__)


def _is_numeric(part: Part, axis: str) -> bool:
    return axis == RATE or all(level == ABSENT or number_of(level) is not None for level in part.axes[axis])
