"""Global batches from SeqIO tasks, in an order that is a pure function of a seed and a small position.

SeqIO tasks define the examples; this module assigns them to batches. The order within an epoch, the draws between the
tasks of a mixture and the packing are computed, not streamed. The data position is therefore a few integers, which are
saved in the checkpoint, and restoring it reads no data. Every process of a multi-host run computes the same plan of a
global batch from lengths, and reads only the tokens of its rows.
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import seqio
from etils import epath

from distill.counting import share
from distill.data import cache, unknown_tokens
from distill.data.counts import Counts
from distill.data.curriculum import Curriculum
from distill.data.examples import Examples, KnownRows, SeqioExamples, check_both_tasks, fingerprint, name_seed
from distill.data.packing import Layout, Planner, Rows, Sequences, fill
from distill.data.stream import Batch
from distill.tasks import registration, task_ids
from distill.tasks.feeding import RecordDataSource

_BLOCK = 4096  # mixture draws, or examples in order, computed at a time


class _Order:
    """One task's examples in the order in which they are drawn: one permutation per epoch."""

    def __init__(self, examples: Examples, seed: int, shuffle: bool, curriculum: Curriculum | None = None):
        self.examples, self._seed, self._shuffle, self._curriculum = examples, seed, shuffle, curriculum
        self._order: tuple[int, np.ndarray] | None = None
        self._block: tuple[int, int, list[list[int]]] | None = None

    def at(self, position: int) -> tuple[int, int, list[int], list[tuple[int, int]]]:
        """Returns the example at a position: its epoch, its number, its present slots, and their lengths."""
        epoch, index = divmod(position, self.examples.size)
        block, offset = divmod(index, _BLOCK)
        if self._block is None or self._block[0] != epoch or self._block[1] != block:
            self._block = epoch, block, self._columns(epoch, block)
        numbers, *columns = self._block[2]
        slots, lengths = [], []
        for slot in range(len(columns) // 2):
            if targets := columns[2 * slot + 1][offset]:
                slots.append(slot)
                lengths.append((columns[2 * slot][offset], targets))
        return epoch, numbers[offset], slots, lengths

    def _columns(self, epoch: int, block: int) -> list[list[int]]:
        """Returns the numbers of a block's examples, and the input and target lengths of each slot.

        They are lists of numbers, not lists of lists: Python's garbage collector traverses containers of objects.
        """
        numbers = self._permutation(epoch)[block * _BLOCK : (block + 1) * _BLOCK]
        lengths = self.examples.lengths(epoch)[numbers]
        return [numbers.tolist(), *(column.tolist() for column in lengths.reshape(len(numbers), -1).T)]

    def _permutation(self, epoch: int) -> np.ndarray:
        if not self._shuffle:
            return np.arange(self.examples.size)
        if self._order is None or self._order[0] != epoch:
            rng = np.random.default_rng([self._seed, epoch, name_seed(self.examples.name)])
            order = rng.permutation(self.examples.size)
            if self._curriculum is not None:
                order = self._curriculum.order(order, self.examples.lengths(epoch), epoch)
            self._order = (epoch, order)
        return self._order[1]


class BatchStream:
    """An endless iterator of :class:`Batch`; implements :class:`distill.data.stream.Stream`.

    Args:
      mixture_or_task_name: a registered SeqIO task or mixture (rates are honoured per draw).
      layout: shape of the *global* batch.
      split: SeqIO split.
      seed: seed of the order, the draws of the mixture and the draws among several rationales.
      rows: the rows of the global batch to build in this process.
      shuffle: whether the order of the examples differs between epochs.
      cache_dir: folder that ``distill cache`` wrote for these tasks, to read instead of SeqIO. The batches are the same.
        The files of the rows are not needed; if they exist, they must hold the rows of the cache.
      curriculum: the order of the first epochs; None shuffles all. Each task of a mixture is ordered by itself.

    Raises:
      ValueError: an argument does not fit the tasks, a task of labels and rationales has none of one kind to train on, or
        the cache cannot be read or is of other rows than those of the files.
    """

    def __init__(
        self,
        mixture_or_task_name: str,
        layout: Layout,
        *,
        split: str = "train",
        seed: int = 0,
        rows: Rows = slice(None),
        shuffle: bool = True,
        cache_dir: epath.PathLike | None = None,
        curriculum: Curriculum | None = None,
    ):
        if curriculum is not None and not shuffle:
            raise ValueError(f"a curriculum orders shuffled data; got shuffle=False and {curriculum}: set shuffle=True")
        provider = registration.get(mixture_or_task_name)
        self.layout, self.seed, self.rows, self.shuffle = layout, seed, rows, shuffle
        self._curriculum = curriculum
        tasks = provider.tasks if isinstance(provider, seqio.Mixture) else [provider]
        self._sources: dict[str, _Order] = {}
        self._split, self._tasks = split, {task.name: task for task in tasks}
        for task in tasks:
            if registration.shares_input(task.name) != layout.shared_encoder:
                kind = "a task whose sequences share their input" if layout.shared_encoder else "tasks of other forms"
                raise ValueError(
                    f"a layout with shared_encoder={layout.shared_encoder} is for {kind}; got {task.name!r}"
                )
            examples: Examples
            if cache_dir is None:
                examples = SeqioExamples(task, split, seed, layout)
            else:
                examples = cached = cache.CachedExamples(cache_dir, task.name, split, layout)
                if not self._sources:  # the tasks of a cache are forms of one data set
                    cache.check_rows(cache_dir, cached.rows.rows_sha256(split), task.source, split)
            if split == "train":
                check_both_tasks(task, examples, split)
                unknown_tokens.check(task, examples, split)
            self._sources[task.name] = _Order(examples, seed, shuffle, curriculum)
        if isinstance(provider, seqio.Mixture):
            rates = np.array([provider.get_rate(task) for task in tasks], np.float64)
            if not (rates >= 0).all() or rates.sum() <= 0:
                raise ValueError(
                    f"mixture {mixture_or_task_name!r} needs rates ≥ 0, at least one of them > 0; got {rates}"
                )
            self._rates = rates / rates.sum()
        else:
            self._rates = np.ones(1)
        self._names = [task.name for task in tasks]
        self._planner = Planner(layout)
        self._draws = 0
        self._position = dict.fromkeys(self._names, 0)
        self._block: tuple[int, list[int]] | None = None

    @property
    def counts(self) -> Counts:
        """Sequences of an epoch, and how many of them are cut, over the tasks read so far."""
        counts = Counts(label_is_last=any(map(registration.label_is_last, self._names)))
        for source in self._sources.values():
            counts.add(source.examples.counts)
        return counts

    @property
    def examples(self) -> int:
        """Examples in an epoch, over all tasks."""
        return sum(source.examples.size for source in self._sources.values())

    def size(self, task_name: str) -> int:
        """Examples in an epoch of one task."""
        return self._sources[task_name].examples.size

    def rows_of(self, task_name: str) -> KnownRows | None:
        """Number, hash and inputs of the rows of one task; None if its source holds no records (TFDS)."""
        return self._sources[task_name].examples.rows

    def row_lines(self) -> list[str]:
        """Lines on a subsample, and on rows with several rationales; none of a cache, which holds tokens."""
        lines = []
        for name in self._names:
            rows = self.rows_of(name)
            if not isinstance(rows, RecordDataSource):
                continue
            used, subsample = rows.num_input_examples(self._split), rows.selection.subsample
            if self._split == "train" and subsample < 1:
                are = share(used, rows.num_before_subsampling(self._split), "row", "is", "are")
                lines.append(f"data: {are} used (SUBSAMPLE={subsample:g})")
            several = rows.num_with_several_rationales(self._split)
            explains = self._sources[name].examples.counts.sequences[task_ids.RATIONALE] or name.endswith("_single")
            if several and explains:
                drawn = registration.draws_at_random(name)
                how = "one of them is drawn in each epoch" if drawn else "the first is used"
                have = share(several, used, "row", "has", "have")
                lines.append(f"data: {have} several rationales; {how}")
        return list(dict.fromkeys(lines))  # the tasks of a mixture have the same rows

    def lengths(self) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of inputs and of targets in the first epoch, cut to the window: int32 [inputs], [targets].

        Reads at most a million examples of each task.
        """
        every = np.concatenate(
            [source.examples.lengths(0)[:1_000_000].reshape(-1, 2) for source in self._sources.values()], dtype=np.int32
        )
        every = every[every[:, 1] > 0]
        return every[every[:, 0] > 0, 0], every[:, 1]

    def position(self) -> dict[str, Any]:
        """JSON-ready position: the examples consumed by the batches so far."""
        place = {"seed": self.seed, "draws": self._draws, "consumed": dict(self._position), "data": self._fingerprints}
        return place if self._curriculum is None else place | {"curriculum": dataclasses.asdict(self._curriculum)}

    @functools.cached_property
    def _fingerprints(self) -> dict[str, str]:
        """A hash of each task's examples: the rows where they are the project's records, and the lengths in order."""
        return {name: fingerprint(self._tasks[name], self._split, s.examples) for name, s in self._sources.items()}

    def restore(self, position: Mapping[str, Any]) -> None:
        """Goes to ``position``. Raises ValueError if it belongs to another seed, other tasks or other rows."""
        if position["seed"] != self.seed or set(position["consumed"]) != set(self._names):
            raise ValueError(
                f"data position of seed {position['seed']} and tasks {sorted(position['consumed'])} does not belong to "
                f"this stream of seed {self.seed} and tasks {sorted(self._names)}"
            )
        ours = None if self._curriculum is None else dataclasses.asdict(self._curriculum)
        if position.get("curriculum") != ours:
            raise ValueError(
                f"data position of the curriculum {position.get('curriculum')} does not belong to this stream with {ours}: "
                "set CURRICULUM as it was, or train in another MODEL_DIR"
            )
        for name, before in position.get("data", {}).items():
            if before != self._fingerprints[name]:
                raise ValueError(
                    f"the rows of {name!r}, split {self._split!r}, have changed since the checkpoint was saved (hash "
                    f"{before[:12]}… there, {self._fingerprints[name][:12]}… here), so its data position counts in other "
                    "rows: restore the data file, or train in another MODEL_DIR"
                )
        self._draws = int(position["draws"])
        self._position = {name: int(at) for name, at in position["consumed"].items()}

    def _drawn(self, draw: int) -> str:
        if len(self._names) == 1:
            return self._names[0]
        block = draw // _BLOCK
        if self._block is None or self._block[0] != block:
            rng = np.random.default_rng([self.seed, block, 0x6D6978])
            self._block = (block, rng.choice(len(self._names), size=_BLOCK, p=self._rates).tolist())
        return self._names[self._block[1][draw % _BLOCK]]

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        taken = 0
        wanted: list[int] = []  # of each planned sequence: task, epoch, example, slot
        numbers = {name: number for number, name in enumerate(self._names)}
        while True:
            name = self._drawn(self._draws)
            epoch, example, slots, lengths = self._sources[name].at(self._position[name])
            if not self._planner.add(lengths):
                break
            for slot in slots:
                wanted += (numbers[name], epoch, example, slot)
            self._draws += 1
            self._position[name] += 1
            taken += 1
        return Batch(self._filled(np.array(wanted, np.int64).reshape(-1, 4)), self.position(), taken, self.epoch())

    def _filled(self, wanted: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the arrays of this process's rows of the planned batch.

        Args:
          wanted: int64 [planned sequences, 4]: task, epoch, example and slot of each.
        """
        plan = self._planner.take()
        mine = plan.inside(self.rows, self.layout)
        wanted = wanted[mine]
        places = np.zeros(len(mine), np.int64)
        parts: list[Sequences] = []
        read = 0
        for task, epoch in np.unique(wanted[:, :2], axis=0).tolist():
            examples = self._sources[self._names[task]].examples
            chosen = (wanted[:, 0] == task) & (wanted[:, 1] == epoch)
            numbers, which = np.unique(wanted[chosen, 2], return_inverse=True)
            part = examples.read(epoch, numbers)
            places[chosen] = read + which * (len(part) // len(numbers)) + wanted[chosen, 3]
            parts.append(part)
            read += len(part)
            examples.forget(epoch)
        return fill(self.layout, self.rows, plan.take(mine), Sequences.joined(parts).take(places))

    def epoch(self) -> float:
        """Returns the passes made over the task with the most passes (0.0 before the first batch)."""
        return max(map(self._passes, self._names))

    def least_epoch(self) -> float:
        """Returns the passes made over the task with the fewest passes, of those with a rate > 0."""
        return min(self._passes(name) for name, rate in zip(self._names, self._rates) if rate > 0)

    def _passes(self, name: str) -> float:
        at = self._position[name]
        return at / self._sources[name].examples.size if at else 0.0
