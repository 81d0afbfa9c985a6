"""The step gives the same numbers packed or not, in micro-batches or not, on one device or eight."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen as nn

from distill.data.features import pack_batches
from distill.data.packing import Layout, TokenPair
from distill.model.network import ModelInputs, T5Config, Transformer
from distill.model.parameters import init_params, param_logical_axes, param_shapes
from distill.precompile import costs
from distill.sharding import partitioning
from distill.training import optimizers
from distill.training.losses import NORMALIZERS, TwoTaskLoss
from distill.training.state import init_state
from distill.training.step import compute_params, make_train_step, summarize

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
SCANNED = dataclasses.replace(CONFIG, num_encoder_layers=2, num_decoder_layers=2, scan_layers=True)
RNG = jax.random.key(0)
SGD = optimizers.Optimizer(__import__("optax").sgd(1.0), lambda step: jnp.float32(1.0))


def pairs(seed=0, number=8):
    """Label and rationale sequences over the same inputs."""
    rng = np.random.default_rng(seed)
    groups = []
    for _ in range(number):
        inputs = rng.integers(2, 64, rng.integers(3, 9)).astype(np.int32)
        group = []
        for task, longest in ((1, 3), (2, 8)):
            targets = rng.integers(2, 64, rng.integers(1, longest + 1)).astype(np.int32)
            prefix = np.array([task + 2], np.int32)
            group.append(
                TokenPair(
                    np.concatenate([prefix, inputs]),
                    targets,
                    np.full(len(targets), task, np.int32),
                    np.ones(len(targets), np.float32),
                )
            )
        groups.append(group)
    return groups


def batch_of(groups, layout):
    batches = list(pack_batches(iter(groups), layout))
    assert len(batches) == 1
    return {name: jnp.asarray(value) for name, value in batches[0].items()}


def parameters(config):
    """Random parameters on the scale of the initialisers, from NumPy: nothing is compiled."""
    rng = np.random.default_rng(1)

    def draw(path, leaf):
        if path[-1].key == "scale":
            return np.ones(leaf.shape, np.float32)
        fan_in = leaf.shape[0] if path[-1].key == "kernel" else 1
        return (rng.normal(size=leaf.shape) / fan_in**0.5).astype(np.float32)

    return jax.device_put(jax.tree_util.tree_map_with_path(draw, param_shapes(config)))


@pytest.fixture(scope="module")
def params():
    return parameters(CONFIG)


def gradient_step(params, batch, loss, **kwargs):
    """Loss, metrics and gradient (what plain SGD with rate 1 takes off the parameters)."""
    step = jax.jit(make_train_step(CONFIG, loss, SGD, **kwargs))
    state, metrics = step(init_state(params, SGD), batch, RNG)
    gradient = jax.tree.map(lambda old, new: np.asarray(old) - np.asarray(new), params, state.params)
    return summarize([metrics]), gradient


def assert_same(got, wanted, rtol=1e-5):
    for name in (
        "loss",
        "loss/label",
        "loss/rationale",
        "effective_lambda",
        "tokens/label",
        "token_accuracy/rationale",
    ):
        np.testing.assert_allclose(got[0][name], wanted[0][name], rtol=rtol, err_msg=name)
    for path, want in jax.tree_util.tree_leaves_with_path(wanted[1]):
        have = got[1]
        for key in path:
            have = have[key.key]
        np.testing.assert_allclose(have, want, rtol=rtol, atol=2e-6, err_msg=jax.tree_util.keystr(path))


UNPACKED, PACKED = Layout(16, 10, 8, packed=False), Layout(8, 24, 24)
LOSSES = {name: TwoTaskLoss(lam=0.6, normalizer=name, z_loss=1e-3) for name in NORMALIZERS}


def test_one_program_serves_all_weights_of_the_tasks(params):
    batch = batch_of(pairs(), PACKED)
    losses = [TwoTaskLoss(lam=0.25), TwoTaskLoss(lam=4.0), TwoTaskLoss(alpha=0.3)]
    steps = [jax.jit(make_train_step(CONFIG, loss, SGD)) for loss in losses]
    state = init_state(params, SGD)
    lowered = [step.lower(state, batch, RNG, loss.constants()) for step, loss in zip(steps, losses)]
    assert len({one.as_text() for one in lowered}) == 1
    program = lowered[0].compile()
    for loss in losses[1:]:
        after, metrics = program(state, batch, RNG, loss.constants())
        gradient = jax.tree.map(lambda old, new: np.asarray(old) - np.asarray(new), params, after.params)
        assert_same((summarize([metrics]), gradient), gradient_step(params, batch, loss), rtol=1e-6)
    assert TwoTaskLoss(lam=lambda step: jnp.float32(1.0)).constants() is None


@pytest.fixture(scope="module")
def in_one_piece(params):
    """Loss, metrics and gradient of a batch on one device, by normalizer and layout; each is computed once."""

    @functools.cache
    def step(normalizer, layout):
        return gradient_step(params, batch_of(pairs(), layout), LOSSES[normalizer])

    return step


@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_packed_equals_unpacked(in_one_piece, normalizer):
    assert_same(in_one_piece(normalizer, PACKED), in_one_piece(normalizer, UNPACKED))


@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_microbatches_change_nothing(params, in_one_piece, normalizer):
    got = gradient_step(params, batch_of(pairs(), UNPACKED), LOSSES[normalizer], num_microbatches=4)
    assert_same(got, in_one_piece(normalizer, UNPACKED))


@pytest.mark.parametrize(
    ("mesh_shape", "packed"), [((8, 1, 1), True), ((2, 2, 2), True), ((2, 2, 2), False), ((1, 1, 8), True)]
)
def test_meshes_of_eight_devices_change_nothing(params, in_one_piece, mesh_shape, packed):
    loss, layout = LOSSES["task_tokens"], PACKED if packed else UNPACKED
    batch = batch_of(pairs(), layout)
    wanted = in_one_piece("task_tokens", layout)

    mesh = partitioning.MeshConfig(*mesh_shape).build()
    shardings = partitioning.param_shardings(params, param_logical_axes(CONFIG), mesh)
    placed = jax.device_put(params, shardings)
    with jax.set_mesh(mesh), nn.logical_axis_rules(list(partitioning.DEFAULT_RULES)):
        step = jax.jit(make_train_step(CONFIG, loss, SGD, num_microbatches=1, chunk_tokens=64))
        on_mesh = jax.device_put(batch, partitioning.batch_sharding(mesh))
        state, metrics = step(init_state(placed, SGD), on_mesh, RNG)
    gradient = jax.tree.map(lambda old, new: np.asarray(old) - np.asarray(new), params, state.params)
    assert_same((summarize([metrics]), gradient), wanted)
    kernel = state.params["encoder"]["layers_0"]["mlp"]["wi_0"]["kernel"]
    pieces = 32 // mesh_shape[1], 48 // mesh_shape[2]
    assert kernel.addressable_shards[0].data.shape == pieces


def steps_on_mesh(config, params, batch, mesh_shape, **kwargs):
    """Losses and parameters after three steps of Adafactor, and the program as text."""
    optimizer = optimizers.adafactor(1e-2, min_dim_size_to_factor=16)
    mesh = partitioning.MeshConfig(*mesh_shape).build(jax.devices()[: np.prod(mesh_shape)])
    shardings = partitioning.param_shardings(params, param_logical_axes(config), mesh)
    with jax.set_mesh(mesh), nn.logical_axis_rules(list(partitioning.DEFAULT_RULES)):
        state = jax.jit(lambda p: init_state(p, optimizer))(jax.device_put(params, shardings))
        laid_out = jax.tree.map(lambda leaf: leaf.sharding, state), partitioning.replicated(mesh)
        batch = jax.device_put(batch, partitioning.batch_sharding(mesh))
        step = make_train_step(config, TwoTaskLoss(z_loss=1e-3), optimizer, chunk_tokens=64, **kwargs)
        compiled = jax.jit(step, out_shardings=laid_out).lower(state, batch, RNG).compile()
        values = []
        for _ in range(3):
            state, metrics = compiled(state, batch, RNG)
            values.append(float(metrics["loss"][0]))
    return values, state.params, compiled.as_text()


@pytest.fixture(scope="module")
def on_one_device():
    params, batch = parameters(SCANNED), batch_of(pairs(7), PACKED)
    return (SCANNED, params, batch), steps_on_mesh(SCANNED, params, batch, (1, 1, 1))[:2]


@pytest.mark.parametrize(
    ("param_gather", "num_microbatches", "mesh_shape"),
    [("layer", 1, (1, 4, 1)), ("decoder", 1, (1, 4, 1)), ("step", 2, (1, 4, 1)), ("step", 1, (2, 2, 2))],
)
def test_how_parameters_are_gathered_changes_nothing(on_one_device, param_gather, num_microbatches, mesh_shape):
    """Only the program differs: the named stacks are gathered once, kernels of the other stack twice, by their layers."""
    (config, params, batch), (wanted_values, wanted) = on_one_device
    values, got, text = steps_on_mesh(
        config, params, batch, mesh_shape, param_gather=param_gather, num_microbatches=num_microbatches
    )
    np.testing.assert_allclose(values, wanted_values, rtol=1e-5)
    jax.tree.map(lambda have, want: np.testing.assert_allclose(have, want, rtol=1e-5, atol=2e-6), got, wanted)

    size = {"once": 0, "by layers": 0}
    for stack in ("encoder", "decoder"):
        once = stack in partitioning.PARAM_GATHERS[param_gather]
        for path, leaf in jax.tree_util.tree_leaves_with_path(params[stack]):
            if (path[0].key == stack and once) or (path[-1].key == "scale" and once):
                size["once"] += leaf.nbytes // (mesh_shape[2] if path[-1].key == "kernel" else 1)
            elif path[0].key == stack and path[-1].key == "kernel":
                size["by layers"] += 2 * leaf.nbytes // mesh_shape[2]
    found = costs.analyse(text, dict(zip(partitioning.MESH_AXES, mesh_shape))).collectives
    gathers = [one for one in found if one.kind == "all-gather" and one.axes == ("fsdp",)]
    assert sum(one.result_bytes for one in gathers if one.op_name == "jit(step)/sharding_constraint") == size["once"]
    assert sum(one.result_bytes for one in gathers if one.op_name.endswith("dot_general")) == size["by layers"]


@pytest.mark.parametrize("mesh_shape", [(2, 2, 2), (1, 1, 4)])
def test_sequence_parallelism_changes_nothing_but_the_layout(on_one_device, mesh_shape):
    (config, params, batch), (wanted_values, wanted) = on_one_device
    values, got, text = steps_on_mesh(config, params, batch, mesh_shape, sequence_parallel=True)
    np.testing.assert_allclose(values, wanted_values, rtol=1e-5)
    jax.tree.map(lambda have, want: np.testing.assert_allclose(have, want, rtol=1e-5, atol=2e-6), got, wanted)
    # The residuals that the encoder's loop saves for the backward pass hold a device's share of the positions.
    data, fsdp, model = mesh_shape
    rows, length = batch["encoder_input_tokens"].shape
    kept = f"f32[{config.num_encoder_layers},{rows // (data * fsdp)},{{}},{config.embed_dim}]"
    assert kept.format(length // model) in text
    assert kept.format(length) not in text


def test_loss_equals_the_papers_two_forward_passes(params):
    """Each task separately, as in the paper's code, in PyTorch from the logits on."""
    alpha = 0.5
    groups = pairs(3)
    apply, values = jax.jit(Transformer(CONFIG).apply), []
    for task in (0, 1):
        batch = batch_of([[group[task]] for group in groups], Layout(8, 10, 8, packed=False))
        logits = apply({"params": params}, ModelInputs.of(batch))
        targets = np.where(np.asarray(batch["decoder_task_ids"]) > 0, np.asarray(batch["decoder_target_tokens"]), -100)
        values.append(
            torch.nn.functional.cross_entropy(
                torch.tensor(np.array(logits)).reshape(-1, 64), torch.tensor(targets, dtype=torch.long).reshape(-1)
            ).item()
        )
    summary, _ = gradient_step(params, batch_of(groups, PACKED), TwoTaskLoss(alpha=alpha))
    np.testing.assert_allclose(summary["loss"], alpha * values[0] + (1 - alpha) * values[1], rtol=1e-5)
    np.testing.assert_allclose([summary["loss/label"], summary["loss/rationale"]], values, rtol=1e-5)


