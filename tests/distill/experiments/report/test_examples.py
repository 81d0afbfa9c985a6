"""The rows that change most, and accuracy by kind of row."""

import json

import numpy as np
import pytest

from distill.experiments.report import examples
from tests.distill.experiments.report import synthetic
from tests.distill.experiments.report.conftest import analysed


def test_the_largest_changes_come_first(methods_analysis):
    found = methods_analysis[1]
    (changes,) = found.changes
    correct = found.evidence.correct
    a, b = (np.stack([correct[run] for run in cell.runs]).mean(axis=0) for cell in (changes.a, changes.b))
    assert (changes.better, changes.worse, changes.rows) == ((a > b).sum(), (a < b).sum(), 150)
    first = changes.examples[0]
    assert abs(first.change) == pytest.approx(np.abs(a - b).max())
    assert {example.change > 0 for example in changes.examples} == {True, False}
    row = int(first.id.removeprefix("row-"))
    assert (first.a.right, first.b.right) == pytest.approx((a[row], b[row]))
    assert first.rationale and first.teacher in ("yes", "no")


def test_kinds_of_rows(methods_analysis):
    (changes,) = methods_analysis[1].changes
    kinds = {bucket.name: bucket for bucket in changes.buckets}
    assert kinds["teacher right"].rows + kinds["teacher wrong"].rows == 150
    assert {"short inputs", "long inputs", "rationale contains the answer"} <= set(kinds)
    bucket = kinds["teacher right"]
    assert bucket.difference.value == pytest.approx(bucket.a - bucket.b)
    assert bucket.difference.low < bucket.difference.value < bucket.difference.high


def test_rationales_of_students_are_kept(tmp_path):
    for method, right in (("a", True), ("b", False)):
        directory = synthetic.write_run(tmp_path / method, [right, True, True], configuration={"FORM": method})
        lines = [json.dumps({"id": f"row-{n}", "prediction": f"by {method} {n}"}) for n in range(3)]
        (directory / "predictions" / "set_rationale_test.jsonl").write_text("\n".join(lines))
    (changes,) = analysed(tmp_path)[1].changes
    (example,) = changes.examples
    assert (example.a.rationale, example.b.rationale, example.a.right, example.b.right) == (
        "by a 0",
        "by b 0",
        1.0,
        0.0,
    )


def test_of_answers_given_equally_often_the_right_one_is_shown_with_its_share(tmp_path):
    for method, right in (("a", [True, False]), ("b", [False, False])):
        for seed in range(2):
            configuration = {"FORM": method, "RANDOM_SEED": seed}
            rows = [right[seed], True, True]
            directory = synthetic.write_run(tmp_path / f"{method}{seed}", rows, configuration=configuration)
            file = directory / "predictions" / "test.jsonl"
            lines = [json.loads(line) for line in file.read_text().splitlines()]
            lines[0]["prediction"] = lines[0]["target"] if right[seed] else "1"
            file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (changes,) = analysed(tmp_path)[1].changes
    (example,) = changes.examples
    shown = {str(example.a), str(example.b)}
    assert shown == {f"{example.target} (50 % of seeds; right in 50 %)", "1"}


def test_answers_as_words():
    assert not examples.contains_answer(None, "yes") and not examples.contains_answer("so yesterday", "yes")
