"""What the runs of a sweep read, compared with what they read when the sweep was planned."""

import pytest

from distill.experiments.sweep.inputs import Changed, Inputs
from distill.experiments.sweep.runs import Run

PLANNED = Inputs(
    {"a.gin": {"LAMBDA": 1.0, "SEEN": 1}, "b.gin": {"LOG_PERIOD": 1}}, {"set, split train, settings a": ["x", "y"]}
)


@pytest.fixture
def run(tmp_path):
    return Run("SEEN-2", {"SEEN": "2"}, ("a.gin",), ("SEEN = 2",), tmp_path / "SEEN-2")


@pytest.mark.parametrize(
    "now",
    [
        PLANNED,
        Inputs({"a.gin": {"SEEN": 5, "LAMBDA": 1.0}, "b.gin": {"LOG_PERIOD": 9}}),
        Inputs({"c.gin": {"LAMBDA": 3.0}}, {"set, split train, settings 2": ["z"]}),
        Inputs(rows={"set, split train, settings a": ["y"]}),
    ],
    ids=("equal", "set by the sweep, or of no student", "in the plan not", "rows of another level"),
)
def test_what_trains_the_same_student_is_accepted(run, now):
    PLANNED.refuse_changed(run, now)


def test_an_edited_file_and_changed_rows_are_named(run):
    with pytest.raises(
        Changed, match=r"SEEN-2 was not .*: a\.gin has been edited .*\(LAMBDA was 1\.0 and is now 3\.0\)"
    ):
        PLANNED.refuse_changed(run, Inputs({"a.gin": {"LAMBDA": 3.0}}))
    with pytest.raises(Changed, match=r"the rows of set, split train have changed since .*--directory"):
        PLANNED.refuse_changed(run, Inputs(rows={"set, split train, settings a": ["z"]}))


def test_changed_rows_are_named_by_their_files(run):
    now = Inputs(rows={"set, split train, settings a": ["z"]})
    assert PLANNED.changed_rows(PLANNED) == [] and PLANNED.changed_rows(now) == ["set, split train, settings a"]
    with pytest.raises(Changed, match=r"not started: the rows of a\.jsonl, b\.jsonl have changed since"):
        PLANNED.refuse_changed(run, now, {"train": ["a.jsonl", "b.jsonl"], "test": "c.jsonl"})


def test_newer_files_replace_and_hashes_are_added():
    both = PLANNED.updated(Inputs({"a.gin": {"LAMBDA": 3.0}}, {"set, split train, settings a": ["z"]}))
    assert both.gin == {"a.gin": {"LAMBDA": 3.0}, "b.gin": {"LOG_PERIOD": 1}}
    assert both.rows == {"set, split train, settings a": ["x", "y", "z"]}
