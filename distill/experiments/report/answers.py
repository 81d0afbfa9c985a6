"""Answers as numbers: the share of data that is enough, and the smallest student that beats the teacher."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from distill.experiments.report import quantities, statistics
from distill.experiments.report.collect import Run, read_predictions
from distill.experiments.report.evidence import Evidence
from distill.experiments.report.quantities import Line
from distill.experiments.report.settings import Part
from distill.tasks import arithmetic, metrics

_STANDARD = ("label",)  # values of FORM that use no rationale
_STANDARD_NAMES = ("standard", "finetune", "label")


@dataclasses.dataclass(frozen=True)
class EqualShare:
    """The share of the data at which one line reaches what another has with all of it.

    Attributes:
      line, standard: names of the two lines.
      goal: the accuracy of ``standard`` with all data, as shown.
      rows: training rows of 100 %.
      share: of the data; 0 if the smallest amount is already enough, infinite if all of it is not.
      smallest: the smallest share that was trained.
      told: whether it is worth a sentence: no other standard line has more levels in common with ``line``, and ``line``
        uses rationales, unless no line does.
    """

    line: str
    standard: str
    goal: float
    rows: float
    share: statistics.Interval
    smallest: float
    told: bool = True


def crossing(
    x: Float[np.ndarray, " points"], y: Float[np.ndarray, "draws points"], goal: Float[np.ndarray, " draws"]
) -> Float[np.ndarray, " draws"]:
    """The smallest ``x`` at which a polygon in ``log x`` reaches a goal.

    Args:
      x: increasing, positive.
      y: values at ``x``, a row per draw.
      goal: a goal per draw.

    Returns:
      ``[draws]``: 0 where the first value reaches the goal, infinity where none does.

    >>> crossing(np.array([1.0, 4.0]), np.array([[0.0, 2.0], [3.0, 4.0], [0.0, 0.5]]), np.array([1.0, 1.0, 1.0]))
    array([ 2.,  0., inf])
    """
    out = np.full(len(y), np.inf)
    reached = y >= goal[:, None]
    any_reached = reached.any(axis=1)
    place = reached.argmax(axis=1)
    out[any_reached & (place == 0)] = 0.0
    for draw in np.flatnonzero(any_reached & (place > 0)):
        at = place[draw]
        low, high = y[draw, at - 1], y[draw, at]
        part = (goal[draw] - low) / (high - low)
        out[draw] = math.exp(math.log(x[at - 1]) + part * (math.log(x[at]) - math.log(x[at - 1])))
    return out


def is_standard(line: Line) -> bool:
    """Whether a line's students were trained without rationales."""
    return line.name in _STANDARD_NAMES or all(cell.macro("FORM") in _STANDARD for cell in line.cells)


def equal_shares(evidence: Evidence) -> list[EqualShare]:
    """For each line along the amount of data, the share of data at which it equals standard training with all data.

    The standard line is the one trained without rationales. Lines are interpolated linearly in the logarithm of the rows.
    The interval comes from bootstrap draws of seeds and rows; its ends may be 0 or infinite, as the share may.
    """
    rows = quantities.quantity("data")
    lines = [line for line in quantities.lines(evidence.part, rows) if line.varies]
    standard = [line for line in lines if is_standard(line)]
    out = []
    for line in lines:
        nearest = min((_differing(line, other) for other in standard if other is not line), default=0)
        for other in standard:
            if line is other or line.values[-1] <= 0:
                continue
            everything = max(line.values[-1], other.values[-1])
            if other.values[-1] < everything:
                continue
            x = np.array(line.values) / everything
            mean = np.array([[evidence.cell_interval(cell).value for cell in line.cells]])
            goal = evidence.cell_interval(other.cells[-1]).value
            share = float(crossing(x, mean, np.array([goal]))[0])
            draws = np.stack([evidence.cell_draws(cell) for cell in line.cells], axis=1)
            found = crossing(x, draws, evidence.cell_draws(other.cells[-1]))
            interval = statistics.percentile_interval(share, found)
            told = _differing(line, other) == nearest and (line not in standard or len(standard) == len(lines))
            out.append(EqualShare(line.name, other.name, goal, everything, interval, float(x[0]), told))
    return out


def _differing(line: Line, other: Line) -> int:
    """The number of axes on which two lines have other levels, at the end of the lines."""
    ours, theirs = line.cells[-1].values, other.cells[-1].values
    return sum(ours.get(axis) != theirs.get(axis) for axis in {*ours, *theirs})


def headline(shares: Sequence[EqualShare]) -> EqualShare:
    """Returns the share that a reader wants first: of the line with the least data that reaches the highest goal."""
    return min(shares, key=lambda each: (-each.goal, each.share.value))


@dataclasses.dataclass(frozen=True)
class Teacher:
    """The teacher's answers on the test rows.

    Attributes:
      correct: ``[rows]`` whether each is right; nan for a row without the teacher's answer.
      accuracy: of the rows that have one, as a share, with Wilson's interval.
    """

    correct: np.ndarray
    accuracy: statistics.Interval


