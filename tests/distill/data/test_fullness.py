"""Shorter windows that are suggested, and the lines on how full the windows are."""

import dataclasses
import types

import numpy as np
import pytest

from distill.data.features import Counts
from distill.data.fullness import Summary, advised, truncation
from distill.data.packing import Layout


@pytest.mark.parametrize(
    "p99, window, padding, packed, expected",
    [
        (20, 64, 0.7, False, 24),
        (16, 64, 0.7, False, 16),
        (49, 128, 0.7, False, 64),
        (33, 64, 0.7, False, 48),
        (52, 64, 0.7, False, None),  # 64 is no shorter
        (60, 64, 0.7, False, None),
        (20, 64, 0.5, False, None),  # half of it is padding, not more
        (5, 1024, 0.99, False, 16),  # no window under 16
        (20, 100, 0.6, True, 48),  # 1.1 × 40 present tokens
        (90, 128, 0.9, True, 96),  # the longest sequences must fit
        (10, 20000, 0.2, False, None),
        (17000, 40000, 0.6, False, 24576),
        (30000, 100000, 0.9, False, None),  # above all lengths that are suggested
    ],
)
def test_the_suggested_window(p99, window, padding, packed, expected):
    assert advised(p99, window, padding, packed) == expected


def batch(inputs, targets):
    return types.SimpleNamespace(
        arrays={"encoder_input_tokens": np.asarray(inputs), "decoder_target_tokens": np.asarray(targets)}
    )


def summary(counts):
    lengths = np.asarray([3, 5, 4, 4], np.int32)
    return Summary(Layout(2, 64, 4, False), 1200, counts, lengths, np.asarray([1, 2, 3, 2], np.int32))


def test_lines_state_sizes_padding_and_a_suggestion():
    inputs = np.zeros((2, 64), np.int32)
    inputs[:, :4] = 7
    lines = summary(Counts({1: 1200, 2: 1000})).lines(batch(inputs, [[1, 1, 1, 0], [1, 1, 1, 0]]))
    assert lines[0] == "data: 1,200 examples, 2,200 sequences (1,200 label, 1,000 rationale)"
    assert lines[1].startswith(
        "p99 of inputs is 5, mean 4, window 64: 94 % padding; consider 16 in TASK_FEATURE_LENGTHS, which holds p99"
    )
    assert lines[2] == "p99 of targets is 3, mean 2, window 4: 25 % padding"
    assert len(lines) == 3
    subsample = dataclasses.replace(summary(Counts({1: 1200})), row_lines=["data: 1,200 of 2,400 rows are used"])
    assert subsample.lines(batch(inputs, [[1, 1, 1, 0], [1, 1, 1, 0]]))[1] == "data: 1,200 of 2,400 rows are used"


def test_a_window_for_packed_sequences_is_explained_by_the_tokens_that_it_has():
    inputs = np.zeros((2, 64), np.int32)
    inputs[:, :30] = 7
    found = dataclasses.replace(summary(Counts({1: 4})), layout=Layout(2, 64, 4, packed=True))
    assert found.lines(batch(inputs, [[1, 1, 1, 0], [1, 1, 1, 0]]))[1] == (
        "p99 of inputs is 5, mean 4, window 64: 53 % padding; consider 48 in TASK_FEATURE_LENGTHS, for the 30 tokens of "
        "several sequences per window plus 10 %"
    )


def test_truncated_sequences_are_counted_once_with_the_length_that_they_need():
    counts = Counts({1: 4, 2: 0}, {1: 1, 2: 0}, {1: 2, 2: 0}, {1: 2, 2: 0}, 530, 9)
    found = summary(counts)
    lines = found.lines(batch(np.ones((2, 64), int), np.ones((2, 4), int)))
    assert lines[0].endswith("4 sequences (4 label)")
    assert lines[1].startswith("p99 of inputs, cut to the window, is 5,")
    inputs = np.zeros((2, 64), np.int32)
    inputs[:, :8] = 7
    assert "consider" not in found.lines(batch(inputs, np.ones((2, 4), int)))[1]  # a shorter window would cut more
    (warning,) = found.warnings()
    assert warning == (
        "50.00% of the 4 training sequences are longer than the window and are cut: 1 input (window 64, the longest needs "
        "530 tokens) and 2 targets (window 4, the longest needs 9 tokens); raise inputs and targets in "
        "TASK_FEATURE_LENGTHS to keep them whole"
    )
    (of_sample,) = truncation(counts, found.layout, of="a sample of")
    assert of_sample == warning.replace("the 4 training", "a sample of 4 training")


def test_a_target_that_ends_in_its_label_loses_it():
    counts = Counts({1: 4, 2: 0}, {1: 1, 2: 0}, {1: 2, 2: 0}, {1: 2, 2: 0}, 530, 9, label_is_last=True)
    (warning,) = summary(counts).warnings()
    assert "(window 4, the longest needs 9 tokens); a target that is cut loses its label, which follows the" in warning
    (inputs_alone,) = summary(Counts({1: 4}, {1: 1}, {1: 0}, {1: 1}, 530, 3, label_is_last=True)).warnings()
    assert "loses its label" not in inputs_alone


def test_sequences_that_fit_warn_of_nothing():
    assert summary(Counts({1: 4, 2: 0}, longest_inputs=64, longest_targets=4)).warnings() == []


def test_a_process_without_rows_states_the_padding_of_the_others():
    none = batch(np.zeros((0, 64), int), np.zeros((0, 4), int))
    assert len(summary(Counts({1: 4, 2: 0})).lines(none)) == 1
    lines = summary(Counts({1: 4, 2: 0})).lines(none, lambda counts: counts + np.array([[96, 128], [6, 8]]))
    assert [line.rpartition(": ")[2] for line in lines[1:]] == ["25 % padding", "25 % padding"]
