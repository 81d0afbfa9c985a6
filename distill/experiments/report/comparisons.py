"""Which settings are compared, and how they differ: paired by seed and row, corrected for the number of pairs."""

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np

from distill.experiments.report import statistics
from distill.experiments.report.collect import ReportError, Run
from distill.experiments.report.evidence import Evidence
from distill.experiments.report.settings import RATE, Cell
from distill.experiments.sweep.levels import is_ratio, number_of

_WEIGHTS = ("LAMBDA", "NORMALIZER", RATE)
ALL_PAIRS = 15
"""Up to this number of pairs, all are shown; else only the selected setting against each other one."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two settings on the same rows and seeds; numbers are those of ``a`` minus ``b``.

    Attributes:
      a, b: the settings.
      seeds: pairs of runs: the seeds that both have.
      same_seeds: whether the two runs of a pair have the same seed.
      difference: mean difference of the pairs as shown, with its bootstrap interval; without one if no spread was seen.
      of_means: difference of the means over all seeds of each setting, as shown beside the settings.
      p: of no difference, from the variance components; ``mcnemar`` without spread; nan if not known, and for one pair,
        which compares two students.
      p_holm: corrected over all pairs shown.
      only_a, only_b: rows that only one of the two has right, summed over seeds.
      mcnemar: McNemar's exact p-value, merged over seeds; nan without rows.
      mcnemar_holm: corrected over all pairs shown.
      needed: seeds or rows at which a difference of this size is detected.
    """

    a: Cell
    b: Cell
    seeds: int
    same_seeds: bool
    difference: statistics.Interval
    of_means: float
    p: float
    p_holm: float
    only_a: int
    only_b: int
    mcnemar: float
    mcnemar_holm: float
    needed: statistics.Needed

    @property
    def apart(self) -> bool:
        """Whether the two can be distinguished: the corrected p-value is below 0.05, and the means over all seeds agree."""
        return self.p_holm < statistics.ALPHA and self.agree

    @property
    def agree(self) -> bool:
        """Whether the means over all seeds of each setting differ in the direction of the pairs."""
        return not self.partial or self.of_means * self.difference.value > 0

    @property
    def partial(self) -> bool:
        """Whether a setting has seeds that are in no pair, so that its mean is of other runs than the difference."""
        return self.seeds < max(len(self.a.runs), len(self.b.runs))

    @property
    def tested(self) -> bool:
        """Whether there is a test of the settings: one pair has none, nor have seeds that all differ by the same."""
        return not math.isnan(self.p_holm)

    @property
    def students_apart(self) -> bool:
        """Whether the students of the one pair differ; this says nothing of other seeds."""
        return self.seeds == 1 and self.mcnemar_holm < statistics.ALPHA


@dataclasses.dataclass(frozen=True)
class Family:
    """All comparisons of a part, the better setting first, and Cochran's Q over its settings.

    Attributes:
      comparisons: the pairs.
      rule: which pairs were chosen, in words.
      cochran: p-value of all settings having the same accuracy, merged over seeds; nan without rows.
      cochran_seeds: the number of these seeds: those that all settings have.
    """

    comparisons: tuple[Comparison, ...]
    rule: str
    cochran: float
    cochran_seeds: int


def selected(evidence: Evidence) -> Cell:
    """Returns the setting with the best mean on validation; validation alone selects."""
    return _best(evidence.part.cells)


def _best(cells: Sequence[Cell]) -> Cell:
    return max(cells, key=on_validation)


def on_validation(cell: Cell) -> float:
    """The mean of the metric that selects, on validation; negative if its lowest value is the best: larger is better.

    It is rounded, so that the same scores in another order of seeds have the same mean.
    """
    selection = cell.runs[0].record["selection"]
    scores = [score for score in cell.scores(str(selection["metric"]), "validation") if math.isfinite(score)]
    sign = 1.0 if selection.get("higher_is_better", True) else -1.0
    return sign * round(float(np.mean(scores)), statistics.DIGITS) if scores else -math.inf


