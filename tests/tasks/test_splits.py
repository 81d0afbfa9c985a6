import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.tasks import splits
from distill.tasks.records import Record, is_blank

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda text: not is_blank(text))


def _records(number):
    return [Record(id=str(i), input=f"question {i}") for i in range(number)]


def test_train_and_validation_are_a_partition_of_about_the_right_size():
    rows = _records(5000)
    train = list(splits.cut(rows, "train"))
    validation = list(splits.cut(rows, "validation"))
    assert sorted(r.id for r in train + validation) == sorted(r.id for r in rows)
    assert 430 < len(validation) < 570


def test_a_rows_side_depends_on_nothing_but_its_input_and_the_seed():
    rows = _records(200)
    held_out = {r.input for r in splits.cut(rows, "validation", seed=3)}
    other = [Record(id="x" + r.id, input=r.input, label="y") for r in reversed(rows[50:])]
    assert {r.input for r in splits.cut(other, "validation", seed=3)} == held_out & {r.input for r in other}
    assert {r.input for r in splits.cut(rows, "validation", seed=4)} != held_out


def test_known_positions_stay_what_they_are():
    assert splits.position("question 0") == pytest.approx(0.6828953255302448)
    assert splits.position("question 0", seed=1, purpose="subsample") == pytest.approx(0.5509308737244762)


@settings(max_examples=50)
@given(
    st.lists(TEXTS, max_size=40),
    st.floats(0.01, 1.0),
    st.floats(0.01, 1.0),
    st.integers(0, 2**31),
)
def test_subsamples_are_nested(texts, first, second, seed):
    small, large = sorted((first, second))
    rows = [Record(id=str(i), input=text) for i, text in enumerate(texts)]
    inner = {r.id for r in splits.subsample(rows, fraction=small, seed=seed)}
    outer = {r.id for r in splits.subsample(rows, fraction=large, seed=seed)}
    assert inner <= outer
    assert {r.id for r in splits.subsample(rows, fraction=1.0, seed=seed)} == {r.id for r in rows}


def test_the_papers_fractions_have_about_their_sizes():
    rows = _records(8000)
    for fraction in (0.125, 0.25, 0.5, 0.75):
        share = len(list(splits.subsample(rows, fraction=fraction))) / len(rows)
        assert abs(share - fraction) < 0.025


def test_subsampling_is_independent_of_the_validation_cut():
    rows = list(splits.cut(_records(8000), "train"))
    share = len(list(splits.subsample(rows, fraction=0.25))) / len(rows)
    assert abs(share - 0.25) < 0.025


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.5, float("nan")])
def test_a_fraction_out_of_range_is_an_error(fraction):
    with pytest.raises(ValueError, match=r"subsample must be in \(0, 1\]"):
        splits.in_subsample(Record(id="1", input="x"), fraction=fraction)


def test_only_train_and_validation_are_cut():
    with pytest.raises(ValueError, match="only 'train' and 'validation'"):
        list(splits.cut(_records(3), "test"))


def _cut(rows, **settings):
    return [[record.id for record in splits.cut(rows, split, **settings)] for split in ("train", "validation")]


def test_a_small_set_always_has_a_validation_row():
    nothing_held_out = 0
    for number in range(300):
        rows = [Record(id=str(i), input=f"set {number}, question {i}", label="x") for i in range(10)]
        chosen = [row.id for row in rows if splits.in_validation(row)]
        nothing_held_out += not chosen
        train, validation = _cut(rows)
        if chosen:  # what the hash holds out is all that is held out
            assert validation == chosen
        else:
            (held_out,) = validation
            assert held_out == min(rows, key=lambda row: splits.position(row.input, purpose="validation")).id
        assert sorted(train + validation) == [str(i) for i in range(10)]
        assert train == sorted(train)
        assert _cut(rows[::-1]) == [train[::-1], validation[::-1]]
    assert 75 < nothing_held_out < 135  # 0.9 ** 10 is 35 %


def test_the_row_held_out_of_a_small_set_has_a_label_if_any_has():
    inputs = [f"question {n}" for n in range(5)]  # none of them is held out by the hash
    assert _cut([Record(id=text, input=text) for text in inputs])[1] == ["question 2"]
    rows = [Record(id=text, input=text, label="x" if text == "question 0" else None) for text in inputs]
    assert _cut(rows)[1] == ["question 0"]


def test_equal_inputs_stay_together_and_training_rows_are_left():
    twice = [Record(id=f"{text}{n}", input=text) for n in range(2) for text in ("a", "b")]
    train, validation = _cut(twice)
    assert {len(train), len(validation)} == {2}
    assert len({id[0] for id in validation}) == 1
    for text in ("question 0", "a"):  # the hash would hold out "a"
        assert splits.in_validation(Record(id="1", input=text)) == (text == "a")
        alike = [Record(id=str(n), input=text) for n in range(3)]
        assert _cut(alike) == [["0", "1", "2"], []]
    assert _cut(_records(5), fraction=0.0) == [["0", "1", "2", "3", "4"], []]


@settings(max_examples=200)
@given(st.lists(TEXTS, min_size=1, max_size=30), st.floats(0.01, 0.5), st.integers(0, 2**31))
def test_the_two_parts_are_always_a_partition_by_input(texts, fraction, seed):
    rows = [Record(id=str(i), input=text) for i, text in enumerate(texts)]
    train = list(splits.cut(rows, "train", fraction=fraction, seed=seed))
    validation = list(splits.cut(rows, "validation", fraction=fraction, seed=seed))
    assert sorted(train + validation, key=lambda row: int(row.id)) == rows
    assert not {row.input for row in train} & {row.input for row in validation}
    assert train
    assert bool(validation) == (len(set(texts)) > 1)
    chosen = [row for row in rows if splits.in_validation(row, fraction=fraction, seed=seed)]
    if 0 < len(chosen) < len(rows):
        assert validation == chosen
