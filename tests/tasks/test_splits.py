import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks import splits
from tasks.records import Record


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


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.text(min_size=1).filter(str.strip), max_size=40),
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
