"""Several training examples of one record: all of its rationales, one prefix per teacher, votes as soft labels.

A record becomes one row or several. The rows of a record share its weight: the label task's weights sum to the record's
weight, and so do the rationale task's. So λ and the weight of a record do not depend on its number of rationales.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from distill import validation
from distill.tasks.key_tokens import KeyTokens
from distill.tasks.records import Record

Confidence = Literal["label", "rationale", "both"]


@dataclasses.dataclass(frozen=True)
class Variants:
    """How a record's rationales, teachers and votes become examples. Votes are used for the training split only.

    Attributes:
      all_rationales: whether each rationale becomes a row in every epoch, with its share of the weight
        (after SCoTD, arXiv 2306.14050); else the rationales stay in one row.
      max_rationales: the number of rationales to use, from the first; None uses all.
      teacher_prefixes: teacher → prefix of its rationale task (after TinyLLM, arXiv 2402.04616); None: one prefix for all.
      teacher_weights: teacher → factor on the weight of its rationales, 1 for those not named.
      soft_labels: whether the label task learns the votes as a distribution: one row per label, weighted by its share.
      temperature: the shares become ``share^(1/temperature)``, normalised; above 1 they are more even.
      confidence: the task whose weight is multiplied by the largest vote share, the teacher's confidence; None: neither.
      key_tokens: which words of the rationales weigh more; None: all weigh the same.

    Raises:
      ValueError: a value is out of its range, or prefixes are not distinct.
    """

    all_rationales: bool = False
    max_rationales: int | None = None
    teacher_prefixes: Mapping[str, str] | None = None
    teacher_weights: Mapping[str, float] | None = None
    soft_labels: bool = False
    temperature: float = 1.0
    confidence: Confidence | None = None
    key_tokens: KeyTokens | None = None

    def __post_init__(self) -> None:
        validation.check_range("max_rationales", self.max_rationales, "≥ 1 or None")
        validation.check_range("soft_label_temperature", self.temperature, "a finite number > 0")
        if self.confidence not in (None, "label", "rationale", "both"):
            raise ValueError(f"confidence must be 'label', 'rationale', 'both' or None; got {self.confidence!r}")
        for name in ("teacher_prefixes", "teacher_weights"):
            given = getattr(self, name)
            if given is not None and (not isinstance(given, Mapping) or not given):
                raise ValueError(f"{name} must map the names of teachers; got {given!r}")
        prefixes = list((self.teacher_prefixes or {}).values())
        if len(set(prefixes)) < len(prefixes) or "" in prefixes:
            raise ValueError(
                f"teacher_prefixes must be distinct and not empty; got {dict(self.teacher_prefixes or {})}"
            )
        for teacher, weight in (self.teacher_weights or {}).items():
            validation.check_range(f"teacher_weights[{teacher!r}]", weight, "a finite number ≥ 0")

    @property
    def names_teachers(self) -> bool:
        """Whether each rationale's teacher must be known."""
        return self.teacher_prefixes is not None or self.teacher_weights is not None

    def rows(self, row: Mapping[str, Any], record: Record, split: str) -> Iterator[dict[str, Any]]:
        """Yields the rows of a record.

        Args:
          row: the record's only row without variants, as :data:`distill.tasks.feeding.ROW_SPEC` describes it.
          record: the record.
          split: of the record.

        Raises:
          ValueError: a training rationale's teacher is not known, or has no prefix.
        """
        trained = split == "train"
        texts = list(row["rationales"])[: self.max_rationales]
        prefixes, factors = self._of_teachers(record, len(texts), trained)
        label, weight, rationale_weight = row["target"], row["weight"], row["rationale_weight"]
        if trained and self.confidence is not None:
            share = max((share for _, share in record.label_votes), default=1.0)
            weight *= share if self.confidence in ("label", "both") else 1.0
            rationale_weight *= share if self.confidence in ("rationale", "both") else 1.0
        labels = [(label, weight)]
        if trained and self.soft_labels and label and record.label_votes:
            labels = [(text, weight * share) for text, share in tempered(record.label_votes, self.temperature)]
        split_up = trained and self.all_rationales and len(texts) > 1
        copies = len(texts) if split_up else 1
        phrases = list(self.key_tokens.phrases(record)) if self.key_tokens is not None else []
        for number in range(max(copies, len(labels))):
            target, target_weight = labels[number] if number < len(labels) else ("", weight)
            mine = slice(number, number + 1) if split_up else slice(None) if number == 0 else slice(0, 0)
            yield dict(row) | {
                "target": target,
                "weight": target_weight,
                "rationales": texts[mine],
                "rationale_weight": rationale_weight / copies,
                "rationale_prefixes": prefixes[mine],
                "rationale_factors": factors[mine],
                "single_target": label if number < copies else "",
                "single_weight": weight / copies,
                "key_phrases": phrases,
                "is_variant": number > 0,
            }

    def _of_teachers(self, record: Record, number: int, trained: bool) -> tuple[list[str], list[float]]:
        """The prefix and the factor of each of the first ``number`` rationales; an empty prefix is the task's own."""
        if not self.names_teachers or not number or not (trained or record.rationale_teachers):
            return [""] * number, [1.0] * number
        if not record.rationale_teachers:
            raise ValueError(
                f"{record.named} does not name the teacher of its {number} rationales, which teacher_prefixes and "
                "teacher_weights need; map the field with FIELDS={'rationale_teachers': …}, or join one data set per "
                "teacher with tasks.teachers.joined"
            )
        teachers = record.rationale_teachers[:number]
        prefixes, weights = self.teacher_prefixes or {}, self.teacher_weights or {}
        for teacher in teachers if prefixes and trained else ():
            if teacher not in prefixes:
                known = ", ".join(map(repr, prefixes))
                raise ValueError(f"{record.named}: teacher_prefixes has no {teacher!r}, only {known}")
        return [prefixes.get(teacher, "") for teacher in teachers], [weights.get(teacher, 1.0) for teacher in teachers]


def tempered(votes: tuple[tuple[str, float], ...], temperature: float) -> list[tuple[str, float]]:
    """The distribution ``share^(1/temperature)``, normalised.

    >>> [(label, round(share, 6)) for label, share in tempered((("yes", 0.9), ("no", 0.1)), 2.0)]
    [('yes', 0.75), ('no', 0.25)]
    """
    powers = [share ** (1.0 / temperature) for _, share in votes]
    total = math.fsum(powers)
    return [(label, power / total) for (label, _), power in zip(votes, powers)]