def test_effective_lambda_says_what_the_normalizer_does(in_one_piece):
    by_normalizer = {name: in_one_piece(name, PACKED)[0] for name in NORMALIZERS}
    tokens = by_normalizer["all_tokens"]
    assert by_normalizer["task_tokens"]["effective_lambda"] == pytest.approx(0.6)
    assert by_normalizer["task_examples"]["effective_lambda"] == pytest.approx(0.6)
    assert tokens["effective_lambda"] == pytest.approx(0.6 * tokens["tokens/rationale"] / tokens["tokens/label"])


def test_dropout_differs_between_steps_and_not_between_runs(params):
    config = dataclasses.replace(CONFIG, dropout_rate=0.3)
    step = jax.jit(make_train_step(config, TwoTaskLoss(), SGD))
    batch = batch_of(pairs(5), PACKED)
    state = init_state(params, SGD)
    _, first = step(state, batch, RNG)
    _, again = step(state, batch, RNG)
    _, later = step(state.replace(step=state.step + 1), batch, RNG)
    assert first["loss"][0] == again["loss"][0]
    assert first["loss"][0] != later["loss"][0]


def test_moving_average_follows_the_parameters(params):
    step = jax.jit(make_train_step(CONFIG, TwoTaskLoss(), SGD, ema_decay=0.9))
    state = init_state(params, SGD, ema=True)
    new, _ = step(state, batch_of(pairs(6), PACKED), RNG)
    old, moved, average = (s["decoder"]["logits_dense"]["kernel"] for s in (state.params, new.params, new.ema_params))
    np.testing.assert_allclose(average, 0.9 * old + 0.1 * moved, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(new.eval_params["decoder"]["logits_dense"]["kernel"], average)


def test_only_kernels_are_cast_to_the_compute_dtype():
    config = dataclasses.replace(CONFIG, dtype="bfloat16")
    params = jax.eval_shape(lambda key: compute_params(init_params(config, key), config), jax.random.key(0))
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        assert leaf.dtype == (jnp.bfloat16 if path[-1].key == "kernel" else jnp.float32), path
    assert compute_params(params, CONFIG) is params
