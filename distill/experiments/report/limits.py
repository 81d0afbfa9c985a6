"""What limits the findings of a report: warnings that fixed rules generate from the numbers."""

import math
from collections.abc import Sequence

import numpy as np

from distill.experiments.report import quantities, settings
from distill.experiments.report.analysis import Analysis
from distill.experiments.report.collect import Run, Unfinished
from distill.experiments.report.settings import Cell, Part
from distill.experiments.report.text import number, one_line
from distill.experiments.sweep.files import read_evaluations
from distill.experiments.sweep.levels import FEW_SEEDS

_UNFINISHED = ("running", "waiting", "stopped", "failed", "pruned")
_MOST_SLICES = 3
_MOSTLY = 0.75  # share of the runs that is worth a remark
_FEW_ROWS = 100  # one answer is more than a point


def warnings(analysis: Analysis, unfinished: Sequence[Unfinished] = ()) -> list[str]:
    """What limits the findings."""
    part, out = analysis.part, []
    listed = _listed(unfinished)
    if any(each.to_do for each in unfinished):
        out.append(
            f"The sweep is not complete: {listed}. Missing settings can change which one is selected, and what it is "
            "compared with."
        )
    elif listed:
        out.append(not_shown(unfinished))
    if analysis.nothing_learned:
        out.append(
            "All settings score 0 on the test rows: no student has learned the task, so these runs compare nothing. Train "
            "for more steps, or check the rows with distill data."
        )
    elif analysis.evidence.metric == "accuracy":
        out += [
            f"{one_line(cell.label)} scores 0 in all runs: look at its predictions before you compare it (MAX_DECODE_LEN, "
            "words that the vocabulary lacks, too few steps)."
            for cell in part.cells
            if not any(cell.scores("accuracy", "test"))
        ]
    out += constant_answers(analysis)
    if settings.TRAIN_DATA in part.axes:
        rows = [
            f"{level} in {sum(len(cell.runs) for cell in part.cells if cell.values[settings.TRAIN_DATA] == level)}"
            for level in part.axes[settings.TRAIN_DATA]
        ]
        out.append(
            "Runs of one setting were trained on different rows, because the files or their split changed between them. "
            f"They are not pooled: each is a setting with the beginning of its rows' fingerprint ({', '.join(rows)} runs)."
        )
    else:
        out += settings.other_rows({cell.label: cell.runs for cell in part.cells}, "train")
    few = [cell for cell in part.cells if len(cell.runs) < FEW_SEEDS]
    if few:
        least = min(len(cell.runs) for cell in few)
        out.append(
            f"{len(few)} of {len(part.cells)} settings have fewer than {FEW_SEEDS} seeds (the least: {least}). "
            "Intervals over so few seeds are wide and depend on the assumption of normal scores."
        )
    validation = min(
        (int(entry["rows"]) for run in part.runs if (entry := run.record["data"].get("validation"))), default=0
    )
    if 0 < validation < _FEW_ROWS and len(part.cells) > 1:
        out.append(
            f"Validation has {validation} rows, so one answer is {100 / validation:.1f} points: what it selects can be "
            "chance."
        )
    several = [run for run in part.runs if _validations(run) != 1]
    last = [run for run in several if run.record["selection"]["step"] == run.record["training"]["steps"]]
    if len(last) > _MOSTLY * len(several):
        out.append(
            f"In {len(last)} of {len(several)} runs, validation was best at the last step: more steps can change these "
            "results."
        )
    out += idle_axes(analysis)
    if analysis.evidence.metric == "accuracy" and len(analysis.evidence.correct) < len(part.runs):
        missing = len(part.runs) - len(analysis.evidence.correct)
        out.append(f"{missing} runs have no judged test predictions; they are compared by their seeds' scores alone.")
    if not part.crossed:
        out.append("Each seed has its own data. Only runs of the same seed are compared, and intervals are over seeds.")
    devices = {str(run.record["environment"]["device_kind"]) for run in part.runs}
    if len(devices) > 1:
        out.append(
            f"Runs used different devices ({', '.join(sorted(devices))}); their {analysis.costs.hours} are not comparable."
        )
    revisions = {(run.record["code"].get("revision"), run.record["code"]["version"]) for run in part.runs}
    if len(revisions) > 1:
        out.append(f"Runs come from {len(revisions)} revisions of the code; see provenance.")
    if any(run.record["code"].get("modified") for run in part.runs):
        out.append("Some runs come from a working tree with changes that its revision does not contain.")
    return out


