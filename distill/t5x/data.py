"""This project's tasks and batches as T5X's ``get_dataset_fn`` and ``DatasetConfig`` want them."""

import functools
import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import seqio
import tensorflow as tf
from clu.data import dataset_iterator
from etils import epath
from t5x import utils

from distill.batches import BatchStream
from distill.packing import Layout
from tasks import names
from tasks.registration import Registered


def registered_name(registered: Registered, form: str) -> str:
    """The name of a data set's task, for ``DatasetConfig.mixture_or_task_name``.

    T5X reads its configuration before it looks for tasks; a configuration that gives ``@registration.register()`` here has
    the tasks registered by then.

    Args:
      registered: what ``tasks.registration.register`` returned.
      form: ``label``, ``rationale``, ``single``, ``mixed`` or ``paired``.

    Raises:
      ValueError: an unknown form, or one of those that share an encoder pass.
    """
    if form in names.PROMPTED_FORMS:
        raise ValueError(
            f"T5X runs have no form {form!r}, since T5X decodes without a prompt; take 'paired', and 'label' for EVAL_FORM"
        )
    return getattr(registered, form) if form in names.FORMS else names.task_name(registered.label, form)


def decode_lengths(task_feature_lengths: Mapping[str, int], max_decode_len: int) -> dict[str, int]:
    """``task_feature_lengths`` for decoding: T5X decodes as many tokens as targets may have."""
    return {"inputs": task_feature_lengths["inputs"], "targets": max_decode_len}


def get_dataset(
    cfg: utils.DatasetConfig,
    shard_id: int,
    num_shards: int,
    feature_converter_cls: Callable[..., seqio.FeatureConverter],
    num_epochs: int | None = None,
    continue_from_last_checkpoint: bool = False,
    cache_dir: str | None = None,
) -> tf.data.Dataset:
    """T5X's ``get_dataset``, with windows packed a batch at a time, so that a packed pair lies in one batch.

    T5X cannot save the position of such a data set; :func:`get_stream` is for runs that must go on exactly.

    Raises:
      ValueError: ``cache_dir`` is given. SeqIO cannot read what ``distill cache`` wrote, and :func:`get_stream` does.
    """
    if cache_dir is not None:
        raise ValueError(
            f"get_dataset reads through SeqIO and no cache; got CACHE_DIR = {cache_dir!r}. Add "
            "--gin_file=gin/t5x/runs/exact_restart.gin, whose get_stream reads it, or set CACHE_DIR=None"
        )
    converter = functools.partial(feature_converter_cls, windows=cfg.batch_size // num_shards)
    return utils.get_dataset(cfg, shard_id, num_shards, converter, num_epochs, continue_from_last_checkpoint)


def get_stream(
    cfg: utils.DatasetConfig,
    shard_id: int,
    num_shards: int,
    feature_converter_cls: Callable[..., seqio.FeatureConverter],
    num_epochs: int | None = None,
    continue_from_last_checkpoint: bool = False,
    cache_dir: str | None = None,
) -> "StreamIterator":
    """The built-in engine's batches, the same ones in the same order, for ``train.get_dataset_fn``.

    With ``SaveCheckpointConfig.save_dataset = True`` the position is in the checkpoint, and a run that was killed goes on
    with the batch after the last one it had a checkpoint of. (T5X wants the same number of hosts for that.)

    Args:
      cfg: seed, split, lengths, batch size, ``pack`` and ``shuffle`` are read. The seed is required.
      shard_id: which of the hosts' shares of a batch to take.
      num_shards: how many shares there are.
      feature_converter_cls: not used: the stream converts.
      num_epochs: must be None: the stream is endless.
      continue_from_last_checkpoint: not used: T5X restores the iterator.
      cache_dir: what ``distill cache`` wrote, to read instead of the task's source; the batches are the same.

    Raises:
      ValueError: ``cfg`` has no seed, or asks for something a stream has not; or the cache is none of these tasks', is of
        other settings or damaged.
    """
    del feature_converter_cls, continue_from_last_checkpoint
    if cfg.seed is None:
        raise ValueError(
            "get_stream wants a seed, or a restart would shuffle anew: set DatasetConfig.seed; got seed=None"
        )
    if num_epochs is not None or cfg.use_cached:
        raise ValueError(
            f"get_stream is endless and reads none of SeqIO's caches; got {num_epochs=}, use_cached={cfg.use_cached}. What "
            "`distill cache` wrote is given as CACHE_DIR"
        )
    if cfg.batch_size % num_shards:
        raise ValueError(f"batch_size must be divisible by the number of shards; got {cfg.batch_size} and {num_shards}")
    lengths = cfg.task_feature_lengths
    layout = Layout(cfg.batch_size, lengths["inputs"], lengths["targets"], packed=cfg.pack)
    share = cfg.batch_size // num_shards
    name = cfg.mixture_or_task_name
    stream = BatchStream(
        name if isinstance(name, str) else name.name,
        layout,
        split=cfg.split,
        seed=cfg.seed,
        rows=slice(shard_id * share, (shard_id + 1) * share),
        shuffle=cfg.shuffle,
        cache_dir=cache_dir,
    )
    return StreamIterator(stream)


class StreamIterator(dataset_iterator.DatasetIterator):
    """A :class:`distill.batches.BatchStream` as CLU's iterator, which T5X checkpoints.

    T5X asks for the first batch ahead of time, while it saves the checkpoint that a run begins with, and never again. So a
    position saved after one batch is the one before it: the checkpoint a run begins with is then exact. (One taken after
    a single step would repeat that step's batch.)
    """

    def __init__(self, stream: BatchStream):
        self._stream = stream
        self._first = stream.position()
        self._begin()

    def _begin(self) -> None:
        self._start, self._taken = self._stream.position(), 0

    def __next__(self) -> dict[str, np.ndarray]:
        self._taken += 1
        return next(self._stream).arrays

    def reset(self) -> None:
        """Goes back to the first batch."""
        self._stream.restore(self._first)
        self._begin()

    @property
    def element_spec(self) -> Mapping[str, dataset_iterator.ArraySpec]:
        """Shapes of this host's share of a batch. Reads no data."""
        layout = self._stream.layout
        start, stop, _ = self._stream.rows.indices(layout.rows)
        lengths = {"encoder": layout.encoder_length, "decoder": layout.decoder_length}
        integers = ["encoder_input_tokens", "decoder_input_tokens", "decoder_target_tokens", "decoder_task_ids"]
        if layout.packed:
            integers += [f"{side}_{what}" for side in lengths for what in ("segment_ids", "positions")]
        spec: dict[str, Any] = dict.fromkeys(integers, np.int32) | {"decoder_loss_weights": np.float32}
        return {
            name: dataset_iterator.ArraySpec(np.dtype(dtype), (stop - start, lengths[name.split("_")[0]]))
            for name, dtype in spec.items()
        }

    def save(self, filename: epath.PathLike) -> None:
        """Writes the position, as JSON."""
        position = self._stream.position() if self._taken > 1 else self._start
        epath.Path(filename).write_text(json.dumps(position))

    def restore(self, filename: epath.PathLike) -> None:
        """Goes to the position in ``filename``. Raises ValueError if it belongs to other data."""
        self._stream.restore(json.loads(epath.Path(filename).read_text()))
        self._begin()
