"""From SeqIO task features to model features: task ids on every target token, trimming that keeps EOS, packing."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import seqio
import tensorflow as tf

from distill.packing import Layout, Packer, TokenPair
from tasks import task_ids

EOS_ID = 1


@dataclasses.dataclass
class Counts:
    """What went through a converter; all counts are of sequences (an example of a paired task is up to two).

    Attributes:
      sequences: sequences seen, by task id.
      truncated_inputs, truncated_targets: sequences cut to the window, by task id.
    """

    sequences: dict[int, int] = dataclasses.field(default_factory=lambda: {task_ids.LABEL: 0, task_ids.RATIONALE: 0})
    truncated_inputs: dict[int, int] = dataclasses.field(
        default_factory=lambda: {task_ids.LABEL: 0, task_ids.RATIONALE: 0}
    )
    truncated_targets: dict[int, int] = dataclasses.field(
        default_factory=lambda: {task_ids.LABEL: 0, task_ids.RATIONALE: 0}
    )

    def add(self, other: "Counts") -> None:
        """Adds ``other``'s counts to these."""
        for field in dataclasses.fields(self):
            mine = getattr(self, field.name)
            for task, number in getattr(other, field.name).items():
                mine[task] += number

    def share_truncated(self) -> float:
        """The share of sequences that lost tokens on either side, at most (a sequence cut on both counts twice)."""
        truncated = sum(self.truncated_inputs.values()) + sum(self.truncated_targets.values())
        return truncated / max(1, sum(self.sequences.values()))


def cut(tokens: np.ndarray, length: int, last=EOS_ID) -> np.ndarray:
    """The first ``length`` entries, the last of them replaced by ``last`` (EOS) if any had to go."""
    if len(tokens) <= length:
        return tokens
    short = np.array(tokens[:length])
    if last is not None:
        short[-1] = last
    return short


def token_features(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Only the per-token features of a task's examples: what :func:`to_group` reads."""
    names = [name for name in dataset.element_spec if name.startswith(("inputs", "targets", "rationale_"))]
    names = [name for name in names if dataset.element_spec[name].dtype in (tf.int32, tf.float32)]
    return dataset.map(lambda example: {name: example[name] for name in names}, num_parallel_calls=tf.data.AUTOTUNE)


def to_group(example: Mapping[str, np.ndarray], layout: Layout, counts: Counts) -> list[TokenPair]:
    """The sequences of one task example, cut to ``layout``'s window; one, or two for a paired task, or none.

    Args:
      example: ``inputs``, ``targets``, ``targets_task_ids`` int32 and ``targets_weights`` float32; for paired tasks also
        ``rationale_inputs``, ``rationale_targets`` int32 and ``rationale_targets_weights`` float32. Empty features stand
        for a sequence that the row does not have.
      layout: the window.
      counts: is added to.

    Raises:
      ValueError: per-token features of different lengths.
    """
    pairs = [("inputs", "targets", example["targets_task_ids"], example["targets_weights"])]
    if "rationale_inputs" in example:
        rationale_ids = np.full(len(example["rationale_targets"]), task_ids.RATIONALE, np.int32)
        weights = example["rationale_targets_weights"]
        pairs.append(("rationale_inputs", "rationale_targets", rationale_ids, weights))
    group = []
    for inputs_name, targets_name, ids, weights in pairs:
        inputs, targets = example[inputs_name], example[targets_name]
        if len(targets) == 0:
            continue
        if min(len(ids), len(weights)) < len(targets):
            raise ValueError(
                f"{targets_name} has {len(targets)} tokens, but {len(ids)} task ids and {len(weights)} weights"
            )
        # SeqIO, left to trim, cuts `targets` and knows nothing of the features that go with it.
        ids, weights = ids[: len(targets)], weights[: len(targets)]
        task = int(ids[-1])
        counts.sequences[task] += 1
        counts.truncated_inputs[task] += len(inputs) > layout.encoder_length
        counts.truncated_targets[task] += len(targets) > layout.decoder_length
        group.append(
            TokenPair(
                inputs=cut(inputs, layout.encoder_length),
                targets=cut(targets, layout.decoder_length),
                task_ids=cut(ids, layout.decoder_length, last=None),
                weights=cut(weights, layout.decoder_length, last=None),
            )
        )
    return group


def pack_batches(groups: Iterable[list[TokenPair]], layout: Layout) -> Iterator[dict[str, np.ndarray]]:
    """Batches of ``layout.rows`` windows from a finite stream of groups; the last may have empty windows."""
    packer = Packer(layout)
    for group in groups:
        if not packer.add(group):
            yield packer.emit()
            packer.add(group)
    if len(packer):
        yield packer.emit()


class TwoTaskFeatureConverter(seqio.FeatureConverter):
    """SeqIO's encoder-decoder converter with ``decoder_task_ids``, row weights, paired examples and first-fit packing.

    For ``seqio.get_dataset`` and T5X's ``DatasetConfig``; ``task_feature_lengths`` names ``inputs`` and ``targets``.
    Windows come out in runs of ``windows`` that were packed together: batch by that number (or a multiple) and both
    sequences of a paired example are in the same batch.

    Attributes:
      windows: windows open at once when packing.
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

    def __init__(self, pack: bool = True, windows: int = 64, **kwargs):
        # Lengths are checked by the cut below, which trims and counts; SeqIO's check would refuse untrimmed tasks.
        kwargs.setdefault("apply_length_check", False)
        super().__init__(pack=pack, **kwargs)
        self.windows = windows
        self.counts = Counts()

    def _convert_features(self, ds: tf.data.Dataset, task_feature_lengths: Mapping[str, int]) -> tf.data.Dataset:
        layout = Layout(
            self.windows if self.pack else 2,
            task_feature_lengths["inputs"],
            task_feature_lengths["targets"],
            packed=self.pack,
        )
        lengths = self.get_model_feature_lengths(task_feature_lengths)
        dtypes = {name: spec.dtype for name, spec in self.MODEL_FEATURES.items()}
        if self.pack:
            dtypes.update(self.PACKING_FEATURE_DTYPES)

        ds = token_features(ds)

        def windows():
            groups = (to_group(example, layout, self.counts) for example in ds.as_numpy_iterator())
            if self.pack:
                batches = pack_batches((group for group in groups if group), layout)
            else:
                batches = (self._one_by_one(group, layout) for group in groups if group)
            for batch in batches:
                rows = len(next(iter(batch.values())))
                for row in range(rows):
                    if batch["encoder_input_tokens"][row].any():
                        yield {name: values[row] for name, values in batch.items()}

        signature = {name: tf.TensorSpec([lengths[name]], dtype) for name, dtype in dtypes.items()}
        return tf.data.Dataset.from_generator(windows, output_signature=signature)

    def _one_by_one(self, group: list[TokenPair], layout: Layout) -> dict[str, np.ndarray]:
        packer = Packer(layout)
        packer.add(group)
        return packer.emit(slice(0, len(group)))

    def get_model_feature_lengths(self, task_feature_lengths: Mapping[str, int]) -> Mapping[str, int]:
        """Lengths of the model features: encoder ones as ``inputs``, decoder ones as ``targets``."""
        names = [*self.MODEL_FEATURES, *(self.PACKING_FEATURE_DTYPES if self.pack else ())]
        return {name: task_feature_lengths["inputs" if name.startswith("encoder") else "targets"] for name in names}
