"""What is printed of several splits is said once; rows that lack something are shown."""

import io
import json

import rich.console
import seqio

from distill.data import report as data_report
from distill.data import report_text
from distill.tasks import jsonl
from distill.tasks.dataset import Dataset
from distill.tasks.records import Record

BYTES = seqio.ByteVocabulary()


def test_what_is_true_of_the_whole_training_file_is_said_once(tmp_path):
    rows = [Record(id=str(n), input=f"q{n // 2}", label="yes") for n in range(60)]
    source = lambda split: iter(rows)  # noqa: E731
    source.splits = ("train",)
    result = data_report.report([Dataset("cut", source)], BYTES)
    held = io.StringIO()
    report_text.render(result, rich.console.Console(file=held, width=200))
    (said,) = [line for line in held.getvalue().splitlines() if "input of another row" in line]
    parts = [result["sets"]["cut"][split]["rows"] for split in ("train", "validation")]
    whole = "cut train+validation: 60 rows have the input of another row"
    assert said == f"{whole} (train: {parts[0]}, validation: {parts[1]})" and all(parts)


def test_rows_with_several_rationales_are_counted():
    rows = [Record(id=str(n), input=f"q{n}", label="yes", rationales=("a", "b")[: n % 3]) for n in range(6)]
    source = lambda split: iter(rows)  # noqa: E731
    source.splits = ("train",)
    result = data_report.report([Dataset("two", source, validation_fraction=0.0)], BYTES)
    assert result["sets"]["two"]["train"]["several_rationales"] == 2
    held = io.StringIO()
    report_text.render(result, rich.console.Console(file=held, width=200))
    assert "two train: 2 of 6 rows have several rationales: training uses one in each epoch" in held.getvalue()


def test_rows_that_lack_something_and_repeated_inputs_are_shown(tmp_path):
    rows = [{"input": f"q{n}", "label": str(n), "rationale": "because"} for n in range(6)]
    rows += [{**rows[1], "label": "9"}, {**rows[2], "label": ""}]
    rows[3].pop("rationale")
    files = {"test": [rows[4]], "train": rows}
    for split, content in files.items():
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
    places = {split: tmp_path / f"{split}.jsonl" for split in files}
    dataset = jsonl.dataset(places, name="mine", validation_fraction=0.0)
    result = data_report.report([dataset], BYTES, details=True)
    found = result["sets"]["mine"]
    assert found["train"]["repeats"] == {"rows": 4, "contradicting": 2, "of_training": 0}
    assert found["test"]["repeats"] == {"rows": 0, "contradicting": 0, "of_training": 1}
    lacking = [(row["reason"], row["line"]) for row in found["train"]["lacking"]]
    assert lacking == [("no gold label", 8), ("no rationale", 4)]
    held = io.StringIO()
    report_text.render(result, rich.console.Console(file=held, width=200))
    printed = held.getvalue()
    assert "mine train: 4 rows have the input of another row; 2 of these have different gold labels" in printed
    assert "mine test: 1 row has the input of a training row" in printed
    assert "train.jsonl:8  no gold label" in printed and "undecided" not in printed
