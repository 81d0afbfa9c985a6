"""Which runs to train next: those that narrow an optimum, or those that extend or fill the range of a poor fit."""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float

from distill.experiments.report import quantities
from distill.experiments.report.parabola import Fit
from distill.experiments.report.quantities import Line
from distill.experiments.report.settings import RATE
from distill.experiments.sweep.levels import FEW_SEEDS

NEXT_RUNS = 5
"""Total number of runs that narrow a good fit."""
APART = 1.1
"""Ratio from which two values of λ count as different: random sampling alone changes λ by a few per cent."""
_MOST_STEP = 10.0
_LEAST_STEP = 2.0
_MOST_FILLS = 2
_EXPLAINED = 0.9  # share of the variance of ln λ that a knob must explain


@dataclasses.dataclass(frozen=True)
class NextRun:
    """A suggestion: ``runs`` more runs, with different seeds, at the effective λ ``lam``, which ``setting`` produces.

    ``trained``: runs at this λ exist, so only new seeds are needed.
    """

    lam: float
    runs: int
    setting: str = ""
    trained: bool = False


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How to train proposed runs.

    Attributes:
      keep: axis → level of the complete setting, the axis that sets λ and the seed excepted.
      command: adds the runs to their sweep; empty where ``file`` does.
      file: a sweep file with the runs, for runs that no sweep with a known design has trained.
      commands: train single runs, for seeds of settings that no sweep with a known design has trained.
      remark: a sentence on the seeds, if the runs have an axis of seeds and the design of their sweep has none.
    """

    keep: Mapping[str, str]
    command: str = ""
    file: str = ""
    commands: str = ""
    remark: str = ""


@dataclasses.dataclass(frozen=True)
class Proposal:
    """Runs to train next.

    Attributes:
      kind: ``narrow`` a good fit; ``explore`` beyond the range of λ or between its values, where the fit is poor.
      runs: the suggestions, ordered by λ.
      reason: a clause that follows "because"; empty for ``narrow``.
      width: after these runs, as a share in [0, 1] of the present width; nan without runs. To ``narrow``: of the maximum's
        interval, expected. To ``explore``: of the range of ln λ in which the best one may be (:func:`resolution`).
      recipe: the complete setting and what trains it; None if no setting is known to determine λ.
      to_do: the number of runs of the sweep at these λ that are still to do; ``runs`` lacks them, ``width`` counts them.
    """

    kind: Literal["narrow", "explore"]
    runs: tuple[NextRun, ...]
    reason: str = ""
    width: float = math.nan
    recipe: Recipe | None = None
    to_do: int = 0

    @property
    def total(self) -> int:
        """Total number of runs."""
        return sum(step.runs for step in self.runs)


@dataclasses.dataclass(frozen=True)
class Knob:
    """The setting that determines the effective λ of a line: the mixture rate, or ``LAMBDA``.

    Attributes:
      name: ``LABEL_RATE:RATIONALE_RATE`` or ``LAMBDA``.
      slope, offset: of the straight line from ``ln λ`` to the logarithm of the knob.
    """

    name: str
    slope: float
    offset: float

    def value(self, lam: float) -> float:
        """The knob's value at an effective λ: labels per rationale, or λ before normalisation."""
        return math.exp(self.offset + self.slope * math.log(lam))

    def lam(self, value: float) -> float:
        """The effective λ at a value of the knob: the inverse of :meth:`value`."""
        return math.exp((math.log(value) - self.offset) / self.slope)

    def level(self, lam: float) -> str:
        """The value as a level of a sweep's axis: ``2:1`` or ``0.5``."""
        return ratio_text(self.value(lam)) if self.name == RATE else _two_digits(self.value(lam))

    def text(self, lam: float) -> str:
        """The value with the knob's name."""
        return f"{self.name} about {self.level(lam)}"


