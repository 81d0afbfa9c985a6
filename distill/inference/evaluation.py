"""The outcome of an evaluation. Imports neither TensorFlow nor SeqIO."""

import dataclasses
import json
from typing import Any

from etils import epath

from distill import atomic_files


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The outcome on one split.

    Attributes:
      metrics: the task's metrics by name.
      rows: one JSON-ready dict per example: ``id``, ``target``, ``prediction`` and ``input`` texts; ``correct``, None for a
        task without accuracy; ``rationale`` and ``teacher``, the row's own rationale and teacher's label, None where it has
        none; ``score``, the log-probability of the prediction; ``error``, why the prediction has no answer, if it has
        none; of chosen answers also ``choices`` and their ``probabilities``, in the same order.
      settings: what was scored and how, JSON-ready; empty if that is not known.
      cut: predictions that reached the maximum number of tokens, and may be incomplete.
      empty: predictions without a visible character.
    """

    metrics: dict[str, float]
    rows: list[dict[str, Any]]
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    cut: int = 0
    empty: int = 0

    def write(self, path: epath.PathLike) -> None:
        """Writes the rows as JSON lines."""
        path = epath.Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_files.replace(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in self.rows))
