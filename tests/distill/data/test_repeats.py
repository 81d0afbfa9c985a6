"""Inputs that occur twice are counted, within a split and between the training rows and other splits."""

from distill.data import repeats
from distill.tasks.records import Record


def counts(**splits):
    found = repeats.Repeats()
    for split, rows in splits.items():
        for number, (text, label) in enumerate(rows):
            found.add(split, Record(id=str(number), input=text, label=label))
    return found


def test_rows_are_counted_with_their_copies_and_labels():
    found = counts(train=[("A b", "x"), ("a  B", "X."), ("c", "1"), ("c", "2"), ("c", None), ("d", "y")])
    assert found.of("train") == {"rows": 5, "contradicting": 2, "of_training": 0}
    assert repeats.sentences(found.of("train")) == {
        "rows": "5 rows have the input of another row; 2 of these have different gold labels"
    }


def test_rows_of_other_splits_are_compared_with_the_training_rows():
    found = counts(train=[("a", "x"), ("b", "y")], test=[("A", "x"), ("z", "z")], validation=[("q", "x")])
    assert found.of("test") == {"rows": 0, "contradicting": 0, "of_training": 1}
    assert repeats.sentences(found.of("test")) == {"of_training": "1 row has the input of a training row"}
    assert found.of("validation") == found.of("other") == {"rows": 0, "contradicting": 0, "of_training": 0}
    assert repeats.sentences(found.of("validation")) == {}
