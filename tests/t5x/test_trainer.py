"""T5X's loop against the built-in step: ten Adafactor steps, on meshes of eight devices, in micro-batches or not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import core as flax_core
from flax import linen as nn
from t5x import partitioning as t5x_partitioning
from t5x import train_state as train_state_lib
from t5x import trainer as t5x_trainer
from t5x import utils

from distill.model.parameters import param_logical_axes
from distill.sharding import partitioning
from distill.t5x.trainer import TwoTaskTrainer
from distill.training import optimizers
from distill.training.losses import TwoTaskLoss, linear_lambda
from distill.training.state import TrainState, init_state
from distill.training.step import make_train_step, summarize
from tests.t5x import engines, rounding

STEPS = 10
RATE = 1e-2
LOSS = TwoTaskLoss(lam=linear_lambda(0.2, 1.0, STEPS))


def partitioner(model_ways):
    # On CPUs, T5X ignores num_partitions and makes all devices one `model` axis; it respects the submesh.
    return t5x_partitioning.PjitPartitioner(num_partitions=None, model_parallel_submesh=(1, model_ways, 1, 1))


def run_t5x(model, model_ways=1, num_microbatches=None, packed=True, start=0, trainer_cls=TwoTaskTrainer, **kwargs):
    """Parameters after STEPS steps, and each step's metrics."""
    batches, parts = engines.batches(STEPS, packed), partitioner(model_ways)
    shapes = {name: value.shape for name, value in batches[0].items()}
    types = {name: value.dtype for name, value in batches[0].items()}
    initializer = utils.TrainStateInitializer(
        optimizer_def=model.optimizer_def,
        init_fn=model.get_initial_variables,
        input_shapes=shapes,
        partitioner=parts,
        input_types=types,
    )
    state = initializer.from_scratch(jax.random.PRNGKey(0))
    config = engines.SCANNED if getattr(model.module, "scan_layers", False) else engines.CONFIG
    params = flax_core.freeze(engines.to_t5x(engines.params_of(config), config))
    state = train_state_lib.FlaxOptimTrainState.create(
        model.optimizer_def, flax_core.freeze({"params": params, "params_axes": state.params_axes})
    )
    state = state.replace_step(jnp.int32(start))
    trainer = trainer_cls(
        model=model,
        train_state=state,
        partitioner=parts,
        eval_names=[],
        summary_dir=None,
        train_state_axes=initializer.train_state_axes,
        rng=jax.random.PRNGKey(0),
        learning_rate_fn=lambda step: jnp.float32(RATE),
        num_microbatches=num_microbatches,
        **kwargs,
    )
    seen = []
    with trainer:
        for batch in batches:
            state, metrics = trainer._partitioned_train_step(state, batch)
            seen.append(jax.device_get(metrics))
    params = jax.device_get(flax_core.unfreeze(state.params))
    return jax.device_get(engines.from_t5x(params, config)), seen


def run_built_in(config=engines.CONFIG, data=1, model=1, packed=True, num_microbatches=1):
    optimizer = optimizers.adafactor(RATE, **engines.ADAFACTOR)
    mesh = partitioning.MeshConfig(data, 1, model).build(jax.devices()[: data * model])
    step = jax.jit(make_train_step(config, LOSS, optimizer, num_microbatches=num_microbatches))
    params = engines.params_of(config)
    with jax.set_mesh(mesh), nn.logical_axis_rules(list(partitioning.DEFAULT_RULES)):
        params = jax.device_put(params, partitioning.param_shardings(params, param_logical_axes(config), mesh))
        state: TrainState = init_state(params, optimizer)
        seen = []
        for batch in engines.batches(STEPS, packed):
            state, metrics = step(state, partitioning.to_global(batch, mesh), jax.random.key(0))
            seen.append(metrics)
    return jax.device_get(state.params), [summarize([metrics]) for metrics in seen]


@pytest.fixture(scope="module")
def wanted():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return run_built_in()


def differences(got, wanted):
    """Each parameter's largest difference, relative to its largest entry."""
    return jax.tree.map(lambda a, b: float(np.abs(a - b).max() / np.abs(b).max()), got, wanted)


def same_run(got, wanted, tolerance=2e-5):
    params, metrics = got
    worst = max(jax.tree.leaves(differences(params, wanted[0])))
    assert worst < tolerance, f"after {STEPS} Adafactor steps the engines' parameters differ by {worst:.1e}"
    for mine, theirs in zip(metrics, wanted[1]):
        for name in ("loss/label", "loss/rationale", "effective_lambda"):
            np.testing.assert_allclose(mine[name].compute(), theirs[name], rtol=5e-5)
        np.testing.assert_allclose(mine["loss"].total, theirs["loss"], rtol=5e-5)
        assert mine["tokens/label"].total == theirs["tokens/label"]


@pytest.mark.parametrize(("model_ways", "num_microbatches"), [(1, None), (2, 2), (4, None), (4, 4)])
def test_ten_adafactor_steps(wanted, model_ways, num_microbatches):
    same_run(run_t5x(engines.two_task_model(loss=LOSS), model_ways, num_microbatches), wanted)


def test_ten_adafactor_steps_of_the_projects_network_in_t5x(wanted):
    same_run(run_t5x(engines.project_model(loss=LOSS), 2, 2), wanted)


def test_ten_adafactor_steps_on_the_built_in_mesh(wanted):
    params, _ = run_built_in(data=4, model=2, num_microbatches=2)
    assert max(jax.tree.leaves(differences(params, wanted[0]))) < 2e-5


def test_a_schedule_begins_at_its_offset(wanted):
    _, metrics = run_t5x(engines.two_task_model(loss=LOSS), start=1000, schedule_offset=1000)
    sums = rounding.tolerance(engines.batches(1, True)[0]["decoder_target_tokens"].size)
    for mine, theirs in zip(metrics, wanted[1]):
        np.testing.assert_allclose(mine["effective_lambda"].compute(), theirs["effective_lambda"], rtol=sums)


def test_adafactor_differs_on_scanned_layers():
    """T5X clips and scales a scanned stack layer by layer, Optax as one array."""
    got, _ = run_t5x(engines.two_task_model(engines.SCANNED, loss=LOSS))
    wanted, _ = run_built_in(engines.SCANNED)
    parting = differences(got, wanted)
    stacks = [parting["encoder"].pop("encoder"), parting["decoder"].pop("decoder")]
    worst_stack = max(jax.tree.leaves(stacks))
    print(f"stacks: {worst_stack:.1e}, others: {max(jax.tree.leaves(parting)):.1e}")
    assert 1e-4 < worst_stack < 0.2


def test_t5xs_trainer_weighs_micro_batches_separately(wanted):
    fixed = TwoTaskLoss(lam=0.5)
    whole, _ = run_t5x(engines.two_task_model(loss=fixed), num_microbatches=4, packed=False)
    apart, _ = run_t5x(
        engines.two_task_model(loss=fixed), num_microbatches=4, packed=False, trainer_cls=t5x_trainer.Trainer
    )
    assert max(jax.tree.leaves(differences(apart, whole))) > 1e-3


def test_another_model_raises():
    with pytest.raises(TypeError, match="TwoTaskModel"):
        TwoTaskTrainer(model=engines.plain_t5x_model())
