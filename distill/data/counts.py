"""Counts of sequences, and of those that are cut to the window. Imports neither TensorFlow nor SeqIO."""

import dataclasses

from distill.tasks import task_ids


@dataclasses.dataclass
class Counts:
    """Statistics of the sequences of an epoch. All counts are of sequences; an example of a paired task has up to two.

    Attributes:
      sequences: number of sequences, by task id.
      truncated_inputs, truncated_targets: number of sequences truncated to the window, by task id.
    """

    sequences: dict[int, int] = dataclasses.field(default_factory=lambda: {task_ids.LABEL: 0, task_ids.RATIONALE: 0})
    truncated_inputs: dict[int, int] = dataclasses.field(
        default_factory=lambda: {task_ids.LABEL: 0, task_ids.RATIONALE: 0}
    )
    truncated_targets: dict[int, int] = dataclasses.field(
        default_factory=lambda: {task_ids.LABEL: 0, task_ids.RATIONALE: 0}
    )

    def add(self, other: "Counts") -> None:
        """Adds the counts of ``other`` in place."""
        for field in dataclasses.fields(self):
            mine = getattr(self, field.name)
            for task, number in getattr(other, field.name).items():
                mine[task] += number

    def share_truncated(self) -> float:
        """Returns the share of truncated sequences; a sequence truncated on both sides counts twice."""
        truncated = sum(self.truncated_inputs.values()) + sum(self.truncated_targets.values())
        return truncated / max(1, sum(self.sequences.values()))
