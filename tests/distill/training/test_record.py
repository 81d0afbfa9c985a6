"""``record.json``: what is written is read again, and a damaged file is named with its field."""

import dataclasses
import json
import math

import pytest

from distill.training import record

RECORD = record.Record(
    configuration={"LAMBDA": 0.5, "TRAIN_STEPS": 8, "FILES": {"train": "a.jsonl"}, "MESH": "@partitioning.MeshConfig()"},
    data={"train": record.SplitData("ab12", 40, "train"), "test": record.SplitData("cd34", 10, "test", 3)},
    code=record.Code("1.0", "deadbeef", False, {"jax": "0.10.2"}),
    environment=record.Environment("here", "a processor", "cpu", 1, 1, "3.12", ""),
    training=record.Training(
        steps=8, examples=32, tokens=1000, padding_share=0.25, lambda_=0.5, lambda_of_totals=0.5, flops=8e9,
        flops_per_step=1e9, seconds=2.5, chip_seconds=2.5, peak_memory_bytes=None, parameters=18_672, attempts=1,
    ),
    selection=record.Selection("validation", "accuracy", 4, 0.5),
    validation={"accuracy": 0.5},
    test={"accuracy": 0.4, "bleu": math.nan},
)  # fmt: skip


def test_a_record_is_read_as_it_was_written(tmp_path):
    record.write(tmp_path, RECORD)
    written = json.loads((tmp_path / "record.json").read_text())
    assert written["format"] == 1
    assert written["training"]["lambda"] == 0.5
    assert written["test"] == {"accuracy": 0.4, "bleu": None}  # JSON has no nan
    found = record.read(tmp_path)
    assert found == dataclasses.replace(RECORD, test={"accuracy": 0.4, "bleu": None})
    assert not list(tmp_path.glob(".*.distill-partial"))


def test_fields_of_later_versions_are_ignored_and_optional_ones_may_be_absent(tmp_path):
    value = RECORD.to_json()
    value["more"] = [1]
    del value["training"]["goodput"], value["data"]["test"]["split"], value["data"]["test"]["seen"]
    (tmp_path / "record.json").write_text(json.dumps(value))
    assert record.read(tmp_path).training.goodput is None
    assert record.read(tmp_path).data["test"] == record.SplitData("cd34", 10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v["training"].pop("steps"), r"record.json: training.steps is missing"),
        (lambda v: v["training"].update(steps="8"), r"record.json: training.steps must be a whole number; got '8'"),
        (lambda v: v["training"].update(steps=True), r"training.steps must be a whole number; got True"),
        (lambda v: v["training"].update({"lambda": "1"}), r"training.lambda must be a number; got '1'"),
        (lambda v: v["data"].update(test=3), r"data.test must be an object; got int"),
        (lambda v: v["data"]["test"].update(rows=None), r"data.test.rows must be a whole number; got None"),
        (lambda v: v["code"].update(modified=1), r"code.modified must be true or false; got 1"),
        (lambda v: v["test"].update(accuracy="high"), r"test.accuracy must be a number; got 'high'"),
        (lambda v: v.update(configuration=[]), r"configuration must be an object; got list"),
        (lambda v: v.update(format=2), r"record.json: format must be 1; got 2; another version has written it"),
    ],
)
def test_a_field_that_does_not_fit_is_named(tmp_path, change, message):
    value = RECORD.to_json()
    change(value)
    (tmp_path / "record.json").write_text(json.dumps(value))
    with pytest.raises(ValueError, match=message):
        record.read(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON: maximum recursion"),
        ("[1]", "the file must be an object; got list"),
    ],
)
def test_a_file_that_is_no_record(tmp_path, text, message):
    (tmp_path / "record.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        record.read(tmp_path)


def test_a_run_without_a_record(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"record.json does not exist: the run is not finished, or an earlier"):
        record.read(tmp_path)
