"""The rows that ``infer`` answers."""

import json
import os
import threading

import pytest

from distill.inference import input_rows


def test_every_line_is_a_row_with_its_input_or_its_error(tmp_path):
    path = tmp_path / "rows.jsonl"
    lines = ['{"id": 7, "question": "1 + 1?"}', "", "{", '{"id": 8}', '{"question": "\\ud800"}', '{"id": "\\ud800"}']
    path.write_text("\n".join(lines) + "\n")
    rows = list(input_rows.read(path, "question"))
    assert [row.line for row in rows] == [1, 2, 3, 4, 5, 6]
    assert (rows[0].id, rows[0].text, rows[0].error) == (7, "1 + 1?", None)
    assert all(row.error for row in rows[1:])
    assert rows[3].id == 8 and "question" in rows[3].error
    assert "half of a surrogate pair" in rows[4].error
    assert rows[5].id is None and "half of a surrogate pair" in rows[5].error
    json.dumps([row.fingerprint for row in rows]).encode("utf-8")


def test_the_id_is_read_from_its_field_or_else_from_id(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [{"nr": 7, "id": "a", "question": "x"}, {"id": "b", "question": "x"}, {"question": "x"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [row.id for row in input_rows.read(path, "question", "nr")] == [7, "b", None]
    assert [row.id for row in input_rows.read(path, "question", "{nr}-{id}")] == ["7-a", "b", None]


def test_a_field_that_no_row_has_is_named_with_the_nearest(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"question": "a"}\n{"query": "b"}\n')
    input_rows.check_field(path, "question")
    with pytest.raises(ValueError, match=r"none of 2 rows has the field 'questoin'.*did you mean 'question'"):
        input_rows.check_field(path, "questoin")
    path.write_text("{\n")
    input_rows.check_field(path, "question")  # its rows have errors of their own


def test_a_pipe_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    checked = threading.Thread(target=input_rows.check_field, args=(tmp_path / "pipe", "question"), daemon=True)
    checked.start()
    checked.join(10)
    assert not checked.is_alive()


def test_choices_are_those_of_the_row_or_of_all_rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [
        {"q": "x", "options": ["a", "b"]},
        {"q": "x", "options": [{"label": "A", "text": "c"}, {"label": "B", "text": "d"}]},
        {"q": "x"},
        {"q": "x", "options": []},
        {"q": "x", "options": "a, b"},
        {"q": "x", "options": ["\ud800"]},
        {"q": "x", "options": ["a", None, "b"]},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = list(input_rows.read(path, "q", choices="options"))
    assert [row.choices for row in found] == [("a", "b"), ("c", "d"), None, (), None, None, None]
    assert found[2].error == "field 'options' is absent; the row has q"
    assert found[4].error == "field 'options' has no list of choices; got 'a, b'"
    assert found[6].error == "options[1] is null; expected a text or a number"
    assert "half of a surrogate pair" in found[5].error
    assert {row.choices for row in input_rows.read(path, "q", choices=["no", "yes"])} == {("no", "yes")}
    assert found[0].fingerprint != next(input_rows.read(path, "q")).fingerprint
    with pytest.raises(
        ValueError, match=r"'option', where the choices were expected .*--choices .*did you mean 'options'"
    ):
        input_rows.check_field(path, "option", "the choices were", "--choices names another field")
