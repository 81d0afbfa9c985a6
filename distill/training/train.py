"""``train``: one training run of a student."""

import contextlib
import functools
import logging
import math
import time
from collections.abc import Sequence
from typing import Any

import jax
from etils import epath
from flax import linen as nn
from jax.sharding import Mesh
from orbax.checkpoint import multihost

from distill import locking, stuck
from distill.checkpoints import lost_process
from distill.checkpoints.manager import LATEST, CheckpointConfig, Checkpoints
from distill.counting import counted
from distill.data import fullness
from distill.data.stream import Batch
from distill.inference.decoder import Decoder
from distill.model.configs import NetworkConfig
from distill.model.parameters import param_count
from distill.sharding import partitioning, xla_options
from distill.tasks import metrics
from distill.terminal import Terminal
from distill.training import callbacks as user_callbacks
from distill.training import checks, record, reporting, timing, tracking
from distill.training.config import (
    DataConfig,
    LoopConfig,
    Progress,
    TokenBatchesConfig,
    TrainResult,
    ValidationConfig,
)
from distill.training.evaluators import final_split, make_evaluators
from distill.training.lanes import Lane
from distill.training.loop import Loop
from distill.training.losses import Coefficients, TwoTaskLoss
from distill.training.optimizers import Optimizer, restricted
from distill.training.preemption import StopRequest
from distill.training.provenance import Origin
from distill.training.state import TrainState, abstract_state, make_state, shardings_of
from distill.training.step import Fetchable, Metrics, jit_step, make_train_step
from distill.training.trainable import described, remark, trained_count

__all__ = [
    "DataConfig",
    "LoopConfig",
    "Progress",
    "TokenBatchesConfig",
    "TrainResult",
    "ValidationConfig",
    "lock_directory",
    "train",
]

_COMPILED_MS = 30 * 60 * 1000  # how long a process waits for the others to compile the step