def ratio_text(ratio: float) -> str:
    """Labels per rationale as a level of a ratio axis, with two significant digits.

    >>> ratio_text(7.68), ratio_text(0.48), ratio_text(112)
    ('7.7:1', '1:2.1', '110:1')
    """
    return f"{_two_digits(ratio)}:1" if ratio >= 1 else f"1:{_two_digits(1 / ratio)}"


def _two_digits(value: float) -> str:
    """A number with two significant digits, as one writes it: ``110``, not ``1.1e+02``."""
    return f"{float(f'{value:.2g}'):g}"


def knob(line: Line) -> Knob | None:
    """The setting that determines the effective λ along a line; None if it is neither the rates nor ``LAMBDA``.

    Rates determine it with the normaliser ``all_tokens`` only. ``LAMBDA`` does so with every normaliser: the effective λ is
    proportional to it. Returns the setting that varies together with λ along the line, else ``LAMBDA``.
    """
    rates, lambdas = [quantities.rate(cell) for cell in line.cells], [quantities.lambda_of(cell) for cell in line.cells]
    tried = {"LAMBDA": lambdas}
    if all(cell.macro("NORMALIZER") == "all_tokens" for cell in line.cells):
        tried = {RATE: rates, "LAMBDA": lambdas}
    logs = np.log(line.values)
    for name, values in tried.items():
        if all(math.isfinite(v) and v > 0 for v in values) and max(values) / min(values) > APART:
            y = np.log(values)
            if np.ptp(logs) > 0 and np.corrcoef(logs, y)[0, 1] ** 2 > _EXPLAINED:
                slope, offset = np.polyfit(logs, y, 1)
                return Knob(name, float(slope), float(offset))
    if all(math.isfinite(v) and v > 0 for v in lambdas):
        return Knob("LAMBDA", 1.0, float(np.mean(np.log(lambdas) - logs)))
    return None


def distinct(values: Sequence[float]) -> int:
    """Counts values > 0 that differ by at least 10 % from the next smaller one that is counted.

    >>> distinct([0.841, 0.998, 1.0, 1.001]), distinct([0.4, 1.6, 6.3])
    (2, 3)
    """
    return len(_groups(values))


def _groups(values: Sequence[float]) -> list[float]:
    counted: list[float] = []
    for value in sorted(values):
        if not counted or value >= counted[-1] * APART:
            counted.append(value)
    return counted


def explore(
    line: Line, best: float, seeds: int, *, below: bool = False, above: bool = False, between: bool = False, reason: str
) -> Proposal:
    """Runs that extend the range of λ, or fill the gaps beside the best trained value.

    Args:
      line: the settings.
      best: the trained λ with the best validation score.
      seeds: number of runs at each λ; at least three are proposed.
      below, above: whether to add two values beyond this end, at the median ratio of the trained values (limited to 2 to
        10; at least 3.2 if one or two values were trained).
      between: whether to add the geometric mean of each gap beside ``best``.
      reason: see :class:`Proposal`.
    """
    trained = _groups(line.values)
    steps = [high / low for low, high in itertools.pairwise(trained)]
    least = _LEAST_STEP if len(trained) >= 3 else math.sqrt(_MOST_STEP)
    step = min(_MOST_STEP, max(least, float(np.median(steps)) if steps else least))
    chosen: list[float] = []
    if between:
        at = max(n for n, value in enumerate(trained) if n == 0 or value <= best * 1.001)
        gaps = [(trained[n], trained[n + 1]) for n in (at - 1, at) if 0 <= n < len(trained) - 1]
        chosen += [math.sqrt(low * high) for low, high in gaps if high / low > APART**2][:_MOST_FILLS]
    if below:
        chosen += [trained[0] / step**2, trained[0] / step]
    if above:
        chosen += [trained[-1] * step, trained[-1] * step**2]
    found = knob(line)
    runs = tuple(NextRun(lam, max(seeds, FEW_SEEDS), found.text(lam) if found else "") for lam in sorted(chosen))
    return Proposal("explore", runs, reason, resolution(trained, best, chosen))


