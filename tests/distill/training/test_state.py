"""The state at step 0: its parts, its shardings, and the same parameters on any mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill.model.config import T5Config
from distill.sharding import partitioning
from distill.training import optimizers, state

TINY = T5Config(
    vocab_size=16, embed_dim=8, num_heads=2, head_dim=4, mlp_dim=8, num_encoder_layers=1, num_decoder_layers=1
)
OPTIMIZER = optimizers.adamw(1e-2)
RULES = partitioning.DEFAULT_RULES


@pytest.fixture(scope="module")
def params():
    return {"w": jnp.asarray([1.0, 2.0]), "b": jnp.asarray([3.0])}


def test_a_fresh_state_counts_from_0_and_copies_its_average(params):
    fresh = state.init_state(params, OPTIMIZER, ema=True)
    assert (int(fresh.step), fresh.step.dtype) == (0, jnp.int32)
    assert fresh.params is params
    jax.tree.map(np.testing.assert_array_equal, fresh.ema_params, params)
    assert fresh.ema_params["w"] is not params["w"]  # a step may donate both


def test_evaluation_takes_the_average_if_there_is_one(params):
    plain = state.init_state(params, OPTIMIZER)
    assert plain.ema_params is None and plain.eval_params is params
    average = {"w": jnp.zeros(2), "b": jnp.zeros(1)}
    assert plain.replace(ema_params=average).eval_params == average  # of trees of the same arrays


def test_the_abstract_state_is_the_shape_of_the_real_one():
    mesh = partitioning.MeshConfig(1, 2, 2).build()
    abstract = state.abstract_state(TINY, OPTIMIZER, mesh, RULES, ema=True)
    real = jax.eval_shape(lambda: state.random_state(TINY, OPTIMIZER, jax.random.key(0), ema=True))
    assert jax.tree.structure(abstract) == jax.tree.structure(real)
    jax.tree.map(lambda a, r: np.testing.assert_equal((a.shape, a.dtype), (r.shape, r.dtype)), abstract, real)
    shardings = state.shardings_of(abstract)
    assert shardings.step.is_fully_replicated
    table = shardings.params["token_embedder"]["embedding"]
    assert not table.is_fully_replicated
    assert shardings.ema_params["token_embedder"]["embedding"] == table


def test_a_run_starts_from_the_random_state_of_its_seed():
    mesh = partitioning.MeshConfig().build(jax.devices()[:1])
    made = state.make_state(TINY, OPTIMIZER, mesh, RULES, seed=5, ema=True)
    expected = jax.jit(lambda key: state.random_state(TINY, OPTIMIZER, key, ema=True))(jax.random.key(5))
    jax.tree.map(np.testing.assert_array_equal, made, expected)


def test_parameters_do_not_depend_on_the_mesh_but_on_the_seed():
    def table(mesh, seed):
        made = state.make_state(TINY, OPTIMIZER, partitioning.MeshConfig(*mesh).build(), RULES, seed=seed)
        assert int(made.step) == 0
        return made.params["token_embedder"]["embedding"]

    one, sharded = table((1, 1, 1), 5), table((1, 2, 2), 5)
    assert len(sharded.sharding.device_set) == 4
    np.testing.assert_array_equal(one, sharded)
    assert not np.array_equal(one, table((1, 1, 1), 6))


def test_a_gpu_gets_the_same_random_parameters_from_its_host():
    mesh = partitioning.MeshConfig(1, 2, 2).build()
    with jax.set_mesh(mesh):  # as the training loop, whose mesh has other devices than the host's
        host = state.params_of_host(TINY, jax.random.key(5))
    made = state.make_state(TINY, OPTIMIZER, mesh, RULES, seed=5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), host, made.params)
    assert isinstance(host["token_embedder"]["embedding"], np.ndarray)
