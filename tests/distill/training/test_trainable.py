"""Adapters and frozen parameters in the training step: gradients, the optimizer's state and the compiled program."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from distill.checkpoints.manager import Checkpoints, restore_student
from distill.data.packing import Layout
from distill.inference.evaluate import evaluate
from distill.model import lora
from distill.model.lora import Lora
from distill.model.parameters import (
    flatten,
    init_params,
    param_count,
    param_shapes,
    stack_layers,
    unflatten,
    unstack_layers,
)
from distill.model.t5gemma_config import StackConfig, T5GemmaConfig
from distill.sharding import partitioning
from distill.training import optimizers, train, uncertainty
from distill.training.config import LoopConfig
from distill.training.losses import TwoTaskLoss
from distill.training.state import TrainState, abstract_state, init_state, random_state, shardings_of
from distill.training.step import jit_step, make_train_step
from distill.training.trainable import Trainable, described, joined, remark, trained_count
from tests.distill.training.test_step import CONFIG, RNG, SGD, batch_of, pairs

LAYOUT = Layout(8, 24, 24)
LOSS = TwoTaskLoss(lam=0.6, z_loss=1e-3)
ADAPTERS = Trainable(Lora(3, alpha=5.0))
TABLE = Trainable(frozen=("token_embedder", "mlp/"))


@pytest.fixture(scope="module")
def batch():
    return batch_of(pairs(1), LAYOUT)


@pytest.fixture(scope="module")
def params():
    return jax.jit(init_params, static_argnums=0)(CONFIG, jax.random.key(1))


def with_random_adapters(params):
    """The parameters with adapters whose ``B`` is random."""
    prepared = jax.jit(ADAPTERS.prepared)(params, jax.random.key(2))
    rng = np.random.default_rng(3)
    drawn = {path: rng.normal(size=leaf.shape) for path, leaf in flatten(prepared).items() if path.endswith("lora_b")}
    return joined(prepared, unflatten({path: jnp.asarray(0.3 * b, jnp.float32) for path, b in drawn.items()}))


@pytest.fixture(scope="module")
def adapted(params):
    return with_random_adapters(params)


@functools.cache
def compiled_step(config, trainable, mesh, options):
    """A step of SGD with rate 1 on a mesh, and the shardings of its state."""
    optimizer = dataclasses.replace(SGD, trainable=trainable)
    devices = partitioning.MeshConfig(*mesh).build(jax.devices()[: np.prod(mesh)])
    shardings = shardings_of(abstract_state(config, optimizer, devices, partitioning.DEFAULT_RULES))
    return jit_step(make_train_step(config, LOSS, optimizer, **dict(options)), shardings, devices), shardings, devices


def stepped(config, params, batch, trainable=None, mesh=(1, 1, 1), **options):
    """The loss, and the gradient of each trained parameter by its path: what SGD with rate 1 subtracts."""
    step, shardings, devices = compiled_step(config, trainable, mesh, tuple(options.items()))
    part = params if trainable is None else trainable.part(params)
    state = TrainState(jnp.int32(0), jax.tree.map(jnp.copy, params), SGD.transform.init(part))
    with jax.set_mesh(devices), nn.logical_axis_rules(list(partitioning.DEFAULT_RULES)):
        placed = jax.device_put(batch, partitioning.batch_sharding(devices))
        after, metrics = step(jax.device_put(state, shardings), placed, RNG)
    moved = {path: np.asarray(leaf) - np.asarray(flatten(after.params)[path]) for path, leaf in flatten(params).items()}
    return float(metrics["loss"][0]), moved


def dense_reference(config, adapted, batch):
    """By a step that trains all parameters: the loss, the gradients of ``A`` and ``B`` through ``W + α / rank · A B``, and
    those of all parameters."""

    def merged(matrices):
        leaves = flatten(joined(adapted, matrices))
        return {
            path: lora.merged_kernel(
                leaf,
                leaves[path.replace("kernel", "lora_a")],
                leaves[path.replace("kernel", "lora_b")],
                leaves["lora_scale"],
            )
            for path, leaf in leaves.items()
            if path.replace("kernel", "lora_a") in leaves and path.endswith("kernel")
        }

    kernels, through = jax.vjp(merged, ADAPTERS.part(adapted))
    dense = joined(lora.without(adapted), unflatten(kernels))
    loss, of_kernels = stepped(config, dense, batch)
    (gradients,) = through({path: jnp.asarray(of_kernels[path]) for path in kernels})
    return loss, flatten(gradients), of_kernels


@pytest.fixture(scope="module")
def reference(adapted, batch):
    return dense_reference(CONFIG, adapted, batch)[:2]


@pytest.mark.parametrize(
    ("changes", "mesh", "options"),
    [
        ({}, (1, 1, 1), {}),
        (
            {"scan_layers": True, "remat_policy": "minimal"},
            (2, 2, 2),
            {"param_gather": "step", "num_microbatches": 2, "sequence_parallel": True, "chunk_tokens": 64},
        ),
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


def test_a_t5gemma_2_with_adapters_and_a_frozen_table_has_the_gradients_of_a_dense_one(batch):
    """A local and a global layer with merged attention, in a scan on a mesh. Norms are trained beside the adapters, and the
    table of encoder, decoder and logits is not."""
    stack = StackConfig(2, 32, 48, 4, 2, 8, 8.0, 4, 2)
    config = T5GemmaConfig(2, 64, stack, stack, rope_base_global=1e5)
    config = dataclasses.replace(config, scan_layers=True, remat_policy="minimal")
    adapted = with_random_adapters(jax.jit(init_params, static_argnums=0)(config, jax.random.key(1)))
    chosen = dataclasses.replace(ADAPTERS, frozen=("kernel$", "embed"))
    options = {"param_gather": "step", "num_microbatches": 2, "sequence_parallel": True}
    loss, moved = stepped(config, adapted, batch, chosen, (2, 2, 2), **options)
    wanted_loss, of_adapters, of_all = dense_reference(config, adapted, batch)
    np.testing.assert_allclose(loss, wanted_loss, rtol=1e-5)
    trained = {path for path, leaf in moved.items() if leaf.any()}
    assert trained == chosen.names(adapted) and not moved["token_embedder/embedding"].any()
    assert {path.rpartition("/")[2] for path in trained} == {"lora_a", "lora_b", "scale"}
    for path in trained:
        wanted = of_adapters[path] if path in of_adapters else of_all[path]
        np.testing.assert_allclose(moved[path], wanted, rtol=1e-4, atol=5e-6, err_msg=path)


def test_the_first_step_is_that_of_the_network_without_adapters(params, batch):
    loss, moved = stepped(CONFIG, ADAPTERS.prepared(params, RNG), batch, ADAPTERS)
    assert loss == stepped(CONFIG, params, batch)[0]
    assert any(moved[path].any() for path in moved if path.endswith("lora_b"))
    assert not any(moved[path].any() for path in moved if path.endswith("lora_a"))  # B is zero


@functools.cache
def program(trainable):
    """A step of AdamW: its text, and XLA's own counts of operations, and of bytes of arguments and temporaries."""
    optimizer = dataclasses.replace(optimizers.adamw(1e-2), trainable=trainable)
    config = dataclasses.replace(CONFIG, vocab_size=80)
    state = jax.eval_shape(lambda: random_state(config, optimizer, RNG))
    batch = {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for name, leaf in batch_of(pairs(1), LAYOUT).items()}
    lowered = jax.jit(make_train_step(config, LOSS, optimizer), donate_argnums=0).lower(state, batch, RNG)
    compiled = lowered.compile()
    memory = compiled.memory_analysis()
    counts = compiled.cost_analysis()["flops"], memory.argument_size_in_bytes, memory.temp_size_in_bytes
    return (
        lowered.as_text("hlo") + compiled.as_text(),
        *counts,
        sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state.opt_state)),
    )


