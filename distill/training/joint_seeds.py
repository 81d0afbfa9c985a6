"""Several seeds of one small run, trained together: the training step under ``vmap``.

For students so small that a device is idle between their operations. Every seed has its data order, initial parameters,
dropout, best checkpoint and files, as in :func:`distill.training.train.train`. The training states are not saved, so a
joint run that was stopped starts again.
"""

import contextlib
import dataclasses
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import linen as nn
from jax.sharding import SingleDeviceSharding

from distill import locking, stuck
from distill.checkpoints import initial
from distill.checkpoints.manager import CheckpointConfig, Checkpoints
from distill.data import fullness
from distill.data.stream import Batch, Stream
from distill.inference.decoder import Decoder
from distill.model.configs import NetworkConfig
from distill.model.parameters import param_shapes
from distill.sharding import xla_options
from distill.terminal import Terminal
from distill.training import callbacks as user_callbacks
from distill.training import checks, reporting, timing, tracking
from distill.training.config import DataConfig, LoopConfig, Progress, TrainResult, ValidationConfig
from distill.training.evaluators import final_split, make_evaluators
from distill.training.lanes import Lane
from distill.training.loop import Loop
from distill.training.losses import Coefficients, TwoTaskLoss
from distill.training.optimizers import Optimizer, restricted
from distill.training.preemption import StopRequest
from distill.training.provenance import Origin
from distill.training.state import TrainState, init_state, random_state
from distill.training.step import Fetchable, Metrics, make_train_step
from distill.training.trainable import remark, trained_count

if TYPE_CHECKING:
    from distill.inference.evaluate import Evaluator


@dataclasses.dataclass(frozen=True)
class Seed:
    """One seed of a joint run, read while its data set is registered.

    Attributes:
      directory: the model directory.
      seed: seed of parameters, dropout and order.
      stream: training batches.
      evaluators: by split.
      lock: the lock of ``directory``.
      origin: data, code and machine, for the record.
      callbacks: user code, see :mod:`distill.training.callbacks`.
      trackers: services that receive the metrics, see :mod:`distill.training.tracking`.
    """

    directory: epath.Path
    seed: int
    stream: Stream
    evaluators: "dict[str, Evaluator]"
    lock: locking.Lock
    origin: Origin
    callbacks: Sequence[user_callbacks.Callback] = ()
    trackers: Sequence[str] = ()

    @classmethod
    def read(
        cls,
        directory: str,
        *,
        model: NetworkConfig,
        data: DataConfig,
        loop: LoopConfig,
        validation: ValidationConfig | None,
        decoder: Decoder | None,
        lock: locking.Lock,
        terminal: Terminal,
        callbacks: Sequence[user_callbacks.Callback] = (),
        trackers: Sequence[str] = (),
    ) -> "Seed":
        """Reads the training data and the splits to evaluate from the tasks that are registered now.

        Args:
          directory, model, data, loop, validation, callbacks, trackers: arguments of :func:`distill.training.train.train`.
          decoder: shared by all seeds, on one device; None only without ``validation``.
          lock: the lock of ``directory``.
          terminal: prints the names of the tasks and splits.
        """
        started = time.time()
        user_callbacks.check(callbacks)
        tracking.check(trackers)
        checks.check_tasks(data, validation, model)
        evaluators = make_evaluators(validation, decoder, terminal, data.layout.encoder_length)
        root, stream = epath.Path(directory), data.stream(loop.seed)
        seen = checks.seen_rows(data, stream, validation)
        origin = Origin.of(root, data, stream, validation, evaluators, devices=1, seen=seen, started=started)
        for warning in checks.seen_warnings(seen, data):
            terminal.introduce(warning, warns=True)
        return cls(root, loop.seed, stream, evaluators, lock, origin, callbacks, trackers)


