"""Batches from a file of token windows, on a machine that has neither TensorFlow nor SeqIO.

:func:`write` stores the windows of a stream in an ``.npz`` file where the tasks can be read. :class:`TokenBatches` serves
them where only JAX and NumPy are installed. The order of each epoch is a permutation that the seed determines, so the data
position is two integers and a hash of the file.

The file holds the model features of :func:`distill.data.packing.fill`, each [windows, length], and ``examples``
float64 [windows]: the rows of the data that a window counts for.
"""

import dataclasses
import functools
import hashlib
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np
from etils import epath

from distill import array_files, outputs
from distill.data.counts import Counts
from distill.data.packing import Layout, Rows
from distill.data.stream import Batch, Stream
from distill.tasks import task_ids

EXAMPLES = "examples"
WEIGHTS = "decoder_loss_weights"
_ALWAYS = ("encoder_input_tokens", "decoder_input_tokens", "decoder_target_tokens", "decoder_task_ids", WEIGHTS)
_PACKED = ("encoder_segment_ids", "encoder_positions", "decoder_segment_ids", "decoder_positions")
_SHARED = ("decoder_cross_segment_ids",)
_NAME = "token windows"  # in the data position, where other streams have the names of tasks
_ORDER = 0x746F6B  # keeps the permutations apart from other draws with the same seed


def write(path: epath.PathLike, stream: Stream, batches: int | None = None) -> int:
    """Writes the windows of the next batches of a stream; windows without a target are left out.

    Args:
      path: an ``.npz`` file; replaces one that this function wrote.
      stream: of all rows of the global batch, as :class:`distill.data.batches.BatchStream`.
      batches: how many; None takes batches until every example has been seen once, of a mixture those of all tasks with a
        rate > 0. Examples of tasks that are drawn more often are then there several times, and the last batch may hold
        examples of a further epoch.

    Returns:
      The number of windows.

    Raises:
      ValueError: the stream builds a part of the global batch only, ``batches`` is below 1, or ``path`` holds another file.
    """
    if batches is not None and batches < 1:
        raise ValueError(f"batches must be ≥ 1 or None; got {batches}")
    writer = "distill.data.token_batches.write"
    outputs.check_own("the file of token windows", path, _is_own, writer, remedy="delete it")
    parts: list[dict[str, np.ndarray]] = []
    for batch in stream:
        arrays = batch.arrays
        if len(arrays["encoder_input_tokens"]) != stream.layout.windows:
            raise ValueError(f"a file of windows needs whole global batches; got a stream of rows {stream.rows}")
        sequences = _sequence_ends(arrays).sum(1)
        # An example whose two sequences are in two windows counts half in each.
        share = batch.examples * sequences / max(1, int(sequences.sum()))
        used = sequences > 0
        parts.append({name: array[used] for name, array in arrays.items()} | {EXAMPLES: share[used]})
        if len(parts) == batches or (batches is None and stream.least_epoch() >= 1.0):
            break
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    array_files.write(path, joined)
    return len(joined[EXAMPLES])


def _is_own(file: BinaryIO) -> bool:
    """Whether a file has the arrays of token windows."""
    try:
        with zipfile.ZipFile(file) as archive:
            names = {name.removesuffix(".npy") for name in archive.namelist()}
    except (zipfile.BadZipFile, NotImplementedError):
        return False
    return names >= {*_ALWAYS, EXAMPLES}


