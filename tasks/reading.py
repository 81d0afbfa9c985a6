"""The examples of one task and split as NumPy arrays, in the order of the rows and untrimmed."""

from collections.abc import Iterator

import numpy as np
import seqio
import tensorflow as tf

SEED = 0
"""What a task draws where no seed is given: the same in every run."""


def token_features(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Selects the per-token features of a task's examples: tokens, task ids and weights."""
    names = [name for name in dataset.element_spec if name.startswith(("inputs", "targets", "rationale_"))]
    names = [name for name in names if dataset.element_spec[name].dtype in (tf.int32, tf.float32)]
    select = tf.autograph.experimental.do_not_convert(lambda example: {name: example[name] for name in names})
    return dataset.map(select, num_parallel_calls=tf.data.AUTOTUNE)


def examples(
    task: seqio.Task,
    split: str,
    *,
    seed: int = SEED,
    limit: int | None = None,
    every: int = 1,
    use_cached: bool = False,
    only_tokens: bool = False,
) -> Iterator[dict[str, np.ndarray]]:
    """Reads a task through SeqIO.

    Args:
      task: a registered task.
      split: SeqIO split.
      seed: of what its preprocessors draw at random.
      limit: how many examples, from the first; None reads all.
      every: reads one row of so many, from the first.
      use_cached: whether SeqIO's cache is read.
      only_tokens: whether :func:`token_features` selects the features.
    """
    dataset = task.get_dataset(
        sequence_length=None,
        split=split,
        use_cached=use_cached,
        shuffle=False,
        seed=seed,
        shard_info=seqio.ShardInfo(0, every) if every > 1 else None,
        trim_output_features=False,
    )
    if limit is not None:
        dataset = dataset.take(limit)
    if only_tokens:
        dataset = token_features(dataset)
    yield from dataset.as_numpy_iterator()
