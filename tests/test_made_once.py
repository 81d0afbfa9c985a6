"""Equal rows with equal settings are read once; others, also by the code of a preprocessor, are read again."""

import numpy as np

import made_once
from distill.tasks import jsonl, reading, registration
from tests_support import write_rows


def register(folder, rows, **settings):
    """Writes and registers a data set; returns its label task."""
    write_rows(folder / "train.jsonl", rows)
    fields = {"input": "question", "rationale": "why", "label": "answer"}
    dataset = jsonl.dataset({"train": folder / "train.jsonl"}, name="made_once", fields=fields)
    return registration.get(registration.register(dataset, "bytes", **settings).label)


def counted():
    """A reader like ``reading.examples``, and the splits that were in fact read."""
    read = []

    def examples(task, split, **options):
        read.append(split)
        yield from reading.examples(task, split, **options)

    return made_once.examples(examples), read


def test_equal_examples_are_read_once(tmp_path):
    examples, read = counted()
    first = list(examples(register(tmp_path, 12), "train"))
    first[0]["inputs"] = None  # of this reader alone
    again = list(examples(register(tmp_path, 12), "train"))
    assert len(again) == len(first) > 8 and again[0]["inputs"] is not None
    assert len(read) == 1
    others = [
        lambda: examples(register(tmp_path, 12), "train", limit=3),
        lambda: examples(register(tmp_path, 12), "train", seed=1),
        lambda: examples(register(tmp_path, 12), "train", only_tokens=True),
        lambda: examples(register(tmp_path, 12), "validation"),
        lambda: examples(register(tmp_path, 13), "train"),
        lambda: examples(register(tmp_path, 12, label_prefix="[answer] "), "train"),
        lambda: examples(register(tmp_path, 12, encoder_bos=False, rationales="first"), "train"),
    ]
    for number, other in enumerate(others, start=2):
        list(other())
        assert len(read) == number


def test_what_cannot_be_compared_is_always_read(tmp_path):
    task = register(tmp_path, 12)
    task.preprocessors.append(lambda dataset, held=np.zeros(2): dataset)
    examples, read = counted()
    for _ in range(2):
        list(examples(task, "train"))
    assert len(read) == 2


def test_equal_curves_are_drawn_once():
    drawn = []

    def draw(scalars, split, metric):
        drawn.append(scalars)
        return b"%d" % len(drawn)

    picture = made_once.pictures(draw)
    one = {"train/loss": [(1, 2.0)]}
    assert picture(one, "test", "accuracy") == picture({"train/loss": [(1, 3.0), (2, 1.0)]}, "test", "accuracy") == b"1"
    for other in ({}, {"train/loss": []}, {"train/loss": one["train/loss"] * 30}, {"train/loss/label": [(1, 2.0)]}):
        picture(other, "test", "accuracy")
    picture(one, "validation", "accuracy")
    assert len(drawn) == 6
