"""Exact match counts rows whose decoded ids equal the target, and refuses files that hold no rows."""

import jax
import numpy as np
import pytest

from distill import array_files
from distill.inference import exact_match
from distill.inference.decoder import DecodeConfig, Decoder
from distill.inference.exact_match import ExactMatch
from distill.model.network import T5Config
from distill.model.parameters import init_params
from distill.sharding import partitioning

TINY = T5Config(32, 8, 1, 8, 16, 1, 1, dropout_rate=0.0)
INPUTS = [np.array([5, 6, 1], np.int32), np.array([7, 1], np.int32), np.array([9, 10, 11, 1], np.int32)]


@pytest.fixture(scope="module")
def decoder():
    mesh = partitioning.MeshConfig(1, 1, 1).build()
    return Decoder(TINY, mesh, DecodeConfig(max_decode_len=4, max_input_len=8, batch_size=4, bucket=8))


def test_the_share_of_rows_that_are_decoded_exactly(tmp_path, decoder):
    params = init_params(TINY, jax.random.key(0))
    with jax.set_mesh(decoder.mesh):
        answers = [[*found.tokens.tolist(), 1] for found in decoder(params, INPUTS)]
        wrong = [2, 1] if answers[1] != [2, 1] else [3, 1]
        targets = [np.array(row, np.int32) for row in (answers[0], wrong, answers[2])]
        exact_match.write_rows(tmp_path / "rows.npz", INPUTS, targets)
        rows = ExactMatch(tmp_path / "rows.npz", decoder)
        assert len(rows) == 3
        assert rows(params) == {"exact_match": pytest.approx(200 / 3)}


@pytest.mark.parametrize(
    "arrays, message",
    [
        ({"inputs": np.ones((2, 3), np.int32)}, r"it has the arrays \['inputs'\]"),
        ({"inputs": np.ones((2, 3), np.int64), "targets": np.ones((2, 3), np.int32)}, "inputs is int64"),
        ({"inputs": np.ones((2, 0), np.int32), "targets": np.ones((2, 3), np.int32)}, "not empty"),
        ({"inputs": np.full((2, 3), 32, np.int32), "targets": np.ones((2, 3), np.int32)}, "expected 0 to 31"),
        ({"inputs": np.ones((2, 3), np.int32), "targets": -np.ones((2, 3), np.int32)}, "targets has ids from -1"),
        ({"inputs": np.ones((3, 3), np.int32), "targets": np.ones((2, 3), np.int32)}, "3 inputs and 2 targets"),
        ({"inputs": np.ones((2, 3), np.int32), "targets": np.zeros((2, 3), np.int32)}, "a row of targets is empty"),
        ({"inputs": np.ones((2, 3), np.int32), "targets": np.ones((2, 5), np.int32)}, "shortest target has 5 tokens"),
    ],
)
def test_files_without_rows(tmp_path, decoder, arrays, message):
    array_files.write(tmp_path / "rows.npz", arrays)
    with pytest.raises(ValueError, match=message):
        ExactMatch(tmp_path / "rows.npz", decoder)
