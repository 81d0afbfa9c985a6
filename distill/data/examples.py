"""Random access to the examples of one task and split, as token sequences.

The lengths of all examples are known up front, so that batches can be planned; tokens are read only for requested
examples.
"""

import hashlib
import zlib
from collections.abc import Iterator
from typing import Protocol

import numpy as np
import seqio
from absl import logging

from distill.counting import counted, form
from distill.data import features
from distill.data.packing import Layout, Sequences, TokenPair
from distill.tasks import reading, registration, task_ids
from distill.tasks.feeding import RecordDataSource

SAMPLE = 2000
"""Rows of a sample, at most."""
_NOTHING = TokenPair(*(np.zeros(0, dtype) for dtype in (np.int32, np.int32, np.int32, np.float32)))


class KnownRows(Protocol):
    """Number, hash and inputs of the rows behind examples: read by :class:`RecordDataSource`, or kept in a cache."""

    def num_input_examples(self, split: str) -> int:
        """Rows of a split."""
        ...

    def num_with_rationale(self, split: str) -> int:
        """Rows of a split with a rationale to train on."""
        ...

    def rows_sha256(self, split: str) -> str:
        """A hash of the rows of a split in their order, with every field."""
        ...

    def input_keys(self, split: str) -> np.ndarray:
        """int64 [rows]: see :func:`distill.tasks.metrics.input_key`."""
        ...


class Examples(Protocol):
    """A source of examples for batches.

    Attributes:
      name: name of the task.
      counts: counts of an epoch's sequences, and of those that are truncated.
    """

    name: str
    counts: features.Counts

    @property
    def rows(self) -> KnownRows | None:
        """Number, hash and inputs of the rows; None for a task of a source that holds no records (TFDS)."""
        ...

    @property
    def size(self) -> int:
        """Examples per epoch, at least one; the same for all epochs."""
        ...

    def lengths(self, epoch: int) -> np.ndarray:
        """int32 [size, slots, 2]: input and target tokens of each sequence, truncated to the window.

        An example has up to ``slots`` sequences: one, or two for a paired task. A sequence without target tokens is
        absent.
        """
        ...

    def read(self, epoch: int, numbers: np.ndarray) -> Sequences:
        """Returns all slots of these examples, in order: ``len(numbers) * slots`` sequences, absent ones empty."""
        ...

    def forget(self, epoch: int) -> None:
        """Releases all epochs before ``epoch``; they are not read again."""
        ...


def nothing_usable(task_name: str, split: str) -> ValueError:
    """Returns the error for a split that has no row to train on."""
    known = task_name in seqio.TaskRegistry.names()
    spans = registration.spans_of(seqio.TaskRegistry.get(task_name)) if known else None
    if spans is not None:
        return ValueError(
            f"task {task_name!r}: the text of split {split!r} is shorter than one window of {spans.window} tokens, which "
            f"gives {spans.inputs_length} input tokens; give more text in FILES, or smaller TASK_FEATURE_LENGTHS"
        )
    return ValueError(
        f"task {task_name!r} has no usable example in split {split!r}; it needs rows with a label "
        "(LABEL_SOURCE=teacher: the teacher's, llm_label) or, for the rationale task, with a rationale"
    )


def check_both_tasks(task: seqio.Task, examples: Examples, split: str) -> None:
    """Checks that a task with a label and a rationale an example gets both; reads the examples of such a task.

    A warning counts the examples that lack one of the two.

    Args:
      task: registered; of another kind, nothing is checked.
      examples: of the task, from SeqIO or from a cache.
      split: for messages.

    Raises:
      ValueError: no example at all has a rationale, or none has a label.
    """
    number, found = 0, dict[str, int]()
    if "rationale_targets" in task.output_features:
        number, sequences = examples.size, examples.counts.sequences
        if examples.rows is not None and task.source.selection.variants is not None:
            number = examples.rows.num_input_examples(split)  # examples of one record have its label once
        found = {"label": sequences[task_ids.LABEL], "rationale": sequences[task_ids.RATIONALE]}
    elif task.name.endswith("_single") and examples.rows is not None:
        number, found["rationale"] = examples.rows.num_input_examples(split), examples.rows.num_with_rationale(split)
    for what, having in found.items():
        if not having:
            remedy = {
                "rationale": "FORM=label (gin/runs/finetune.gin) trains on labels alone",
                "label": "LABEL_SOURCE=teacher takes the teacher's, llm_label",
            }[what]
            raise ValueError(
                f"task {task.name!r} trains on labels and rationales, but none of {counted(number, 'row')} of split "
                f"{split!r} has a {what}. Is the field that it is read from named right (FIELDS), and not null in "
                f"every row? {remedy}"
            )
        if having < number:
            logging.warning(
                "%s, %s: %s of %s rows %s no %s and %s trained on %s alone",
                task.name,
                split,
                f"{number - having:,}",
                f"{number:,}",
                form(number - having, "has", "have"),
                what,
                form(number - having, "is", "are"),
                {"rationale": "the label", "label": "the rationale"}[what],
            )


def warn_of_rows_left_out(task: seqio.Task, split: str, size: int) -> None:
    """Logs a warning with the number of training rows that have no target for a task, if there are any.

    Args:
      task: registered; of a source that holds no records, nothing is logged.
      split: whose rows; nothing is logged for a split other than ``train``.
      size: the task's examples per epoch.
    """
    if split != "train" or not isinstance(task.source, RecordDataSource) or registration.spans_of(task) is not None:
        return
    rows = task.source.num_input_examples(split)
    if size >= rows:
        return
    if "rationale_targets" in task.output_features:
        lacking = "neither a label nor a rationale"
    else:
        lacking = "no rationale" if task.name.endswith("_rationale") else "no label"
    logging.warning(
        "%s, %s: %s of %s rows have %s and are left out", task.name, split, f"{rows - size:,}", f"{rows:,}", lacking
    )