def train_seeds(
    seeds: Sequence[Seed],
    *,
    model: NetworkConfig,
    loss: TwoTaskLoss,
    optimizer: Optimizer,
    loop: LoopConfig,
    validation: ValidationConfig | None,
    checkpoints: CheckpointConfig = CheckpointConfig(),
    initial_checkpoint_path: str | None = None,
    terminal: Terminal,
    cost_model: timing.CostModel | None = None,
) -> list[TrainResult | FloatingPointError]:
    """Trains all seeds together and writes their results; arguments as of :func:`distill.training.train.train`.

    Args:
      seeds: at least one; all with batches of the same shape.
      checkpoints: whether the best parameters have digests; no training state is saved.
      initial_checkpoint_path: the initial parameters of all seeds; None initialises each at random from its seed.
      terminal: prints the lines of the first seed, and the warnings of all.
      cost_model: see :func:`distill.training.train.train`.

    Returns:
      Per seed, its result, or the error of a seed whose loss, state or score is not finite; the others are trained all
      the same. ``seconds`` is the joint time divided by the number of seeds. After a signal, ``stopped`` is its name.
    """
    compiler_options = xla_options.accepted(loop.compiler_options)
    optimizer = restricted(optimizer, loop.trainable)
    random = remark(optimizer.trainable, initial_checkpoint_path)
    for warning in filter(None, [random, checks.unfinished_initial(initial_checkpoint_path)]):
        terminal.introduce(warning, warns=True)
    # One device holds everything: it shards and gathers nothing.
    options = {**loop.step_options(), "param_gather": "layer", "sequence_parallel": False}
    step = jax.jit(
        jax.vmap(make_train_step(model, loss, optimizer, **options), in_axes=(0, 0, 0, None)),
        donate_argnums=0,
        compiler_options=compiler_options,
    )
    ema = loop.ema_decay is not None
    state = _initial_state(model, optimizer, [seed.seed for seed in seeds], initial_checkpoint_path, ema=ema)
    rngs = jnp.stack([jax.random.key(seed.seed + 1) for seed in seeds])
    students = _Stacked(state, step, rngs, loss.constants())
    trained_parameters = trained_count(optimizer.trainable, state.params) // len(seeds)
    del state
    lanes = []
    for number, seed in enumerate(seeds):
        saver = Checkpoints.of_run(seed.directory, model, checkpoints)
        saver.agree(None)  # removes the best parameters of an attempt that was stopped
        reporter = reporting.Reporter(
            seed.directory,
            loop.train_steps,
            terminal if number == 0 else Terminal(quiet=True),
            test_split=final_split(validation),
            trackers=tracking.open_trackers(
                seed.trackers, seed.directory, seed.origin.configuration, terminal, active=True
            ),
            settings=seed.origin.configuration or {"RANDOM_SEED": seed.seed},
            selection=(validation.split, validation.metric) if validation else None,
            evaluation_period=validation.period if validation else None,
        )
        lanes.append(
            Lane(
                seed.directory,
                seed.seed,
                seed.stream,
                seed.evaluators,
                saver,
                reporter,
                seed.lock,
                seed.origin,
                seed.callbacks,
                Progress.of(validation),
            )
        )
    summary = fullness.Summary.of(seeds[0].stream)
    with contextlib.ExitStack() as stack:
        stack.enter_context(nn.logical_axis_rules([]))
        stop = stack.enter_context(StopRequest(will="stopping after this step; joint seeds save no training state"))
        stack.enter_context(stuck.watching(loop.stuck_after_s, lanes[0].directory))
        results = Loop(
            lanes,
            students,
            loop,
            validation,
            None,
            stop,
            terminal,
            summary,
            cost_model=cost_model,
            trained_parameters=trained_parameters,
            dtype=model.dtype,
        ).train()
    for seed, result in zip(seeds, results):
        if isinstance(result, FloatingPointError):
            terminal.warn(f"{seed.directory}: {result}")
    return results


def _initial_state(
    model: NetworkConfig, optimizer: Optimizer, seeds: Sequence[int], initial_checkpoint_path: str | None, *, ema: bool
) -> TrainState:
    """Returns the states at step 0, stacked: every array has a leading axis of ``len(seeds)``."""
    if initial_checkpoint_path is None:
        keys = jnp.stack([jax.random.key(seed) for seed in seeds])
        return jax.jit(jax.vmap(lambda key: random_state(model, optimizer, key, ema=ema)))(keys)
    here = SingleDeviceSharding(jax.devices()[0])
    params = initial.load(initial_checkpoint_path, model, jax.tree.map(lambda _: here, param_shapes(model)))
    keys = jnp.stack([jax.random.key(seed) for seed in seeds])
    one = jax.vmap(lambda params, key: init_state(params, optimizer, ema=ema, rng=key), in_axes=(None, 0))
    return jax.jit(one)(params, keys)


class _Stacked:
    """Students on one device with a leading axis of seeds; see :class:`distill.training.lanes.Students`."""

    def __init__(self, state: TrainState, step: jax.stages.Wrapped, rngs: jax.Array, coefficients: Coefficients | None):
        self._state, self._step, self._rngs, self._coefficients = state, step, rngs, coefficients

    def update(self, batches: Sequence[Batch]) -> Metrics:
        self._state, metrics = self._step(self._state, self._stacked(batches), self._rngs, self._coefficients)
        return metrics

    def compiled(self, batches: Sequence[Batch]) -> jax.stages.Compiled:
        return self._step.lower(self._state, self._stacked(batches), self._rngs, self._coefficients).compile()

    @staticmethod
    def _stacked(batches: Sequence[Batch]) -> dict[str, np.ndarray]:
        return {name: np.stack([batch.arrays[name] for batch in batches]) for name in batches[0].arrays}

    def state(self, lane: int) -> TrainState:
        return jax.tree.map(lambda leaf: leaf[lane], self._state)

    def metrics(self, pending: Sequence[Any]) -> list[list[Fetchable]]:
        host = jax.device_get(list(pending))
        lanes = range(len(self._rngs))
        return [[jax.tree.map(lambda leaf, at=lane: leaf[at], metrics) for metrics in host] for lane in lanes]
