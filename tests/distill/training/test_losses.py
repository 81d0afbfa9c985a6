"""The two-task loss against the paper's formula in PyTorch, finite differences of configuration, and itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.sharding import cross_entropy, partitioning
from distill.sharding.cross_entropy import weighted_cross_entropy
from distill.training.losses import (
    NORMALIZERS,
    TwoTaskLoss,
    alpha_from_lambda,
    lambda_from_alpha,
    linear_lambda,
    task_token_weights,
)

BATCH, LENGTH, EMBED, VOCAB = 6, 8, 5, 11


def random_batch(seed, batch=BATCH, length=LENGTH):
    """Unpacked rows, the first half labels, the second half rationales, padded at the end."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, length + 1, batch)
    mask = (np.arange(length)[None] < lengths[:, None]).astype(np.float32)
    ids = np.where(np.arange(batch)[:, None] < batch // 2, 1, 2) * mask.astype(np.int32)
    return {
        "hidden": rng.normal(size=(batch, length, EMBED)).astype(np.float32),
        "kernel": rng.normal(size=(EMBED, VOCAB)).astype(np.float32),
        "targets": rng.integers(0, VOCAB, (batch, length)).astype(np.int32),
        "mask": mask,
        "ids": ids.astype(np.int32),
    }


def two_task_loss(hidden, kernel, batch, loss, chunk_tokens=0):
    weights = task_token_weights(
        jnp.asarray(batch["mask"]), jnp.asarray(batch["ids"]), loss.coefficients(jnp.int32(0)), loss.normalizer
    )
    return weighted_cross_entropy(
        hidden, kernel, jnp.asarray(batch["targets"]), weights, loss.z_loss, loss.label_smoothing, chunk_tokens
    )


def torch_paper_loss(batch, alpha):
    """α·CE_label + (1-α)·CE_rationale, each the mean over its own non-padding tokens, as two forward passes give."""
    hidden = torch.tensor(batch["hidden"], requires_grad=True)
    kernel = torch.tensor(batch["kernel"], requires_grad=True)
    logits = hidden @ kernel
    losses = []
    for task in (1, 2):
        targets = np.where(batch["ids"] == task, batch["targets"], -100)
        losses.append(
            torch.nn.functional.cross_entropy(
                logits.reshape(-1, VOCAB), torch.tensor(targets.reshape(-1), dtype=torch.long), ignore_index=-100
            )
        )
    value = alpha * losses[0] + (1.0 - alpha) * losses[1]
    value.backward()
    return value.item(), hidden.grad.numpy(), kernel.grad.numpy()


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), alpha=st.floats(0.05, 0.95))
def test_default_normalizer_is_the_papers_formula(seed, alpha):
    batch = random_batch(seed)
    expected, d_hidden, d_kernel = torch_paper_loss(batch, alpha)

    def fn(hidden, kernel):
        return two_task_loss(hidden, kernel, batch, TwoTaskLoss(alpha=alpha))[0]

    value, gradients = jax.value_and_grad(fn, argnums=(0, 1))(
        jnp.asarray(batch["hidden"]), jnp.asarray(batch["kernel"])
    )
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(gradients[0], d_hidden, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(gradients[1], d_kernel, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("alpha", [0.2, 0.5, 0.9])
def test_lambda_and_alpha_agree_up_to_the_factor_alpha(alpha):
    batch = random_batch(3)
    hidden, kernel = jnp.asarray(batch["hidden"]), jnp.asarray(batch["kernel"])
    lam = lambda_from_alpha(alpha)
    by_alpha = two_task_loss(hidden, kernel, batch, TwoTaskLoss(alpha=alpha))[0]
    by_lambda = two_task_loss(hidden, kernel, batch, TwoTaskLoss(lam=lam))[0]
    np.testing.assert_allclose(by_alpha, alpha * by_lambda, rtol=1e-5)
    assert alpha_from_lambda(lam) == pytest.approx(alpha)


@pytest.mark.parametrize("normalizer", NORMALIZERS)
@pytest.mark.parametrize("chunk_tokens", [0, 1, 12, 13, 48])
@pytest.mark.parametrize(("z_loss", "smoothing"), [(0.0, 0.0), (1e-2, 0.0), (1e-2, 0.1)])
def test_chunks_and_custom_gradient_agree_with_autodiff(normalizer, chunk_tokens, z_loss, smoothing):
    batch = random_batch(4)
    loss = TwoTaskLoss(lam=0.7, normalizer=normalizer, z_loss=z_loss, label_smoothing=smoothing)
    weights = task_token_weights(
        jnp.asarray(batch["mask"]), jnp.asarray(batch["ids"]), loss.coefficients(jnp.int32(0)), normalizer
    )

    def plain(hidden, kernel):
        logits = jnp.einsum("bld,dv->blv", hidden, kernel)
        log_z = jax.nn.logsumexp(logits, axis=-1)
        off = smoothing / (VOCAB - 1)
        soft = jax.nn.one_hot(jnp.asarray(batch["targets"]), VOCAB) * (1.0 - smoothing - off) + off
        ce = log_z - (soft * logits).sum(-1)
        least = -(1 - smoothing) * np.log(1 - smoothing) - (VOCAB - 1) * off * np.log(off + 1e-20)
        return jnp.sum(weights * (ce - least + z_loss * log_z**2))

    def fused(hidden, kernel):
        return two_task_loss(hidden, kernel, batch, loss, chunk_tokens)[0]

    arguments = (jnp.asarray(batch["hidden"]), jnp.asarray(batch["kernel"]))
    expected, wanted = jax.value_and_grad(plain, argnums=(0, 1))(*arguments)
    value, gradients = jax.value_and_grad(fused, argnums=(0, 1))(*arguments)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(fused(*arguments), expected, rtol=1e-5)
    for got, want in zip(gradients, wanted):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)


# 47 is no multiple of any axis size, so the vocabulary is replicated.
@pytest.mark.parametrize(("vocabulary_split", "vocab"), [(True, 48), (False, 48), (False, 47)])
@pytest.mark.parametrize("chunk_tokens", [0, 4])
@pytest.mark.parametrize("mesh_shape", [(2, 4, 1), (1, 4, 2)])
def test_a_sharded_kernel_agrees_with_one_device(monkeypatch, vocabulary_split, vocab, chunk_tokens, mesh_shape):
    monkeypatch.setattr(cross_entropy, "_is_vocabulary_split", lambda pieces, tokens, vocab: vocabulary_split)
    rng = np.random.default_rng(5)
    hidden, kernel = rng.normal(size=(8, 4, 8)).astype(np.float32), rng.normal(size=(8, vocab)).astype(np.float32)
    targets = rng.integers(0, vocab, (8, 4)).astype(np.int32)
    targets[0, 0], targets[-1, -1] = 0, vocab - 1
    weights = rng.uniform(size=(8, 4)).astype(np.float32)

    def fn(hidden, kernel, weights):
        return weighted_cross_entropy(hidden, kernel, jnp.asarray(targets), weights, 1e-2, 0.1, chunk_tokens)

    gradient = jax.jit(jax.value_and_grad(fn, argnums=(0, 1, 2), has_aux=True))
    (value, stats), wanted = gradient(hidden, kernel, weights)
    mesh = partitioning.MeshConfig(*mesh_shape).build()
    with jax.set_mesh(mesh), nn.logical_axis_rules(list(partitioning.DEFAULT_RULES)):
        rows = partitioning.batch_sharding(mesh)
        split = partitioning.spec_for(("embed", "vocab"), kernel.shape, mesh, partitioning.DEFAULT_RULES)
        placed = jax.device_put((hidden, kernel, weights), (rows, jax.NamedSharding(mesh, split), rows))
        (got_value, got_stats), got = jax.jit(jax.value_and_grad(fn, argnums=(0, 1, 2), has_aux=True))(*placed)
        loss_alone, _ = jax.jit(fn)(*placed)
    np.testing.assert_allclose([got_value, loss_alone], [value, value], rtol=1e-5)
    np.testing.assert_array_equal(got_stats.correct, stats.correct)
    np.testing.assert_allclose(got_stats.cross_entropy, stats.cross_entropy, rtol=1e-5)
    for have, want in zip(got, wanted):
        np.testing.assert_allclose(have, want, rtol=1e-5, atol=1e-6)


def test_the_vocabulary_is_sharded_if_hidden_states_are_smaller_than_the_kernel():
    assert cross_entropy._is_vocabulary_split(pieces=8, tokens=2048, vocab=32128)
    assert not cross_entropy._is_vocabulary_split(pieces=64, tokens=2048, vocab=32128)
    assert not cross_entropy._is_vocabulary_split(pieces=8, tokens=1, vocab=32127)  # 8 does not divide it
    assert not cross_entropy._is_vocabulary_split(pieces=1, tokens=1, vocab=32128)


@settings(max_examples=40)
@given(seed=st.integers(0, 10_000), lam=st.floats(0.0, 5.0), normalizer=st.sampled_from(NORMALIZERS))
def test_total_weight_of_a_task_is_its_coefficient(seed, lam, normalizer):
    batch = random_batch(seed)
    weights = task_token_weights(
        jnp.asarray(batch["mask"]),
        jnp.asarray(batch["ids"]),
        TwoTaskLoss(lam=lam).coefficients(jnp.int32(0)),
        normalizer,
    )
    label, rationale = (float(jnp.sum(weights, where=jnp.asarray(batch["ids"] == t))) for t in (1, 2))
    assert float(jnp.sum(weights, where=jnp.asarray(batch["ids"] == 0))) == 0.0
    if normalizer == "all_tokens":
        tokens = [(batch["ids"] == t).sum() for t in (1, 2)]
        np.testing.assert_allclose(
            [label, rationale], [tokens[0] / sum(tokens), lam * tokens[1] / sum(tokens)], rtol=1e-5, atol=1e-7
        )
    else:
        np.testing.assert_allclose([label, rationale], [1.0, lam], rtol=1e-5, atol=1e-7)


def test_task_examples_weighs_examples_equally():
    ids = np.array([[1, 1, 1, 1, 2, 2, 0, 0], [1, 2, 2, 2, 2, 2, 2, 0]], np.int32)
    segments = np.array([[1, 2, 2, 2, 3, 3, 0, 0], [1, 2, 2, 2, 3, 3, 3, 0]], np.int32)
    weights = task_token_weights(
        jnp.asarray((ids > 0).astype(np.float32)),
        jnp.asarray(ids),
        (jnp.float32(1.0), jnp.float32(1.0)),
        "task_examples",
        jnp.asarray(segments),
    )
    third = 1.0 / 3.0
    expected = [[third, third / 3, third / 3, third / 3, third / 2, third / 2, 0, 0], [third, *[third / 3] * 6, 0]]
    np.testing.assert_allclose(weights, np.array(expected), rtol=1e-6)


def test_row_weights_scale_an_examples_weight():
    ids = np.array([[1, 1, 1, 0], [1, 0, 0, 0]], np.int32)
    row_weights = np.array([[0.5] * 3 + [0.0], [1.0, 0.0, 0.0, 0.0]], np.float32)
    weights = task_token_weights(
        jnp.asarray(row_weights), jnp.asarray(ids), (jnp.float32(1.0), jnp.float32(1.0)), "task_examples"
    )
    np.testing.assert_allclose(weights.sum(axis=1), [1 / 3, 2 / 3], rtol=1e-6)


@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_an_absent_task_divides_by_nothing(normalizer):
    ids = jnp.ones((2, 3), jnp.int32)
    weights = task_token_weights(jnp.ones((2, 3)), ids, (jnp.float32(1.0), jnp.float32(1.0)), normalizer)
    assert np.isfinite(weights).all()
    np.testing.assert_allclose(weights.sum(), 1.0, rtol=1e-6)


def test_lambda_schedule():
    loss = TwoTaskLoss(lam=linear_lambda(1.0, 0.0, 10))
    values = [float(loss.coefficients(jnp.int32(step))[1]) for step in (0, 5, 10, 99)]
    np.testing.assert_allclose(values, [1.0, 0.5, 0.0, 0.0])


def test_correct_and_cross_entropy_are_per_token():
    batch = random_batch(9)
    _, stats = two_task_loss(jnp.asarray(batch["hidden"]), jnp.asarray(batch["kernel"]), batch, TwoTaskLoss(), 8)
    logits = batch["hidden"] @ batch["kernel"]
    np.testing.assert_array_equal(stats.correct, logits.argmax(-1) == batch["targets"])
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = -np.take_along_axis(log_p, batch["targets"][..., None], -1)[..., 0]
    np.testing.assert_allclose(stats.cross_entropy, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lam": 1.0, "alpha": 0.5}, "at most one of lam and alpha"),
        ({"alpha": 1.5}, r"alpha must be in \[0, 1\] or None; got 1.5"),
        ({"lam": -1.0}, "lam must be ≥ 0 or None; got -1.0"),
        ({"normalizer": "tokens"}, "normalizer must be one of"),
        ({"label_smoothing": 1.0}, "label_smoothing must be in"),
        ({"z_loss": -1.0}, "z_loss must be ≥ 0"),
    ],
)
def test_bad_settings(arguments, message):
    with pytest.raises(ValueError, match=message):
        TwoTaskLoss(**arguments)


def test_alpha_zero_has_no_lambda():
    with pytest.raises(ValueError, match="α must be in"):
        lambda_from_alpha(0.0)