# Results of the size of kernels: feed-forward, of the output, attention.
KERNELS = {"mlp": r"f32\[(?:32,48|48,32)\]\S* dot\(", "output": r"f32\[(?:32,80|80,32)\]\S* dot\("}
SCATTER = r"f32\[80,32\]\S* scatter\("


def test_the_program_has_no_gradient_and_no_moment_of_a_frozen_parameter():
    whole, adapters, half = (program(one) for one in (None, ADAPTERS, TABLE))
    for pattern in (*KERNELS.values(), SCATTER):
        assert re.search(pattern, whole[0]), pattern
        assert not re.search(pattern, adapters[0]), pattern
    assert not re.search(KERNELS["mlp"], half[0]) and not re.search(SCATTER, half[0])
    assert re.search(KERNELS["output"], half[0])
    trained = sum(leaf.size for leaf in jax.tree.leaves(adapted_shapes(ADAPTERS)))
    assert adapters[4] == 2 * 4 * trained + 8  # two moments, and two counts
    # Operations: of three products per kernel one is left out; rank 3 of width 32 adds some.
    assert adapters[1] < 0.82 * whole[1]
    assert adapters[2] < 0.5 * whole[2]  # bytes of arguments: three arrays per parameter, then one and a little
    assert adapters[3] < whole[3]
    for count in (1, 2, 4):
        assert adapters[count] < half[count] < whole[count]


