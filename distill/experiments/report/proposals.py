"""The next runs in words, and what trains them."""

from distill.experiments.report.analysis import Analysis
from distill.experiments.report.next_runs import Proposal
from distill.experiments.report.text import number, one_line


def next_sentences(analysis: Analysis) -> list[tuple[str, tuple[str, str]]]:
    """What to run next for each line along λ: a sentence, and :func:`recipe_text`."""
    known = [(each.line, each.proposal) for each in analysis.optima]
    known += [(each.line.name, each.proposal) for each in analysis.unfitted if each.proposal is not None]
    return [
        (proposal_text(proposal).replace("Next:", f"Next{of_line(name)}:", 1), recipe_text(proposal))
        for name, proposal in known
    ]


def of_line(name: str) -> str:
    """The name of a line in brackets; empty if there is one line."""
    return "" if name == "all settings" else f" ({one_line(name)})"


def proposal_text(proposal: Proposal) -> str:
    """The next runs, the reason for them, and how much they narrow the interval."""
    steps = []
    for step in proposal.runs:
        how = ", ".join(filter(None, (step.setting, "new seeds" if step.trained else "")))
        steps.append(f"{step.runs} × λ = {number(step.lam, 2)}" + (f" ({how})" if how else ""))
    if proposal.kind == "narrow":
        text = (
            f"Next: {proposal.total} more runs, {', '.join(steps)}, narrow the interval most; its width becomes about "
            f"{100 * proposal.width:.0f} % of now."
        )
    else:
        text = f"Next: {proposal.total} runs, {', '.join(steps)}, because {proposal.reason}."
    if proposal.recipe is None:
        return text
    if not proposal.recipe.keep:
        return f"{text} All other settings stay as they are."
    kept = ", ".join(f"{axis} {one_line(level, 60)}" for axis, level in proposal.recipe.keep.items())
    return f"{text} All other settings stay: {kept}, and all that the settings share."


def recipe_text(proposal: Proposal) -> tuple[str, str]:
    """What trains the proposed runs: what it is, and a shell command or a sweep file, to copy; empty if none is known."""
    found = proposal.recipe
    if found is None:
        return "", ""
    if found.command:
        return (
            "The command that adds these runs to the sweep (--dry_run lists them and estimates their time):",
            found.command,
        )
    return "A sweep file with these runs, from the configuration of the best setting, for distill sweep:", found.file
