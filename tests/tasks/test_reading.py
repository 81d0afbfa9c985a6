"""The examples of a task as NumPy arrays: those that SeqIO gives, the same in every reading."""

import inspect
import json

import numpy as np
import pytest

from distill.tasks import jsonl, reading, registration

ROWS = [
    {"question": f"{number} plus 1", "why": [f"reason {reason}" for reason in range(9)], "answer": f"{number + 1}"}
    for number in range(8)
]
examples = inspect.unwrap(reading.examples)  # not what other tests have read before


@pytest.fixture
def names(tmp_path):
    """Rows with nine rationales each, of which one is drawn."""
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    fields = {"input": "question", "rationale": "why", "label": "answer"}
    dataset = jsonl.dataset({"train": tmp_path / "train.jsonl"}, name="read", fields=fields)
    return registration.register(dataset, "bytes", rationales="draw")


def texts(read):
    return [example["targets_pretokenized"].decode() for example in read]


def test_what_is_drawn_is_the_same_in_every_reading(names):
    task = registration.get(names.rationale)
    first = texts(examples(task, "train"))
    assert all(texts(examples(task, "train")) == first for _ in range(2))
    assert texts(examples(task, "train", seed=1)) != first
    assert len(set(first)) > 1


def test_it_reads_a_part(names):
    task = registration.get(names.label)
    everything = texts(examples(task, "train"))
    assert texts(examples(task, "train", limit=3)) == everything[:3]
    assert texts(examples(task, "train", every=2)) == everything[::2]


def test_only_tokens_are_arrays_of_numbers(names):
    (example,) = examples(registration.get(names.paired), "train", limit=1, only_tokens=True)
    assert {value.dtype.type for value in example.values()} == {np.int32, np.float32}
    assert {"inputs", "targets", "rationale_inputs", "rationale_targets_weights"} <= example.keys()
