"""The training state, its shardings and its initialisation."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import Mesh

from distill.checkpoints import initial
from distill.model import lora
from distill.model.configs import NetworkConfig
from distill.model.parameters import Params, init_params, initializer, param_logical_axes, param_shapes
from distill.sharding import partitioning
from distill.training.optimizers import Optimizer
from distill.training.trainable import joined


class TrainState(struct.PyTreeNode):
    """All state that a training step reads and writes.

    Attributes:
      step: int32 scalar, the number of updates made.
      params: the student's parameters, float32, and its low-rank adapters, if it has any.
      opt_state: the state of the optimizer, of the trained parameters alone.
      ema_params: an exponential moving average of the trained parameters, float32, or None if disabled.
    """

    step: Any  # not Int[Array, ""]: trees of shapes and of shardings have the same form
    params: Params
    opt_state: Any
    ema_params: Params | None = None

    @property
    def eval_params(self) -> Params:
        """The averaged parameters if there are any, else ``params``; adapters are merged into their kernels."""
        return lora.merged(self.params if self.ema_params is None else joined(self.params, self.ema_params))


def init_state(params: Params, optimizer: Optimizer, *, ema: bool = False, rng: jax.Array | None = None) -> TrainState:
    """Returns a state at step 0.

    Args:
      params: the initial parameters, float32, without adapters.
      optimizer: initialises its state from the parameters that it trains, and says which have adapters.
      ema: whether to keep a moving average of the trained parameters.
      rng: key of the adapters; None: key 0.
    """
    trained = params
    if optimizer.trainable is not None:
        params = optimizer.trainable.prepared(params, jax.random.key(0) if rng is None else rng)
        trained = optimizer.trainable.part(params)
    return TrainState(
        step=jnp.int32(0),
        params=params,
        opt_state=optimizer.transform.init(trained),
        ema_params=jax.tree.map(jnp.copy, trained) if ema else None,
    )


def random_state(model: NetworkConfig, optimizer: Optimizer, rng: jax.Array, *, ema: bool = False) -> TrainState:
    """Returns a state at step 0 with random parameters. A pure function: the caller jits it."""
    return init_state(init_params(model, rng), optimizer, ema=ema, rng=rng)


def abstract_state(
    model: NetworkConfig, optimizer: Optimizer, mesh: Mesh, rules: partitioning.Rules, *, ema: bool = False
) -> TrainState:
    """Returns the state of ``ShapeDtypeStruct`` with their shardings; nothing is computed.

    Args:
      model: configuration of the student.
      optimizer: whose state is included.
      mesh: the devices.
      rules: logical axis → mesh axis.
      ema: whether to keep a moving average of the parameters.
    """
    shapes = jax.eval_shape(lambda params: init_state(params, optimizer, ema=ema), param_shapes(model))
    axes = lora.logical_axes(param_logical_axes(model), shapes.params)
    params = partitioning.param_shardings(shapes.params, axes, mesh, rules)
    trained = (shapes.params, params)
    if optimizer.trainable is not None:
        trained = (optimizer.trainable.part(shapes.params), optimizer.trainable.part(params))
    shardings = TrainState(
        step=partitioning.replicated(mesh),  # type: ignore[arg-type]
        params=params,
        opt_state=partitioning.optimizer_shardings(optimizer.transform, shapes.opt_state, *trained, mesh),
        ema_params=trained[1] if ema else None,
    )
    return jax.tree.map(lambda s, d: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=d), shapes, shardings)


def shardings_of(tree: Any) -> Any:
    """Returns the shardings of a tree of arrays or of ``ShapeDtypeStruct``, as a tree of the same structure."""
    return jax.tree.map(lambda leaf: leaf.sharding, tree)


def params_of_host(model: NetworkConfig, rng: jax.Array) -> Params:
    """Random parameters, numpy arrays computed by the CPU.

    For GPUs: their compiler needs minutes for the random bits of the arrays of T5 Base, and the CPU's needs seconds.

    Args:
      model: configuration of the student.
      rng: key of the parameters.
    """
    device = jax.local_devices(backend="cpu")[0]
    data = jax.device_get(jax.random.key_data(rng))
    with jax.default_device(device), jax.set_mesh(partitioning.MeshConfig().build([device])):
        made = jax.jit(lambda data: init_params(model, jax.random.wrap_key_data(data)))(data)
        return jax.device_get(made)


def make_state(
    model: NetworkConfig,
    optimizer: Optimizer,
    mesh: Mesh,
    rules: partitioning.Rules,
    *,
    seed: int = 0,
    ema: bool = False,
    initial_checkpoint_path: str | None = None,
) -> TrainState:
    """Returns the state at step 0, sharded as :func:`abstract_state` specifies.

    Args:
      model, optimizer, mesh, rules, ema: see :func:`abstract_state`.
      seed: seed of the random parameters and adapters.
      initial_checkpoint_path: a checkpoint in any format that :func:`distill.checkpoints.initial.load` reads; None
        initialises at random.
    """
    shardings = shardings_of(abstract_state(model, optimizer, mesh, rules, ema=ema))
    rng = jax.random.key(seed)
    if initial_checkpoint_path is not None:
        loaded = initial.load(initial_checkpoint_path, model, lora.without(shardings.params))
    elif mesh.devices.flat[0].platform == "gpu":
        loaded = jax.device_put(params_of_host(model, rng), lora.without(shardings.params))
    else:
        loaded = jax.jit(initializer(model), out_shardings=lora.without(shardings.params))(rng)
    start = jax.jit(lambda p: init_state(p, optimizer, ema=ema, rng=rng), out_shardings=shardings, donate_argnums=0)
    return start(loaded)
