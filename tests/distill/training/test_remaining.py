"""The estimate of the time that is left: from which steps it is made, and what it leaves out."""

import pytest

from distill.training.remaining import Remaining, words


def test_no_estimate_before_a_few_updates_were_timed():
    left = Remaining(100)
    assert left.seconds(1) is None
    left.logged(3, 60.0, 2.0)  # two updates after the first, which compiled
    assert left.seconds(3) is None
    left.logged(5, 61.0)
    assert left.seconds(5) is None
    left.logged(8, 62.5)
    assert left.seconds(8) == pytest.approx(92 * 0.5)


def test_a_continued_run_counts_its_own_updates_only():
    left = Remaining(1000, step=900)
    left.logged(903, 60.0, 2.0)
    assert left.seconds(903) is None
    left = Remaining(1000, step=900)
    left.logged(910, 60.0, 2.0)
    assert left.seconds(910) == pytest.approx(45.0)


def test_the_newest_lines_decide():
    left = Remaining(1000)
    for number in range(10):  # one update a second, then four
        left.logged(10 * (number + 1), 100.0 + 10 * number)
    assert left.seconds(100) == pytest.approx(900.0)
    for number in range(10):
        left.logged(110 + 10 * number, 190.0 + 2.5 * (number + 1))
    assert left.seconds(200) == pytest.approx(200.0)


def test_evaluations_count_once_by_the_shortest():
    left = Remaining(1000, evaluation_period=300)
    left.logged(100, 0.0)
    left.logged(300, 100.0)
    left.evaluated(40.0)  # with its compilation
    left.logged(400, 190.0)  # 40 s of the 90 s since the last line were the evaluation
    assert left.seconds(400) == pytest.approx(600 * 0.5 + 3 * 40.0)  # at 600, 900 and 1000
    left.evaluated(10.0)
    assert left.seconds(700) == pytest.approx(300 * 0.5 + 2 * 10.0)


def test_words():
    assert [words(value) for value in (0.0, 99.0, 100.0, 6000.0, 48 * 3600.0)] == [
        "0 s left",
        "99 s left",
        "2 min left",
        "1 h 40 min left",
        "2 d 0 h left",
    ]
