"""What accuracy costs: chip-hours, money, and the settings that nothing cheaper equals."""

import dataclasses
import math
from collections.abc import Sequence

from distill.experiments.report import quantities, statistics
from distill.experiments.report.evidence import Evidence
from distill.experiments.report.settings import Cell


@dataclasses.dataclass(frozen=True)
class Cost:
    """A setting's price per run.

    Attributes:
      cell: the setting.
      accuracy: as shown.
      chip_hours: of a run, mean over seeds.
      price: of a run; nan without a price per chip-hour.
      flops: of a run; nan if not known.
      on_front: whether no other setting is both cheaper and at least as accurate (Pareto).
    """

    cell: Cell
    accuracy: statistics.Interval
    chip_hours: float
    price: float
    flops: float
    on_front: bool


def front(costs: Sequence[float], values: Sequence[float]) -> list[bool]:
    """Which points are on the Pareto front: none is as cheap and as good, and better in one of the two.

    >>> front([1, 2, 3], [5, 4, 6])
    [True, False, True]
    """
    pairs = list(zip(costs, values, strict=True))
    return [not any(c <= cost and v >= value and (c, v) != (cost, value) for c, v in pairs) for cost, value in pairs]


def costs(evidence: Evidence, price_per_chip_hour: float | None = None) -> list[Cost]:
    """Returns the cost of every setting, cheapest first.

    Args:
      evidence: the scores.
      price_per_chip_hour: in any currency; None gives no prices.
    """
    cells = evidence.part.cells
    hours = [quantities.chip_hours(cell) for cell in cells]
    scores = [evidence.cell_interval(cell) for cell in cells]
    flags = front(hours, [score.value for score in scores])
    price = math.nan if price_per_chip_hour is None else price_per_chip_hour
    found = [
        Cost(cell, score, hour, hour * price, cell.training("flops"), flag)
        for cell, score, hour, flag in zip(cells, scores, hours, flags)
    ]
    return sorted(found, key=lambda each: each.chip_hours)
