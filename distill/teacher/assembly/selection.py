"""Selection of rationales to train on. Dropped rationales are counted by reason."""

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
_CHOICE_MARK = re.compile(r"\(?\b[a-z]\)")
_INTRODUCING = re.compile(
    "the|an?|so|is|are|was|be|must|would|should|answer|label|option|choice|correct|right|best|therefore|thus|hence|its?|this|"
    "that|these|those|final|result|of|to|in|i|we|think|choose"
)
"""Words that introduce an answer and explain nothing."""


@dataclasses.dataclass(frozen=True)
class Rules:
    """Selection rules. The defaults drop only rationales that contradict the vote.

    Attributes:
      keep: with several samples or teachers, ``agreeing`` drops the rationales that argue for another answer than the vote;
        those without a single answer stay. ``all`` drops none.
      on_disagreement: action if the vote is not the gold label: ``keep``, ``drop_rationale``, or
        ``drop_row``. (It does not apply to rows without a gold label. Training can still drop or down-weight
        rationales, with its ``ON_DISAGREEMENT``.)
      least_share: smallest vote share; a row below it keeps neither rationale nor teacher label.
      shortest, longest: bounds on the number of words of a rationale; None: no bound.
      most_repeats: how many rows may share the same rationale; None: any number. Further rows lose it.
      leakage: action for a rationale that gives the answer instead of explaining it: it is the bare answer (no other
        words than the answer and those that introduce one, as "so it must be"), repeats the answer marker, or
        reveals that the answer was given. ``count`` or ``drop``.
      weight_by_agreement: a row's weight is multiplied by its vote share.
      drop_empty_rows: drop rows with neither a label nor a rationale.
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

    def __post_init__(self) -> None:
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


def number_of_words(text: str) -> int:
    """Words in ``text``, by white space."""
    return len(text.split())


def leak(
    rationale: str, label: str | None, *, marker: str = "", hint_words: Sequence[str] = (), told: bool = False
) -> str | None:
    """The way in which a rationale gives the answer away, or None.

    Args:
      rationale: the reasoning.
      label: the answer.
      marker: the text before the answer in replies ("So the answer is").
      hint_words: words that reveal that the answer was given.
      told: whether the request gave the answer.
    """
    folded = rationale.casefold()
    if told and any(word.casefold() in folded for word in hint_words):
        return "reveals that it was given the answer"
    if marker and marker.casefold() in folded:
        return "the answer marker within the rationale"
    if label:
        answer = r"\s+".join(map(re.escape, metrics.normalise_text(label).split()))
        rest = _WORD.findall(_CHOICE_MARK.sub(" ", re.sub(rf"(?<!\w){answer}(?!\w)", " ", folded)))
        if all(map(_INTRODUCING.fullmatch, rest)):
            return "the bare answer"
    return None


class Sieve:
    """Applies the rules to successive rows; counts observations and dropped rationales.

    Args:
      rules: see :class:`Rules`.
    """

    def __init__(self, rules: Rules):
        self.rules = rules
        self.dropped: collections.Counter[str] = collections.Counter()
        self.seen: collections.Counter[str] = collections.Counter()
        self._rows_with: collections.Counter[str] = collections.Counter()

    def row(self, rationales: Iterable[tuple[str, str | None]]) -> list[int]:
        """Indices of the rationales of one row to keep.

        Args:
          rationales: each with its kind of leakage (:func:`leak`), or None.

        Returns:
          the indices, in order.
        """
        rules, kept, here = self.rules, [], set()
        for number, (text, leaks) in enumerate(rationales):
            words, key = number_of_words(text), metrics.same_text_key(text)
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
