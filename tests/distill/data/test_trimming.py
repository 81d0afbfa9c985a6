"""Tests of distill.data.trimming: a truncated sequence ends in EOS."""

import numpy as np
import pytest

from distill.data import trimming


@pytest.mark.parametrize(
    "tokens, length, wanted",
    [
        ([5, 6, 7, 1], 4, [5, 6, 7, 1]),
        ([5, 6, 7, 1], 9, [5, 6, 7, 1]),
        ([5, 6, 7, 1], 3, [5, 6, 1]),
        ([5, 6, 7, 8], 3, [5, 6, 1]),
        ([5, 6, 7, 1], 1, [1]),
        ([5, 6, 7], 3, [5, 6, 1]),  # SeqIO truncated it before and dropped its EOS
        ([], 3, []),
    ],
)
def test_a_truncated_sequence_ends_in_eos(tokens, length, wanted):
    given = np.array(tokens, np.int32)
    kept = trimming.cut(given, length)
    np.testing.assert_array_equal(kept, wanted)
    assert kept.dtype == np.int32
    np.testing.assert_array_equal(given, tokens)  # the argument is not changed
