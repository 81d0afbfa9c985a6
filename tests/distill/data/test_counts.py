"""Counts of sequences."""

from distill.data.counts import Counts


def test_counts_add_up_and_a_sequence_cut_on_both_sides_counts_once():
    counts = Counts({1: 3, 2: 2}, {1: 1, 2: 0}, {1: 1, 2: 0}, {1: 1, 2: 0}, 9, 3)
    counts.add(Counts({1: 1, 2: 2}, {1: 0, 2: 1}, {1: 0, 2: 0}, {1: 0, 2: 1}, 7, 5))
    assert counts == Counts({1: 4, 2: 4}, {1: 1, 2: 1}, {1: 1, 2: 0}, {1: 1, 2: 1}, 9, 5)
    assert counts.share_truncated() == 2 / 8
    assert Counts().share_truncated() == 0.0
    counts.add(Counts(label_is_last=True))
    assert counts.label_is_last
