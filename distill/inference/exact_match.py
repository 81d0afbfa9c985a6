"""Exact match of decoded token ids with targets, from a file of rows: an evaluation without text, SeqIO or TensorFlow."""

from typing import Any

import numpy as np
from etils import epath

from distill import array_files
from distill.data.trimming import EOS_ID
from distill.inference.decoder import Decoder

_NAMES = ("inputs", "targets")


def write_rows(path: epath.PathLike, inputs: list[np.ndarray], targets: list[np.ndarray]) -> None:
    """Writes rows for :class:`ExactMatch`.

    Args:
      path: an ``.npz`` file, replaced if it exists.
      inputs: int32 ids of each row, EOS included, as the student is trained on them (with the task's prefix).
      targets: int32 ids of each row's label, EOS included.
    """
    array_files.write(path, {"inputs": _padded(inputs), "targets": _padded(targets)})


class ExactMatch:
    """Rows to decode and compare, read once, to be scored again and again.

    Args:
      path: a file that :func:`write_rows` wrote: ``inputs`` and ``targets``, int32 [rows, length], padded with 0.
      decoder: how to decode.

    Raises:
      ValueError: the file holds no such rows, ids that the student does not have, or only targets that are longer than
        the decoded length.
      OSError: the file cannot be read.
    """

    def __init__(self, path: epath.PathLike, decoder: Decoder):
        arrays = array_files.read(path, "rows of inputs and targets")
        problem = _problem(arrays, decoder)
        if problem is not None:
            raise ValueError(f"{path} holds no rows to score: {problem}; write it with distill.inference.exact_match")
        self._decoder = decoder
        self._inputs = [row[row > 0] for row in arrays["inputs"]]
        self._targets = [row[(row > 0) & (row != EOS_ID)] for row in arrays["targets"]]

    def __len__(self) -> int:
        return len(self._inputs)

    def __call__(self, params: Any) -> dict[str, float]:
        """Decodes all rows with ``params``. Returns ``exact_match``, the percentage of rows equal to their target."""
        predictions = self._decoder(params, self._inputs)
        same = [np.array_equal(found.tokens, target) for found, target in zip(predictions, self._targets, strict=True)]
        return {"exact_match": 100.0 * sum(same) / len(same)}


def _problem(arrays: dict[str, np.ndarray], decoder: Decoder) -> str | None:
    if set(arrays) != set(_NAMES):
        return f"it has the arrays {sorted(arrays)}, expected {sorted(_NAMES)}"
    for name, array in arrays.items():
        if array.dtype != np.int32 or array.ndim != 2 or not array.size:
            return f"{name} is {array.dtype} {list(array.shape)}, expected int32 [rows, length], not empty"
        if array.min() < 0 or array.max() >= decoder.model.vocab_size:
            got, size = f"{array.min()} to {array.max()}", decoder.model.vocab_size
            return f"{name} has ids from {got}, expected 0 to {size - 1}, the student's vocabulary"
        if not (array > 0).any(1).all():
            return f"a row of {name} is empty"
    if len(arrays["inputs"]) != len(arrays["targets"]):
        return f"it has {len(arrays['inputs'])} inputs and {len(arrays['targets'])} targets, expected as many"
    shortest, limit = int((arrays["targets"] > 0).sum(1).min()), decoder.config.max_decode_len
    if shortest > limit:
        return f"its shortest target has {shortest} tokens, expected at most max_decode_len = {limit}"
    return None


def _padded(rows: list[np.ndarray]) -> np.ndarray:
    out = np.zeros((len(rows), max(map(len, rows))), np.int32)
    for number, row in enumerate(rows):
        out[number, : len(row)] = row
    return out
