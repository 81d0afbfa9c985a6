"""The file of an evaluation's rows."""

import json

from distill.inference.evaluation import Evaluation


def test_rows_are_written_as_lines_of_json_in_a_new_folder(tmp_path):
    rows = [{"id": "1", "prediction": "größer", "correct": True}, {"id": "2", "prediction": "", "correct": None}]
    Evaluation({"accuracy": 50.0}, rows).write(tmp_path / "new" / "rows.jsonl")
    lines = (tmp_path / "new" / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == rows
    assert "größer" in lines[0]
