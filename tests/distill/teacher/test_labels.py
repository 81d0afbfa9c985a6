"""When gold labels are few enough to say that another label is none."""

from distill.tasks.records import Record
from distill.teacher.prompts.labels import known_labels


def rows(*labels, **more):
    return [Record(id=f"r{n}", input="x", label=label, **more) for n, label in enumerate(labels)]


def test_few_labels_that_repeat_are_all_there_are():
    assert known_labels(rows("a", "b", "A", "b.", "a", "b"), worked=["c", "a"]) == ("a", "b", "c")


def test_labels_that_hardly_repeat_are_free_text():
    assert known_labels(rows("a", "b", "c", "a")) == ()
    assert known_labels(rows(*(f"label {n}" for n in range(21)), *["label 0"] * 100)) == ()
    assert known_labels(rows(None, None, None)) == ()
    assert known_labels(rows("a", "a", "a"), worked=["b", "c"]) == (), "one label does not determine the others"
    assert known_labels(rows("a", "a", "a"), worked=["b", "A"]) == ("a", "b"), "but that of a worked example does"
    assert known_labels(rows("a", "a", "a", choices=("a", "b"))) == (), "each row has its own labels"


def test_declared_labels_are_the_answer():
    assert known_labels(rows("a", "b"), declared=("x", "y", "x"), worked=["c"]) == ("x", "y")
