"""What the accelerator benchmark measures: sizes, sets of rows, batches, and the operations that a step must do."""

import argparse
import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from distill.data.packing import Layout, Packer, TokenPair
from distill.model.config import T5Config
from distill.tasks import task_ids

SIZES = {
    "nano": T5Config(32128, 16, 2, 8, 32, 1, 1),  # for tests of these programs
    "tiny": T5Config(32128, 64, 4, 16, 128, 2, 2),
    "small": T5Config(32128, 512, 6, 64, 1024, 8, 8),
    "base": T5Config(32128, 768, 12, 64, 2048, 12, 12),
    "large": T5Config(32128, 1024, 16, 64, 2816, 24, 24),
}
# Lengths of a window per set, near the ratio of input to target tokens of its rows, multiples of 32.
LENGTHS = {"svamp": (256, 160), "cqa": (256, 96), "nli": (256, 64)}
SETS = tuple(LENGTHS)
PARTS = ("label_inputs", "label_targets", "rationale_inputs", "rationale_targets")


class Row(NamedTuple):
    """The tokens of one row of a set, int32 with EOS."""

    label_inputs: np.ndarray
    label_targets: np.ndarray
    rationale_inputs: np.ndarray
    rationale_targets: np.ndarray

    @property
    def pairs(self) -> list[TokenPair]:
        """The label sequence and the rationale sequence, every target token with weight 1."""
        return [
            TokenPair(inputs, targets, np.full(len(targets), task, np.int32), np.ones(len(targets), np.float32))
            for inputs, targets, task in (
                (self.label_inputs, self.label_targets, task_ids.LABEL),
                (self.rationale_inputs, self.rationale_targets, task_ids.RATIONALE),
            )
        ]

    @property
    def tokens(self) -> int:
        """Tokens of all inputs and targets."""
        return sum(map(len, self))


@dataclasses.dataclass(frozen=True)
class Batch:
    """A batch for the training step.

    Attributes:
      arrays: the model's features, [windows, length].
      examples: rows of the set.
      tokens: tokens that are no padding.
    """

    arrays: dict[str, np.ndarray]
    examples: int
    tokens: int


def parser(description: str | None, groups: Iterable[str] = ()) -> argparse.ArgumentParser:
    """The flags of a part that reads ``--data`` and writes to ``--out``, and runs all of its groups or one of them."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--data", required=True, type=Path)
    made.add_argument("--out", required=True, type=Path)
    if groups:
        made.add_argument("--group", choices=groups, help="measure this group only")
        made.add_argument("--size", choices=SIZES, help="instead of all groups, a few measurements of this size")
    return made


def write_rows(path: Path, sets: dict[str, list[Row]]) -> None:
    """Writes sets of rows to a compressed ``.npz``: per set and part, all tokens and the ends of the rows."""
    arrays: dict[str, Any] = {}
    for name, rows in sets.items():
        for part in PARTS:
            pieces = [getattr(row, part) for row in rows]
            arrays[f"{name}/{part}"] = np.concatenate(pieces).astype(np.uint16)
            arrays[f"{name}/{part}/ends"] = np.cumsum([len(piece) for piece in pieces]).astype(np.int32)
    np.savez_compressed(path, **arrays)


def read_rows(path: Path, name: str) -> list[Row]:
    """Returns the rows of one set of a file of :func:`write_rows`."""
    with np.load(path, allow_pickle=False) as arrays:
        parts = [
            np.split(arrays[f"{name}/{part}"].astype(np.int32), arrays[f"{name}/{part}/ends"][:-1]) for part in PARTS
        ]
    return [Row(*pieces) for pieces in zip(*parts, strict=True)]


def batches(rows: list[Row], layout: Layout) -> Iterator[Batch]:
    """Yields full batches of ``rows`` in their order, packed by the project's packer, without end."""
    packer, examples, tokens = Packer(layout), 0, 0
    while True:
        before = examples
        for row in rows:
            if not packer.add(row.pairs):
                yield Batch(packer.emit(), examples, tokens)
                examples = tokens = 0
                packer.add(row.pairs)
            examples, tokens = examples + 1, tokens + row.tokens
        if not layout.packed or examples == before:
            return


def step_flops(config: T5Config, sequences: int, inputs: int, targets: int) -> float:
    """Operations of the matrix products of one update (forward and backward), recomputation not included.

    The backward pass has twice the operations of the forward pass. Every position counts, padding too.

    Args:
      config: the network.
      sequences: rows of the batch.
      inputs, targets: positions per row.
    """
    from distill.precompile import model_flops  # imports JAX, which the PyTorch side needs for this alone

    return 3.0 * model_flops.forward_flops(config, Layout(sequences, inputs, targets))
