"""Majority vote over the answers of all samples and teachers."""

import dataclasses
from collections.abc import Callable, Sequence

from distill.teacher.prompts.parsing import Said


@dataclasses.dataclass(frozen=True)
class Answer:
    """One sample of one teacher for one row.

    Attributes:
      teacher: the teacher's name.
      sample: index of the sample.
      said: the parsed reply.
    """

    teacher: str
    sample: int
    said: Said


@dataclasses.dataclass(frozen=True)
class Vote:
    """Self-consistency (Wang et al. 2022, arXiv 2203.11171): the most frequent answer.

    Attributes:
      label: the most frequent answer, in the spelling of its first supporter; None without answers. Ties are
        broken in favour of the first answer (in the order of teachers and samples).
      votes: number of answers equal to ``label``.
      voters: number of answers; an unreadable reply does not count.
      share: votes / voters, in (0, 1]; 0 without answers.
      supporters: the answers equal to ``label``.
      counts: (answer, votes) of every answer, in the order of their first supporters.
    """

    label: str | None = None
    votes: int = 0
    voters: int = 0
    supporters: tuple[Answer, ...] = ()
    counts: tuple[tuple[str, int], ...] = ()

    @property
    def share(self) -> float:
        """votes / voters; 0 without voters."""
        return self.votes / self.voters if self.voters else 0.0

    @property
    def tied(self) -> bool:
        """Whether another answer has as many votes as ``label``."""
        return sum(number == self.votes for _, number in self.counts) > 1


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
    counts = tuple((group[0].said.label or "", len(group)) for group in groups)
    return Vote(best[0].said.label, len(best), voters, tuple(best), counts)
