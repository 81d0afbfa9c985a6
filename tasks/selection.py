"""Which of a record's answers and rationales are trained on, and how heavily."""

import dataclasses
from typing import Literal

from distill import validation
from distill.tasks import splits
from distill.tasks.dataset import Dataset
from distill.tasks.records import Record
from distill.tasks.variants import Variants

LabelSource = Literal["gold", "teacher"]
OnDisagreement = Literal["keep", "drop_rationale", "down_weight"]


@dataclasses.dataclass(frozen=True)
class Selection:
    """The parts of a row to learn.

    Attributes:
      label_source: ``gold`` or ``teacher``. Applies to the training split: evaluation always uses the gold answer,
        where the row has one.
      on_disagreement: treatment of the rationale of a training row whose teacher label is not the gold answer (or cannot
        be read): ``keep``, ``drop_rationale``, or ``down_weight``.
      disagreement_weight: with ``down_weight``, the factor on its weight.
      subsample: share of the training rows to use; smaller ones are contained in larger ones.
      subsample_seed: another seed selects other rows.
      subsample_validation: whether validation rows taken from the training file are also subsampled, as the published
        code does. By default they are not, so that all sizes are validated on the same rows.
      variants: several examples of one record; None makes one of each.
    """

    label_source: LabelSource = "gold"
    on_disagreement: OnDisagreement = "keep"
    disagreement_weight: float = 0.5
    subsample: float = 1.0
    subsample_seed: int = 0
    subsample_validation: bool = False
    variants: Variants | None = None

    def __post_init__(self) -> None:
        if self.label_source not in ("gold", "teacher"):
            raise ValueError(f"label_source must be 'gold' or 'teacher'; got {self.label_source!r}")
        if self.on_disagreement not in ("keep", "drop_rationale", "down_weight"):
            raise ValueError(
                f"on_disagreement must be 'keep', 'drop_rationale' or 'down_weight'; got {self.on_disagreement!r}"
            )
        validation.check_range("disagreement_weight", self.disagreement_weight, "a finite number ≥ 0")
        if self.variants is not None and self.variants.soft_labels and self.label_source != "teacher":
            raise ValueError(
                f"soft_labels are the teacher's votes; they need label_source='teacher', got {self.label_source!r}"
            )
        validation.check_range("subsample", self.subsample, "in (0, 1]")

    def wants(self, record: Record, split: str, dataset: Dataset) -> bool:
        """Whether the row is in the subsample (rows of other splits than train always are)."""
        affected = split == "train" or (split == "validation" and self.subsample_validation and dataset.cuts_validation)
        if self.subsample == 1 or not affected:
            return True
        return splits.in_subsample(record, fraction=self.subsample, seed=self.subsample_seed)

    def target(self, record: Record, split: str) -> str | None:
        """The label to learn (train) or to be measured against (elsewhere); None if the row has none."""
        if self.label_source == "gold":
            return record.label
        if split == "train":
            return record.llm_label
        return record.label if record.label is not None else record.llm_label

    def rationale_weight(self, record: Record, split: str, dataset: Dataset) -> float | None:
        """The factor on the rationale's weight, or None if the rationale is not to be used."""
        if self.on_disagreement == "keep" or split != "train" or record.label is None:
            return 1.0
        if record.llm_label is not None and dataset.same_answer(record, record.llm_label):
            return 1.0
        return None if self.on_disagreement == "drop_rationale" else self.disagreement_weight
