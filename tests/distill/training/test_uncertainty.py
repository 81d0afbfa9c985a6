"""Learned task weights against PyTorch's autograd and Adam on the paper's formula."""

import jax
import numpy as np
import optax
import pytest
import torch
from flax import linen as nn

from distill.data.features import pack_batches
from distill.data.packing import Layout, TokenPair
from distill.model.network import T5Config
from distill.model.parameters import init_params
from distill.sharding import partitioning
from distill.training import optimizers, uncertainty
from distill.training.losses import TwoTaskLoss
from distill.training.state import abstract_state, init_state
from distill.training.step import make_train_step, summarize

CONFIG = T5Config(
    vocab_size=32,
    embed_dim=16,
    num_heads=2,
    head_dim=8,
    mlp_dim=16,
    num_encoder_layers=1,
    num_decoder_layers=1,
    dropout_rate=0.0,
)
RATE = 0.05
INNER = optimizers.Optimizer(optax.sgd(0.1), lambda step: 0.1)


def batch_of(number=6):
    rng = np.random.default_rng(0)
    groups = []
    for _ in range(number):
        inputs = rng.integers(2, 32, 4).astype(np.int32)
        targets = {task: rng.integers(2, 32, length).astype(np.int32) for task, length in ((1, 2), (2, 5))}
        groups.append(
            [
                TokenPair(inputs, tokens, np.full(len(tokens), task, np.int32), np.ones(len(tokens), np.float32))
                for task, tokens in targets.items()
            ]
        )
    (batch,) = pack_batches(iter(groups), Layout(8, 8, 8))
    return batch


@pytest.fixture(scope="module")
def params():
    return jax.jit(init_params, static_argnums=0)(CONFIG, jax.random.key(1))


def trained(params, steps=5, **options):
    """λ, both losses and the log variances after each step."""
    optimizer = uncertainty.learned(INNER, RATE)
    step = jax.jit(make_train_step(CONFIG, TwoTaskLoss(), optimizer, **options))
    state, rows = init_state(params, optimizer), []
    for _ in range(steps):
        state, metrics = step(state, batch_of(), jax.random.key(0))
        seen = summarize([metrics])
        rows.append([seen["lambda"], seen["loss/label"], seen["loss/rationale"], *state.opt_state.log_variances])
    return np.array(rows)


@pytest.fixture(scope="module")
def plainly(params):
    return trained(params)


def test_it_is_the_papers_formula_under_adam(plainly):
    s = torch.zeros(2, requires_grad=True)
    adam = torch.optim.Adam([s], lr=RATE)
    for lam, label, rationale, *after in plainly:
        assert lam == pytest.approx(float(torch.exp(s[0] - s[1]).detach()), rel=1e-5)
        adam.zero_grad()
        (torch.exp(-s) * torch.tensor([label, rationale]) + s / 2).sum().backward()
        adam.step()
        np.testing.assert_allclose(after, s.detach().numpy(), rtol=1e-4, atol=1e-6)
    assert (np.abs(plainly[-1, 3:]) > 0.1).all()  # it has moved


def test_microbatches_and_meshes_change_nothing(plainly, params):
    mesh = partitioning.MeshConfig(2, 2, 1).build(jax.devices()[:4])
    with jax.set_mesh(mesh), nn.logical_axis_rules(list(partitioning.DEFAULT_RULES)):
        np.testing.assert_allclose(trained(params, num_microbatches=2), plainly, rtol=1e-4, atol=1e-5)


def test_the_state_is_sharded_with_the_optimizers():
    mesh = partitioning.MeshConfig(2, 2, 2).build()
    optimizer = uncertainty.learned(optimizers.adafactor(1e-2, min_dim_size_to_factor=8))
    state = abstract_state(CONFIG, optimizer, mesh, partitioning.DEFAULT_RULES)
    assert state.opt_state.log_variances.shape == (2,)
    assert state.opt_state.log_variances.sharding.is_fully_replicated


def test_a_task_that_is_absent_keeps_its_weight():
    optimizer = uncertainty.learned(INNER, RATE)
    params = {"w": np.zeros(2, np.float32)}
    state = optimizer.transform.init(params)
    with jax.numpy_dtype_promotion("standard"):
        _, state = optimizer.transform.update(params, state, params, task_losses=np.array([2.0, 0.0], np.float32))
    np.testing.assert_allclose(state.log_variances, [RATE, 0.0], rtol=1e-4)


def test_lambda_and_learned_weights_exclude_each_other():
    with pytest.raises(ValueError, match=r"learns the weights of both tasks; got lam=0\.5, alpha=None as well"):
        make_train_step(CONFIG, TwoTaskLoss(lam=0.5), uncertainty.learned(INNER))
    with pytest.raises(ValueError, match="learning_rate must be > 0; got 0"):
        uncertainty.learned(INNER, 0.0)
