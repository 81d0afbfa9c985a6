"""Which rationales are worth learning from. Every one that is dropped is counted by its reason."""

import collections
import dataclasses
import re
from collections.abc import Iterable, Sequence
from typing import Literal

from distill import validation
from distill.tasks import metrics

OnDisagreement = Literal["keep", "drop_rationale", "drop_row"]
Keep = Literal["agreeing", "all"]
Leakage = Literal["count", "drop"]

_WORD = re.compile(r"\w+", re.UNICODE)
_EMPTY_WORDS = frozenset(
    [
        "the",
        "a",
        "an",
        "so",
        "is",
        "are",
        "was",
        "answer",
        "label",
        "correct",
        "right",
        "therefore",
        "thus",
        "hence",
        "it",
        "this",
        "that",
        "final",
        "result",
        "of",
    ]
)


@dataclasses.dataclass(frozen=True)
class Rules:
    """What is kept. The defaults drop nothing but what contradicts the vote.

    Attributes:
      keep: with several samples, the rationales of those that ``agree`` with the vote, or of ``all``.
      on_disagreement: what happens where the vote is not the gold label: ``keep``, ``drop_rationale``, or
        ``drop_row``. (Rows without a gold label are not concerned. Training can still drop or down-weight, by
        ``on_disagreement`` there.)
      least_share: smallest vote share; a row below it keeps neither rationale nor teacher label.
      shortest, longest: words a rationale may have; None: no bound.
      most_repeats: how many rows may share the very same rationale; None: any number. The rows beyond it lose theirs.
      leakage: what to do with a rationale that gives away instead of explaining: it is the bare answer, repeats the
        answer marker, or lets on that it was told the answer. ``count`` or ``drop``.
      weight_by_agreement: a row's weight is multiplied by its vote share.
      drop_empty_rows: leave out rows that end up with neither a label nor a rationale, from which nothing can be
        learned.
    """

    keep: Keep = "agreeing"
    on_disagreement: OnDisagreement = "keep"
    least_share: float = 0.0
    shortest: int | None = None
    longest: int | None = None
    most_repeats: int | None = None
    leakage: Leakage = "count"
    weight_by_agreement: bool = True
    drop_empty_rows: bool = True

    def __post_init__(self):
        for field, allowed in (
            ("keep", ("agreeing", "all")),
            ("on_disagreement", ("keep", "drop_rationale", "drop_row")),
            ("leakage", ("count", "drop")),
        ):
            validation.check(f"Rules.{field}", getattr(self, field), allowed)
        if not 0 <= self.least_share <= 1:
            raise ValueError(f"Rules.least_share must be in [0, 1]; got {self.least_share}")
        if self.shortest is not None and self.longest is not None and self.shortest > self.longest:
            raise ValueError(f"Rules.shortest must be ≤ longest; got {self.shortest} and {self.longest}")
        if self.most_repeats is not None and self.most_repeats < 1:
            raise ValueError(f"Rules.most_repeats must be ≥ 1; got {self.most_repeats}")


def same_text_key(text: str) -> str:
    """Equal for rationales that differ in case and white space only."""
    return " ".join(text.casefold().split())


def number_of_words(text: str) -> int:
    """Words in ``text``, by white space."""
    return len(text.split())


def leak(
    rationale: str, label: str | None, *, marker: str = "", hint_words: Sequence[str] = (), told: bool = False
) -> str | None:
    """How a rationale gives the answer away instead of explaining it, or None.

    Args:
      rationale: the reasoning.
      label: the answer.
      marker: what stands before the answer in replies ("So the answer is").
      hint_words: words that betray that the answer was given.
      told: whether it was.
    """
    folded = rationale.casefold()
    if told and any(word.casefold() in folded for word in hint_words):
        return "lets on that it was told the answer"
    if marker and marker.casefold() in folded:
        return "the answer marker within the rationale"
    if label:
        rest = _WORD.findall(folded.replace(metrics.normalise_text(label), " "))
        if sum(word not in _EMPTY_WORDS for word in rest) < 2:
            return "the bare answer"
    return None


class Sieve:
    """Applies rules to one rationale after another; counts what it sees and what it drops.

    Args:
      rules: see :class:`Rules`.
    """

    def __init__(self, rules: Rules):
        self.rules = rules
        self.dropped: collections.Counter[str] = collections.Counter()
        self.seen: collections.Counter[str] = collections.Counter()
        self._rows_with: collections.Counter[str] = collections.Counter()

    def row(self, rationales: Iterable[tuple[str, str | None]]) -> list[int]:
        """The rationales of one row that stay.

        Args:
          rationales: each with how it leaks (:func:`leak`), or None.

        Returns:
          their numbers, in order.
        """
        rules, kept, here = self.rules, [], set()
        for number, (text, leaks) in enumerate(rationales):
            words, key = number_of_words(text), same_text_key(text)
            if leaks:
                self.seen[f"leakage: {leaks}"] += 1
            if key in here:
                self.dropped["the same rationale twice in a row"] += 1
            elif rules.shortest is not None and words < rules.shortest:
                self.dropped["rationale too short"] += 1
            elif rules.longest is not None and words > rules.longest:
                self.dropped["rationale too long"] += 1
            elif leaks and rules.leakage == "drop":
                self.dropped[f"leakage: {leaks}"] += 1
            elif rules.most_repeats is not None and self._rows_with[key] >= rules.most_repeats:
                self.dropped["the same rationale in too many rows"] += 1
            else:
                here.add(key)
                if self._rows_with[key]:
                    self.seen["the same rationale in another row"] += 1
                self._rows_with[key] += 1
                kept.append(number)
        return kept
