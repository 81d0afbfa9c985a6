import pytest

from distill.tasks.dataset import Dataset
from distill.tasks.records import Record
from distill.tasks.selection import Selection

AGREES = Record(id="1", input="q1", label="4", llm_label="(2 + 2)", rationales=("why",))
DIFFERS = Record(id="2", input="q2", label="4", llm_label="(2 + 3)", rationales=("why",))
UNREAD = Record(id="3", input="q3", label="4", rationales=("why",))
NO_GOLD = Record(id="4", input="q4", llm_label="5", rationales=("why",))


@pytest.fixture
def dataset():
    return Dataset("sums", lambda split: iter([AGREES, DIFFERS, UNREAD, NO_GOLD]), answer="equation")


def test_teacher_labels_are_for_training_only():
    selection = Selection(label_source="teacher")
    assert [selection.target(row, "train") for row in (AGREES, UNREAD, NO_GOLD)] == ["(2 + 2)", None, "5"]
    assert [selection.target(row, "validation") for row in (AGREES, UNREAD, NO_GOLD)] == ["4", "4", "5"]
    assert Selection().target(DIFFERS, "train") == "4"
    assert Selection().target(NO_GOLD, "train") is None


@pytest.mark.parametrize(
    ("how", "weights"),
    [
        ("keep", [1.0, 1.0, 1.0, 1.0]),
        ("drop_rationale", [1.0, None, None, 1.0]),
        ("down_weight", [1.0, 0.25, 0.25, 1.0]),
    ],
)
def test_the_agreement_filter(dataset, how, weights):
    selection = Selection(on_disagreement=how, disagreement_weight=0.25)
    rows = (AGREES, DIFFERS, UNREAD, NO_GOLD)
    assert [selection.rationale_weight(row, "train", dataset) for row in rows] == weights
    assert [selection.rationale_weight(row, "test", dataset) for row in rows] == [1.0] * 4


def test_subsampling_leaves_other_splits_alone(dataset):
    rows = [Record(id=str(n), input=f"q{n}") for n in range(400)]
    half = Selection(subsample=0.5)
    assert 150 < sum(half.wants(row, "train", dataset) for row in rows) < 250
    assert all(half.wants(row, split, dataset) for row in rows for split in ("validation", "test"))
    both = Selection(subsample=0.5, subsample_validation=True)
    assert [both.wants(row, "validation", dataset) for row in rows] == [
        half.wants(row, "train", dataset) for row in rows
    ]
    assert all(both.wants(row, "test", dataset) for row in rows)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"label_source": "llm"}, "label_source must be 'gold' or 'teacher'; got 'llm'"),
        ({"on_disagreement": "drop"}, "on_disagreement must be"),
        ({"disagreement_weight": -1}, "disagreement_weight must be"),
        ({"subsample": 0}, r"subsample must be in \(0, 1\]; got 0"),
        ({"subsample": 1.1}, r"subsample must be in \(0, 1\]; got 1.1"),
    ],
)
def test_bad_settings(argument, message):
    with pytest.raises(ValueError, match=message):
        Selection(**argument)