def _validations(run: Run) -> int:
    """The number of steps of a run at which it validated, the start excepted; 0 if it is not known."""
    return len(
        {each["step"] for each in read_evaluations(run.directory) if each["split"] != "test" and each["step"] > 0}
    )


def not_shown(unfinished: Sequence[Unfinished]) -> str:
    """A line on the runs that the numbers of a report lack; empty if there are none."""
    listed = _listed(unfinished)
    return f"Not in these numbers: {listed}." if listed else ""


def _listed(unfinished: Sequence[Unfinished]) -> str:
    counts = {state: sum(each.state == state for each in unfinished) for state in _UNFINISHED}
    return ", ".join(f"{count} {state}" for state, count in counts.items() if count)


def constant_answers(analysis: Analysis) -> list[str]:
    """Students that give one answer to all test rows: their score is the frequency of this answer."""
    found = analysis.evidence.constant
    if not found:
        return []
    answers = ", ".join(repr(one_line(text, 40)) for text in list(dict.fromkeys(found.values()))[:_MOST_SLICES])
    return [
        f"{len(found)} of {len(analysis.part.runs)} runs give one answer to all test rows ({answers}): their score is the "
        "frequency of this answer. Train for more steps, or check the rows with distill data."
    ]


def idle_axes(analysis: Analysis) -> list[str]:
    """Axes whose levels cannot matter: the same rows right at every level, or the same effective λ for all rates and λ."""
    part, out = analysis.part, []
    for axis in part.axes:
        slices = _slices(part, axis)
        same = [cells for cells in slices if _equally_right(analysis, cells)]
        if same:
            out.append(
                f"{one_line(axis)} changes no test score {_where(part, axis, same, slices)}: all levels are right on the "
                "same rows."
            )
            continue
        still = [cells for cells in slices if _same_lambda(cells)]
        # Where another axis sets LAMBDA, how often a task is drawn is a question for itself.
        if still and len({str(cell.macro("LAMBDA")) for cells in still for cell in cells}) == 1:
            lam = number(still[0][0].training("lambda"))
            out.append(
                f"{one_line(axis)} does not change the effective λ {_where(part, axis, still, slices)}: it is {lam} at all "
                "levels. Differences there come from sampling, not from the weight of the rationales."
            )
    return out


def _slices(part: Part, axis: str) -> list[list[Cell]]:
    groups: dict[tuple[str, ...], list[Cell]] = {}
    for cell in part.cells:
        groups.setdefault(tuple(cell.values[other] for other in part.axes if other != axis), []).append(cell)
    return [cells for cells in groups.values() if len(cells) > 1]


def _equally_right(analysis: Analysis, cells: Sequence[Cell]) -> bool:
    first = dict(zip(cells[0].seeds, cells[0].runs))
    compared = 0
    for cell in cells[1:]:
        for seed, run in zip(cell.seeds, cell.runs):
            other = first.get(seed)
            if other is None:
                continue
            if run.record["test"] != other.record["test"] or run.record["validation"] != other.record["validation"]:
                return False
            a, b = analysis.evidence.correct.get(run), analysis.evidence.correct.get(other)
            if a is not None and b is not None and not np.array_equal(a, b):
                return False
            compared += 1
    return compared > 0


def _same_lambda(cells: Sequence[Cell]) -> bool:
    weights = [(cell.macro("LAMBDA"), quantities.rate(cell)) for cell in cells]
    lams = [cell.training("lambda") for cell in cells]
    if len({str(weight) for weight in weights}) < 2 or not all(math.isfinite(lam) for lam in lams):
        return False
    return max(lams) - min(lams) <= 0.01 * max(map(abs, lams))


def _where(part: Part, axis: str, found: Sequence[Sequence[Cell]], slices: Sequence[Sequence[Cell]]) -> str:
    if len(found) == len(slices):
        return "here"
    # An axis with one level in all of these slices, and other levels elsewhere, is the reason.
    for other in part.axes:
        levels = {cells[0].values[other] for cells in found}
        elsewhere = {cells[0].values[other] for cells in slices if cells not in found}
        if other != axis and not levels & elsewhere:
            return f"where {one_line(other)} is {' or '.join(sorted(map(one_line, levels)))}"
    named = [", ".join(f"{o} {cells[0].values[o]}" for o in part.axes if o != axis) for cells in found[:_MOST_SLICES]]
    more = f" and {len(found) - _MOST_SLICES} more" if len(found) > _MOST_SLICES else ""
    return "at " + "; ".join(map(one_line, named)) + more
