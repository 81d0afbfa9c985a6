"""Shuffled rationales: every row has another row's, and nothing else changes."""

import dataclasses

import pytest

from distill.tasks import controls, registration
from distill.tasks.dataset import Dataset
from distill.tasks.records import Record, SourceError

ROWS = [
    Record(
        id=str(n),
        input=f"q{n}",
        label="x",
        rationales=(f"r{n}",) if n % 4 else (),
        rationale_teachers=("t",) if n % 4 else (),
    )
    for n in range(20)
]


def of(rows):
    return Dataset("rows", lambda split: iter(rows), validation_fraction=0.0)


def test_rows_have_others_rationales():
    shuffled = list(controls.shuffled_rationales(of(ROWS)).records("train"))
    having = [(before, after) for before, after in zip(ROWS, shuffled) if before.rationales]
    assert len(having) == 15 and all(before.rationales != after.rationales for before, after in having)
    assert sorted(after.rationales for _, after in having) == sorted(before.rationales for before, _ in having)
    restored = [
        dataclasses.replace(after, rationales=before.rationales, rationale_teachers=before.rationale_teachers)
        for before, after in zip(ROWS, shuffled)
    ]
    assert restored == ROWS
    assert list(controls.shuffled_rationales(of(ROWS)).records("train")) == shuffled
    assert list(controls.shuffled_rationales(of(ROWS), seed=1).records("train")) != shuffled


def test_the_setting_of_a_run():
    name = registration.register(of(ROWS), "bytes", rationale_control="shuffled").rationale
    found = [
        row["targets_pretokenized"].decode()
        for row in registration.get(name).get_dataset(None, split="train", shuffle=False).as_numpy_iterator()
    ]
    assert found == [r.rationales[0] for r in controls.shuffled_rationales(of(ROWS)).records("train") if r.rationales]
    with pytest.raises(ValueError, match="rationale_control must be 'shuffled' or None; got 'random'"):
        registration.register(of(ROWS), "bytes", rationale_control="random")


def test_too_few_rationales():
    with pytest.raises(SourceError, match="needs at least 2 training rows with rationales; got 1 among 2 rows"):
        list(controls.shuffled_rationales(of(ROWS[:2])).records("train"))
