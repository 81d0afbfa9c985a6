"""cuDNN's attention: its arrays through JAX's plain attention, against the attention layer; its calls, lowered for CUDA."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo

from distill.model import attention
from distill.model.attention import Attention, PositionBias, Segments
from distill.sharding import attention_choice
from distill.sharding.cudnn_attention import cudnn_attention, why_not

BATCH, HEADS, DIM = 3, 2, 8
WIDTH = HEADS * DIM
LENGTHS = {"encoder": (16, 16), "decoder": (12, 12), "cross": (12, 16)}


def draw(shape, seed):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def packed(length, seed):
    """Segments 1 and 2 and padding in every row, and a row that is padding alone."""
    ids = np.random.default_rng(seed).choice([1, 1, 2, 0], (BATCH, length))
    ids[:, :2] = [1, 2]
    ids[-1] = 0
    return jnp.asarray(ids, jnp.int32)


def values_and_gradients(kind, kernel, bias=True, dropout=0.3):
    """The layer's output where a query is no padding, and the gradients of its loss over these queries."""
    queries, keys = LENGTHS[kind]
    layer = Attention(HEADS, DIM, WIDTH, dropout, jnp.dtype("float32"), kernel)
    x, other = draw((BATCH, queries, WIDTH), 0), draw((BATCH, keys, WIDTH), 1)
    ids = Segments(packed(queries, 2), packed(queries if kind != "cross" else keys, 3 if kind == "cross" else 2))
    full = draw((1, HEADS, queries, keys), 4) if bias else None
    real = (ids.query != 0)[:, :, None]
    params = {
        name: {"kernel": draw((WIDTH, WIDTH), seed) / 4} for seed, name in enumerate(("query", "key", "value", "out"))
    }

    def loss(params, x, other, full):
        both = None if full is None else PositionBias(full, jnp.zeros((1, HEADS, queries + keys)))
        mixed = layer.apply(
            {"params": params},
            x,
            other if kind == "cross" else x,
            ids,
            both,
            causal=kind == "decoder",
            deterministic=False,
            rngs={"dropout": jax.random.key(1)},
        )
        mixed = jnp.where(real, mixed, 0.0)
        return jnp.sum(jnp.sin(mixed)), mixed

    wanted = (0, 1, 2, 3) if bias else (0, 1, 2)
    return jax.jit(jax.value_and_grad(loss, argnums=wanted, has_aux=True))(params, x, other, full)


@pytest.mark.parametrize(("kind", "bias"), [("encoder", True), ("decoder", True), ("cross", False), ("decoder", False)])
def test_the_layer_has_the_values_and_all_gradients_of_plain_attention(kind, bias, monkeypatch):
    wanted = values_and_gradients(kind, "xla", bias)
    calls = []

    def through_xla(*args, **options):
        calls.append(options)
        return cudnn_attention(*args, **options, implementation="xla")

    monkeypatch.setattr(attention, "cudnn_attention", through_xla)
    monkeypatch.setattr(attention_choice, "choose", lambda wanted, shapes: wanted)  # this CPU is not what cuDNN runs on
    got = values_and_gradients(kind, "cudnn", bias)
    assert calls == [{"causal": kind == "decoder"}]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), got, wanted)
    assert all(float(jnp.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(got[1][0]))


def test_a_query_of_padding_sees_every_key_and_its_gradients_are_finite():
    """cuDNN's gradients of a query without any visible key are wrong."""
    query, key, value = (draw((1, 4, HEADS, DIM), seed) for seed in range(3))
    none = jnp.zeros((1, 4), jnp.int32)
    attend = jax.jit(functools.partial(cudnn_attention, causal=False, implementation="xla"))
    got = attend(query, key, value, None, none, none + 1)
    np.testing.assert_allclose(got, attend(query, key, value, None, none, none), rtol=1e-5, atol=1e-6)
    gradient = jax.jit(jax.grad(lambda query: jnp.sum(attend(query, key, value, None, none, none + 1) ** 2)))(query)
    assert bool(jnp.isfinite(gradient).all())


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ((16, 16, 64, jnp.bfloat16, "tpu"), "cuDNN runs on NVIDIA GPUs, not on tpu"),
        ((16, 16, 64, jnp.float32, "gpu"), "computes in bfloat16 or float16, not in float32"),
        ((16, 15, 64, jnp.bfloat16, "gpu"), "requires even lengths; got 16 queries and 15 keys"),
        ((16, 16, 60, jnp.bfloat16, "cuda"), "a multiple of 8 and at most 128; got 60"),
        ((16, 16, 256, jnp.bfloat16, "gpu"), "a multiple of 8 and at most 128; got 256"),
    ],
)
def test_what_it_cannot_compute_has_a_reason(given, reason):
    assert reason in why_not(*given)


def test_what_it_can_compute_has_none():
    for dtype in (jnp.bfloat16, jnp.float16, jnp.dtype("bfloat16")):
        assert why_not(160, 256, 64, dtype, "gpu") is why_not(2, 2, 128, dtype, "cuda") is None


@pytest.mark.parametrize("kind", LENGTHS)
def test_it_lowers_to_one_call_of_cudnn_forward_and_one_backward(kind, monkeypatch):
    """Without a GPU: the version of cuDNN, which JAX reads from its library, is given."""
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91000)
    queries, keys = LENGTHS[kind]
    query, key = (jnp.zeros((BATCH, length, HEADS, 64), jnp.bfloat16) for length in (queries, keys))
    bias = None if kind == "cross" else jnp.zeros((HEADS, queries, keys))
    ids = jnp.ones((BATCH, queries), jnp.int32), jnp.ones((BATCH, keys), jnp.int32)

    def loss(query, key, bias):
        mixed = cudnn_attention(query, key, key, bias, *ids, causal=kind == "decoder")
        return jnp.sum(mixed.astype(jnp.float32) ** 2)

    run = jax.jit(jax.grad(loss, argnums=(0, 1) if bias is None else (0, 1, 2)))
    text = run.trace(query, key, bias).lower(lowering_platforms=("cuda",)).as_text()
    calls = re.findall(r"custom_call @(__cudnn\S+?)\((.*)", text)
    assert [name for name, _ in calls] == ["__cudnn$fmhaScaleBiasSoftmax", "__cudnn$fmhaScaleBiasSoftmaxBackward"]
    for _, rest in calls:
        assert ("CAUSAL" in rest) == (kind == "decoder")
        assert '"fmha_scale": 1.0' in rest.replace(r"\22", '"')
    # No float32 logits or probabilities: what cuDNN reads and writes besides the log-sum-exp is bfloat16.
    assert f"x{queries}x{keys}xf32" not in calls[0][1]