@dataclasses.dataclass(frozen=True)
class Windows:
    """The content of a file of token windows, in memory.

    Attributes:
      path: the file.
      arrays: model features, int32 or (``decoder_loss_weights``) float32 [windows, length].
      examples: float64 [windows], the rows of the data that each window counts for.
      fingerprint: SHA-256 of the file.
    """

    path: str
    arrays: Mapping[str, np.ndarray]
    examples: np.ndarray
    fingerprint: str

    @classmethod
    def read(cls, path: epath.PathLike) -> "Windows":
        """Reads and checks a file that :func:`write` wrote.

        Raises:
          ValueError: names, shapes, dtypes or values are not those of token windows.
          OSError: the file cannot be read.
        """
        content = epath.Path(path).read_bytes()
        arrays = array_files.parse(content, path, "token windows")
        problem = _problem(arrays)
        if problem is not None:
            raise ValueError(
                f"{path} holds no token windows: {problem}; write it with distill.data.token_batches.write"
            )
        examples = arrays.pop(EXAMPLES)
        return cls(str(path), arrays, examples, hashlib.sha256(content).hexdigest())

    def __len__(self) -> int:
        return len(self.examples)

    @functools.cached_property
    def largest_id(self) -> int:
        """The largest token id."""
        return max(int(array.max()) for name, array in self.arrays.items() if name.endswith("_tokens"))

    def layout(self, batch_size: int) -> Layout:
        """Returns the shape of a global batch of this number of windows."""
        inputs, targets = (self.arrays[name].shape[1] for name in ("encoder_input_tokens", "decoder_target_tokens"))
        return Layout(batch_size, inputs, targets, _PACKED[0] in self.arrays, _SHARED[0] in self.arrays)


