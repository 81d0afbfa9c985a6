"""Windows: the balance of their two sizes, what fits, and how full they become."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.window_fill import first_fit
from distill.data.packing import Layout, Planner
from distill.data.windows import Windows, place_all


def test_a_sequence_goes_where_it_restores_the_balance():
    windows = Windows(2, 10, 10)
    assert windows.place(6, 1) == 0  # leaves targets
    assert windows.place(1, 6) == 0
    assert windows.place(6, 1) == 1
    assert windows.place(1, 6) == 1
    assert windows.place(4, 4) is None


def test_of_equally_balanced_windows_the_fuller_one_is_used():
    windows = Windows(3, 10, 10)
    assert windows.place(4, 4) == 0
    assert windows.place(7, 7) == 1
    assert windows.place(3, 3) == 1
    assert windows.place(3, 3) == 0


def test_what_is_given_back_can_be_placed_again():
    windows, other = Windows(2, 7, 3), Windows(2, 7, 3)
    row = windows.place(5, 1)
    windows.give_back(row, 5, 1)
    for size in ((2, 1), (5, 2), (3, 1), (4, 2)):
        assert windows.place(*size) == other.place(*size)


@settings(max_examples=100)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 12), st.integers(1, 8)), min_size=1, max_size=30), number=st.integers(1, 9)
)
def test_all_are_placed_or_none(sizes, number):
    placed = place_all(sizes, number, 12, 8)
    if placed is None:
        return
    windows, rows = placed
    used = np.zeros((number, 2), int)
    np.add.at(used, rows, sizes)
    assert (used <= (12, 8)).all()
    for row, (encoder, decoder) in enumerate(used.tolist()):
        windows.give_back(row, encoder, decoder)
    assert [windows.place(12, 8) for _ in range(number)] == list(range(number))


@pytest.mark.parametrize("sizes", [[(5, 1)] * 3, [(1, 6), (1, 6)]], ids=["too many tokens", "two long targets"])
def test_more_than_the_windows_hold_is_not_tried(sizes, monkeypatch):
    monkeypatch.delattr(Windows, "place")
    assert place_all(sizes, 1, 10, 10) is None


def taken(sizes, add):
    """How many sequences are placed, in order, before one is refused."""
    return next(number for number, size in enumerate(sizes) if not add([size]))


@pytest.mark.parametrize(("windows", "gain"), [(8, 1.03), (64, 1.02)])
def test_more_sequences_fit_than_with_first_fit(windows, gain):
    layout, rng = Layout(windows, 256, 144), np.random.default_rng(0)
    ours = theirs = 0
    for _ in range(10):
        inputs = np.clip(rng.lognormal(3.8, 0.35, 20 * windows), 10, 256)
        targets = np.where(rng.random(len(inputs)) < 0.5, np.clip(rng.lognormal(3.8, 0.45, len(inputs)), 10, 144), 5)
        sizes = list(zip(inputs.astype(int).tolist(), targets.astype(int).tolist()))
        theirs += taken(sizes, first_fit(layout))
        ours += taken(sizes, Planner(layout).add)
    assert ours >= gain * theirs
