"""The next runs in words, and what trains them, in the order of how much they narrow an answer per hour."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from distill.counting import counted, form
from distill.experiments.report import comparisons, next_sweep
from distill.experiments.report.analysis import Analysis
from distill.experiments.report.collect import Unfinished
from distill.experiments.report.comparisons import Comparison
from distill.experiments.report.next_runs import Proposal, Recipe
from distill.experiments.report.optimum import effective_lines
from distill.experiments.report.settings import Cell
from distill.experiments.report.text import number, one_line
from distill.experiments.sweep.levels import FEW_SEEDS

MOST_SEEDS = 40
"""A difference that needs more seeds is not pursued: other settings are worth more."""


@dataclasses.dataclass(frozen=True)
class Step:
    """Runs to train next, for one question of the report.

    Attributes:
      question: what they answer, such as ``best λ (all_tokens)``.
      text: the runs and the reason, in words.
      recipe: what trains them; None if it is not known.
      runs: their number, without runs of the sweep that are still to do.
      hours: chip-hours, or core-hours on CPUs, of all of them, with compilation; nan if the times are not known.
      width: the interval of the answer after these runs, as a share in [0, 1] of the present one; nan if it is not known.
    """

    question: str
    text: str
    recipe: Recipe | None
    runs: int
    hours: float
    width: float


def steps(analysis: Analysis) -> list[Step]:
    """The next runs for each line along λ, and for each headline whose two settings cannot be distinguished, in order.

    The first narrows the interval of its answer most, as a share of the present one, per hour of computation; per run if
    the time of one is not known. Before it come those whose runs are all still to do in their sweep. Steps whose effect is
    not known come last. There are none if no student has learned anything: more of the same runs would not change that.
    """
    if analysis.nothing_learned:
        return []
    lines = {line.name: line.cells for line in effective_lines(analysis.evidence)}
    known = [(each.line, each.proposal) for each in analysis.optima]
    known += [(each.line.name, each.proposal) for each in analysis.unfitted if each.proposal is not None]
    out = [
        Step(
            f"best λ{of_line(name)}",
            proposal_text(proposal),
            proposal.recipe,
            proposal.total,
            proposal.total * _hours(lines[name]),
            proposal.width,
        )
        for name, proposal in known
        if proposal.runs or proposal.to_do
    ]
    for head in analysis.headlines:
        found = comparisons.oriented(analysis.family, head.a, head.b)
        if found is not None and not found.apart:
            out += _more_seeds(analysis, found)
    timed = all(math.isfinite(step.hours) and step.hours > 0 for step in out if step.runs)

    def worth(step: Step) -> float:
        if not step.runs:
            return math.inf
        return (1.0 - step.width) / (step.hours if timed else step.runs) if math.isfinite(step.width) else -1.0

    return sorted(out, key=worth, reverse=True)


def order(analysis: Analysis) -> str:
    """What the order of :func:`steps` means, as a sentence."""
    return (
        f"What to train next, in order: the first narrows its answer most per {analysis.costs.hours.removesuffix('s')}."
    )


def _more_seeds(analysis: Analysis, found: Comparison) -> list[Step]:
    """Seeds that two settings need to share, up to the number at which the difference is detected; empty if they do.

    Where that number is not known or beyond ``MOST_SEEDS``, but rests on too few shared seeds, or the means over all seeds
    contradict it, a setting gets the seeds that only the other one has.
    """
    cells, to_do, width = (found.a, found.b), analysis.part.to_do, found.needed.width
    seeds = found.needed.seeds or 0
    detects = found.seeds < seeds <= MOST_SEEDS
    if not detects:
        uncertain = found.partial and (found.seeds < FEW_SEEDS or not found.agree)
        seeds, width = max(len(cell.runs) for cell in cells) if uncertain else 0, math.nan
    shared = next_sweep.shared_seeds(cells, seeds, to_do)
    added, planned = [len(each) for each in shared.added], sum(shared.to_do)
    question = f"{one_line(found.a.label)} or {one_line(found.b.label)}"
    if not any(added):
        return [Step(question, _all_to_do(planned), None, 0, 0.0, width)] if planned else []
    of_each = [f"{counted(more, 'seed')} of {one_line(cell.label)}" for more, cell in zip(added, cells) if more]
    text = f"{counted(sum(added), 'run')}, {' and '.join(of_each)}, "
    if detects:
        unit = " points" if analysis.evidence.scale == 100 else ""
        text += (
            f"{form(sum(added), 'distinguishes', 'distinguish')} the two if their difference is "
            f"{number(found.needed.difference, 2)}{unit}, as observed; the "
            f"width of its interval becomes about {100 * width:.0f} % of now."
        )
    else:
        text += (
            f"{form(sum(added), 'gives', 'give')} both settings the same {seeds} seeds; their comparison rests on "
            f"{counted(found.seeds, 'pair')} of runs now."
        )
    hours = sum(more * _hours([cell]) for more, cell in zip(added, cells))
    recipe = next_sweep.more_seeds(cells, seeds, to_do)
    return [Step(question, text + _some_to_do(planned), recipe, sum(added), hours, width)]


def _all_to_do(number: int) -> str:
    return (
        f"no run to add: {form(number, 'the run', f'the {number} runs')} for it {form(number, 'is', 'are')} still to do in "
        "the sweep."
    )


def _some_to_do(number: int) -> str:
    if not number:
        return ""
    verb, they = form(number, "is", "are"), form(number, "it is", "they are")
    return f" {counted(number, 'more run')} for it {verb} still to do in the sweep; {they} not among these."


def _hours(cells: Sequence[Cell]) -> float:
    """Chip-hours of a run with compilation, the mean over settings; nan if they are not known."""
    return float(np.mean([cell.training("chip_seconds") / 3600 for cell in cells]))


def next_sentences(analysis: Analysis, unfinished: Sequence[Unfinished] = ()) -> list[tuple[str, tuple[str, str]]]:
    """What to train next, in the order of :func:`steps`: a sentence each, and :func:`recipe_text`.

    The first sentence says how many runs of the sweep are still to do; those that a step needs are not among its runs.
    """
    found, out = steps(analysis), []
    todo = sum(each.to_do for each in unfinished)
    first = f"Before that, finish the {counted(todo, 'run')} of the sweep that {form(todo, 'is', 'are')} still to do."
    opening = next((step for step in found if step.runs), None)
    for place, step in enumerate(found):
        start = "Next" if len(found) == 1 else f"Next, {place + 1} of {len(found)}"
        hours = analysis.costs.hours
        cost = (
            f"It takes about {number(step.hours, 2)} {hours}, with compilation and without the start of each process."
            if step.runs and math.isfinite(step.hours)
            else ""
        )
        remark = "" if step.recipe is None else step.recipe.remark
        text = " ".join(filter(None, (step.text, remark, cost, first if todo and step is opening else "")))
        out.append((f"{start}, {step.question}: {text}", recipe_text(step.recipe)))
    return out


def of_line(name: str) -> str:
    """The name of a line in brackets; empty if there is one line."""
    return "" if name == "all settings" else f" ({one_line(name)})"


def proposal_text(proposal: Proposal) -> str:
    """The next runs, the reason for them, and how much they narrow the answer."""
    if not proposal.runs:
        return _all_to_do(proposal.to_do)
    listed = []
    for step in proposal.runs:
        how = ", ".join(filter(None, (step.setting, "new seeds" if step.trained else "")))
        listed.append(f"{counted(step.runs, 'seed')} at λ = {number(step.lam, 2)}" + (f" ({how})" if how else ""))
    share = f"{100 * proposal.width:.0f} % of now"
    if proposal.kind == "narrow":
        text = f"{proposal.total} more runs, {', '.join(listed)}, narrow the interval most; "
        text += f"its width becomes about {share}."
    else:
        text = (
            f"{proposal.total} runs, {', '.join(listed)}, because {proposal.reason}. The range in which the best λ may be "
            f"becomes about {share}, in log λ."
        )
    text += _some_to_do(proposal.to_do)
    if proposal.recipe is None:
        return text
    if not proposal.recipe.keep:
        return f"{text} All other settings stay as they are."
    kept = ", ".join(f"{axis} {one_line(level, 60)}" for axis, level in proposal.recipe.keep.items())
    return f"{text} All other settings stay: {kept}, and all that the settings share."


def recipe_text(found: Recipe | None) -> tuple[str, str]:
    """What trains the proposed runs: what it is, and a shell command or a sweep file, to copy; empty if none is known."""
    if found is None:
        return "", ""
    if found.command:
        return (
            "The command that adds these runs to the sweep (--dry_run lists them and estimates their time):",
            found.command,
        )
    if found.commands:
        return "The commands that train these runs; report on their folders, too:", found.commands
    return "A sweep file with these runs, from the configuration of the best setting, for distill sweep:", found.file
