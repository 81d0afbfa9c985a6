"""Several teachers' answers to the same rows, joined by id."""

import pytest

from distill.tasks import jsonl, svamp, teachers
from distill.tasks.dataset import Dataset
from distill.tasks.records import Record, Report, SourceError


def dataset(name, rows, **settings):
    return Dataset(name, lambda split: iter(rows), validation_fraction=0.0, **settings)


A = [
    Record(id="1", input="q1", label="x", llm_label="X.", rationales=("a1",)),
    Record(id="2", input="q2", llm_label="y", rationales=("a2", "a3")),
]
B = [Record(id="1", input="q1", llm_label="x", rationales=("b1",)), Record(id="9", input="other")]
C = [Record(id="1", input="q1", llm_label="z", rationales=("c1",)), Record(id="2", input="q2")]


def test_rationales_keep_their_teacher_and_labels_vote():
    joined = teachers.joined({"a": dataset("rows", A), "b": dataset("b", B), "c": dataset("c", C)})
    assert joined.name == "rows" and joined.several_rationales
    one, two = joined.records("train")
    assert (one.rationales, one.rationale_teachers) == (("a1", "b1", "c1"), ("a", "b", "c"))
    assert dict(one.label_votes) == {"X.": pytest.approx(2 / 3), "z": pytest.approx(1 / 3)}  # "X." and "x" are equal
    assert (one.label, one.llm_label) == ("x", "X.")
    assert (two.rationales, two.rationale_teachers) == (("a2", "a3"), ("a", "a"))
    assert two.label_votes == (("y", 1.0),)


def test_inputs_must_agree_and_there_must_be_two():
    other = dataset("b", [Record(id="1", input="another question")])
    with pytest.raises(
        SourceError, match="row '1': teacher 'b' has another input; expected 'q1', got 'another question'"
    ):
        list(teachers.joined({"a": dataset("a", A), "b": other}).records("train"))
    with pytest.raises(ValueError, match=r"at least two data sets; got \['a'\]"):
        teachers.joined({"a": dataset("a", A)})


def test_problems_of_all_teachers_are_reported_with_their_rows(write, tmp_path):
    rows = [{"id": str(n), "input": f"q{n}", "reply": f"It is {n}. The answer is ({n})."} for n in range(4)]
    write.lines(tmp_path / "a.jsonl", [*rows, {"id": "bad"}])
    write.lines(
        tmp_path / "b.jsonl",
        [rows[0], rows[1] | {"reply": "No."}, {"id": "2"}, {"id": "9", "input": "q9", "reply": "No."}],
    )
    names = {"a": "a.jsonl", "b": "b.jsonl", "again": "a.jsonl"}
    datasets = {
        name: jsonl.dataset({"train": tmp_path / file}, parser="svamp", answer="equation")
        for name, file in names.items()
    }
    report = Report()
    both = teachers.joined(datasets, validation_fraction=0.0)
    assert len(list(both.records("train", report))) == 4
    found = [(problem.kind, problem.reason.partition(":")[0], problem.id, problem.line) for problem in report.problems]
    b, (_, reason, _, _) = "teacher 'b'", found[1]
    assert found == [("reply", b, "1", 2), ("row", reason, "", 5), ("row", b, "", 3)] and reason.startswith("the row")


def test_the_papers_two_teachers(svamp_dir, write):
    for split in ("train", "test"):
        replies = [f" {n} + 2 it is. The answer is ({n} + 2).\n\nQ: And?" for n in range(3, 9)]
        write.array(svamp_dir / "gpt-neox" / "svamp" / f"{split}.json", replies)
    both = teachers.joined(
        {"palm": svamp.dataset(svamp_dir), "gpt-neox": svamp.dataset(svamp_dir, teacher="gpt-neox")},
        validation_fraction=0.0,
    )
    first = next(iter(both.records("train")))
    assert first.rationale_teachers == ("palm", "gpt-neox")
    assert len(first.label_votes) == 1  # both say 3 + 2
