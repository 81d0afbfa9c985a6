"""Designs that draw points: seeded random, Sobol and Latin hypercube, from ``scipy.stats.qmc``."""

import dataclasses
import inspect
import itertools
from typing import Any

import numpy as np

from distill.experiments.sweep.levels import SEED, Level, is_active
from distill.experiments.sweep.runs import Sweep


@dataclasses.dataclass(frozen=True)
class Design:
    """A design of drawn points.

    Attributes:
      kind: ``random`` (independent), ``sobol`` (scrambled) or ``latin_hypercube``.
      points: the number of points that are drawn.
      seed: of the draws.
      cross: axes of which every point is trained at every level; the seed is always one of them.
    """

    kind: str
    points: int
    seed: int = 0
    cross: tuple[str, ...] = ()

    def shares(self, dimensions: int) -> np.ndarray:
        """Returns the points in the unit cube: float64 [points, dimensions]."""
        generator = np.random.default_rng(self.seed)
        if self.kind == "random":
            return generator.random((self.points, dimensions))
        from scipy.stats import qmc  # takes a second to import; most sweeps draw nothing

        sampler: Any = qmc.Sobol if self.kind == "sobol" else qmc.LatinHypercube
        # SciPy 1.15 renamed the argument.
        name = "rng" if "rng" in inspect.signature(sampler).parameters else "seed"
        return sampler(d=dimensions, **{name: generator}).random(self.points)


def sampled(sweep: Sweep, design: Design) -> Sweep:
    """Returns the sweep with the points of a design; an axis with a range gets the drawn values as its levels.

    Of an axis with levels, each level has an equal share of the unit interval. A point drawn twice is kept once.
    """
    crossed = [name for name in sweep.axes if name != SEED and (name in design.cross or name in sweep.budgets)]
    drawn = [name for name in sweep.axes if name != SEED and name not in crossed]
    points: dict[Any, dict[str, Level]] = {}
    for shares in design.shares(len(drawn)) if drawn else np.zeros((1, 0)):
        here = {name: _level(sweep, name, float(share)) for name, share in zip(drawn, shares)}
        for chosen in itertools.product(*(sweep.axes[name] for name in crossed)):
            everything = {**here, **dict(zip(crossed, chosen))}
            point = {
                name: everything[name]
                for name in sweep.axes
                if name in everything and is_active(name, sweep.when, everything)
            }
            points.setdefault(tuple((name, level.name) for name, level in point.items()), point)
    axes = {
        name: levels if name not in sweep.ranges else _used(name, list(points.values()))
        for name, levels in sweep.axes.items()
    }
    return dataclasses.replace(sweep, points=tuple(points.values()), axes=axes)


def _level(sweep: Sweep, name: str, share: float) -> Level:
    if name in sweep.ranges:
        interval, kind = sweep.ranges[name]
        return kind.level(interval.at(share))
    levels = sweep.axes[name]
    return levels[min(len(levels) - 1, int(share * len(levels)))]


def _used(name: str, points: list[dict[str, Level]]) -> tuple[Level, ...]:
    found = {point[name].name: point[name] for point in points if name in point}
    return tuple(sorted(found.values(), key=lambda level: level.number or 0.0))
