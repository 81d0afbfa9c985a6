"""The decoding benchmark: it compares equal work, rejects sides that disagree, and prints and plots its results."""

import json

import numpy as np
import pytest

from benchmarks import decode, sides
from distill.model.network import T5Config

TINY = ["--vocab=96", "--width=16", "--heads=2", "--mlp=24", "--layers=1", "--inputs=8", "--rounds=1", "--batches=1"]


@pytest.fixture(scope="module")
def rows():
    options = decode.arguments([*TINY, "--cases=cqa_label,cqa_label_beam4", "--batch_sizes=2"])
    return decode.measure(options, 1)


def test_both_sides_decode_the_same_and_are_timed(rows):
    assert [(row["case"], row["beams"], row["rows"]) for row in rows] == [
        ("cqa_label", 1, 2),
        ("cqa_label_beam4", 4, 2),
    ]
    for row in rows:
        assert row["per_second"]["ours"] == pytest.approx(2 / row["seconds"]["ours"], rel=0.05)
        assert row["ratio"]["least"] == row["ratio"]["median"] == row["ratio"]["most"]  # a single round
        assert row["ratio"]["median"] == pytest.approx(
            row["per_second"]["ours"] / row["per_second"]["theirs"], rel=0.05
        )
        assert row["first_call_extra_seconds"]["ours"] > 0  # compilation is not part of the rate
    json.dumps(rows)


def test_the_table_and_the_plot(rows, capsys, tmp_path):
    decode.report(rows)
    assert capsys.readouterr().out.count("\n| cqa_label") == 2
    decode.plot([*rows, {**rows[0], "threads": 2}], str(tmp_path / "ratios.png"))
    assert (tmp_path / "ratios.png").read_bytes().startswith(b"\x89PNG")


def test_sides_that_disagree_are_not_timed(monkeypatch):
    monkeypatch.setattr(decode, "their_side", lambda *_: lambda rows: [[7, 7, 7] for _ in rows])
    options = decode.arguments([*TINY, "--cases=cqa_label", "--batch_sizes=2"])
    with pytest.raises(ValueError, match="cqa_label, batch 2: the sides disagree"):
        decode.measure(options, 1)


def test_rows_that_end_early_are_not_timed():
    with pytest.raises(ValueError, match="row 1 has 2 tokens; expected 3 in every row"):
        decode.check_agreement([[4, 5, 6], [4, 5]], [[4, 5, 6], [4, 5]], 3, "labels")


@pytest.mark.parametrize(
    ("flag", "message"),
    [("--cases=label", "takes names of cqa_label"), ("--threads=0", "≥ 1"), ("--batch_sizes=a", "whole numbers")],
)
def test_flags_are_checked(flag, message, capsys):
    with pytest.raises(SystemExit):
        decode.arguments([flag])
    assert message in capsys.readouterr().err


def test_inputs_have_the_requested_lengths():
    rows = sides.input_rows(2000, 50, 100)
    lengths = [len(row) for row in rows]
    assert np.mean(lengths) == pytest.approx(50, rel=0.02) and np.std(lengths) == pytest.approx(12.6, rel=0.1)
    assert all(row[-1] == 1 and row[:-1].min() >= 3 and row.max() < 100 for row in rows)


def test_rounds_alternate_and_ratios_are_per_round():
    calls = []
    times = sides.in_turn({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 2)
    assert calls == ["a", "b", "b", "a"] and {len(found) for found in times.values()} == {2}
    assert sides.ratios([1.0, 2.0, 4.0], [2.0, 2.0, 2.0]) == {"median": 1.0, "least": 0.5, "most": 2.0}


def test_a_student_with_a_shared_table_could_end():
    with pytest.raises(ValueError, match="logits_via_embedding=True"):
        sides.endless_params(T5Config(96, 16, 2, 8, 24, 1, 1, logits_via_embedding=True))


def test_more_threads_than_cores_are_one_error():
    with pytest.raises(ValueError, match="--threads must be in"):
        sides.use_threads(10_000)
