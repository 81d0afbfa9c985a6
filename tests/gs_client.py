"""A process that uses ``gs://``: reads commands as JSON lines, ``[name, arguments]``, and answers each with a line.

It is another process than the one that serves (``fake_gcs``), since TensorFlow holds on to Python while it writes, and
reads its environment once. ``python tests/gs_client.py ROWS`` with a folder that holds ``train.jsonl`` and ``test.jsonl``.
"""

import hashlib
import json
import os
import pathlib
import sys
import tempfile

import numpy as np
import tensorflow_datasets as tfds

from distill.data import cache
from distill.data.batches import BatchStream
from distill.data.packing import Layout
from distill.tasks import jsonl, registration

FIELDS = {"input": "question", "rationale": "why", "label": "answer"}


def register(rows):
    """The names of the data set in a folder."""
    files = {split: pathlib.Path(rows) / f"{split}.jsonl" for split in ("train", "test")}
    dataset = jsonl.dataset(files, name="remote", fields=FIELDS, validation_fraction=0.0)
    return registration.register(dataset, "bytes")


def build(names, output, scratch, shards=3):
    """Whether a cache was written that was not there before."""
    tempfile.tempdir = scratch
    return cache.build((names.label, names.paired), output, shards=shards).new


def batches(names, directory, scratch, number=6):
    """A digest of the first batches; of those without a cache if the directory is None."""
    tempfile.tempdir = scratch
    stream = BatchStream(names.paired, Layout(4, 64, 64), seed=1, cache_dir=directory)
    digest = hashlib.sha256()
    for _ in range(number):
        for name, value in sorted(next(stream).arrays.items()):
            digest.update(name.encode() + value.tobytes())
    return digest.hexdigest()


def _told(source):
    return [{name: np.asarray(value).tolist() for name, value in example.items()} for example in source]


def from_directory(names, directory, split):
    """All examples of a split, by the folder's builder."""
    return _told(tfds.builder_from_directory(f"{directory}/{names.paired}/1.0.0").as_data_source(split))


def data_source(names, directory, split):
    """All examples of a split, by the data set's name."""
    assert tfds.builder(names.paired, data_dir=directory).info.splits[split].num_shards > 0
    return _told(tfds.data_source(names.paired, data_dir=directory, split=split))


def load(names, directory, split):
    """All examples of a split as a ``tf.data.Dataset``, by the data set's name."""
    in_order = tfds.ReadConfig(interleave_cycle_length=1)
    return _told(tfds.as_numpy(tfds.load(names.paired, data_dir=directory, split=split, read_config=in_order)))


COMMANDS = {function.__name__: function for function in (build, batches, from_directory, data_source, load)}


def main():
    names = register(sys.argv[1])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever libraries print is no answer
    for line in sys.stdin:
        name, arguments = json.loads(line)
        try:
            answer = {"result": COMMANDS[name](names, **arguments)}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
