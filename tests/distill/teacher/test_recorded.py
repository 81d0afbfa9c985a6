"""A file of recorded replies is refused with its line where a field has the wrong type."""

import json

import pytest

from distill.tasks.records import SourceError
from distill.teacher import RecordedConfig

GOOD = {"id": "a", "sample": 0, "reply": "because", "usage": [3, 4]}


@pytest.mark.parametrize(
    ("field", "value"),
    [("sample", value) for value in ("x", None, [], -1, 0.5, True)]
    + [("usage", value) for value in ("ab", [1], [1, 2, 3], [1, None], [1, -2], {"a": 1}, 7)],
)
def test_a_field_of_the_wrong_type_is_refused_with_its_line(tmp_path, field, value):
    path = tmp_path / "replies.jsonl"
    path.write_text(json.dumps(GOOD) + "\n" + json.dumps(GOOD | {field: value}) + "\n")
    with pytest.raises(SourceError, match=rf"replies\.jsonl:2: '{field}' must be"):
        RecordedConfig(str(path)).open()


def test_good_rows_are_read(tmp_path):
    path = tmp_path / "replies.jsonl"
    path.write_text(json.dumps(GOOD) + "\n" + json.dumps(GOOD | {"usage": None, "sample": 1}) + "\n")
    assert RecordedConfig(str(path)).open().model.startswith("recorded:")
