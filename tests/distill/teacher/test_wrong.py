"""`distill extract --only_wrong`: only the rows that a student gets wrong are sent to the teacher."""

import json

import pytest

from distill import exit_codes
from distill.cli import main
from distill.tasks.records import Record
from distill.teacher.job import wrong

ROWS = [{"question": f"What is {n} plus 1?", "answer": str(n + 1)} for n in range(6)]
PROMPT = """
question: "Q: {input}\\nA:"
answer: "{rationale} So the answer is {label}."
examples:
  - {input: "What is 9 plus 1?", rationale: "9 and 1 make 10.", label: "10"}
"""


@pytest.fixture
def run(tmp_path):
    """A model directory with predictions on validation: rows 1 and 4 are wrong, 3 is right in another spelling."""
    predictions = [
        {"id": f"validation-{n}", "input": f"[label] {row['question']}", "target": row["answer"], "prediction": said}
        for n, (row, said) in enumerate(zip(ROWS, ["1", "7", "3", " 4. ", "", "6"]))
    ]
    folder = tmp_path / "run" / "predictions"
    folder.mkdir(parents=True)
    lines = "".join(json.dumps(row) + "\n" for row in predictions)
    (folder / "sums_label_validation.jsonl").write_text(lines)
    (folder / "test.jsonl").write_text(lines)
    (tmp_path / "run" / "student.json").write_text('{"label_prefix": "[label] "}')
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "prompt.yaml").write_text(PROMPT)
    return tmp_path / "run"


def records():
    return [Record(id=f"all-{n}", input=row["question"], label=row["answer"]) for n, row in enumerate(ROWS)]


def test_rows_are_found_by_id_or_by_input(run):
    selected = wrong.select(str(run), records(), "text")
    assert [record.id for record in selected.records] == ["all-1", "all-4"]
    assert (selected.predictions, selected.errors) == (6, 2)
    named = [Record(id=f"validation-{n}", input=row["question"], label=row["answer"]) for n, row in enumerate(ROWS)]
    file = run / "predictions" / "sums_label_validation.jsonl"
    assert [record.id for record in wrong.select(str(file), named, "text").records] == ["validation-1", "validation-4"]
    moved = [Record(id="validation-1", input="Another question?", label="2")]
    with pytest.raises(ValueError, match=r"none of the 2 wrong predictions in .* belongs to one of the 1 rows"):
        wrong.select(str(file), moved, "text")


def test_a_target_with_a_rationale_is_read_for_its_answer(tmp_path):
    rows = [
        ("a", "1 and 1. So the answer is 2", "So so. So the answer is 2"),
        ("b", "So the answer is 3", "So the answer is 2"),
    ]
    lines = [
        {"id": name, "input": f"question {name}", "target": target, "prediction": said} for name, target, said in rows
    ]
    (tmp_path / "validation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    given = [Record(id=name, input=f"question {name}") for name, *_ in rows]
    assert [record.id for record in wrong.select(str(tmp_path / "validation.jsonl"), given, "text").records] == ["b"]


def test_files_that_are_refused(run, tmp_path):
    for name in ("test", "sums_label_chosen_test", "sums_label_test_first_9"):
        (run / "predictions" / f"{name}.jsonl").touch()
        with pytest.raises(ValueError, match="predictions on the test split, which must not select"):
            wrong.predictions_file(str(run / "predictions" / f"{name}.jsonl"))
    with pytest.raises(ValueError, match=r"holds no predictions on validation.*distill eval --model_dir="):
        wrong.predictions_file(str(tmp_path))
    with pytest.raises(ValueError, match="does not exist"):
        wrong.predictions_file(str(tmp_path / "absent.jsonl"))
    (run / "predictions" / "other_label_validation.jsonl").write_text("{}\n")
    with pytest.raises(ValueError, match=r"several files of predictions \(.*\); give one of them"):
        wrong.predictions_file(str(run))
    (run / "predictions" / "validation.jsonl").write_text('{"id": "1"}\n')
    with pytest.raises(ValueError, match="line 1 is no prediction: it needs texts id, input, target, prediction"):
        wrong.select(str(run), records(), "text")


def test_the_command_forecasts_sends_and_writes_ids(run, tmp_path, capsys):
    replies = tmp_path / "replies.jsonl"
    replies.write_text(
        "".join(
            json.dumps({"id": f"all-{n}", "reply": f"One more. So the answer is {n + 1}."}) + "\n" for n in range(6)
        )
    )
    command = [
        "extract", f"--inputs={tmp_path / 'rows.jsonl'}", f"--output={tmp_path / 'out.jsonl'}", "--field=input=question",
        "--field=label=answer", f"--prompt={tmp_path / 'prompt.yaml'}", f"--recorded={replies}", f"--only_wrong={run}",
        "--price_prompt=1", "--price_completion=1", "--cost_cap=5",
    ]  # fmt: skip
    assert main.main([*command, "--dry_run"]) == 0
    said = capsys.readouterr().out
    assert "2 of 6 predictions" in said and "2 rows are sent to the teacher" in said
    assert "2 requests" in said and not (tmp_path / "out.wrong.json").exists()
    (tmp_path / "out.wrong.json").write_text("{}")
    assert main.main(command) == exit_codes.MISTAKE
    assert "out.wrong.json exists, and was not written by `distill extract`" in capsys.readouterr().err
    assert not (tmp_path / "out.jsonl").exists()
    assert main.main([*command, "--overwrite"]) == main.main(command) == 0
    written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [(row["id"], row["llm_label"], row["rationales"]) for row in written] == [
        ("all-1", "2", ["One more."]), ("all-4", "5", ["One more."]),
    ]  # fmt: skip
    assert json.loads((tmp_path / "out.wrong.json").read_text())["ids"] == ["all-1", "all-4"]