def resolution(trained: Sequence[float], best: float, added: Sequence[float]) -> float:
    """The range of ln λ in which the best value may be after more values are trained, as a share of the range before.

    The best value is between the neighbours of the best trained one. Before, these are the trained neighbours, or the ends
    of the added values beyond them. Afterwards they are the two that are furthest apart with one value between them. nan
    without added values.

    >>> resolution([1, 4, 16], 4, [2, 8]), resolution([1, 4], 4, [8, 16])
    (0.5, 0.75)
    """
    if not added:
        return math.nan
    at = min(range(len(trained)), key=lambda n: abs(math.log(trained[n] / best)))
    low, high = (trained[min(max(n, 0), len(trained) - 1)] for n in (at - 1, at + 1))
    low, high = min(low, *added), max(high, *added)
    inside = [math.log(value) for value in sorted({*trained, *added}) if low <= value <= high]
    left = max((last - first for first, last in zip(inside, inside[2:])), default=math.inf)
    return min(1.0, left / math.log(high / low))


def narrow(curve: Fit, line: Line, single: Float[np.ndarray, " settings"], numbers: Sequence[int]) -> Proposal:
    """Chooses ``NEXT_RUNS`` more runs one after another, each to minimise the variance of the optimum.

    It is the variance of ``−b/2c`` to first order, ``g'Cov g`` with ``g = (0, −1/2c, b/2c²)``: a c-optimal design for the
    turning point (Chaloner, K. (1989), Journal of Statistical Planning and Inference 21). Noise between trained λ is
    interpolated.

    Args:
      curve: a parabola with a maximum.
      line: its settings.
      single: variance of one seed's score, per setting.
      numbers: number of seeds, per setting.
    """
    chosen, width = c_optimal(curve, line.values, single, numbers)
    found = knob(line)
    runs = tuple(
        NextRun(lam, count, found.text(lam) if found else "", distinct([lam, *line.values]) == distinct(line.values))
        for lam, count in chosen
    )
    return Proposal("narrow", runs, width=width)


def c_optimal(
    curve: Fit, lam: Sequence[float], single: Float[np.ndarray, " settings"], numbers: Sequence[int]
) -> tuple[list[tuple[float, int]], float]:
    """See :func:`narrow`.

    Returns:
      Pairs of λ and number of runs, and the optimum's standard deviation after these runs, as a share of the present one.
    """
    _, slope, bend = curve.coefficients
    gradient = np.array([0.0, -1 / (2 * bend), slope / (2 * bend**2)])
    logs = np.log(np.asarray(lam))
    order = np.argsort(logs)
    grid = np.linspace(curve.low, curve.high, 41)
    noise = np.exp(np.interp(grid, logs[order], np.log(single[order])))

    def rows(x: np.ndarray) -> np.ndarray:
        centred = x - curve.centre
        return np.stack([np.ones_like(centred), centred, centred**2], axis=-1)

    design = rows(logs)
    information = design.T @ ((np.asarray(numbers) / single)[:, None] * design)
    now = gradient @ np.linalg.inv(information) @ gradient
    candidates = rows(grid)
    gains = candidates[:, :, None] * candidates[:, None, :] / noise[:, None, None]
    chosen: dict[int, int] = {}
    for _ in range(NEXT_RUNS):
        after = np.linalg.inv(information + gains)
        best = int(np.argmin(np.einsum("i,nij,j->n", gradient, after, gradient)))
        information = information + gains[best]
        chosen[best] = chosen.get(best, 0) + 1
    share = float(gradient @ np.linalg.inv(information) @ gradient / now)
    width = math.sqrt(min(1.0, max(0.0, share)))  # more runs widen nothing; rounding may, where λ hardly differs
    return [(float(np.exp(grid[at])), count) for at, count in sorted(chosen.items())], width
