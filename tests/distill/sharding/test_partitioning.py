"""Meshes and rules: mesh sizes, shardings and errors."""

import types

import jax
import jax.numpy as jnp
import pytest
from abstract_meshes import mesh_of
from flax import linen as nn
from jax.sharding import PartitionSpec

from distill.model.network import T5Config
from distill.model.parameters import init_params, param_logical_axes
from distill.sharding import partitioning
from distill.sharding.partitioning import DEFAULT_RULES, MeshConfig
from distill.training import optimizers


def test_minus_one_takes_the_remaining_devices():
    assert MeshConfig(-1, 2, 2).shape(8) == (2, 2, 2)
    assert MeshConfig(1, -1, 1).build().shape == {"data": 1, "fsdp": 8, "model": 1}


@pytest.mark.parametrize("sizes", [(16, 1, 1), (-1, 3, 1), (3, 3, 1)])
def test_a_mesh_that_does_not_fit(sizes):
    with pytest.raises(ValueError, match=r"does not fit: there are 8 devices of 'cpu'"):
        MeshConfig(*sizes).build()


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((0, 1, 1), "MeshConfig.data must be an integer ≥ 1 or -1; got 0"),
        ((-1, -1, 1), "at most one mesh axis may have size -1"),
        ((1, 1, -2), "MeshConfig.model must be an integer ≥ 1 or -1; got -2"),
    ],
)
def test_bad_sizes(sizes, message):
    with pytest.raises(ValueError, match=message):
        MeshConfig(*sizes)


def test_rules():
    mesh = MeshConfig(2, 2, 2).build()
    spec = lambda axes, shape: partitioning.spec_for(axes, shape, mesh, DEFAULT_RULES)  # noqa: E731
    assert spec(("vocab", "embed"), (128, 64)) == PartitionSpec("model", "fsdp")
    assert spec(("embed", "mlp"), (64, 128)) == PartitionSpec("fsdp", "model")
    assert spec(("heads", "relpos_buckets"), (3, 32)) == PartitionSpec(None, None)
    assert spec(("batch", "length"), (8, 5)) == PartitionSpec(("data", "fsdp"), None)
    with pytest.raises(ValueError, match="logical axis 'width' has no rule"):
        spec(("width",), (4,))
    with pytest.raises(ValueError, match="2 logical axes"):
        spec(("embed", "mlp"), (4,))


def test_gathered_copies_are_replicated_over_fsdp_and_sharded_over_model():
    mesh = MeshConfig(2, 2, 2).build()
    axes = {"kernel": ("embed", "mlp"), "bias": ("heads", "relpos_buckets")}
    params = {"kernel": jnp.ones((8, 16)), "bias": jnp.ones((4, 3))}
    assert partitioning.gathered(params["kernel"], axes["kernel"]) is params["kernel"]  # there is no mesh
    with jax.set_mesh(mesh), nn.logical_axis_rules(list(DEFAULT_RULES)):
        placed = jax.device_put(params, partitioning.param_shardings(params, axes, mesh))
        copies = jax.jit(lambda p: partitioning.whole_copies(p, axes, "bfloat16"))(placed)
        again = jax.jit(lambda p: jax.tree.map(partitioning.split, p, axes))(copies)
    assert placed["kernel"].addressable_shards[0].data.shape == (4, 8)
    assert copies["kernel"].addressable_shards[0].data.shape == (8, 8)
    assert again["kernel"].addressable_shards[0].data.shape == (4, 8)
    assert (copies["kernel"].dtype, copies["bias"].dtype) == (jnp.bfloat16, jnp.float32)


@pytest.mark.parametrize("make", [optimizers.adafactor, optimizers.adamw])
def test_optimizer_state_is_sharded_like_its_parameters(make):
    config = T5Config(
        vocab_size=256, embed_dim=128, num_heads=4, head_dim=32, mlp_dim=256, num_encoder_layers=1, num_decoder_layers=1
    )
    mesh = MeshConfig(2, 2, 2).build()
    optimizer = make(1e-3)
    params = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
    state = jax.eval_shape(optimizer.transform.init, params)
    shardings = partitioning.param_shardings(params, param_logical_axes(config), mesh)
    placed = partitioning.optimizer_shardings(optimizer.transform, state, params, shardings, mesh)
    assert jax.tree.structure(placed) == jax.tree.structure(state)
    for leaf, sharding in zip(jax.tree.leaves(state), jax.tree.leaves(placed)):
        assert all(size > 0 for size in sharding.shard_shape(leaf.shape))
    large = [s for leaf, s in zip(jax.tree.leaves(state), jax.tree.leaves(placed)) if leaf.size >= 128 * 256]
    if make is optimizers.adamw:
        assert large
        assert all(not sharding.is_fully_replicated for sharding in large)
    factored = [s.spec for leaf, s in zip(jax.tree.leaves(state), jax.tree.leaves(placed)) if leaf.shape == (256,)]
    if make is optimizers.adafactor:
        assert PartitionSpec("model") in factored


def test_a_single_process_has_all_rows():
    assert partitioning.local_rows(16, MeshConfig(4, 2, 1).build()).tolist() == list(range(16))


def test_the_rows_of_a_process_need_not_be_adjacent(monkeypatch):
    """As on v5e:8x8 with data=64, where the four chips of a host are at 0, 1, 8 and 9 of the mesh."""
    places = {f"chip {at}": (slice(2 * at, 2 * at + 2),) for at in (8, 0, 1, 9)}
    sharding = types.SimpleNamespace(addressable_devices_indices_map=lambda shape: places)
    monkeypatch.setattr(partitioning, "batch_sharding", lambda mesh: sharding)
    rows = partitioning.local_rows(128, MeshConfig(8, 1, 1).build())
    assert rows.tolist() == [0, 1, 2, 3, 16, 17, 18, 19]


def test_the_platform_is_that_of_the_mesh_and_else_of_the_default_devices(monkeypatch):
    mesh = mesh_of("tpu")
    assert (partitioning.platform(), partitioning.device_kind()) == ("cpu", "cpu")
    with jax.sharding.use_abstract_mesh(mesh):
        assert (partitioning.platform(), partitioning.device_kind()) == ("tpu", "TPU v5 lite")
    with jax.set_mesh(MeshConfig(1, 1, 1).build()):
        assert partitioning.platform() == "cpu"
        monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
        assert partitioning.platform() == "cpu"  # the mesh decides
        seen = []
        jax.jit(lambda x: seen.append(partitioning.platform()) or x)(jnp.zeros(()))
        assert seen == ["cpu"]
    assert partitioning.platform() == "gpu"


@pytest.mark.parametrize(("kind", "platform"), [("cpu", "cpu"), ("TPU v5e", "tpu"), ("NVIDIA H100 80GB HBM3", "gpu")])
def test_the_platform_of_a_device_of_which_only_the_kind_is_known(kind, platform, monkeypatch):
    """JAX before 0.10.1 gives no platform of an abstract device."""
    mesh = types.SimpleNamespace(abstract_device=types.SimpleNamespace(device_kind=kind))
    monkeypatch.setattr(partitioning.jax.sharding, "get_abstract_mesh", lambda: mesh)
    assert partitioning.platform() == platform
