"""Which checkpoints of a run are kept: the last N, the best K on validation, and every M-th step."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from etils import epath
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, EveryNSteps, LatestN

from distill.checkpoints import schemas
from distill.checkpoints.digests import Damaged


@dataclasses.dataclass
class BestScores:
    """An Orbax preservation policy: the ``n`` steps with the best validation scores, of equal ones the earliest.

    Attributes:
      n: number of steps.
      scores: validation score by step, added to by :meth:`add`. Steps that were not validated have none.
      higher_is_better: whether the best scores are the highest ones, as the newest ``progress`` states.
    """

    n: int
    scores: dict[int, float] = dataclasses.field(default_factory=dict)
    higher_is_better: bool = True

    def add(self, step: int, progress: Mapping[str, Any]) -> None:
        """Notes the score of ``step``, if ``progress`` was saved right after a validation."""
        if progress.get("score_step") == step and step:
            self.scores[step], self.higher_is_better = progress["score"], progress.get("higher_is_better", True)

    def read(self, directory: epath.Path, steps: Iterable[int]) -> None:
        """Notes the scores of existing steps from their ``progress``; a damaged one counts as not validated."""
        for step in steps:
            try:
                self.add(step, schemas.read_json(directory / str(step), "progress"))
            except Damaged:
                continue

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        """Returns, for each checkpoint, whether it is among the best; see Orbax's ``PreservationPolicy``."""
        del context
        sign = -1.0 if self.higher_is_better else 1.0
        scored = [(sign * self.scores[info.step], info.step) for info in checkpoints if info.step in self.scores]
        best = {step for _, step in sorted(scored)[: self.n]}
        return [info.step in best for info in checkpoints]


def policy(keep: int, keep_every: int | None, best: BestScores | None) -> AnyPreservationPolicy:
    """Returns the Orbax policy that keeps the last ``keep`` steps, the multiples of ``keep_every`` and the best ones."""
    every = [EveryNSteps(keep_every)] if keep_every is not None else []
    return AnyPreservationPolicy([LatestN(keep), *every, *([best] if best is not None else [])])