def fingerprint(task: seqio.Task, split: str, examples: Examples) -> str:
    """A hash of the examples that a data position counts; the same for a cache of the task and for its source.

    Covers the number, order and token lengths of the examples in the first epoch, and every field of every row of
    sources that hold records; of other sources (TFDS) no content.
    """
    lengths = np.ascontiguousarray(examples.lengths(0), np.int32)
    digest = hashlib.sha256(f"{task.name} {split} {lengths.shape}".encode())
    digest.update(lengths.tobytes())
    if examples.rows is not None:
        digest.update(examples.rows.rows_sha256(split).encode())
    return digest.hexdigest()


def sample(
    task: seqio.Task, split: str, layout: Layout, *, use_cached: bool = False
) -> tuple[Sequences, features.Counts, bool]:
    """Reads at most :data:`SAMPLE` rows of a task, at equal distances, through SeqIO; others are not tokenised.

    Args:
      task: a registered task.
      split: SeqIO split.
      layout: the window that sequences are truncated to.
      use_cached: whether SeqIO's cache is read.

    Returns:
      The sequences, absent ones left out, and their counts; there may be none. And whether all rows were read.
    """
    rows = task.num_input_examples(split)
    every = -(-rows // SAMPLE) if rows else 1
    rows_read = reading.examples(task, split, limit=SAMPLE, every=every, use_cached=use_cached, only_tokens=True)
    counts, pairs, read = features.Counts(), [], 0
    for example in rows_read:
        read += 1
        pairs += features.to_group(example, layout, counts)
    return Sequences.of(pairs), counts, read < SAMPLE if rows is None else rows <= SAMPLE


class SeqioExamples:
    """Examples read through SeqIO, unshuffled, and held in memory. A task that draws at random is read again per epoch.

    Args:
      task: a registered task.
      split: SeqIO split.
      seed: seed of the random draws.
      layout: the window that sequences are truncated to.

    Raises:
      ValueError: on reading: no usable example, or an epoch whose size differs from that of the first one.
    """

    def __init__(self, task: seqio.Task, split: str, seed: int, layout: Layout):
        self.name, self.counts = task.name, features.Counts()
        self.rows: KnownRows | None = task.source if isinstance(task.source, RecordDataSource) else None
        self._task, self._split, self._seed, self._layout = task, split, seed, layout
        self._random = registration.draws_at_random(task.name, split)
        self._size: int | None = None
        self._epochs: dict[int, tuple[np.ndarray, Sequences]] = {}

    @property
    def size(self) -> int:
        """Examples per epoch; reads the first epoch if nothing has been read."""
        if self._size is None:
            self._epoch(0)
        assert self._size is not None
        return self._size

    def lengths(self, epoch: int) -> np.ndarray:
        """See :meth:`Examples.lengths`."""
        return self._epoch(epoch)[0]

    def read(self, epoch: int, numbers: np.ndarray) -> Sequences:
        """See :meth:`Examples.read`."""
        lengths, sequences = self._epoch(epoch)
        slots = lengths.shape[1]
        return sequences.take((np.asarray(numbers)[:, None] * slots + np.arange(slots)).ravel())

    def forget(self, epoch: int) -> None:
        """See :meth:`Examples.forget`."""
        for old in [known for known in self._epochs if known < epoch and self._random]:
            del self._epochs[old]

    def _epoch(self, epoch: int) -> tuple[np.ndarray, Sequences]:
        key = epoch if self._random else 0
        if key not in self._epochs:
            counts = features.Counts()
            groups = [group for group in self._groups(epoch, counts) if group]
            if not groups:
                raise nothing_usable(self.name, self._split)
            if self._size is None:
                self._size = len(groups)
                self.counts.add(counts)
                warn_of_rows_left_out(self._task, self._split, self._size)
            elif len(groups) != self._size:
                raise ValueError(
                    f"task {self.name!r} has {self._size} examples in its first epoch, {len(groups)} in epoch {epoch}; "
                    "all epochs must have the same size"
                )
            slots = max(len(group) for group in groups)
            pairs = [pair for group in groups for pair in [*group, _NOTHING][:slots]]
            sequences = Sequences.of(pairs)
            lengths = np.stack([sequences.input_lengths, sequences.target_lengths], axis=1)
            self._epochs[key] = lengths.astype(np.int32).reshape(len(groups), slots, 2), sequences
        return self._epochs[key]

    def _groups(self, epoch: int, counts: features.Counts) -> Iterator[list[TokenPair]]:
        seed = draw_seed(self._seed, epoch, self._task.name)
        for example in reading.examples(self._task, self._split, seed=seed, only_tokens=True):
            yield features.to_group(example, self._layout, counts)


def name_seed(name: str) -> int:
    """Returns a hash of a task's name, to be mixed into seeds."""
    return zlib.crc32(name.encode())


def draw_seed(seed: int, epoch: int, name: str) -> int:
    """Returns the seed that SeqIO uses for one epoch of a task."""
    return int(np.random.SeedSequence([seed, epoch, name_seed(name)]).generate_state(1)[0]) & 0x7FFFFFFF
