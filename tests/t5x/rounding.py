"""Tolerances for two float32 programs that compute the same numbers, from the number of roundings in each.

The error of a sum over ``n`` rounded terms is about ``√n · u`` times the magnitude of the terms, with ``u = 2⁻²⁴``, if
rounding errors are independent (Higham & Mary 2019, "A new approach to probabilistic rounding error analysis"; ``n · u``
is the bound for the worst case). The results of two programs that sum in different orders differ by at most twice that.
The largest entry of an array stands for the magnitude of its terms: an entry whose terms cancel is smaller than they are.
"""

import math

import jax
import numpy as np

from distill.model.network import T5Config

UNIT = float(np.finfo(np.float32).eps) / 2


def tolerance(roundings: int) -> float:
    """The largest difference, relative to the terms, of two programs with ``roundings`` roundings on the longest path."""
    return 2.0 * math.sqrt(roundings) * UNIT


def logits_roundings(config: T5Config, lengths: tuple[int, int]) -> int:
    """Terms summed in sequence from the tokens to a logit: the inner dimensions of all products on the path.

    Args:
      config: the student.
      lengths: positions of the encoder and of the decoder.
    """
    joined = config.num_heads * config.head_dim
    norm = feed_forward = config.embed_dim  # a mean square; the first product

    def attention(keys: int) -> int:
        # Norm, projections, scores, softmax, mixing, output.
        return norm + config.embed_dim + config.head_dim + 2 * keys + joined

    blocks = config.num_encoder_layers * attention(lengths[0])
    blocks += config.num_decoder_layers * (attention(lengths[1]) + attention(lengths[0]))
    blocks += (config.num_encoder_layers + config.num_decoder_layers) * (norm + feed_forward + config.mlp_dim)
    return blocks + 2 * norm + config.embed_dim


def gradient_roundings(config: T5Config, rows: int, lengths: tuple[int, int]) -> int:
    """Terms summed in sequence from the tokens to a gradient: forward, softmax, backward, and over positions."""
    return 2 * logits_roundings(config, lengths) + 2 * config.vocab_size + rows * max(lengths)


def lengths_of(batch) -> tuple[int, int]:
    """Positions of the encoder and of the decoder in a batch."""
    return batch["encoder_input_tokens"].shape[1], batch["decoder_input_tokens"].shape[1]


def assert_close(got, wanted, roundings: int) -> None:
    """Asserts that the arrays of two trees are equal within the tolerance for ``roundings`` roundings."""
    allowed = tolerance(roundings)
    wanted_leaves = dict(jax.tree_util.tree_leaves_with_path(wanted))
    got_leaves = dict(jax.tree_util.tree_leaves_with_path(got))
    assert set(got_leaves) == set(wanted_leaves)
    for path, value in wanted_leaves.items():
        magnitude = float(np.abs(value).max())
        np.testing.assert_allclose(
            got_leaves[path], value, rtol=0.0, atol=allowed * magnitude, err_msg=jax.tree_util.keystr(path)
        )
