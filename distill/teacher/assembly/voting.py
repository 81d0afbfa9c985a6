"""What the teachers say together: the answer most of them give, and how many give it."""

import dataclasses
from collections.abc import Callable, Sequence

from distill.teacher.prompts.parsing import Said


@dataclasses.dataclass(frozen=True)
class Answer:
    """One sample of one teacher for one row.

    Attributes:
      teacher: who.
      sample: which.
      said: what.
    """

    teacher: str
    sample: int
    said: Said


@dataclasses.dataclass(frozen=True)
class Vote:
    """Self-consistency (Wang et al. 2022, arXiv 2203.11171): the majority's answer.

    Attributes:
      label: the most frequent answer, as its first supporter spells it; None if nobody answers. Of equally frequent
        ones, the one that was said first (teachers and samples in order).
      votes: how many say so.
      voters: how many give any answer; a reply that cannot be read abstains.
      share: votes / voters, in (0, 1]; 0 if nobody answers.
      supporters: those who say so.
    """

    label: str | None = None
    votes: int = 0
    voters: int = 0
    supporters: tuple[Answer, ...] = ()

    @property
    def share(self) -> float:
        """votes / voters; 0 without voters."""
        return self.votes / self.voters if self.voters else 0.0


def vote(answers: Sequence[Answer], same: Callable[[str, str], bool]) -> Vote:
    """Counts votes.

    Args:
      answers: a row's answers, in order.
      same: whether two labels are the same answer.
    """
    groups: list[list[Answer]] = []
    for answer in answers:
        label = answer.said.label
        if label is None:
            continue
        for group in groups:
            if same(group[0].said.label or "", label):
                group.append(answer)
                break
        else:
            groups.append([answer])
    if not groups:
        return Vote()
    best = max(groups, key=len)  # the first of the largest
    voters = sum(map(len, groups))
    return Vote(best[0].said.label, len(best), voters, tuple(best))
