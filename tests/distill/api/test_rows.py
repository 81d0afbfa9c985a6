"""``distill.read`` and ``distill.register``: rows from files, dicts and records."""

import json

import pytest

import distill
from distill.tasks import registration
from distill.tasks.records import RowError, SourceError
from tests.distill.api.written import FIELDS, sums

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def test_rows_are_read_from_files_dicts_and_records(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in sums(3)))
    from_dicts = distill.read(sums(3), fields=FIELDS)
    assert distill.read(path, fields=FIELDS) == distill.read([path], fields=FIELDS) == from_dicts
    assert distill.read(from_dicts) == from_dicts
    assert [record.label for record in from_dicts] == ["0", "1", "2"]
    with pytest.raises(TypeError, match=r"rows\[0\] must be a dict or a Record; got int"):
        distill.read([1])
    with pytest.raises(ValueError, match="rows is empty"):
        distill.read([])
    with pytest.raises(ValueError, match="leave fields out"):
        distill.read(from_dicts, fields=FIELDS)
    with pytest.raises(SourceError, match=r"^the rows: no row has the field 'questoin'.*did you mean 'question'"):
        distill.read(sums(2), fields={"input": "questoin"})
    with pytest.raises((SourceError, RowError), match="the rows: none of its 1 row can be used"):
        distill.read([{"input": None}])


def test_register_makes_tasks():
    names = distill.register(sums(20), "bytes", name="api_sums", fields=FIELDS, test=sums(3, 20))
    assert names.paired == "api_sums_paired"
    task = registration.get(names.label)
    assert task.num_input_examples("test") == 3
    assert {"train", "validation", "test"} == set(task.splits)
