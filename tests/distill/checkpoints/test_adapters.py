"""States with adapters or with averages of a part of the parameters: all readers give the same plain parameters."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill.checkpoints import conversion
from distill.checkpoints.manager import Checkpoints, restore_student
from distill.checkpoints.weights import Weights
from distill.model.lora import Lora
from distill.model.network import T5Config
from distill.model.parameters import flatten, param_shapes, stack_layers, unflatten, unstack_layers
from distill.sharding import partitioning
from distill.training import optimizers
from distill.training.state import init_state
from distill.training.trainable import Trainable, joined

PLAIN = T5Config(32, 16, 2, 8, 24, 1, 2)
CHOICES = {
    "adapters": Trainable(Lora(3, alpha=6.0)),
    "adapters of some kernels": Trainable(Lora(2, alpha=1.0, targets=("query", "wo/")), frozen=("embed",)),
    "frozen": Trainable(frozen=("mlp/", "token")),
}


def drawn(tree, seed):
    """The tree with random values, except the scale of adapters."""
    rng = np.random.default_rng(seed)
    leaves = flatten(tree)
    return unflatten({
        path: leaves[path] if path == "lora_scale" else jnp.asarray(rng.normal(size=leaf.shape), jnp.float32)
        for path, leaf in leaves.items()
    })  # fmt: skip


def state_of(trainable, config, *, ema):
    optimizer = optimizers.restricted(optimizers.adamw(1e-3), trainable)
    state = init_state(stack_layers(drawn(param_shapes(PLAIN), 0), PLAIN)[0] if config.scan_layers else
                       drawn(param_shapes(PLAIN), 0), optimizer, ema=ema)  # fmt: skip
    averages = drawn(state.ema_params, 2) if ema else None
    return state.replace(step=jnp.int32(4), params=drawn(state.params, 1), ema_params=averages)


def by_hand(state, config):
    """The parameters that evaluation uses, unstacked, in NumPy."""
    params = state.params if state.ema_params is None else joined(state.params, state.ema_params)
    leaves = flatten(unstack_layers(jax.tree.map(np.asarray, params), config)[0])
    out = {path: leaf for path, leaf in leaves.items() if "lora" not in path}
    for path in out:
        name = path.removesuffix("kernel")
        if f"{name}lora_a" in leaves:
            out[path] = out[path] + leaves["lora_scale"] * (leaves[f"{name}lora_a"] @ leaves[f"{name}lora_b"])
    return out


@pytest.mark.parametrize(
    ("name", "scan", "ema", "mesh"),
    [
        ("adapters", True, True, (2, 2, 2)),
        ("adapters of some kernels", False, False, (1, 1, 1)),
        ("frozen", False, True, (1, 1, 1)),
    ],
)
def test_every_reader_gives_plain_parameters(tmp_path, name, scan, ema, mesh):
    config = dataclasses.replace(PLAIN, scan_layers=scan)
    state = state_of(CHOICES[name], config, ema=ema)
    saver = Checkpoints(tmp_path / "run", config)
    saver.save(state, {"seed": 0, "draws": 0, "consumed": {}}, {})
    saver.close()
    wanted = by_hand(state, config)
    devices = partitioning.MeshConfig(*mesh).build(jax.devices()[: np.prod(mesh)])
    step, restored = restore_student(tmp_path / "run", config, devices)
    assert step == 4
    conversion.convert(tmp_path / "run", tmp_path / "hf", "hf")
    trees = [unstack_layers(restored, config)[0], unstack_layers(state.eval_params, config)[0]]
    for path in ("run", "hf"):
        with conversion.open_source(tmp_path / path) as source:
            trees.append(Weights(source.checkpoint, PLAIN).tree())
    for tree in trees:
        assert set(flatten(tree)) == set(wanted)
        for path, leaf in flatten(tree).items():
            np.testing.assert_allclose(leaf, wanted[path], rtol=1e-5, atol=1e-5, err_msg=path)
    kernel = flatten(restored)["encoder/encoder/mlp/wo/kernel" if scan else "encoder/layers_0/mlp/wo/kernel"]
    assert kernel.addressable_shards[0].data.size == kernel.size // (mesh[1] * mesh[2])


def test_a_state_of_other_settings_is_refused_and_stays_where_it_is(tmp_path):
    saver = Checkpoints(tmp_path, PLAIN)
    state = state_of(CHOICES["adapters"], PLAIN, ema=False)
    saver.save(state, {"seed": 0, "draws": 0, "consumed": {}}, {})
    saver.wait()
    other_alpha = state.replace(params={**state.params, "lora_scale": jnp.float32(1.0)})
    for like, message in (
        (state_of(Trainable(Lora(4)), PLAIN, ema=False), "has adapters of LORA_RANK=3; got LORA_RANK=4: continue with"),
        (other_alpha, "has adapters of LORA_ALPHA=6; got LORA_ALPHA=3"),
        (
            state_of(None, PLAIN, ema=False),
            r"of another training: \d+ arrays are not in both, such as opt_state/.* LORA_RANK",
        ),
        (
            state_of(CHOICES["adapters"], PLAIN, ema=True),
            "arrays are not in both, such as ema_params/.* of this run; .*EMA",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            saver.restore(like)
    restored, _, _ = saver.restore(state)
    assert not (tmp_path / "damaged").exists()
    for have, want in zip(jax.tree.leaves(restored), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(np.asarray(have), np.asarray(want))
    saver.close()
