"""From SeqIO task features to model features: a task id per target token, truncation that keeps EOS, packing."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from distill.data.counts import Counts
from distill.data.packing import Layout, Packer, Sequences, TokenPair
from distill.data.trimming import EOS_ID
from distill.tasks import preprocessors, reading, task_ids


def slots(example: Mapping[str, np.ndarray]) -> list[TokenPair]:
    """Returns the untruncated sequences of one task example: one, or two for a paired task. Absent ones are empty.

    Args:
      example: ``inputs``, ``targets``, ``targets_task_ids`` int32 and ``targets_weights`` float32. Paired tasks also
        have ``rationale_inputs``, ``rationale_targets`` int32 and ``rationale_targets_weights`` float32. Empty targets
        mark an absent sequence. Without ``rationale_inputs`` both sequences share ``inputs``: the first sequence that
        is present gets them, the other gets none.

    Raises:
      ValueError: per-token features are shorter than the targets.
    """
    inputs = example["inputs"]
    pairs = [(inputs, "targets", example["targets_task_ids"], example["targets_weights"])]
    if "rationale_targets" in example:
        if not preprocessors.shares_input(example):
            inputs = example["rationale_inputs"]
        elif len(example["targets"]):
            inputs = inputs[:0]
        rationale_ids = np.full(len(example["rationale_targets"]), task_ids.RATIONALE, np.int32)
        pairs.append((inputs, "rationale_targets", rationale_ids, example["rationale_targets_weights"]))
    found = []
    for inputs, targets_name, ids, weights in pairs:
        targets = example[targets_name]
        number = len(targets)
        if min(len(ids), len(weights)) < number:
            raise ValueError(f"{targets_name} has {number} tokens, but {len(ids)} task ids and {len(weights)} weights")
        # SeqIO's trimming truncates `targets` only, not the per-token features that belong to it.
        found.append(TokenPair(inputs if number else inputs[:0], targets, ids[:number], weights[:number]))
    return found


def target_room(lengths: np.ndarray, layout: Layout) -> np.ndarray:
    """Returns the target tokens that a window has room for, per sequence: all, or those that the first sequence leaves.

    Args:
      lengths: int [examples, slots], target tokens; 0 marks an absent sequence.
      layout: the window.

    Returns:
      int, of the shape of ``lengths``.
    """
    room = np.full(lengths.shape, layout.decoder_length, lengths.dtype)
    if layout.shared_encoder:
        room[:, 1:] -= np.minimum(lengths[:, :1], layout.decoder_length)
    return room


def cut_all(sequences: Sequences, number_of_slots: int, layout: Layout) -> Sequences:
    """Truncates sequences to ``layout``'s window; a sequence that fills the window ends in EOS.

    With a shared encoder, the second sequence of an example gets the target positions that the first leaves, possibly
    none.

    Args:
      sequences: all slots of some examples, one example after another.
      number_of_slots: slots per example.
      layout: the window.
    """
    inputs, targets = sequences.input_lengths, sequences.target_lengths
    room = target_room(targets.reshape(-1, number_of_slots), layout).ravel()
    if not ((inputs >= layout.encoder_length).any() or (targets >= room).any()):
        return sequences
    short = sequences.take(np.arange(len(sequences)), layout.encoder_length, room)
    full = (targets >= room) & (short.target_lengths > 0)
    short.inputs[np.cumsum(short.input_lengths)[inputs >= layout.encoder_length] - 1] = EOS_ID
    short.targets[np.cumsum(short.target_lengths)[full] - 1] = EOS_ID
    return short


def count(lengths: np.ndarray, ids: np.ndarray, layout: Layout) -> Counts:
    """Counts sequences, and the sequences that exceed the window, from their lengths.

    Args:
      lengths: int [examples, slots, 2], input and target tokens; a sequence without targets is absent.
      ids: int [examples, slots], the task id of the last target token.
      layout: the window.
    """
    counts = Counts()
    room = target_room(lengths[..., 1], layout)
    for task in counts.sequences:
        mine = (ids == task) & (lengths[..., 1] > 0)
        counts.sequences[task] = int(mine.sum())
        long_inputs, long_targets = mine & (lengths[..., 0] > layout.encoder_length), mine & (lengths[..., 1] > room)
        counts.truncated_inputs[task], counts.truncated_targets[task] = int(long_inputs.sum()), int(long_targets.sum())
        counts.truncated[task] = int((long_inputs | long_targets).sum())
    present = lengths[..., 1] > 0
    counts.longest_inputs = int((lengths[..., 0] * present).max(initial=0))
    # With a shared encoder, the targets of an example follow one another in one window.
    needed = lengths[..., 1].sum(axis=1) if layout.shared_encoder else lengths[..., 1]
    counts.longest_targets = int(needed.max(initial=0))
    return counts


def to_group(example: Mapping[str, np.ndarray], layout: Layout, counts: Counts) -> list[TokenPair]:
    """Returns the sequences of one task example, truncated to ``layout``'s window: up to one, or two for a paired task.

    Args:
      example: see :func:`slots`.
      layout: the window.
      counts: updated in place.

    Raises:
      ValueError: see :func:`slots`.
    """
    pairs = slots(example)
    lengths = np.array([[(len(pair.inputs), len(pair.targets)) for pair in pairs]])
    tasks = np.array([[pair.task_ids[-1] if len(pair.task_ids) else task_ids.PAD for pair in pairs]])
    counts.add(count(lengths, tasks, layout))
    return [pair for pair in cut_all(Sequences.of(pairs), len(pairs), layout).pairs() if len(pair.targets)]


def pack_batches(groups: Iterable[list[TokenPair]], layout: Layout) -> Iterator[dict[str, np.ndarray]]:
    """Packs a finite stream of groups into batches of ``layout.windows`` windows; the last one may have empty windows."""
    packer = Packer(layout)
    for group in groups:
        if not packer.add(group):
            yield packer.emit()
            packer.add(group)
    if len(packer):
        yield packer.emit()


class TwoTaskFeatureConverter(seqio.FeatureConverter):
    """SeqIO's encoder-decoder converter with ``decoder_task_ids``, row weights, paired examples and packing.

    Use it with ``seqio.get_dataset`` and T5X's ``DatasetConfig``; ``task_feature_lengths`` names ``inputs`` and
    ``targets``. Packed windows are emitted in runs of ``windows`` that were filled together. With a batch size of that
    number, or a multiple, both sequences of a paired example are in the same batch. A run has fewer windows only if
    some stayed empty, which is otherwise the case for the last run.

    Attributes:
      windows: number of windows that are open at once when packing.
    """

    TASK_FEATURES = {  # noqa: RUF012 - seqio's own contract is a plain class attribute
        "inputs": seqio.FeatureConverter.FeatureSpec(dtype=tf.int32),
        "targets": seqio.FeatureConverter.FeatureSpec(dtype=tf.int32),
    }
    MODEL_FEATURES = {  # noqa: RUF012
        "encoder_input_tokens": seqio.FeatureConverter.FeatureSpec(dtype=tf.int32),
        "decoder_input_tokens": seqio.FeatureConverter.FeatureSpec(dtype=tf.int32),
        "decoder_target_tokens": seqio.FeatureConverter.FeatureSpec(dtype=tf.int32),
        "decoder_loss_weights": seqio.FeatureConverter.FeatureSpec(dtype=tf.float32),
        "decoder_task_ids": seqio.FeatureConverter.FeatureSpec(dtype=tf.int32),
    }
    PACKING_FEATURE_DTYPES = {  # noqa: RUF012
        "encoder_segment_ids": tf.int32,
        "encoder_positions": tf.int32,
        "decoder_segment_ids": tf.int32,
        "decoder_positions": tf.int32,
    }

    def __init__(self, pack: bool = True, windows: int = 64, **kwargs: Any):
        # The converter truncates and counts long examples. SeqIO's length check would reject them.
        kwargs.setdefault("apply_length_check", False)
        super().__init__(pack=pack, **kwargs)
        self.windows = windows
        self.counts = Counts()

    def _convert_features(self, ds: tf.data.Dataset, task_feature_lengths: Mapping[str, int]) -> tf.data.Dataset:
        encoder_length, decoder_length = task_feature_lengths["inputs"], task_feature_lengths["targets"]
        layout = Layout(self.windows if self.pack else 2, encoder_length, decoder_length, packed=self.pack)
        ds = reading.token_features(ds)
        if preprocessors.shares_input(ds.element_spec):
            raise ValueError(
                "a task whose label and rationale share one encoder pass requires `distill train`; "
                "use the paired task here"
            )
        return self._packed(ds, layout) if self.pack else self._unpacked(ds, layout)

    def _unpacked(self, ds: tf.data.Dataset, layout: Layout) -> tf.data.Dataset:
        names = list(ds.element_spec)
        paired = "rationale_inputs" in names

        def windows(*values: np.ndarray) -> list[np.ndarray]:
            group = to_group(dict(zip(names, values)), layout, self.counts)
            if len(group) != 1 and not paired:
                raise ValueError("an example has no target tokens; drop such rows in the task's preprocessors")
            packer = Packer(layout)
            packer.add(group)
            return self._rows(packer.emit(slice(0, len(group))))

        def rows_of(example: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            values = tf.numpy_function(windows, [example[name] for name in names], list(self._outputs().values()))
            return self._shaped(values, layout)

        ds = ds.map(rows_of)
        # With one window per example, the number of examples stays known, which SeqIO's evaluation requires.
        return ds.unbatch() if paired else ds.map(lambda rows: {name: value[0] for name, value in rows.items()})

    def _packed(self, ds: tf.data.Dataset, layout: Layout) -> tf.data.Dataset:
        names, nothing = list(ds.element_spec), -1
        ids, packers = itertools.count(), dict[int, Packer]()
        empty = Packer(layout).emit(slice(0, 0))

        def windows(state: np.ndarray, last: np.ndarray, *values: np.ndarray) -> list[np.ndarray]:
            number = next(ids) if state == nothing else int(state)
            packer = packers.setdefault(number, Packer(layout))
            group = [] if last else to_group(dict(zip(names, values)), layout, self.counts)
            batch = empty
            if last:
                batch = packers.pop(number).emit()
                used = batch["encoder_input_tokens"].any(axis=1)
                batch = {name: value[used] for name, value in batch.items()}
            elif not packer.add(group):
                batch = packer.emit()
                packer.add(group)
            return [np.asarray(number, np.int64), *self._rows(batch)]

        def step(
            state: tf.Tensor, item: tuple[tf.Tensor, Mapping[str, tf.Tensor]]
        ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
            last, example = item
            arguments = [state, last, *(example[name] for name in names)]
            number, *values = tf.numpy_function(windows, arguments, [tf.int64, *self._outputs().values()])
            number.set_shape([])
            return number, self._shaped(values, layout)

        # Each iterator starts at `nothing` and so gets its own packer; the item added at the end flushes it.
        end = {name: tf.zeros([0], spec.dtype) for name, spec in ds.element_spec.items()}
        items = ds.map(lambda example: (False, example)).concatenate(tf.data.Dataset.from_tensors((True, end)))
        return items.scan(tf.constant(nothing, tf.int64), step).unbatch()

    def _outputs(self) -> dict[str, tf.DType]:
        dtypes = {name: spec.dtype for name, spec in self.MODEL_FEATURES.items()}
        return dtypes | (self.PACKING_FEATURE_DTYPES if self.pack else {})

    def _rows(self, batch: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        return [batch[name] for name in self._outputs()]

    def _shaped(self, values: Sequence[tf.Tensor], layout: Layout) -> dict[str, tf.Tensor]:
        """Names the numpy outputs and sets their static shape [windows, length]."""
        rows = dict(zip(self._outputs(), values))
        for name, value in rows.items():
            value.set_shape([None, layout.encoder_length if name.startswith("encoder") else layout.decoder_length])
        return rows

    def get_model_feature_lengths(self, task_feature_lengths: Mapping[str, int]) -> Mapping[str, int]:
        """Returns the lengths of model features: encoder features as ``inputs``, decoder features as ``targets``."""
        names = [*self.MODEL_FEATURES, *(self.PACKING_FEATURE_DTYPES if self.pack else ())]
        return {name: task_feature_lengths["inputs" if name.startswith("encoder") else "targets"] for name in names}
