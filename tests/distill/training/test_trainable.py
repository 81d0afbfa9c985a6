"""Adapters and frozen parameters in the training step: gradients, the optimizer's state and the compiled program."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from distill.data.packing import Layout
from distill.model import lora
from distill.model.lora import Lora
from distill.model.network import T5Config
from distill.model.parameters import flatten, init_params, stack_layers, unflatten, unstack_layers
from distill.precompile import costs
from distill.sharding import partitioning
from distill.training import optimizers
from distill.training.losses import TwoTaskLoss
from distill.training.state import TrainState, abstract_state, init_state, random_state, shardings_of
from distill.training.step import jit_step, make_train_step
from distill.training.trainable import Trainable, described, joined, trained_count
from tests.distill.training.test_step import SGD, batch_of, pairs

CONFIG = T5Config(
    vocab_size=64,
    embed_dim=32,
    num_heads=4,
    head_dim=8,
    mlp_dim=48,
    num_encoder_layers=1,
    num_decoder_layers=1,
    dropout_rate=0.0,
)
LAYOUT = Layout(8, 24, 24)
LOSS = TwoTaskLoss(lam=0.6, z_loss=1e-3)
RNG = jax.random.key(0)
ADAPTERS = Trainable(Lora(3, alpha=5.0))
TABLE = Trainable(frozen=("token_embedder", "mlp/"))


@pytest.fixture(scope="module")
def batch():
    return batch_of(pairs(1), LAYOUT)


@pytest.fixture(scope="module")
def params():
    return jax.jit(init_params, static_argnums=0)(CONFIG, jax.random.key(1))


@pytest.fixture(scope="module")
def adapted(params):
    """The parameters with adapters whose ``B`` is random."""
    prepared = ADAPTERS.prepared(params, jax.random.key(2))
    rng = np.random.default_rng(3)
    leaves = {
        path: jnp.asarray(rng.normal(size=leaf.shape) * 0.3, jnp.float32) if path.endswith("lora_b") else leaf
        for path, leaf in flatten(prepared).items()
    }
    return unflatten(leaves)


def stepped(config, params, batch, trainable=None, mesh=(1, 1, 1), **options):
    """The loss, and the gradient of each trained parameter by its path: what SGD with rate 1 subtracts."""
    optimizer = dataclasses.replace(SGD, trainable=trainable)
    devices = partitioning.MeshConfig(*mesh).build(jax.devices()[: np.prod(mesh)])
    with jax.set_mesh(devices), nn.logical_axis_rules(list(partitioning.DEFAULT_RULES)):
        shardings = shardings_of(abstract_state(config, optimizer, devices, partitioning.DEFAULT_RULES))
        part = params if trainable is None else trainable.part(params)
        state = TrainState(jnp.int32(0), params, optimizer.transform.init(part))
        state = jax.device_put(jax.tree.map(jnp.copy, state), shardings)
        step = jit_step(make_train_step(config, LOSS, optimizer, **options), shardings, devices)
        after, metrics = step(state, jax.device_put(batch, partitioning.batch_sharding(devices)), RNG)
    moved = {path: np.asarray(leaf) - np.asarray(flatten(after.params)[path]) for path, leaf in flatten(params).items()}
    return float(metrics["loss"][0]), moved


@pytest.fixture(scope="module")
def reference(adapted, batch):
    """The loss and the gradients of ``A`` and ``B`` through ``W + α / rank · A B``, by a step that trains all kernels."""

    def merged(matrices):
        leaves = flatten(joined(adapted, matrices))
        return {
            path: lora.merged_kernel(
                leaf, leaves[path.replace("kernel", "lora_a")], leaves[path.replace("kernel", "lora_b")], leaves["lora_scale"]
            )
            for path, leaf in leaves.items()
            if path.replace("kernel", "lora_a") in leaves and path.endswith("kernel")
        }

    kernels, through = jax.vjp(merged, ADAPTERS.part(adapted))
    dense = joined(lora.without(adapted), unflatten(kernels))
    loss, of_kernels = stepped(CONFIG, dense, batch)
    (gradients,) = through({path: jnp.asarray(of_kernels[path]) for path in kernels})
    return loss, flatten(gradients)


@pytest.mark.parametrize(
    ("changes", "mesh", "options"),
    [
        ({}, (1, 1, 1), {}),
        ({"scan_layers": True, "remat_policy": "minimal"}, (1, 1, 1), {"num_microbatches": 2, "chunk_tokens": 64}),
        ({}, (2, 2, 2), {"chunk_tokens": 64}),
        ({"scan_layers": True}, (2, 2, 2), {"param_gather": "step", "num_microbatches": 2, "sequence_parallel": True}),
    ],
)
def test_gradients_of_adapters_equal_those_through_the_sum_of_the_kernels(
    adapted, batch, reference, changes, mesh, options
):
    config = dataclasses.replace(CONFIG, **changes)
    params = stack_layers(adapted, CONFIG)[0] if config.scan_layers else adapted
    loss, moved = stepped(config, params, batch, ADAPTERS, mesh, **options)
    moved = flatten(unstack_layers(unflatten(moved), config)[0])
    wanted_loss, wanted = reference
    np.testing.assert_allclose(loss, wanted_loss, rtol=1e-5)
    assert any(path.endswith("lora_a") and np.abs(leaf).max() > 1e-3 for path, leaf in moved.items())
    for path, leaf in moved.items():
        if path in wanted:
            np.testing.assert_allclose(leaf, wanted[path], rtol=1e-5, atol=3e-6, err_msg=path)
        else:
            assert not leaf.any(), path
