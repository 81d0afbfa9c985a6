"""Parts of Gemma's attention against ``transformers``' own functions and against formulas written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers.models.t5gemma2 import modeling_t5gemma2 as theirs

from distill.model import grouped_attention as ours
from distill.model.attention import KeyValue, Segments
from distill.model.t5gemma_config import Window

RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def test_positions_restart_in_every_segment():
    rows = jnp.asarray([[1, 1, 1, 2, 2, 3], [1, 1, 0, 0, 0, 0], [1, 2, 2, 0, 3, 3]], jnp.int32)
    wanted = [[0, 1, 2, 0, 1, 0], [0, 1, 2, 3, 4, 5], [0, 0, 1, 2, 0, 1]]
    assert ours.segment_positions(rows).tolist() == wanted


def test_a_zero_inside_a_segment_does_not_restart_positions():
    assert ours.segment_positions(jnp.asarray([[1, 1, 0, 1, 2]], jnp.int32)).tolist() == [[0, 1, 2, 3, 0]]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_norm_is_theirs(dtype):
    x, scale = normal(2, 3, 8), normal(8)
    norm = theirs.T5Gemma2RMSNorm(8)
    norm.weight.data = torch.tensor(scale)
    with torch.no_grad():
        wanted = norm(torch.tensor(x).to(getattr(torch, dtype))).float().numpy()
    module = ours.CenteredRMSNorm(1e-6, jnp.dtype(dtype))
    got = module.apply({"params": {"scale": jnp.asarray(scale)}}, jnp.asarray(x, dtype))
    assert got.dtype == dtype
    np.testing.assert_allclose(np.asarray(got, np.float32), wanted, rtol=0.0, atol=1e-6 if dtype == "float32" else 0.02)


def test_the_rotation_is_theirs():
    query, positions = normal(2, 5, 3, 8), np.array([[0, 1, 2, 0, 1], [4, 5, 60, 700, 8000]], np.int32)
    frequencies = 1.0 / (10_000.0 ** (torch.arange(0, 8, 2, dtype=torch.float) / 8)) / 4.0
    angles = torch.tensor(positions)[..., None].float() * frequencies
    angles = torch.cat((angles, angles), dim=-1)
    wanted, _ = theirs.apply_rotary_pos_emb(
        torch.tensor(query), torch.tensor(query), angles.cos(), angles.sin(), unsqueeze_dim=2
    )
    by = ours.rotation(jnp.asarray(positions), 8, 10_000.0, 4.0)
    np.testing.assert_allclose(np.asarray(ours.rotated(jnp.asarray(query), by)), wanted.numpy(), rtol=0.0, atol=1e-5)


@pytest.mark.parametrize("width", [4, 5])
def test_windows_are_those_of_their_masks(width):
    ones = Segments(np.ones((1, 12), np.int32), np.ones((1, 12), np.int32))
    index = torch.arange(12)
    for causal, window in ((True, Window(width - 1, 0)), (False, Window((width + 1) // 2 - 1, width // 2))):
        mask = theirs.sliding_window_mask_function(width, is_causal=causal)
        wanted = mask(0, 0, index[:, None], index[None, :])
        np.testing.assert_array_equal(ours.visible(ones, causal=causal, window=window)[0], wanted.numpy())


def test_queries_see_their_own_segment():
    segments = Segments(np.array([[1, 1, 2]], np.int32), np.array([[1, 2, 0, 2]], np.int32))
    wanted = [[True, False, False, False]] * 2 + [[False, True, False, True]]
    assert ours.visible(segments)[0].tolist() == wanted


@pytest.mark.parametrize("cap", [None, 2.0])
def test_attention_is_theirs(cap):
    query, key, value = normal(2, 5, 6, 8), normal(2, 7, 3, 8), normal(2, 7, 3, 8)
    mask = RNG.random((2, 5, 7)) < 0.6
    mask[..., 0] = True
    module = type("Groups", (), {"num_key_value_groups": 2, "training": False, "head_dim": 8})()
    bias = torch.where(torch.tensor(mask)[:, None], 0.0, torch.finfo(torch.float32).min)
    arguments = (torch.tensor(x).transpose(1, 2) for x in (query, key, value))
    wanted, _ = theirs.eager_attention_forward(module, *arguments, bias, scaling=0.3, softcap=cap)
    got = ours.attend(*map(jnp.asarray, (query, key, value, mask)), scale=0.3, cap=cap)
    np.testing.assert_allclose(np.asarray(got), wanted.reshape(2, 5, 48).numpy(), rtol=0.0, atol=1e-6)


def test_dropped_probabilities_are_left_out():
    query, key, value = (jnp.asarray(normal(1, 3, 2, 4)) for _ in range(3))
    mask = jnp.ones((1, 3, 3), bool)
    keep = jnp.asarray([2.0, 0.0, 1.0])[None, None, None, None]
    got = ours.attend(query, key, value, mask, scale=1.0, keep=jnp.broadcast_to(keep, (1, 2, 1, 1, 3)))
    logits = jnp.einsum("bqhd,bkhd->bhqk", query, key)
    wanted = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(logits) * keep[0], value)
    np.testing.assert_allclose(np.asarray(got), np.asarray(wanted).reshape(1, 3, 8), rtol=0.0, atol=1e-6)


def test_cached_attention_is_one_softmax_over_all_parts():
    """Two hypotheses per row have caches of their own, and share the row's encoder keys."""
    rows, hypotheses = 2, 4
    query = normal(hypotheses, 6, 8)
    own, cross = (
        KeyValue(*(jnp.asarray(normal(n, 3, s, 8)) for _ in range(2))) for n, s in ((hypotheses, 5), (rows, 7))
    )
    seen, visible = np.arange(5)[None] < 3, RNG.random((rows, 7)) < 0.7
    got = ours.attend_cached(jnp.asarray(query), ((own, seen), (cross, visible)), scale=0.3, cap=2.0)

    def joined(name):
        repeated = jnp.repeat(getattr(cross, name), 2, axis=0)
        return jnp.swapaxes(jnp.concatenate([getattr(own, name), repeated], axis=2), 1, 2)

    mask = np.concatenate([np.tile(seen, (hypotheses, 1)), np.repeat(visible, 2, axis=0)], axis=1)[:, None]
    arguments = (jnp.asarray(query)[:, None], joined("key"), joined("value"), jnp.asarray(mask))
    wanted = ours.attend(*arguments, scale=0.3, cap=2.0)
    np.testing.assert_allclose(np.asarray(got), np.asarray(wanted)[:, 0], rtol=0.0, atol=1e-6)
