"""Lengths, unknown tokens and agreement are counted row by row."""

import pytest

from distill.data import tallies
from distill.tasks.lengths import Ruler


def test_lengths_have_percentiles_that_occur_and_the_share_above_the_limit():
    found = tallies.Lengths(limit=4)
    assert found.summary() == {"sequences": 0}
    for length in (1, 2, 3, 9):
        found.add(length)
    summary = found.summary()
    assert (summary["mean"], summary["p50"], summary["p100"]) == (3.75, 3, 9)
    assert (summary["limit"], summary["truncated"]) == (4, 0.25)
    assert "limit" not in tallies.Lengths(None).summary()


def test_characters_are_counted_once_per_text_and_the_frequent_come_first():
    ruler = Ruler("letters", lambda texts: [text.replace("7", "?").replace("8", "?") for text in texts], unk="?")
    found = tallies.Unknown(ruler)
    for text in ("a", "7 + 7", "78", "b8 7"):
        found.add(text, ruler.unknown(text))
    assert found.summary() == {"texts": 4, "unknown": 3, "characters": {"7": 3, "8": 2}}
    assert list(found.summary()["characters"]) == ["7", "8"]


def test_agreement_is_a_share_with_an_interval_of_wilson():
    assert tallies.agreement([]) is None
    summary = tallies.agreement([True, True, False, True])
    assert summary is not None and (summary["share"], summary["rows"]) == (0.75, 4)
    assert summary["share_low"] == pytest.approx(0.3006, abs=1e-4)