def reference(evidence: Evidence) -> Cell | None:
    """Returns the setting that others are measured against: an effective λ of 1 and, if rates vary, a ratio of 1:1.

    None if no setting has an effective λ within 5 % of 1.
    """
    near = [cell for cell in evidence.part.cells if abs(cell.training("lambda") - 1) < 0.05]
    best, axes = selected(evidence), evidence.part.axes
    studied = {axis for axis in axes if axis in _WEIGHTS or any(map(is_ratio, axes[axis]))}

    def distance(cell: Cell) -> tuple[int, float, int, float]:
        others = sum(cell.values[axis] != best.values[axis] for axis in axes if axis not in studied)
        ratios = [number_of(level) for level in cell.values.values() if is_ratio(level)]
        far = sum(abs(math.log(ratio)) for ratio in ratios if ratio)
        unlike = sum(cell.values[axis] != best.values[axis] for axis in studied)
        return (
            others,
            far,
            unlike,
            round(abs(cell.training("lambda") - 1), 2),
        )  # of equals, the first in the sweep's order

    return min(near, key=distance) if near else None


def _weighted_differently(a: Cell, b: Cell) -> bool:
    """Whether two settings differ in what decides the weight of rationales."""
    names = ("LAMBDA", "NORMALIZER", "LABEL_RATE", "RATIONALE_RATE")
    return abs(a.training("lambda") - b.training("lambda")) > 0.05 or any(a.macro(n) != b.macro(n) for n in names)


@dataclasses.dataclass(frozen=True)
class Headline:
    """A pair that the summary speaks about: ``a`` is what validation selected, ``b`` what ``name`` describes."""

    a: Cell
    b: Cell
    name: str


def headlines(evidence: Evidence, choice: str = "") -> list[Headline]:
    """The selected setting against training without rationales and against an effective λ of 1, where they exist.

    If neither exists, or the selected setting is the only one of its kind, against the runner-up on validation.

    Args:
      evidence: the scores.
      choice: see :func:`compare`; with ``AXIS=LEVEL``, the setting of this level takes the place of a λ of 1.
    """
    best, cells, axes = selected(evidence), evidence.part.cells, evidence.part.axes
    out = []
    standard = [cell for cell in cells if cell.macro("FORM") == "label" and cell is not best]
    if standard and best.macro("FORM") != "label":
        equal = max(standard, key=lambda cell: sum(cell.values[axis] == best.values[axis] for axis in axes))
        out.append(Headline(best, equal, f"training without rationales ({equal.label})"))
    axis, given, level = choice.partition("=")
    named = [cell for cell in cells if given and cell.values.get(axis) == level]
    if named:
        other = max(named, key=lambda cell: sum(cell.values[axis] == best.values[axis] for axis in axes))
        return out if other is best else [*out, Headline(best, other, other.label)]
    base = reference(evidence)
    if base is not None and base is not best and _weighted_differently(base, best):
        out.append(Headline(best, base, f"an effective λ of 1 ({base.label})"))
    if not out and len(cells) > 1:
        second = _best([cell for cell in cells if cell is not best])
        out.append(Headline(best, second, f"the runner-up on validation ({second.label})"))
    return out


def compare(evidence: Evidence, choice: str = "") -> Family:
    """Compares settings in pairs.

    Args:
      evidence: the scores.
      choice: ``all``, ``best``, an axis whose levels are compared with all else equal, or ``AXIS=LEVEL``, which compares
        each other level of the axis with this one; empty chooses.

    Raises:
      ReportError: ``choice`` is none of these.
    """
    pairs, rule = _pairs(evidence, choice)
    found = [comparison for a, b in pairs if (comparison := _compare(evidence, a, b, len(pairs))) is not None]
    corrected = statistics.holm([each.p for each in found])
    rows = statistics.holm([each.mcnemar for each in found])
    found = [turned(each) if evidence.sign * each.difference.value < 0 else each for each in found]
    found = [
        dataclasses.replace(each, p_holm=p, mcnemar_holm=q) for each, p, q in zip(found, corrected, rows, strict=True)
    ]
    return Family(tuple(found), rule, *_cochran(evidence))


