import pytest

from tasks.dataset import Dataset
from tasks.records import PlainSource, Record, Report


def rows(split):
    for number in range(20):
        yield Record(id=f"{split}{number}", input=f"{split} question {number}", label="yes" if number else "maybe")


def test_a_bare_function_is_a_source():
    dataset = Dataset("demo", rows)
    assert dataset.splits == ("train", "validation", "test")
    train, validation = list(dataset.records("train")), list(dataset.records("validation"))
    assert len(train) + len(validation) == 20
    assert len(list(dataset.records("test"))) == 20


def test_a_functions_own_splits_are_honoured():
    def read(split):
        return rows(split)

    read.splits = ("train", "validation", "test", "hard")
    dataset = Dataset("demo", read)
    assert dataset.splits == ("train", "validation", "test", "hard")
    assert not dataset.cuts_validation
    assert len(list(dataset.records("train"))) == 20
    assert Dataset("demo", PlainSource(rows, splits=("train",)), validation_fraction=0.0).splits == ("train",)


def test_reading_is_lazy():
    def read(split):
        yield Record(id="1", input="first")
        raise AssertionError("read on")

    records = Dataset("demo", read, validation_fraction=0.0).records("train")
    assert next(records).id == "1"


def test_labels_outside_the_set_are_reported():
    report = Report()
    dataset = Dataset("demo", rows, labels=("yes", "no"), validation_fraction=0.0)
    assert len(list(dataset.records("train", report))) == 19
    (problem,) = report.rejected
    assert (problem.id, problem.reason) == ("train0", "unknown label (expected yes, no)")
    assert report.rows == 19


def test_rejected_rows_of_a_cut_file_are_told_once():
    dataset = Dataset("demo", rows, labels=("yes", "no"))
    reports = {split: Report() for split in ("train", "validation")}
    for split, report in reports.items():
        list(dataset.records(split, report))
    assert len(reports["train"].rejected) == 1
    assert not reports["validation"].rejected


def test_bad_declarations():
    with pytest.raises(ValueError, match="answer must be one of text, choice, equation; got 'sum'"):
        Dataset("demo", rows, answer="sum")
    with pytest.raises(ValueError, match="validation_fraction must be in"):
        Dataset("demo", rows, validation_fraction=1.0)
    with pytest.raises(TypeError, match="a source must be callable"):
        Dataset("demo", [1, 2])


def test_long_texts_are_cut_in_reports_and_places_are_named():
    report = Report()
    report.add("row", "too odd", file="rows.jsonl", line=3, text="x" * 500)
    assert len(report.problems[0].text) == 198
    assert str(report.problems[0]).startswith("rows.jsonl:3: too odd — xxx")