def adapted_shapes(trainable):
    """The trained parameters as shapes."""
    shapes = jax.eval_shape(trainable.prepared, param_shapes(dataclasses.replace(CONFIG, vocab_size=80)), RNG)
    return trainable.part(shapes)


def test_frozen_parameters_stay_as_they_are_and_others_train(params, batch):
    _, moved = stepped(CONFIG, params, batch, TABLE)
    assert {path for path, leaf in moved.items() if not leaf.any()} == {
        path for path in moved if path.startswith("token_embedder") or "mlp/" in path
    }
    _, wanted = stepped(CONFIG, params, batch)
    for path, leaf in moved.items():
        if leaf.any():
            np.testing.assert_allclose(leaf, wanted[path], rtol=1e-5, atol=2e-6, err_msg=path)


def test_adapters_with_trained_norms():
    """With patterns, everything that matches none is trained beside the adapters, except adapted kernels."""
    chosen = Trainable(Lora(2, targets=("query/kernel",)), frozen=("embed", "(key|value|out|dense)/kernel", "mlp/"))
    shapes = jax.eval_shape(chosen.prepared, param_shapes(CONFIG), RNG)
    assert {path.rpartition("/")[2] for path in chosen.names(shapes)} == {"lora_a", "lora_b", "scale"}
    assert trained_count(chosen, shapes) == sum(leaf.size for leaf in jax.tree.leaves(chosen.part(shapes)))
    assert described(chosen, shapes) == f"{trained_count(chosen, shapes):,} trained (LoRA of rank 2), "
    assert described(TABLE, shapes).endswith(" trained, ") and described(None, shapes) == ""


@pytest.mark.parametrize(
    ("trainable", "message"),
    [
        (
            Trainable(frozen=("tokn_embedder",)),
            r"FROZEN: 'tokn_embedder' matches no parameter; paths look like decoder/",
        ),
        (Trainable(frozen=("",)), r"FROZEN=\('',\) matches every parameter; nothing would be trained"),
        (Trainable(frozen=("(",)), r"FROZEN: expected regular expressions; got '\('"),
        (Trainable(Lora(2, targets=("wq",))), r"LORA_TARGETS: 'wq' matches no parameter"),
        (Trainable(Lora(2, targets=("query", "embedder"))), r"token_embedder/embedding, which can have no adapter"),
        (Trainable(Lora(2, targets=("logits_dense",))), r"decoder/logits_dense/kernel, which can have no adapter"),
    ],
)
def test_patterns_that_do_not_fit_are_refused_before_anything_is_traced(trainable, message):
    with pytest.raises(ValueError, match=message):
        make_train_step(CONFIG, LOSS, dataclasses.replace(SGD, trainable=trainable))


def test_a_choice_of_nothing_is_refused():
    with pytest.raises(ValueError, match="needs lora or frozen patterns"):
        Trainable()
    with pytest.raises(ValueError, match=r"FROZEN must be a tuple of patterns; got the text 'mlp': write \('mlp',\)"):
        Trainable(frozen="mlp")
    with pytest.raises(
        ValueError, match=r"LORA_ALPHA and LORA_TARGETS need LORA_RANK; got LORA_RANK=None, LORA_ALPHA=8"
    ):
        LoopConfig(1, lora_alpha=8)


