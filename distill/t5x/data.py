"""This project's tasks and batches in the form of T5X's ``get_dataset_fn`` and ``DatasetConfig``."""

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

from distill.data import examples, unknown_tokens
from distill.data.batches import BatchStream
from distill.data.curriculum import Curriculum
from distill.data.packing import Layout
from distill.tasks import names, registration
from distill.tasks.registration import Registered


def registered_name(registered: Registered, form: str) -> str:
    """Returns the name of a data set's task, for ``DatasetConfig.mixture_or_task_name``.

    T5X parses its configuration before it looks up tasks. A configuration with ``@registration.register()`` here
    therefore registers the tasks in time.

    Args:
      registered: the result of ``tasks.registration.register``.
      form: ``label``, ``rationale``, ``single``, ``mixed`` or ``paired``.

    Raises:
      ValueError: an unknown form, or one with a shared encoder pass.
    """
    if form in names.PROMPTED_FORMS:
        raise ValueError(
            f"T5X runs have no form {form!r}, since T5X decodes without a prompt; "
            "use 'paired', and 'label' for EVAL_FORM"
        )
    if form == "spans":
        raise ValueError(
            "T5X runs have no form 'spans'; pretrain with gin/runs/pretrain.gin, then `distill convert` the student"
        )
    return getattr(registered, form) if form in names.FORMS else names.task_name(registered.label, form)


def decode_lengths(task_feature_lengths: Mapping[str, int], max_decode_len: int) -> dict[str, int]:
    """Returns ``task_feature_lengths`` for decoding: T5X decodes up to the length of the targets."""
    return {"inputs": task_feature_lengths["inputs"], "targets": max_decode_len}


def get_dataset(
    cfg: utils.DatasetConfig,
    shard_id: int,
    num_shards: int,
    feature_converter_cls: Callable[..., seqio.FeatureConverter],
    num_epochs: int | None = None,
    continue_from_last_checkpoint: bool = False,
    cache_dir: str | None = None,
    curriculum: Curriculum | None = None,
) -> tf.data.Dataset:
    """T5X's ``get_dataset`` with windows that are packed per batch, so that a packed pair is in one batch.

    T5X cannot save the position of this data set; use :func:`get_stream` for runs that must resume exactly. Training rows
    without labels or rationales, or with tokens that the vocabulary does not know, are refused or warned of, as by the
    built-in engine; SeqIO's caches are not read for the former.

    Raises:
      ValueError: ``cache_dir`` or ``curriculum`` is given; only :func:`get_stream` reads the files of ``distill cache`` and
        orders epochs. Or no row has a label or a rationale that the task trains on, or more than half of the labels have
        an unknown token.
    """
    if curriculum is not None:
        raise ValueError(
            f"get_dataset shuffles through SeqIO, which has no curriculum; got CURRICULUM = {curriculum}. Add "
            "--gin_file=gin/t5x/runs/exact_restart.gin, whose get_stream orders the epochs, or set CURRICULUM=None"
        )
    if cache_dir is not None:
        raise ValueError(
            f"get_dataset reads through SeqIO and no cache; got CACHE_DIR = {cache_dir!r}. Add "
            "--gin_file=gin/t5x/runs/exact_restart.gin, whose get_stream reads it, or set CACHE_DIR=None"
        )
    if cfg.split == "train":
        lengths = cfg.task_feature_lengths
        layout = Layout(cfg.batch_size, lengths["inputs"], lengths["targets"], packed=cfg.pack)
        provider = cfg.mixture_or_task_name
        provider = registration.get(provider) if isinstance(provider, str) else provider
        for task in provider.tasks if isinstance(provider, seqio.Mixture) else [provider]:
            if not cfg.use_cached:  # else the rows may be elsewhere
                examples.check_both_tasks(
                    task, examples.SeqioExamples(task, cfg.split, cfg.seed or 0, layout), cfg.split
                )
            unknown_tokens.check_source(task, cfg.split, layout, use_cached=cfg.use_cached)
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
    curriculum: Curriculum | None = None,
) -> "StreamIterator":
    """Returns the same batches as the built-in engine, in the same order, for ``train.get_dataset_fn``.

    With ``SaveCheckpointConfig.save_dataset = True``, checkpoints hold the data position, and a restarted run continues
    with the batch after its last checkpoint. T5X requires the same number of hosts for that.

    Args:
      cfg: seed, split, lengths, batch size, ``pack`` and ``shuffle`` are used. The seed is required.
      shard_id: the index of this host's share of a batch.
      num_shards: the number of shares.
      feature_converter_cls: not used: the stream converts features.
      num_epochs: must be None: the stream is endless.
      continue_from_last_checkpoint: not used: T5X restores the iterator.
      cache_dir: a folder written by ``distill cache``, to read instead of the task's source; the batches are the same.
      curriculum: the order of the first epochs; None shuffles all.

    Raises:
      ValueError: ``cfg`` has no seed or an unsupported setting, or the cache is of other tasks, of other settings or
        damaged.
    """
    del feature_converter_cls, continue_from_last_checkpoint
    if cfg.seed is None:
        raise ValueError(
            "get_stream requires a seed, or a restart would shuffle differently: set DatasetConfig.seed; got seed=None"
        )
    if num_epochs is not None or cfg.use_cached:
        raise ValueError(
            f"get_stream is endless and reads none of SeqIO's caches; got {num_epochs=}, use_cached={cfg.use_cached}. "
            "Give the folder of `distill cache` as CACHE_DIR"
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
        curriculum=curriculum,
    )
    return StreamIterator(stream)


class StreamIterator(dataset_iterator.DatasetIterator):
    """A :class:`distill.data.batches.BatchStream` as a CLU dataset iterator, which T5X checkpoints.

    T5X prefetches the first batch while it saves the initial checkpoint, and never prefetches again. So a position
    saved after one batch is that before the batch, which makes the initial checkpoint exact. (A checkpoint after a
    single step would repeat that step's batch.)
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
        """Returns to the first batch."""
        self._stream.restore(self._first)
        self._begin()

    @property
    def element_spec(self) -> Mapping[str, dataset_iterator.ArraySpec]:
        """Shapes and dtypes of this host's share of a batch. Reads no data."""
        layout = self._stream.layout
        rows = len(layout.numbers(self._stream.rows))
        lengths = {"encoder": layout.encoder_length, "decoder": layout.decoder_length}
        integers = ["encoder_input_tokens", "decoder_input_tokens", "decoder_target_tokens", "decoder_task_ids"]
        if layout.packed:
            integers += [f"{side}_{what}" for side in lengths for what in ("segment_ids", "positions")]
        spec: dict[str, Any] = dict.fromkeys(integers, np.int32) | {"decoder_loss_weights": np.float32}
        return {
            name: dataset_iterator.ArraySpec(np.dtype(dtype), (rows, lengths[name.split("_")[0]]))
            for name, dtype in spec.items()
        }

    def save(self, filename: epath.PathLike) -> None:
        """Writes the position as JSON."""
        position = self._stream.position() if self._taken > 1 else self._start
        epath.Path(filename).write_text(json.dumps(position))

    def restore(self, filename: epath.PathLike) -> None:
        """Restores the position from ``filename``. Raises ValueError if it belongs to other data."""
        self._stream.restore(json.loads(epath.Path(filename).read_text()))
        self._begin()
