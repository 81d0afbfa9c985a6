"""The cross-entropy from hidden states against Optax, and against formulas in float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from distill.sharding.cross_entropy import _number_of_chunks, weighted_cross_entropy

BATCH, LENGTH, EMBED, VOCAB = 2, 6, 4, 11


@pytest.fixture(scope="module")
def inputs():
    rng = np.random.default_rng(0)
    return (
        jnp.asarray(rng.normal(size=(BATCH, LENGTH, EMBED)), jnp.float32),
        jnp.asarray(rng.normal(size=(EMBED, VOCAB)), jnp.float32),
        jnp.asarray(rng.integers(0, VOCAB, (BATCH, LENGTH)), jnp.int32),
        jnp.asarray(rng.uniform(0.0, 1.0, (BATCH, LENGTH)), jnp.float32),
    )


def reference(hidden, kernel, targets, weights, z_loss, smoothing):
    """The loss per token and in total, in float64, from all logits."""
    hidden, kernel, weights = (np.asarray(x, np.float64) for x in (hidden, kernel, weights))
    logits = hidden @ kernel
    log_z = np.log(np.exp(logits).sum(-1))
    wanted = np.full(logits.shape, smoothing / (VOCAB - 1))
    np.put_along_axis(wanted, np.asarray(targets)[..., None], 1.0 - smoothing, axis=-1)
    entropy = -np.where(wanted > 0, wanted * np.log(np.maximum(wanted, 1e-300)), 0.0).sum(-1)
    cross_entropy = -(wanted * (logits - log_z[..., None])).sum(-1) - entropy
    return cross_entropy, float((weights * (cross_entropy + z_loss * log_z**2)).sum())


def test_equal_logits_cost_the_logarithm_of_the_vocabulary():
    weights = jnp.asarray([[1.0, 2.0, 0.0]], jnp.float32)
    loss, stats = weighted_cross_entropy(
        jnp.zeros((1, 3, EMBED)), jnp.ones((EMBED, 8)), jnp.asarray([[0, 5, 7]], jnp.int32), weights
    )
    np.testing.assert_allclose(stats.cross_entropy, np.full((1, 3), np.log(8.0)), rtol=1e-6)
    assert float(loss) == pytest.approx(3 * np.log(8.0), rel=1e-6)


def test_plain_loss_and_gradients_are_those_of_optax(inputs):
    hidden, kernel, targets, weights = inputs

    def naive(hidden, kernel, weights):
        return jnp.sum(weights * optax.softmax_cross_entropy_with_integer_labels(hidden @ kernel, targets))

    def ours(hidden, kernel, weights):
        return weighted_cross_entropy(hidden, kernel, targets, weights)[0]

    expected = jax.value_and_grad(naive, argnums=(0, 1, 2))(hidden, kernel, weights)
    actual = jax.value_and_grad(ours, argnums=(0, 1, 2))(hidden, kernel, weights)
    for one, other in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("z_loss, smoothing", [(0.0, 0.0), (0.1, 0.0), (0.0, 0.2), (0.01, 0.1)])
def test_z_loss_and_label_smoothing_are_the_formulas(inputs, z_loss, smoothing):
    loss, stats = weighted_cross_entropy(*inputs, z_loss, smoothing)
    per_token, total = reference(*inputs, z_loss, smoothing)
    np.testing.assert_allclose(stats.cross_entropy, per_token, rtol=1e-5, atol=1e-6)
    assert float(loss) == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("chunk_tokens", [1, 2, 4, 5, 12, 100])
def test_chunks_give_the_loss_and_gradients_of_the_whole(inputs, chunk_tokens):
    hidden, kernel, targets, weights = inputs

    def run(chunk_tokens):
        def loss(hidden, kernel, weights):
            return weighted_cross_entropy(hidden, kernel, targets, weights, 0.01, 0.1, chunk_tokens)

        (value, stats), gradients = jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)(hidden, kernel, weights)
        return value, stats, gradients

    for one, other in zip(jax.tree.leaves(run(chunk_tokens)), jax.tree.leaves(run(0)), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("chunk_tokens, counted", [(0, None), (4, None), (4, "all")])
def test_capped_logits_have_the_loss_and_gradients_of_the_formula(inputs, chunk_tokens, counted):
    hidden, kernel, targets, weights = inputs
    mask = None if counted is None else jnp.ones(targets.shape, bool)

    def naive(hidden, kernel, weights):
        logits = 2.0 * jnp.tanh(hidden @ kernel / 2.0)
        log_z = jax.nn.logsumexp(logits, axis=-1)
        cross_entropy = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
        return jnp.sum(weights * (cross_entropy + 0.1 * jnp.square(log_z)))

    def ours(hidden, kernel, weights):
        return weighted_cross_entropy(hidden, kernel, targets, weights, 0.1, 0.0, chunk_tokens, mask, 2.0)[0]

    expected = jax.value_and_grad(naive, argnums=(0, 1, 2))(hidden, kernel, weights)
    actual = jax.value_and_grad(ours, argnums=(0, 1, 2))(hidden, kernel, weights)
    for one, other in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=1e-6)
    uncapped = weighted_cross_entropy(hidden, kernel, targets, weights, 0.1)[0]
    assert abs(float(uncapped) - float(actual[0])) > 0.1


def test_a_certain_prediction_costs_nothing_and_is_correct():
    kernel = 100.0 * jnp.eye(3, dtype=jnp.float32)
    hidden = jnp.eye(3, dtype=jnp.float32)[None]
    right, wrong = jnp.asarray([[0, 1, 2]], jnp.int32), jnp.asarray([[0, 2, 2]], jnp.int32)
    loss, stats = weighted_cross_entropy(hidden, kernel, right, jnp.ones((1, 3)))
    assert float(loss) == 0.0
    assert stats.correct.tolist() == [[True, True, True]]
    loss, stats = weighted_cross_entropy(hidden, kernel, wrong, jnp.ones((1, 3)))
    assert float(loss) == 100.0
    assert stats.correct.tolist() == [[True, False, True]]


def test_large_logits_do_not_overflow():
    hidden = jnp.full((1, 1, 1), 1e4, jnp.float32)
    loss, _ = weighted_cross_entropy(hidden, jnp.asarray([[1.0, 0.0]]), jnp.asarray([[1]], jnp.int32), jnp.ones((1, 1)))
    assert float(loss) == 1e4


def test_a_token_of_weight_0_has_no_gradient(inputs):
    hidden, kernel, targets, weights = inputs
    weights = weights.at[0, 1].set(0.0)
    gradient = jax.grad(lambda h: weighted_cross_entropy(h, kernel, targets, weights, 0.1, 0.1)[0])(hidden)
    assert not np.asarray(gradient[0, 1]).any()
    assert np.asarray(gradient[0, 0]).any()


@pytest.mark.parametrize(
    "batch, length, chunk_tokens, expected",
    [(4, 12, 0, 1), (4, 12, 48, 1), (4, 12, 47, 2), (4, 12, 16, 3), (4, 12, 5, 12), (4, 12, 1, 12), (1, 7, 6, 7)],
)
def test_number_of_chunks(batch, length, chunk_tokens, expected):
    assert _number_of_chunks(batch, length, chunk_tokens) == expected


@pytest.mark.parametrize("number", [0, 1, 63, 64, 257, 400])
@pytest.mark.parametrize("chunk_tokens", [0, 32])
def test_positions_that_do_not_count_are_skipped_exactly(number, chunk_tokens):
    rng = np.random.default_rng(number)
    shape = (8, 50)
    counted = rng.permutation(np.arange(400) < number).reshape(shape)
    hidden = jnp.asarray(rng.normal(size=(*shape, EMBED)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(EMBED, VOCAB)), jnp.float32)
    targets = jnp.asarray(rng.integers(0, VOCAB, shape), jnp.int32)
    # Some counted positions have weight 0, as the rationales' have for λ = 0; their statistics are needed all the same.
    weights = jnp.asarray(np.where(counted & (rng.random(shape) < 0.8), rng.random(shape), 0.0), jnp.float32)

    def run(counted):
        def loss(hidden, kernel, weights):
            return weighted_cross_entropy(hidden, kernel, targets, weights, 0.01, 0.1, chunk_tokens, counted)

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))(hidden, kernel, weights)

    (loss, stats), gradients = run(jnp.asarray(counted))
    (expected_loss, expected_stats), expected_gradients = run(None)
    assert float(loss) == pytest.approx(float(expected_loss), rel=1e-5)
    np.testing.assert_allclose(
        stats.cross_entropy[counted], expected_stats.cross_entropy[counted], rtol=1e-5, atol=1e-6
    )
    assert (stats.correct[counted] == expected_stats.correct[counted]).all()
    for one, other in zip(gradients[:2], expected_gradients[:2], strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(gradients[2][counted], expected_gradients[2][counted], rtol=2e-5, atol=1e-6)


def test_logits_are_computed_for_counted_positions_alone():
    """A nan in the hidden state of a position that does not count reaches nothing."""
    counted = jnp.arange(6) < 4
    hidden = jnp.where(counted[:, None], 1.0, jnp.nan)[None] * jnp.ones((1, 6, EMBED))
    kernel, targets = jnp.ones((EMBED, VOCAB)), jnp.zeros((1, 6), jnp.int32)
    weights = counted[None].astype(jnp.float32)

    def loss(kernel):
        return weighted_cross_entropy(hidden, kernel, targets, weights, counted=counted[None])[0]

    value, gradient = jax.value_and_grad(loss)(kernel)
    assert float(value) == pytest.approx(4 * np.log(VOCAB), rel=1e-6)
    assert np.isfinite(gradient).all()
