"""The price of accuracy: operations or tokens, chip-hours with their spread, money, and the Pareto front."""

import dataclasses
import itertools
import math
from collections.abc import Sequence

from distill.experiments.report import quantities, statistics
from distill.experiments.report.evidence import Evidence
from distill.experiments.report.settings import Cell

SAME_WORK = 1.02
"""Settings whose work differs by less than this factor count as equally expensive."""


@dataclasses.dataclass(frozen=True)
class Cost:
    """A setting's price per run.

    Attributes:
      cell: the setting.
      accuracy: as shown.
      work: FLOPs or tokens, mean over seeds; nan if neither is known.
      chip_hours: of a run, with the interval of the mean over seeds; without one if the runs were not timed separately.
      seconds: of a run, likewise.
      price: of a run; nan without a price per chip-hour.
      on_front: whether no other setting does at most as much work and is at least as accurate, and better in one of the two
        (Pareto).
    """

    cell: Cell
    accuracy: statistics.Interval
    work: float
    chip_hours: statistics.Interval
    seconds: statistics.Interval
    price: float
    on_front: bool


@dataclasses.dataclass(frozen=True)
class Costs:
    """The costs of a part's settings.

    Attributes:
      settings: by work, then by chip-hours.
      unit: of ``work``: ``FLOPs`` or ``tokens``; empty if neither is known for all settings.
      time_front: the settings on the front of accuracy against chip-hours, fastest first; None if intervals of the times
        overlap, or are not known, where the front depends on their order.
      hours: the unit of ``chip_hours``: ``core-hours`` for runs on CPUs.
    """

    settings: tuple[Cost, ...]
    unit: str
    time_front: tuple[Cost, ...] | None
    hours: str = "chip-hours"

    @property
    def work_varies(self) -> bool:
        """Whether settings do different work."""
        work = [each.work for each in self.settings]
        return bool(self.unit) and max(work) / min(work) > SAME_WORK

    @property
    def front(self) -> tuple[Cost, ...]:
        """The settings on the front of accuracy against work, the least work first."""
        return tuple(each for each in self.settings if each.on_front)


def front(costs: Sequence[float], values: Sequence[float], same: float = 1.0) -> list[bool]:
    """Which points are on the Pareto front: none is as cheap and as good, and better in one of the two.

    Args:
      costs: ≥ 0.
      values: more is better.
      same: ratio up to which two costs count as equal.

    >>> front([1, 2, 3], [5, 4, 6])
    [True, False, True]
    >>> front([100, 101], [5, 6], same=1.02)
    [False, True]
    """
    pairs = list(zip(costs, values, strict=True))

    def beats(cost: float, value: float, other: tuple[float, float]) -> bool:
        cheaper = cost * same < other[0]
        return cost <= other[0] * same and value >= other[1] and (cheaper or value > other[1])

    return [not any(beats(cost, value, pair) for cost, value in pairs) for pair in pairs]


def costs(evidence: Evidence, price_per_chip_hour: float | None = None) -> Costs:
    """Returns the cost of every setting.

    Args:
      evidence: the scores.
      price_per_chip_hour: in any currency; None gives no prices.
    """
    cells = evidence.part.cells
    scores = [evidence.cell_interval(cell) for cell in cells]
    unit = next(
        (name for name in ("FLOPs", "tokens") if all(cell.training(name.lower()) > 0 for cell in cells)), ""
    )  # fmt: skip
    work = [cell.training(unit.lower()) if unit else math.nan for cell in cells]
    values = [evidence.sign * score.value for score in scores]
    flags = front(work, values, SAME_WORK) if unit else [False] * len(cells)
    price = math.nan if price_per_chip_hour is None else price_per_chip_hour
    found = []
    for cell, score, amount, flag in zip(cells, scores, work, flags):
        hours, seconds = quantities.time(cell, "chip_seconds", 3600), quantities.time(cell, "seconds")
        found.append(Cost(cell, score, amount, hours, seconds, hours.value * price, flag))
    ordered = sorted(found, key=lambda each: (each.work if unit else 0.0, each.chip_hours.value))
    return Costs(tuple(ordered), unit, time_front(ordered, evidence.sign), quantities.hours_unit(evidence.part))


def time_front(found: Sequence[Cost], sign: float = 1.0) -> tuple[Cost, ...] | None:
    """The front of accuracy against chip-hours, if the times are known well enough.

    It is claimed only if every comparison of times that decides it has intervals that do not overlap: neighbours on the
    front differ, and each setting off the front is slower than one that is at least as accurate.

    Args:
      found: the costs.
      sign: see :attr:`distill.experiments.report.evidence.Evidence.sign`.
    """
    if len(found) < 2 or not all(each.chip_hours.known and each.chip_hours.value > 0 for each in found):
        return None

    def faster(a: Cost, b: Cost) -> bool:
        return a.chip_hours.high < b.chip_hours.low

    def value(each: Cost) -> float:
        return sign * each.accuracy.value

    flags = front([each.chip_hours.value for each in found], [value(each) for each in found])
    on = sorted((each for each, flag in zip(found, flags) if flag), key=lambda each: each.chip_hours.value)
    off = [each for each, flag in zip(found, flags) if not flag]
    apart = all(faster(a, b) for a, b in itertools.pairwise(on))
    beaten = all(any(faster(a, b) and value(a) >= value(b) for a in found) for b in off)
    return tuple(on) if apart and beaten else None
