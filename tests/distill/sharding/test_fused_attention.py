"""The Pallas attention kernel, interpreted, against plain attention: alone, inside the network and on a mesh."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from distill.model.attention import RelativeBias
from distill.model.network import T5Config
from distill.model.parameters import init_params
from distill.sharding import partitioning
from distill.sharding.attention_kernels import MASKED
from distill.sharding.fused_attention import fused_attention, why_not
from distill.training.losses import TwoTaskLoss
from distill.training.optimizers import adafactor
from distill.training.state import init_state
from distill.training.step import make_train_step

BATCH, HEADS, DIM = 4, 4, 64


def draw(shape, seed, scale=1.0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape) * scale, jnp.float32)


def segments(length, seed):
    return jnp.asarray(np.sort(np.random.default_rng(seed).integers(0, 4, (BATCH, length))), jnp.int32)


@functools.cache
def problem(query_length, key_length):
    joined = HEADS * DIM
    table = draw((HEADS, 32), 0)
    arrays = (draw((BATCH, query_length, joined), 1, 0.1), draw((BATCH, key_length, joined), 2, 0.5))
    arrays += (draw((BATCH, key_length, joined), 3),)
    kept = np.random.default_rng(4).random((BATCH, HEADS, 1, key_length)) < 0.8
    keep = jnp.asarray(kept / 0.8, jnp.float32)
    # One query and one key segment have no counterpart: the query attends to nothing, and nothing attends to the key.
    queries = segments(query_length, 5).at[0, 0].set(7)
    return arrays, table, keep, queries, segments(key_length, 6)


def by_hand(query, key, value, bias, keep, queries, keys, causal):
    split = [x.reshape(*x.shape[:2], HEADS, DIM) for x in (query, key, value)]
    logits = jnp.einsum("bqhd,bkhd->bhqk", *split[:2])
    logits = logits if bias is None else logits + bias.full
    mask = (queries[:, :, None] == keys[:, None, :])[:, None]
    if causal:
        mask = mask & jnp.tri(query.shape[1], key.shape[1], dtype=bool)[None, None]
    probabilities = jax.nn.softmax(jnp.where(mask, logits, MASKED), axis=-1)
    probabilities = probabilities if keep is None else probabilities * keep
    return jnp.einsum("bhqk,bkhd->bqhd", probabilities, split[2]).reshape(query.shape)


def values_and_gradients(attend, with_bias, with_keep, lengths, causal):
    arrays, table, keep, queries, keys = problem(*lengths)
    bias_of = RelativeBias(num_heads=HEADS, num_buckets=32, max_distance=128, bidirectional=not causal)

    @jax.jit
    def run(arrays, table):
        def loss(arrays, table):
            bias = bias_of.apply({"params": {"rel_embedding": table}}, *lengths) if with_bias else None
            mixed = attend(*arrays, bias, keep if with_keep else None, queries, keys, causal)
            return jnp.sum(mixed * draw(mixed.shape, 7)), mixed

        return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(arrays, table)

    return run(arrays, table)


def fused(query, key, value, bias, keep, queries, keys, causal):
    if query.shape == key.shape:
        projections = (jnp.stack([query, key, value]),)
    else:
        projections = (query[None], jnp.stack([key, value]))
    return fused_attention(projections, bias and bias.by_shard, keep, queries, keys, DIM, causal)


def check_equal(got, wanted):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * np.abs(b).max()), got, wanted)


@pytest.mark.parametrize(
    ("with_bias", "with_keep", "lengths", "causal"),
    [(True, True, (128, 128), True), (True, False, (384, 384), False), (False, True, (128, 256), False)],
)
def test_values_and_gradients_equal_plain_attention(with_bias, with_keep, lengths, causal):
    got = values_and_gradients(fused, with_bias, with_keep, lengths, causal)
    check_equal(got, values_and_gradients(by_hand, with_bias, with_keep, lengths, causal))


def test_on_a_mesh_every_device_computes_its_own_rows_and_heads():
    wanted = values_and_gradients(by_hand, True, True, (128, 128), True)
    mesh = partitioning.MeshConfig(2, 2, 2).build(jax.devices()[:8])
    with jax.set_mesh(mesh), nn.logical_axis_rules(list(partitioning.DEFAULT_RULES)):
        assert why_not(2, 128, 128, HEADS, DIM) is not None
        got = values_and_gradients(fused, True, True, (128, 128), True)
    check_equal(got, wanted)


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ((4, 128, 128, 3, 64), "3 heads of 64"),
        ((4, 128, 128, 4, 48), "4 heads of 48"),
        ((4, 100, 128, 4, 64), "no multiples of 128"),
        ((4, 2048, 2048, 4, 64), "do not fit in VMEM"),
    ],
)
def test_unsupported_shapes_have_a_reason(shape, reason):
    assert reason in why_not(*shape)
    assert why_not(4, 512, 512, 12, 64) is None
    batch, query_length, key_length, heads, dim = shape
    rows = jnp.zeros((1, batch, query_length, heads * dim)), jnp.zeros((2, batch, key_length, heads * dim))
    numbers = jnp.ones((batch, query_length), jnp.int32), jnp.ones((batch, key_length), jnp.int32)
    with pytest.raises(ValueError, match=reason):
        fused_attention(rows, None, None, *numbers, dim, False)


@pytest.mark.parametrize("scan", [False, True])
def test_a_training_step_is_the_same_with_either_attention(scan):
    layers, remat = (2, "elementwise") if scan else (1, "none")
    config = T5Config(64, 32, 2, 64, 32, layers, layers, dropout_rate=0.1, scan_layers=scan, remat_policy=remat)
    rng = np.random.default_rng(0)
    tokens = {name: rng.integers(2, 64, (2, 128)).astype(np.int32) for name in ("encoder_input", "decoder_input")}
    batch = {f"{name}_tokens": value for name, value in tokens.items()}
    batch["decoder_target_tokens"] = rng.integers(2, 64, (2, 128)).astype(np.int32)
    batch["decoder_loss_weights"] = np.ones((2, 128), np.float32)
    batch["decoder_task_ids"] = np.sort(rng.integers(1, 3, (2, 128))).astype(np.int32)
    for side in ("encoder", "decoder"):
        batch[f"{side}_segment_ids"] = np.sort(rng.integers(1, 4, (2, 128))).astype(np.int32)
    optimizer = adafactor(1e-2)
    params = jax.jit(init_params, static_argnums=0)(config, jax.random.key(0))

    def step(attention):
        model = dataclasses.replace(config, attention=attention)
        run = jax.jit(make_train_step(model, TwoTaskLoss(), optimizer))
        state = init_state(params, optimizer)
        state, metrics = run(state, batch, jax.random.key(1, impl="unsafe_rbg"))
        return metrics["loss"][0], metrics["grad_norm"][0], state.params

    check_equal(step("pallas"), step("xla"))
