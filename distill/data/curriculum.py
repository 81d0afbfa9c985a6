"""The order of the data from easy to hard: a function of the epoch, the examples' lengths and the seed."""

import dataclasses
from typing import Literal

import numpy as np

from distill import validation

By = Literal["targets", "inputs", "row"]
MEASURES = ("targets", "inputs", "row")


@dataclasses.dataclass(frozen=True)
class Curriculum:
    """Orders the first epochs from easy to hard, less and less strictly, and shuffles all later ones.

    In epoch ``e < epochs``, examples are sorted by ``(1 - e / epochs) · d + (e / epochs) · u``: ``d`` is the example's
    rank by difficulty and ``u`` its rank in the shuffled order, both in [0, 1). Every epoch has every example once.

    Attributes:
      by: the measure of difficulty. ``targets``: tokens of the longest target, of label and rationale if an example has
        both. ``inputs``: tokens of the longest input. ``row``: the place in the data; sort the file by any other measure.
      epochs: the number of ordered epochs; the first is strictly sorted.
      hardest_first: whether the order is from hard to easy.

    Raises:
      ValueError: an unknown measure, or ``epochs`` below 1.
    """

    by: By = "targets"
    epochs: int = 1
    hardest_first: bool = False

    def __post_init__(self) -> None:
        if self.by not in MEASURES:
            raise ValueError(f"Curriculum.by must be one of {', '.join(map(repr, MEASURES))}; got {self.by!r}")
        validation.check_range("Curriculum.epochs", self.epochs, "≥ 1")

    def order(self, shuffled: np.ndarray, lengths: np.ndarray, epoch: int) -> np.ndarray:
        """Returns the examples' numbers in the order of an epoch.

        Args:
          shuffled: int [n], a permutation of the examples' numbers: the epoch's order without a curriculum.
          lengths: int [n, slots, 2], input and target tokens of each sequence in this epoch.
          epoch: from 0.
        """
        if epoch >= self.epochs:
            return shuffled
        number = len(shuffled)
        measure = np.arange(number)
        if self.by != "row":
            measure = lengths[:, :, ("inputs", "targets").index(self.by)].max(axis=1)
        place = np.empty(number, np.int64)
        place[shuffled] = np.arange(number)
        ranked = np.lexsort((place, -measure if self.hardest_first else measure))  # equal ones in the shuffled order
        difficulty = np.empty(number, np.int64)
        difficulty[ranked] = np.arange(number)
        # Whole numbers: the order is the same on every machine.
        key = (self.epochs - epoch) * difficulty + epoch * place
        return np.lexsort((place, key))