def train(
    model_dir: str,
    *,
    model: NetworkConfig,
    data: DataConfig | TokenBatchesConfig,
    loss: TwoTaskLoss,
    optimizer: Optimizer,
    loop: LoopConfig,
    validation: ValidationConfig | None = None,
    mesh: partitioning.MeshConfig = partitioning.MeshConfig(),
    rules: partitioning.Rules = partitioning.DEFAULT_RULES,
    checkpoints: CheckpointConfig = CheckpointConfig(),
    initial_checkpoint_path: str | None = None,
    callbacks: Sequence[user_callbacks.Callback] = (),
    trackers: Sequence[str] = (),
    quiet: bool = False,
    lock: locking.Lock | None = None,
    cost_model: timing.CostModel | None = None,
) -> TrainResult:
    """Trains the student, or continues from the newest checkpoint in ``model_dir``.

    Args:
      model_dir: directory for checkpoints, logs, predictions and results.
      model: configuration of the student.
      data: the training data: a registered task, or a file of token windows, which needs neither TensorFlow nor SeqIO.
      loss: weights of the two tasks.
      optimizer: see :mod:`distill.training.optimizers`.
      loop: length and options of the training loop.
      validation: evaluation during and after training; None evaluates nothing.
      mesh: the device mesh.
      rules: logical axis → mesh axis.
      checkpoints: when to save.
      initial_checkpoint_path: any checkpoint that :func:`distill.checkpoints.initial.load` reads; None initialises at
        random.
      callbacks: user code that runs after logs, evaluations and checkpoints.
      trackers: services that receive the metrics, ``wandb`` and ``mlflow``; see :mod:`distill.training.tracking`.
      quiet: print warnings only.
      lock: the lock of ``model_dir``, if the caller holds it; None takes it here.
      cost_model: counts the operations of the compiled step, for the record and for MFU; the commands pass
        :func:`distill.precompile.step_costs.of_run`. None counts none.

    Returns:
      A :class:`TrainResult`. A run that is complete has it in ``<model_dir>/result.json``, too, and a
      :class:`distill.training.record.Record` in ``record.json``.

    Raises:
      ValueError: settings, data or a checkpoint do not fit together.
      TypeError: an item of ``callbacks`` is no callback.
      distill.locking.Locked: another process trains in ``model_dir``.
      FloatingPointError: the loss, the state or a score is not finite; nothing of that step was saved.
      distill.checkpoints.manager.SaveError: a checkpoint could not be written.
      distill.checkpoints.lost_process.LostProcess: another process of the run has ended or no longer answers.
    """
    started, directory = time.time(), epath.Path(model_dir)
    if (directory / reporting.RESULT).exists():
        return _complete(directory, loop)
    terminal = Terminal(active=jax.process_index() == 0, quiet=quiet)
    device_mesh = mesh.build()
    partitioning.check_batch(data.batch_size, device_mesh, loop.num_microbatches)
    compiler_options = xla_options.accepted(loop.compiler_options, device_mesh)
    optimizer = restricted(optimizer, loop.trainable)
    user_callbacks.check(callbacks)
    tracking.check(trackers)
    checks.check_tasks(data, validation, model, initial_checkpoint_path)
    with contextlib.ExitStack() as stack:
        stack.enter_context(lost_process.naming_newest(directory / LATEST))
        if lock is None:
            lock = stack.enter_context(lock_directory(directory))
        with terminal.stage(f"reading {data.source}"):
            stream = data.stream(loop.seed, partitioning.local_rows(data.batch_size, device_mesh))
            summary = fullness.Summary.of(stream)
        decoder = Decoder(model, device_mesh, validation.decode) if validation else None
        evaluators = make_evaluators(validation, decoder, terminal, data.layout.encoder_length)
        stack.enter_context(jax.set_mesh(device_mesh))
        stack.enter_context(nn.logical_axis_rules(list(rules)))
        stop = stack.enter_context(StopRequest())
        remedy = functools.partial(lost_process.newest, directory / LATEST)
        stack.enter_context(stuck.watching(loop.stuck_after_s, directory, remedy))
        saver = Checkpoints.of_run(directory, model, checkpoints)
        ema = loop.ema_decay is not None
        like = abstract_state(model, optimizer, device_mesh, rules, ema=ema)
        seen = checks.seen_rows(data, stream, validation)
        of_run = (directory, data, stream, validation, evaluators)
        origin = Origin.of(*of_run, devices=device_mesh.size, seen=seen, started=started)
        for warning in checks.seen_warnings(seen, data):
            terminal.introduce(warning, warns=True)
        progress = Progress.of(validation)
        if saver.latest_step() is not None:
            with terminal.stage("reading the newest checkpoint", announce=False):
                state, position, saved = saver.restore(like)
            stream.restore(position)
            progress = Progress(**saved)
            progress.check_steps(directory, int(state.step), loop.train_steps, validates=validation is not None)
            _check_rows(progress, origin.data.get(record.VALIDATION))
            terminal.say(f"continuing from step {int(state.step)} of {directory}")
        else:
            if initial_checkpoint_path is not None:
                checks.check_initial(data, initial_checkpoint_path)
            with terminal.stage("making the parameters", announce=False):
                state = make_state(
                    model,
                    optimizer,
                    device_mesh,
                    rules,
                    seed=loop.seed,
                    ema=ema,
                    initial_checkpoint_path=initial_checkpoint_path,
                )
            random = remark(optimizer.trainable, initial_checkpoint_path)
            for warning in filter(None, [random, checks.unfinished_initial(initial_checkpoint_path)]):
                terminal.introduce(warning, warns=True)
        _agree_on_best(saver, state, progress, terminal, validation)
        progress.limit(loop.train_steps, validation.patience if validation else None)
        step = make_train_step(model, loss, optimizer, **loop.step_options())
        student = _Student(
            state,
            jit_step(step, shardings_of(like), device_mesh, compiler_options),
            (jax.random.key(loop.seed + 1), loss.constants()),
            device_mesh,
        )
        devices = counted(device_mesh.size, f"{device_mesh.devices.flat[0].platform} device")
        terminal.introduce(
            f"student: {model.num_encoder_layers} + {model.num_decoder_layers} layers, "
            f"{param_count(model):,} parameters, {described(optimizer.trainable, state.params)}{model.dtype}, on {devices}"
        )
        if record.VALIDATION in origin.data:
            progress.validation_rows = origin.data[record.VALIDATION].fingerprint
        reporter = reporting.Reporter(
            directory,
            loop.train_steps,
            terminal,
            step=int(state.step),
            test_split=final_split(validation),
            trackers=tracking.open_trackers(
                trackers, directory, origin.configuration, terminal, active=jax.process_index() == 0
            ),
            settings=origin.configuration or {"RANDOM_SEED": loop.seed},
            selection=(validation.split, validation.metric) if validation else None,
            evaluation_period=validation.period if validation else None,
        )
        lane = Lane(
            directory,
            loop.seed,
            stream,
            evaluators,
            saver,
            reporter,
            lock,
            origin,
            callbacks,
            progress,
            step=int(state.step),
        )
        trained_parameters = trained_count(optimizer.trainable, state.params)
        del state  # the student holds it, and its first update donates its buffers
        (result,) = Loop(
            [lane],
            student,
            loop,
            validation,
            checkpoints,
            stop,
            terminal,
            summary,
            devices=device_mesh.size,
            cost_model=cost_model,
            trained_parameters=trained_parameters,
            dtype=model.dtype,
        ).train()
    if isinstance(result, FloatingPointError):
        raise result
    return result


