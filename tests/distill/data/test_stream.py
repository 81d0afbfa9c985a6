"""Prefetching: order, errors and the end of the thread."""

import threading

import numpy as np
import pytest

from distill.data.batches import BatchStream
from distill.data.packing import Layout
from distill.data.stream import Prefetch
from distill.tasks import jsonl, registration
from tests_support import write_rows

LAYOUT = Layout(4, 64, 64)


def test_prefetch_keeps_order_and_hands_over_errors(tmp_path):
    write_rows(tmp_path / "train.jsonl", 40)
    fields = {"input": "question", "rationale": "why", "label": "answer"}
    dataset = jsonl.dataset({"train": tmp_path / "train.jsonl"}, name="ahead", fields=fields, validation_fraction=0.0)
    name = registration.register(dataset, "bytes").paired
    prefetch, stream = Prefetch(BatchStream(name, LAYOUT, seed=1)), BatchStream(name, LAYOUT, seed=1)
    for _ in range(5):
        got, wanted = next(prefetch), next(stream)
        assert got.position == wanted.position
        for key, array in wanted.arrays.items():
            np.testing.assert_array_equal(got.arrays[key], array, err_msg=key)
    prefetch.close()
    assert not [thread for thread in threading.enumerate() if thread is prefetch._thread]

    def broken():
        yield from ()
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        next(Prefetch(broken()))