class TokenBatches:
    """An endless iterator of batches of windows; implements :class:`distill.data.stream.Stream`.

    Every window is taken once per epoch. A batch may end one epoch and begin the next.

    Args:
      windows: the content of the file. All processes of a run read the same file.
      batch_size: windows of the global batch.
      seed: seed of the order.
      rows: the rows of the global batch to build in this process.
      shuffle: whether the order of the windows differs between epochs; False takes that of the file.
    """

    def __init__(
        self, windows: Windows, batch_size: int, *, seed: int = 0, rows: Rows = slice(None), shuffle: bool = True
    ):
        self.windows, self.seed, self.rows, self.shuffle = windows, seed, rows, shuffle
        self.layout = windows.layout(batch_size)
        self._taken = 0
        self._order: tuple[int, np.ndarray] | None = None

    @property
    def examples(self) -> int:
        """Examples in an epoch."""
        return round(float(self.windows.examples.sum()))

    @functools.cached_property
    def counts(self) -> Counts:
        """Sequences of the file by task. How many were cut is not known; the counts of those are 0."""
        ids = self.windows.arrays["decoder_task_ids"][_sequence_ends(self.windows.arrays)]
        counts = Counts()
        for task in counts.sequences:
            counts.sequences[task] = int((ids == task).sum())
        return counts

    def row_lines(self) -> list[str]:
        """None: the file does not hold the rows."""
        return []

    def lengths(self) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of all inputs and of all targets of the file: int32 [inputs], [targets]."""
        arrays = self.windows.arrays
        inputs, targets = arrays["encoder_input_tokens"] > 0, arrays["decoder_task_ids"] > 0
        return (
            _run_lengths(arrays.get("encoder_segment_ids", inputs.astype(np.int32))),
            _run_lengths(arrays.get("decoder_segment_ids", targets.astype(np.int32))),
        )

    def epoch(self) -> float:
        """Passes over the windows made so far."""
        return self._taken / len(self.windows)

    def least_epoch(self) -> float:
        """The same: the windows are one task."""
        return self.epoch()

    def position(self) -> dict[str, Any]:
        """JSON-ready position: the windows taken so far, over all epochs, and the hash of the file."""
        taken, file = {_NAME: self._taken}, {_NAME: self.windows.fingerprint}
        return {"seed": self.seed, "draws": self._taken, "consumed": taken, "data": file}

    def restore(self, position: Mapping[str, Any]) -> None:
        """Goes to ``position``. Raises ValueError if it belongs to another seed or to other data."""
        if position["seed"] != self.seed or set(position["consumed"]) != {_NAME} or "curriculum" in position:
            raise ValueError(
                f"data position of seed {position['seed']} and {sorted(position['consumed'])} does not belong to this "
                f"stream of seed {self.seed} and the {_NAME} of {self.windows.path}: train with the data that the run "
                "began with, or in another MODEL_DIR"
            )
        before, ours = position.get("data", {}).get(_NAME), self.windows.fingerprint
        if before != ours:
            raise ValueError(
                f"{self.windows.path} has changed since the checkpoint was saved (SHA-256 {str(before)[:12]}… there, "
                f"{ours[:12]}… here), so its data position counts other windows: restore the file, or train in another "
                "MODEL_DIR"
            )
        self._taken = int(position["consumed"][_NAME])

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        places = np.arange(self._taken, self._taken + self.layout.windows)
        numbers = np.concatenate(
            [self._permutation(epoch)[places[places // len(self.windows) == epoch] % len(self.windows)]
             for epoch in np.unique(places // len(self.windows)).tolist()]
        )  # fmt: skip
        # The difference of rounded sums, so that the examples of all batches add up to those of the windows taken.
        before = self._examples(self._taken)
        self._taken += self.layout.windows
        mine = numbers[self.rows]
        arrays = {name: array[mine] for name, array in self.windows.arrays.items()}
        return Batch(arrays, self.position(), self._examples(self._taken) - before, self.epoch())

    def _examples(self, taken: int) -> int:
        """Returns the examples of the first ``taken`` windows."""
        epoch, rest = divmod(taken, len(self.windows))
        part = float(self.windows.examples[self._permutation(epoch)[:rest]].sum()) if rest else 0.0
        return round(epoch * float(self.windows.examples.sum()) + part)

    def _permutation(self, epoch: int) -> np.ndarray:
        if not self.shuffle:
            return np.arange(len(self.windows))
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, np.random.default_rng([self.seed, epoch, _ORDER]).permutation(len(self.windows))
        return self._order[1]


def _problem(arrays: Mapping[str, np.ndarray]) -> str | None:
    """Returns in which way the arrays are no token windows, or None."""
    packed = _PACKED if any(name in arrays for name in (*_PACKED, *_SHARED)) else ()
    names = {*_ALWAYS, *packed, *(_SHARED if _SHARED[0] in arrays else ()), EXAMPLES}
    if set(arrays) != names:
        lacks, extra = sorted(names - set(arrays)), sorted(set(arrays) - names)
        return f"arrays {lacks} are missing" if lacks else f"arrays {extra} are not expected"
    for name, array in arrays.items():
        dtype = {EXAMPLES: np.float64, WEIGHTS: np.float32}.get(name, np.int32)
        if array.dtype != dtype or array.ndim != (1 if name == EXAMPLES else 2):
            shape = "[windows]" if name == EXAMPLES else "[windows, length]"
            return f"{name} is {array.dtype} {list(array.shape)}, expected {np.dtype(dtype)} {shape}"
    for side in ("encoder", "decoder"):
        shapes = sorted({arrays[name].shape for name in names if name.startswith(side)})
        if len(shapes) != 1 or shapes[0][0] != len(arrays[EXAMPLES]) or not min(shapes[0]):
            number = len(arrays[EXAMPLES])
            return f"the {side}'s arrays have the shapes {shapes}, expected one, of {number} windows, with no side 0"
    for name, array in arrays.items():
        length = array.shape[-1]
        largest = {"positions": length - 1, "ids": 2 * length}.get(name.rpartition("_")[2], np.iinfo(np.int32).max)
        largest = task_ids.RATIONALE if name == "decoder_task_ids" else largest
        if not np.isfinite(array).all() or array.min() < 0 or array.max() > largest:
            return f"{name} has values from {array.min()} to {array.max()}, expected 0 to {largest}"
    if not _sequence_ends(arrays).any(1).all():
        return "a window has no target tokens"
    if not arrays[EXAMPLES].sum() >= 0.5:
        return f"the examples of all windows add up to {arrays[EXAMPLES].sum()}, expected at least 1"
    return None


def _sequence_ends(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns bool [windows, length]: the last target token of each sequence."""
    segments = arrays.get("decoder_segment_ids", (arrays["decoder_task_ids"] > 0).astype(np.int32))
    following = np.pad(segments[:, 1:], ((0, 0), (0, 1)))
    return (segments > 0) & (segments != following)


def _run_lengths(segments: np.ndarray) -> np.ndarray:
    """Returns int32 [runs]: the lengths of the runs of equal ids > 0 within rows of [windows, length]."""
    padded = np.pad(segments, ((0, 0), (1, 1)))
    changes = np.flatnonzero(np.diff(padded.ravel()))
    starts, ids = changes + 1, padded.ravel()[changes + 1]
    lengths = np.diff(np.append(starts, padded.size))
    return lengths[ids > 0].astype(np.int32)