def _complete(directory: epath.Path, loop: LoopConfig) -> TrainResult:
    """The result of a complete run. Warns if it is asked for another number of steps than it has made."""
    result = TrainResult(**reporting.read_result(directory))
    if result.stopped is None and result.step != loop.train_steps:
        logging.warning(
            "%s is complete at step %d, so nothing is trained, although train_steps is %d; move its %s elsewhere to train "
            "more steps, or give another model_dir",
            directory,
            result.step,
            loop.train_steps,
            reporting.RESULT,
        )
    else:
        logging.info("%s is complete; nothing to do", directory)
    for warning in checks.seen_before(directory):
        logging.warning("%s", warning)
    return result


def lock_directory(directory: epath.PathLike) -> contextlib.AbstractContextManager[locking.Lock]:
    """Returns the lock of a model directory, which all processes of a run hold together."""
    return locking.held_together(locking.of_directory(directory), str(directory), "choose another MODEL_DIR")


def _check_rows(progress: Progress, rows: record.SplitData | None) -> None:
    """Raises ValueError if the best parameters so far were selected on other rows than those of validation."""
    before = progress.validation_rows
    if rows is not None and progress.best_step and before is not None and before != rows.fingerprint:
        raise ValueError(
            f"the rows of split {rows.split!r} have changed since step {progress.best_step} was selected on them (hash "
            f"{before[:12]}… there, {rows.fingerprint[:12]}… here), so its score cannot be compared with those of later "
            "steps: restore the data file, or train in another MODEL_DIR"
        )


def _agree_on_best(
    saver: Checkpoints,
    state: TrainState,
    progress: Progress,
    terminal: Terminal,
    validation: ValidationConfig | None,
) -> None:
    """Makes ``best/`` hold exactly the parameters that ``progress`` names, and changes ``progress`` where they are lost.

    A version that kept the highest loss has lost the best parameters, too: the best is selected from the restored step on.
    """
    why = "it belongs to an attempt whose later steps were not saved"
    if validation is not None and progress.higher_is_better != metrics.higher_is_better(validation.metric):
        why = (
            f"of its metric it has the {'highest' if progress.higher_is_better else 'lowest'} value, which is the worst"
        )
        progress.turn(int(state.step))
    removed, has_best = saver.agree(progress.best_step or None)
    for stale in removed:
        terminal.warn(f"removed best/{stale}: {why}")
    if has_best:
        return
    if progress.best_step == int(state.step):
        saver.save_best(progress.best_step, state.eval_params, {"score": progress.best})
    else:
        terminal.warn(f"best/{progress.best_step} is missing: the best is selected among later steps")
        progress.best, progress.best_step, progress.stale = -math.inf, 0, 0


class _Student:
    """One student, sharded over a mesh; see :class:`distill.training.lanes.Students`."""

    def __init__(
        self, state: TrainState, step: jax.stages.Wrapped, always: tuple[jax.Array, Coefficients | None], mesh: Mesh
    ):
        # ``always``: the arguments of each step, the key of dropout and the weights of the tasks.
        self._state, self._step, self._always, self._mesh = state, step, always, mesh

    def update(self, batches: Sequence[Batch]) -> Metrics:
        (batch,) = batches
        self._state, metrics = self._step(self._state, partitioning.to_global(batch.arrays, self._mesh), *self._always)
        return metrics

    def state(self, lane: int) -> TrainState:
        del lane
        return self._state

    def metrics(self, pending: Sequence[Any]) -> list[list[Fetchable]]:
        return [jax.device_get(list(pending))]

    def compiled(self, batches: Sequence[Batch]) -> jax.stages.Compiled:
        (batch,) = batches
        arrays = partitioning.to_global(batch.arrays, self._mesh)
        compiled = self._step.lower(
            self._state, arrays, *self._always
        ).compile()  # the jitted call then finds it in its cache
        # The first collective of two processes on CPUs fails if one is 30 s later than the other, and only process 0 reads
        # the step from JAX's persistent cache. This barrier, of the coordination service, waits for longer.
        multihost.get_barrier_sync_fn()(key="distill_compiled", timeout_ms=_COMPILED_MS)
        return compiled
