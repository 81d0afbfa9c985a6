"""The training state: what it holds, its shardings, and how it begins."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import Mesh
from jaxtyping import Array, Int

from distill import partitioning
from distill.interop import initial
from distill.network import T5Config
from distill.optimizers import Optimizer
from distill.parameters import Params, init_params, param_logical_axes


class TrainState(struct.PyTreeNode):
    """Everything a step reads and writes.

    Attributes:
      step: int32 scalar, updates made.
      params: the student's parameters, float32.
      opt_state: the optimizer's.
      ema_params: an exponential moving average of ``params``, or None where it is off.
    """

    step: Int[Array, ""]
    params: Params
    opt_state: Any
    ema_params: Params | None = None

    @property
    def eval_params(self) -> Params:
        """The averaged parameters where there are any, else the parameters."""
        return self.params if self.ema_params is None else self.ema_params


def init_state(params: Params, optimizer: Optimizer, *, ema: bool = False) -> TrainState:
    """A state at step 0.

    Args:
      params: the parameters to start from, float32.
      optimizer: whose state is initialised.
      ema: whether the state holds a moving average of the parameters.
    """
    return TrainState(
        step=jnp.int32(0),
        params=params,
        opt_state=optimizer.transform.init(params),
        ema_params=jax.tree.map(jnp.copy, params) if ema else None,
    )


def random_state(model: T5Config, optimizer: Optimizer, rng: jax.Array, *, ema: bool = False) -> TrainState:
    """A state at step 0 with random parameters; a pure function, to be jitted by the caller."""
    return init_state(init_params(model, rng), optimizer, ema=ema)


def abstract_state(
    model: T5Config, optimizer: Optimizer, mesh: Mesh, rules: partitioning.Rules, *, ema: bool = False
) -> TrainState:
    """The state as ``ShapeDtypeStruct``s with their shardings; nothing is computed.

    Args:
      model: the student.
      optimizer: whose state is part of it.
      mesh: the devices.
      rules: logical axis → mesh axis.
      ema: whether the state holds a moving average of the parameters.
    """
    shapes = jax.eval_shape(lambda: random_state(model, optimizer, jax.random.key(0), ema=ema))
    params = partitioning.param_shardings(shapes.params, param_logical_axes(model), mesh, rules)
    shardings = TrainState(
        step=partitioning.replicated(mesh),  # type: ignore[arg-type]
        params=params,
        opt_state=partitioning.optimizer_shardings(optimizer.transform, shapes.opt_state, shapes.params, params, mesh),
        ema_params=params if ema else None,
    )
    return jax.tree.map(lambda s, d: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=d), shapes, shardings)


def shardings_of(tree: Any) -> Any:
    """The shardings of a tree of arrays or ``ShapeDtypeStruct``s, in a tree of the same structure."""
    return jax.tree.map(lambda leaf: leaf.sharding, tree)


def make_state(
    model: T5Config,
    optimizer: Optimizer,
    mesh: Mesh,
    rules: partitioning.Rules,
    *,
    seed: int = 0,
    ema: bool = False,
    initial_checkpoint_path: str | None = None,
) -> TrainState:
    """The state at step 0, sharded as :func:`abstract_state` says.

    Args:
      model, optimizer, mesh, rules, ema: see :func:`abstract_state`.
      seed: of random parameters.
      initial_checkpoint_path: whatever :func:`distill.interop.initial.load` reads, to start from; None starts at random.
    """
    shardings = shardings_of(abstract_state(model, optimizer, mesh, rules, ema=ema))
    if initial_checkpoint_path is None:
        fresh = jax.jit(lambda rng: random_state(model, optimizer, rng, ema=ema), out_shardings=shardings)
        return fresh(jax.random.key(seed))
    loaded = initial.load(initial_checkpoint_path, model, shardings.params)
    start = jax.jit(lambda p: init_state(p, optimizer, ema=ema), out_shardings=shardings, donate_argnums=0)
    return start(loaded)
