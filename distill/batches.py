"""Global batches from SeqIO tasks, in an order that is a pure function of a seed and a small position.

SeqIO tasks say what an example is; this module says which examples meet in which batch. Each epoch of a task is read once
through SeqIO, unshuffled, and held as numpy arrays; the order within an epoch, the draws between the tasks of a mixture
and the packing are then computed, not streamed. So the position of the data is a few integers (it goes into the
checkpoint), restoring it costs nothing, and every process of a multi-host run can take its rows of the same global batch.
"""

import dataclasses
import threading
import zlib
from collections.abc import Iterator, Mapping
from queue import Full, Queue
from typing import Any

import numpy as np
import seqio

from distill import features
from distill.packing import Layout, Packer, TokenPair
from tasks import registration

_BLOCK = 4096  # mixture draws computed at once


@dataclasses.dataclass(frozen=True)
class Batch:
    """A training batch, and where the stream stands after it.

    Attributes:
      arrays: model features; this process's rows of the global batch.
      position: JSON-ready; give it to :meth:`BatchStream.restore` to go on behind this batch.
      examples: rows of the sources (label and rationale of a paired example count once) in the global batch.
      epoch: passes made so far, over the task seen most often.
    """

    arrays: dict[str, np.ndarray]
    position: dict[str, Any]
    examples: int
    epoch: float


class _Examples:
    """One task's examples, an epoch at a time, as groups of sequences ready to be packed."""

    def __init__(self, task: seqio.Task, split: str, seed: int, layout: Layout, counts: features.Counts):
        self._task, self._split, self._seed, self._layout, self._counts = task, split, seed, layout, counts
        self._random = registration.draws_at_random(task.name, split)
        self._groups: list[list[TokenPair]] = []
        self._epoch: int | None = None
        self._order: tuple[int, np.ndarray] | None = None

    @property
    def size(self) -> int:
        """Examples in an epoch; reads the first one if nothing has been read."""
        if self._epoch is None:
            self.groups(0)
        return len(self._groups)

    def groups(self, epoch: int) -> list[list[TokenPair]]:
        """The epoch's examples in source order. Read once, or every epoch where the task draws at random."""
        if self._epoch is None or (self._random and self._epoch != epoch):
            counts = features.Counts()
            read = (features.to_group(example, self._layout, counts) for example in self._read(epoch))
            groups = [group for group in read if group]
            if self._epoch is None:
                self._counts.add(counts)
            elif len(groups) != len(self._groups):
                raise ValueError(
                    f"task {self._task.name!r} gave {len(self._groups)} examples in epoch {self._epoch} and "
                    f"{len(groups)} in epoch {epoch}; epochs must not differ in size"
                )
            if not groups:
                raise ValueError(
                    f"task {self._task.name!r} has no usable example in split {self._split!r}; it needs rows with a label "
                    "(LABEL_SOURCE=teacher: the teacher's, llm_label) or, for the rationale task, with a rationale"
                )
            self._groups, self._epoch = groups, epoch
        return self._groups

    def _read(self, epoch: int) -> Iterator[dict[str, np.ndarray]]:
        dataset = self._task.get_dataset(
            sequence_length=None,
            split=self._split,
            shuffle=False,
            seed=_seed(self._seed, epoch, self._task.name),
            trim_output_features=False,
        )
        return features.token_features(dataset).as_numpy_iterator()

    def order(self, epoch: int, shuffle: bool) -> np.ndarray:
        """A permutation of the epoch's examples (the identity without ``shuffle``)."""
        if not shuffle:
            return np.arange(self.size)
        if self._order is None or self._order[0] != epoch:
            rng = np.random.default_rng([self._seed, epoch, _name_seed(self._task.name)])
            self._order = (epoch, rng.permutation(self.size))
        return self._order[1]


def _name_seed(name: str) -> int:
    return zlib.crc32(name.encode())


def _seed(seed: int, epoch: int, name: str) -> int:
    return int(np.random.SeedSequence([seed, epoch, _name_seed(name)]).generate_state(1)[0]) & 0x7FFFFFFF


class BatchStream:
    """An endless iterator of :class:`Batch`.

    Args:
      mixture_or_task_name: a registered SeqIO task or mixture (rates are honoured per draw).
      layout: rows and window of the *global* batch.
      split: SeqIO split.
      seed: of the order, the mixture's draws and the choice among several rationales.
      rows: the rows of the global batch this process wants.
      shuffle: whether each epoch has an order of its own.
    """

    def __init__(
        self,
        mixture_or_task_name: str,
        layout: Layout,
        *,
        split: str = "train",
        seed: int = 0,
        rows: slice = slice(None),
        shuffle: bool = True,
    ):
        provider = registration.get(mixture_or_task_name)
        self.layout, self.seed, self.rows, self.shuffle = layout, seed, rows, shuffle
        self.counts = features.Counts()
        tasks = provider.tasks if isinstance(provider, seqio.Mixture) else [provider]
        self._sources = {task.name: _Examples(task, split, seed, layout, self.counts) for task in tasks}
        if isinstance(provider, seqio.Mixture):
            rates = np.array([provider.get_rate(task) for task in tasks], np.float64)
            if not (rates >= 0).all() or rates.sum() <= 0:
                raise ValueError(
                    f"mixture {mixture_or_task_name!r} needs rates ≥ 0 that do not all vanish; got {rates}"
                )
            self._rates = rates / rates.sum()
        else:
            self._rates = np.ones(1)
        self._names = [task.name for task in tasks]
        self._packer = Packer(layout)
        self._draws = 0
        self._position = dict.fromkeys(self._names, 0)
        self._block: tuple[int, np.ndarray] | None = None

    def position(self) -> dict[str, Any]:
        """JSON-ready position: what the batches handed out so far have consumed."""
        return {"seed": self.seed, "draws": self._draws, "consumed": dict(self._position)}

    def restore(self, position: Mapping[str, Any]) -> None:
        """Goes to ``position``. Raises ValueError if it belongs to another seed or other tasks."""
        if position["seed"] != self.seed or set(position["consumed"]) != set(self._names):
            raise ValueError(
                f"data position of seed {position['seed']} and tasks {sorted(position['consumed'])} does not belong to "
                f"this stream of seed {self.seed} and tasks {sorted(self._names)}"
            )
        self._draws = int(position["draws"])
        self._position = {name: int(at) for name, at in position["consumed"].items()}

    def _drawn(self, draw: int) -> str:
        if len(self._names) == 1:
            return self._names[0]
        block = draw // _BLOCK
        if self._block is None or self._block[0] != block:
            rng = np.random.default_rng([self.seed, block, 0x6D6978])
            self._block = (block, rng.choice(len(self._names), size=_BLOCK, p=self._rates))
        return self._names[self._block[1][draw % _BLOCK]]

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        taken = 0
        while True:
            name = self._drawn(self._draws)
            source = self._sources[name]
            epoch, index = divmod(self._position[name], source.size)
            group = source.groups(epoch)[source.order(epoch, self.shuffle)[index]]
            if not self._packer.add(group):
                break
            self._draws += 1
            self._position[name] += 1
            taken += 1
        return Batch(self._packer.emit(self.rows), self.position(), taken, self.epoch())

    def epoch(self) -> float:
        """Passes made over the task that has been through most (0.0 before the first batch)."""
        return max(at / self._sources[name].size if at else 0.0 for name, at in self._position.items())


class Prefetch:
    """Makes batches on a thread of its own, a few ahead. An error there is raised at the next ``next``."""

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