def test_joint_seeds_train_their_adapters_as_single_seeds_do(params, batch):
    """Two seeds with their own adapters, under vmap, from one checkpoint's parameters."""
    optimizer = dataclasses.replace(SGD, trainable=ADAPTERS)
    keys = jax.random.split(RNG, 2)
    states = jax.jit(jax.vmap(lambda key: init_state(params, optimizer, rng=key)))(keys)
    batches = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), batch)
    after, metrics = jax.jit(jax.vmap(make_train_step(CONFIG, LOSS, optimizer)))(states, batches, keys)
    loss, moved = stepped(CONFIG, jax.tree.map(lambda leaf: leaf[1], states.params), batch, ADAPTERS)
    np.testing.assert_allclose(metrics["loss"][0][1], loss, rtol=1e-6)
    before, there = flatten(states.params), flatten(after.params)
    for path, leaf in moved.items():
        np.testing.assert_allclose(before[path][1] - there[path][1], leaf, rtol=1e-4, atol=1e-6, err_msg=path)
    a = before["encoder/layers_0/mlp/wo/lora_a"]
    assert not np.allclose(a[0], a[1])


def test_learned_task_weights_averages_and_skipped_updates_have_the_trained_parameters_only():
    optimizer = optimizers.restricted(uncertainty.learned(optimizers.adafactor(1e-3)), ADAPTERS)
    state = jax.eval_shape(lambda: random_state(CONFIG, optimizer, RNG, ema=True))
    step = make_train_step(CONFIG, TwoTaskLoss(), optimizer, ema_decay=0.9, skip_nonfinite=True, num_microbatches=2)
    after, metrics = jax.eval_shape(step, state, batch_of(pairs(1), LAYOUT), RNG)
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, state)
    assert set(flatten(state.ema_params)) == ADAPTERS.names(state.params)
    assert {"lambda", "skipped_updates"} <= set(metrics)


def final_state(directory, arguments):
    """The newest checkpoint of a run."""
    optimizer = optimizers.restricted(arguments["optimizer"], arguments["loop"].trainable)
    mesh = partitioning.MeshConfig(1, 1, 1).build()
    like = abstract_state(arguments["model"], optimizer, mesh, partitioning.DEFAULT_RULES, ema=True)
    saver = Checkpoints(directory, arguments["model"])
    state, _, _ = saver.restore(like)
    saver.close()
    return state


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_run_with_adapters_continues_exactly_and_its_best_parameters_are_a_plain_student(tmp_path, arguments, capsys):
    loop = dataclasses.replace(arguments["loop"], lora_rank=2, ema_decay=0.9)
    validation = dataclasses.replace(arguments["validation"], period=8)
    arguments |= {"validation": None, "loop": loop}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    result = train.train(str(whole), **arguments | {"validation": validation})
    log = capsys.readouterr().err
    assert "1,344 trained (LoRA of rank 2)" in log
    assert "LORA_RANK leaves random parameters untrained: INITIAL_CHECKPOINT_PATH" in log
    assert remark(loop.trainable, "somewhere") is None and remark(None, None) is None
    assert "FROZEN leaves random" in (remark(TABLE, None) or "")
    counts = result.performance
    assert (counts["parameters"], counts["trained_parameters"]) == (param_count(arguments["model"]), 1344)

    train.train(str(parts), **arguments | {"loop": dataclasses.replace(loop, train_steps=4)})
    (parts / "result.json").unlink()
    train.train(str(parts), **arguments)
    state, other = final_state(whole, arguments), final_state(parts, arguments)
    for have, want in zip(jax.tree.leaves(other), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(np.asarray(have), np.asarray(want))

    mesh, task, decode = partitioning.MeshConfig(1, 1, 1), validation.task_name, validation.decode
    step, params = restore_student(whole, arguments["model"], mesh.build())
    assert step == result.best_step == 8
    assert set(flatten(params)) == set(flatten(param_shapes(arguments["model"])))
    for path, leaf in flatten(state.eval_params).items():
        np.testing.assert_array_equal(flatten(params)[path], leaf, err_msg=path)
    again = evaluate(str(whole), model=arguments["model"], task_name=task, decode=decode, mesh=mesh)
    assert again.metrics == result.test
