"""One chunk: its loss and gradients against the formula on whole logits, differentiated by JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill.sharding.cross_entropy_chunk import chunk_of_positions


def formula(hidden, kernel, weights, targets, z_loss, smoothing, cap):
    """``Σ w · (CE + z · log²Z)``, less the entropy of the smoothed target."""
    logits = hidden @ kernel
    logits = logits if cap is None else cap * jnp.tanh(logits / cap)
    log_z, vocab = jax.nn.logsumexp(logits, axis=-1), kernel.shape[1]
    off = smoothing / (vocab - 1)
    wanted = jnp.full(logits.shape, off) + (1.0 - smoothing - off) * jax.nn.one_hot(targets, vocab)
    each = -(wanted * (logits - log_z[..., None])).sum(-1)
    entropy = jnp.where(wanted > 0, wanted * jnp.log(jnp.where(wanted > 0, wanted, 1.0)), 0.0).sum(-1)
    return (weights * (each + entropy + z_loss * log_z**2)).sum()


@pytest.mark.parametrize(("z_loss", "smoothing", "cap"), [(0.0, 0.0, None), (1e-2, 0.1, None), (0.0, 0.1, 3.0)])
def test_a_chunk_is_the_formula_and_its_gradients(z_loss, smoothing, cap):
    rng = np.random.default_rng(0)
    hidden, kernel = (rng.normal(size=shape).astype(np.float32) for shape in ((2, 3, 8), (8, 11)))
    targets, weights = rng.integers(0, 11, (2, 3)).astype(np.int32), rng.random((2, 3)).astype(np.float32)
    weights[0, 1] = 0.0
    loss, stats, d_hidden, d_kernel, d_weights = chunk_of_positions(
        jnp.asarray(hidden), jnp.asarray(targets), jnp.asarray(weights), kernel=jnp.asarray(kernel), z_loss=z_loss,
        label_smoothing=smoothing, logit_cap=cap, with_gradients=True, of_kernel=True, exchanged=(), held=(),
    )  # fmt: skip
    wanted, gradients = jax.value_and_grad(formula, argnums=(0, 1, 2))(
        hidden, kernel, weights, targets, z_loss, smoothing, cap
    )
    np.testing.assert_allclose(loss, wanted, rtol=1e-5)
    for got, by_jax in zip((d_hidden, d_kernel, d_weights), gradients):
        np.testing.assert_allclose(got, by_jax, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(stats.correct, (hidden @ kernel).argmax(-1) == targets)


def test_no_gradient_is_computed_that_nobody_wants():
    ones = jnp.ones((1, 2, 4), jnp.float32)
    given = {"kernel": jnp.ones((4, 5), jnp.float32), "z_loss": 0.0, "label_smoothing": 0.0, "logit_cap": None}
    arrays = (ones, jnp.zeros((1, 2), jnp.int32), jnp.ones((1, 2), jnp.float32))
    given |= {"exchanged": (), "held": ()}
    assert chunk_of_positions(*arrays, with_gradients=False, of_kernel=True, **given)[2:] == (None, None, None)
    frozen = chunk_of_positions(*arrays, with_gradients=True, of_kernel=False, **given)
    assert frozen[2].shape == ones.shape and frozen[3] is None