def teacher_is_right(row: Mapping[str, object]) -> float:
    """1.0, 0.0, or nan for a row without the teacher's answer.

    Answers are equal as text, or have the same value where both are arithmetic.
    """
    teacher_answer, target = row.get("teacher"), row.get("target")
    if not isinstance(teacher_answer, str) or not isinstance(target, str):
        return math.nan
    if metrics.same_text(target, teacher_answer):
        return 1.0
    values = arithmetic.evaluate(target), arithmetic.evaluate(teacher_answer)
    return float(None not in values and arithmetic.same_value(target, teacher_answer))


def teacher(part: Part) -> Teacher | None:
    """Reads the teacher's labels from the predictions of a part. Rows of all data sets follow.

    None if no row has one, or if the settings have teachers with different answers. The targets of the single-task form are
    more than the label, so another form says whether an answer is right, where there is one.
    """
    cells = sorted(part.cells, key=lambda cell: str(cell.macro("EVAL_FORM")) == "single")
    each = []
    for data in {run.fingerprint("test"): None for run in part.runs}:
        alike = ([run for run in cell.runs if run.fingerprint("test") == data] for cell in cells)
        of_settings = [rows for runs in alike if (rows := _rows(runs))]
        if any(_answers(rows) != _answers(of_settings[0]) for rows in of_settings[1:]):
            return None
        each += [np.array([teacher_is_right(row) for row in rows]) for rows in of_settings[:1]]
    found = np.concatenate(each) if each else np.array([math.nan])
    known = found[~np.isnan(found)]
    if not len(known):
        return None
    low, high = metrics.wilson(int(known.sum()), len(known))
    return Teacher(found, statistics.Interval(float(known.mean()), low, high))


def _rows(runs: Sequence[Run]) -> Sequence[Mapping[str, object]]:
    """The test rows of the first run that has its predictions."""
    for run in runs:
        predictions = read_predictions(run.directory, keep_rows=True)
        if predictions is not None:
            return predictions.rows
    return []


def _answers(rows: Sequence[Mapping[str, object]]) -> list[object]:
    return [row.get("teacher") for row in rows]


@dataclasses.dataclass(frozen=True)
class SmallestModel:
    """The smallest student of a line that beats the teacher.

    Attributes:
      line: its name.
      parameters: of that student, with the 95 % interval over bootstrap draws; infinite if no size does.
      certain: the smallest size whose lead over the teacher has an interval above 0; infinite if none has.
      sizes: the sizes that were trained.
    """

    line: str
    parameters: statistics.Interval
    certain: float
    sizes: tuple[float, ...]


def smallest_models(evidence: Evidence, of_teacher: Teacher) -> list[SmallestModel]:
    """For each line along the student's size, the smallest one whose accuracy exceeds the teacher's on the same rows.

    Empty where each seed has its rows.
    """
    if not evidence.part.crossed:
        return []
    lines = [line for line in quantities.lines(evidence.part, quantities.quantity("size")) if line.varies]
    has = ~np.isnan(of_teacher.correct)
    out = []
    for line in lines:
        leads, draws = [], []
        for cell in line.cells:
            runs = [run for run in cell.runs if run in evidence.correct]
            if len(runs) < len(cell.runs):
                break
            values = [evidence.scale * (evidence.correct[run][has] - of_teacher.correct[has]) for run in runs]
            components = evidence.components(values)
            leads.append(components)
            draws.append(_lead_draws(np.stack(values), evidence, components))
        else:
            sizes = np.array(line.values)
            beats = np.stack(draws, axis=1) > 0
            first = np.where(beats.any(axis=1), sizes[beats.argmax(axis=1)], np.inf)
            means = [lead.mean > 0 for lead in leads]
            value = float(sizes[means.index(True)]) if any(means) else math.inf
            clear = [lead.interval.low > 0 for lead in leads]
            certain = float(sizes[clear.index(True)]) if any(clear) else math.inf
            interval = statistics.percentile_interval(value, first)
            out.append(SmallestModel(line.name, interval, certain, tuple(line.values)))
    return out


def _lead_draws(
    values: Float[np.ndarray, "seeds rows"], evidence: Evidence, parts: statistics.Components
) -> Float[np.ndarray, " draws"]:
    """Bootstrap draws of a lead. All sizes use the same random numbers, so their draws are paired."""
    random = np.random.default_rng(1)
    seeds, rows = values.shape
    chosen = (evidence.seed_draws[:, :seeds] * seeds).astype(int)
    out = np.empty(len(chosen))
    for start in range(0, len(chosen), 256):
        counts = random.multinomial(rows, np.full(rows, 1 / rows), size=min(256, len(chosen) - start))
        per_seed = counts @ values.T / rows
        mine = chosen[start : start + len(counts)]
        out[start : start + len(counts)] = per_seed[np.arange(len(counts))[:, None], mine].mean(axis=1)
    return statistics.widened(out, parts)
