"""Batches and streams of batches, whatever their source. Imports neither TensorFlow nor SeqIO."""

import dataclasses
import threading
from collections.abc import Iterator, Mapping
from queue import Full, Queue
from typing import Any, Protocol

import numpy as np

from distill.data.counts import Counts
from distill.data.packing import Layout, Rows


@dataclasses.dataclass(frozen=True)
class Batch:
    """A training batch, and the position of the stream after it.

    Attributes:
      arrays: model features of this process's rows of the global batch.
      position: JSON-ready argument of :meth:`Stream.restore`, to continue after this batch.
      examples: rows of the sources (label and rationale of a paired example count once) in the global batch.
      epoch: passes made so far, over the task seen most often.
    """

    arrays: dict[str, np.ndarray]
    position: dict[str, Any]
    examples: int
    epoch: float


class Stream(Protocol):
    """An endless iterator of :class:`Batch`, whose order is a pure function of a seed and a small position.

    Attributes:
      layout: shape of the global batch.
      seed: seed of the order.
      rows: the rows of the global batch that this process builds.
    """

    layout: Layout
    seed: int
    rows: Rows

    @property
    def counts(self) -> Counts:
        """Sequences of an epoch, and how many of them are cut."""

    @property
    def examples(self) -> int:
        """Examples in an epoch."""

    def row_lines(self) -> list[str]:
        """Lines on which rows, and which of their rationales, are used, if that is known and not all are."""

    def lengths(self) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of inputs and of targets in the first epoch, cut to the window: int32 [inputs], [targets]."""

    def epoch(self) -> float:
        """Passes made so far, over the task seen most often."""

    def least_epoch(self) -> float:
        """Passes made so far, over the task seen least often; tasks that are never drawn do not count."""

    def position(self) -> dict[str, Any]:
        """JSON-ready position after the batches so far."""

    def restore(self, position: Mapping[str, Any]) -> None:
        """Goes to ``position``. Raises ValueError if it belongs to another seed or to other data."""

    def __iter__(self) -> Iterator[Batch]: ...

    def __next__(self) -> Batch: ...


class Prefetch:
    """Makes batches in a background thread, a few ahead. The next call of ``next`` raises an error of that thread."""

    def __init__(self, stream: Iterator[Batch], ahead: int = 2):
        self._queue: Queue = Queue(maxsize=ahead)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(stream,), daemon=True, name="batches")
        self._thread.start()

    def _run(self, stream: Iterator[Batch]) -> None:
        try:
            for batch in stream:
                if not self._put(batch):
                    return
        except Exception as error:  # handed to the consumer, which raises it
            self._put(error)

    def _put(self, item: Batch | Exception) -> bool:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=0.2)
                return True
            except Full:
                continue
        return False

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        item = self._queue.get()
        if isinstance(item, Exception):
            raise item
        return item

    def close(self) -> None:
        """Ends the thread."""
        self._stop.set()
        self._thread.join(timeout=10)