def _pairs(evidence: Evidence, choice: str) -> tuple[list[tuple[Cell, Cell]], str]:
    cells, axes = evidence.part.cells, evidence.part.axes
    every = list(itertools.combinations(cells, 2))
    method = evidence.part.method_axis()
    asked = choice
    choice, given, level = choice.partition("=")
    if choice not in ("", "all", "best", *axes) or (given and choice not in axes):
        raise ReportError(
            "--compare must be all, best, AXIS or AXIS=LEVEL with one of the axes "
            f"{', '.join(axes) or '(none)'}; got {asked!r}"
        )
    levels = list(dict.fromkeys(cell.values[choice] for cell in cells)) if given else []
    if given and level not in levels:
        raise ReportError(f"--compare={choice}={level}: {choice} has the levels {', '.join(levels)}")
    if not choice:
        choice = "all" if len(every) <= ALL_PAIRS else method or "best"
    best = selected(evidence)
    if choice == "all":
        return every, "the pair of settings" if len(every) == 1 else f"all {len(every)} pairs of settings"
    against = [(best, cell) for cell in cells if cell is not best]
    if choice == "best":
        return against, f"the setting that validation selected ({best.label}) against each of the other {len(against)}"
    alike = [
        (a, b)
        for a, b in every
        if a.values[choice] != b.values[choice]
        and (not given or level in (a.values[choice], b.values[choice]))
        and all(a.values[axis] == b.values[axis] for axis in axes if axis != choice)
    ]
    extra = [(each.a, each.b) for each in headlines(evidence, asked)]
    extra = [(a, b) for a, b in extra if (a, b) not in alike and (b, a) not in alike]
    what = f"each level of {choice} against {level}," if given else f"levels of {choice}"
    return alike + extra, f"{what} with all other axes equal" + (", and the selected setting" if extra else "")


def paired(evidence: Evidence, a: Cell, b: Cell) -> tuple[list[Run], list[Run], bool]:
    """Returns the runs of two settings in pairs, and whether both runs of a pair have the same seed.

    Settings without a common seed are paired in the order of their seeds if all seeds have the same rows; else not at all.
    """
    first, second = dict(zip(a.seeds, a.runs)), dict(zip(b.seeds, b.runs))
    common = [seed for seed in first if seed in second]
    if common:
        return [first[seed] for seed in common], [second[seed] for seed in common], True
    number = min(len(a.runs), len(b.runs)) if evidence.part.crossed else 0
    return list(a.runs[:number]), list(b.runs[:number]), False


def oriented(family: Family, a: Cell, b: Cell) -> Comparison | None:
    """The comparison of two settings as ``a`` minus ``b``; None if the pair was not compared."""
    for each in family.comparisons:
        if each.a is a and each.b is b:
            return each
        if each.a is b and each.b is a:
            return turned(each)
    return None


def turned(each: Comparison) -> Comparison:
    """The same comparison as ``b`` minus ``a``."""
    interval = statistics.Interval(-each.difference.value, -each.difference.high, -each.difference.low)
    return dataclasses.replace(
        each,
        a=each.b,
        b=each.a,
        difference=interval,
        of_means=-each.of_means,
        only_a=each.only_b,
        only_b=each.only_a,
    )


def _compare(evidence: Evidence, a: Cell, b: Cell, pairs: int) -> Comparison | None:
    ours, theirs, same = paired(evidence, a, b)
    if not ours:
        return None
    values = [x - y for x, y in zip(evidence.matrix(ours), evidence.matrix(theirs))]
    components = evidence.components(values)
    draws = statistics.widened(evidence.draws(ours, theirs), components)
    interval = statistics.Interval(components.mean)
    if components.known:
        interval = statistics.percentile_interval(components.mean, draws)
    interval = evidence.possible(interval)
    tables = [
        statistics.mcnemar(evidence.correct[x], evidence.correct[y])
        for x, y in zip(ours, theirs)
        if x in evidence.correct and y in evidence.correct
    ]
    by_rows = statistics.merged([p for *_, p in tables]) if tables else math.nan
    p = components.p
    if len(ours) == 1:
        p = math.nan  # how much seeds differ is not known, so nothing tests the settings
    elif tables and math.isnan(p):
        p = by_rows  # valid where all differences are the same
    return Comparison(
        a,
        b,
        len(ours),
        same,
        interval,
        evidence.cell_interval(a).value - evidence.cell_interval(b).value,
        p,
        math.nan,
        sum(table[0] for table in tables),
        sum(table[1] for table in tables),
        by_rows,
        math.nan,
        statistics.needed(components, pairs=pairs),
    )


def _cochran(evidence: Evidence) -> tuple[float, int]:
    cells = evidence.part.cells
    common = [seed for seed in cells[0].seeds if all(seed in cell.seeds for cell in cells)]
    values = []
    for seed in common:
        runs = [cell.runs[cell.seeds.index(seed)] for cell in cells]
        if all(run in evidence.correct for run in runs):
            values.append(statistics.cochran(np.stack([evidence.correct[run] for run in runs])))
    return (statistics.merged(values) if values and len(cells) > 1 else math.nan), len(values)
