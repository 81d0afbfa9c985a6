"""Counts of sequences, and of those that are cut to the window. Imports neither TensorFlow nor SeqIO."""

import dataclasses

from distill.tasks import task_ids


@dataclasses.dataclass
class Counts:
    """Statistics of the sequences of an epoch. All counts are of sequences; an example of a paired task has up to two.

    Attributes:
      sequences: number of sequences, by task id.
      truncated_inputs, truncated_targets: number of sequences whose inputs, or targets, are truncated to the window, by
        task id.
      truncated: number of sequences that are truncated on at least one side, by task id.
      longest_inputs, longest_targets: tokens that the longest sequence needs in a window, before it is truncated.
      label_is_last: whether the label follows the rationale in targets, so that truncated ones lose it.
    """

    sequences: dict[int, int] = dataclasses.field(default_factory=lambda: {task_ids.LABEL: 0, task_ids.RATIONALE: 0})
    truncated_inputs: dict[int, int] = dataclasses.field(
        default_factory=lambda: {task_ids.LABEL: 0, task_ids.RATIONALE: 0}
    )
    truncated_targets: dict[int, int] = dataclasses.field(
        default_factory=lambda: {task_ids.LABEL: 0, task_ids.RATIONALE: 0}
    )
    truncated: dict[int, int] = dataclasses.field(default_factory=lambda: {task_ids.LABEL: 0, task_ids.RATIONALE: 0})
    longest_inputs: int = 0
    longest_targets: int = 0
    label_is_last: bool = False

    def add(self, other: "Counts") -> None:
        """Adds the counts of ``other`` in place."""
        for name in ("sequences", "truncated_inputs", "truncated_targets", "truncated"):
            mine = getattr(self, name)
            for task, number in getattr(other, name).items():
                mine[task] += number
        self.longest_inputs = max(self.longest_inputs, other.longest_inputs)
        self.longest_targets = max(self.longest_targets, other.longest_targets)
        self.label_is_last |= other.label_is_last

    def share_truncated(self) -> float:
        """Returns the share of truncated sequences, in [0, 1]; a sequence truncated on both sides counts once."""
        return sum(self.truncated.values()) / max(1, sum(self.sequences.values()))
