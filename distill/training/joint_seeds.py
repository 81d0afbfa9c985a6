"""Several seeds of one small run, trained at once: the training step under ``vmap``.

For students so small that a machine is idle between their operations. Each replica has its own data order, initial
parameters, dropout and best checkpoint, and leaves the same files behind as :func:`distill.training.train.train`; only the
checkpoints to go on from are missing, since such a run is over in minutes.
"""

import contextlib
import dataclasses
import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import linen as nn
from jax.sharding import SingleDeviceSharding

from distill.checkpoints import initial
from distill.checkpoints.manager import Checkpoints
from distill.data import fullness
from distill.data.batches import BatchStream
from distill.inference.evaluate import Decoder, Evaluator
from distill.model.network import T5Config
from distill.model.parameters import param_shapes
from distill.sharding import xla_options
from distill.tasks import registration
from distill.terminal import Terminal
from distill.training import finite, reporting
from distill.training.losses import TwoTaskLoss
from distill.training.optimizers import Optimizer
from distill.training.state import TrainState, init_state, random_state
from distill.training.step import make_train_step, summarize
from distill.training.train import (
    DataConfig,
    LoopConfig,
    Progress,
    TrainResult,
    ValidationConfig,
    check_vocabulary,
    make_evaluators,
    validation_score,
)


@dataclasses.dataclass
class Replica:
    """One seed's part of a joint run; made while its data set is the registered one.

    Attributes:
      directory: where its files go.
      seed: of its parameters, dropout and order.
      stream: its training batches.
      evaluators: by split; the validation split first.
      progress: its best score so far.
      step: updates that count: those until it was stopped early or failed.
      failure: why it failed, or None.
    """

    directory: epath.Path
    seed: int
    stream: BatchStream
    evaluators: dict[str, Evaluator]
    progress: Progress = dataclasses.field(default_factory=Progress)
    step: int = 0
    failure: FloatingPointError | None = None

    @property
    def over(self) -> bool:
        """Whether it is trained no further: its patience has run out, or it has failed."""
        return self.progress.stopped is not None or self.failure is not None

    @classmethod
    def build(
        cls,
        directory: str,
        data: DataConfig,
        loop: LoopConfig,
        validation: ValidationConfig,
        decoder: Decoder,
        terminal: Terminal,
    ) -> "Replica":
        """Reads what the replica evaluates on and prepares its stream, from the tasks registered now."""
        check_vocabulary(data.mixture_or_task_name, decoder.model)
        registration.check_prompts(data.mixture_or_task_name, validation.task_name)
        evaluators = make_evaluators(validation, decoder, terminal)
        return cls(epath.Path(directory), loop.seed, data.stream(loop.seed), evaluators)


def train_replicas(
    replicas: Sequence[Replica],
    *,
    model: T5Config,
    loss: TwoTaskLoss,
    optimizer: Optimizer,
    loop: LoopConfig,
    validation: ValidationConfig,
    initial_checkpoint_path: str | None = None,
    terminal: Terminal,
) -> list[TrainResult | FloatingPointError]:
    """Trains all replicas together and writes each one's result; arguments as of :func:`distill.training.train.train`.

    Args:
      replicas: at least one; all with batches of the same shape.
      initial_checkpoint_path: where all replicas start; None starts each at random from its own seed.
      terminal: gets the lines of the first replica, and the warnings of all.

    Returns:
      A result for each replica, or the error of one whose loss, state or score was no finite number; the others are
      trained all the same. ``seconds`` is the joint time over the number of replicas.
    """
    keys = jnp.stack([jax.random.key(replica.seed) for replica in replicas])
    dropout = jnp.stack([jax.random.key(replica.seed + 1) for replica in replicas])
    ema = loop.ema_decay is not None
    one_step = make_train_step(
        model,
        loss,
        optimizer,
        num_microbatches=loop.num_microbatches,
        ema_decay=loop.ema_decay,
        chunk_tokens=loop.chunk_tokens,
    )
    compiler_options = xla_options.accepted(loop.compiler_options)
    step_fn = jax.jit(jax.vmap(one_step), donate_argnums=0, compiler_options=compiler_options)
    if initial_checkpoint_path is None:
        state = jax.jit(jax.vmap(lambda key: random_state(model, optimizer, key, ema=ema)))(keys)
    else:
        here = SingleDeviceSharding(jax.devices()[0])
        params = initial.load(initial_checkpoint_path, model, jax.tree.map(lambda _: here, param_shapes(model)))
        one = jax.jit(lambda params: init_state(params, optimizer, ema=ema))(params)
        state = jax.tree.map(lambda leaf: jnp.stack([leaf] * len(replicas)), one)

    reporters = [
        reporting.Reporter(replica.directory, loop.train_steps, terminal if number == 0 else Terminal(quiet=True))
        for number, replica in enumerate(replicas)
    ]
    savers = [Checkpoints(replica.directory, model) for replica in replicas]
    for saver in savers:
        saver.agree(None)  # what an attempt left behind that was stopped
    started, pending = time.monotonic(), []
    seconds = 0.0
    with nn.logical_axis_rules([]), contextlib.ExitStack() as stack:
        for reporter in reporters:
            stack.enter_context(reporter)
        batches = [next(replica.stream) for replica in replicas]
        for line in fullness.Summary.of(replicas[0].stream).lines(batches[0]):
            terminal.say(line)
        for step in range(1, loop.train_steps + 1):
            arrays = {name: np.stack([b.arrays[name] for b in batches]) for name in batches[0].arrays}
            compiling = f"compiling the training step of {len(replicas)} seeds"
            with terminal.stage(compiling) if step == 1 else contextlib.nullcontext():
                state, metrics = step_fn(state, arrays, dropout)
                if step == 1:
                    jax.block_until_ready(metrics)
            pending.append(metrics)
            for replica, batch in zip(replicas, batches):
                if not replica.over:
                    replica.step, replica.progress.examples = step, replica.progress.examples + batch.examples
            last = step == loop.train_steps
            if step % loop.log_period == 0 or last:
                _log(step, pending, replicas, reporters, [b.epoch for b in batches])
                pending = []
            if step % validation.period == 0 or last:
                for index, (replica, reporter, saver) in enumerate(zip(replicas, reporters, savers)):
                    if not replica.over:
                        _validate(step, _nth(state, index), replica, reporter, saver, validation)
                        if last:
                            replica.progress.stopped = None  # nothing was left to stop
            if all(replica.over for replica in replicas):
                break
            if not last:  # one that is over keeps its last batch, since all go through one program
                batches = [b if r.over else next(r.stream) for r, b in zip(replicas, batches)]
        seconds = (time.monotonic() - started) / len(replicas)
        results = [
            replica.failure or _finish(replica, reporter, saver, state, validation, seconds)
            for replica, reporter, saver in zip(replicas, reporters, savers)
        ]
    for replica, saver in zip(replicas, savers):
        saver.close()
        if replica.failure is None:
            reporting.draw_curves(replica.directory, validation.split, validation.metric)
        else:
            terminal.warn(f"{replica.directory}: {replica.failure}")
    return results


def _nth(tree, index: int):
    return jax.tree.map(lambda x: x[index], tree)


def _log(step, pending, replicas, reporters, epochs) -> None:
    host = jax.device_get(pending)
    for index, (replica, reporter) in enumerate(zip(replicas, reporters)):
        if replica.over:
            continue
        values = summarize([_nth(metrics, index) for metrics in host])
        values["examples"], values["epoch"] = float(replica.progress.examples), epochs[index]
        if np.isfinite(values["loss"]):
            reporter.train(step, values)
        else:
            replica.failure = FloatingPointError(
                f"the loss of seed {replica.seed} is {values['loss']} at step {step}; {finite.REMEDY}"
            )


def _validate(step: int, state: TrainState, replica: Replica, reporter, saver: Checkpoints, validation) -> None:
    started = time.monotonic()
    try:
        finite.check({"params": state.eval_params}, step, f"seed {replica.seed} is not trained further")
        evaluation = replica.evaluators[validation.split](state.eval_params)
        score = validation_score(validation, step, evaluation.metrics)
    except FloatingPointError as error:
        replica.failure = error
        return
    reporter.evaluation(validation.split, step, evaluation, time.monotonic() - started)
    if replica.progress.validated(step, score, validation.patience):
        saver.save_best(step, state.eval_params, evaluation.metrics)


def _finish(replica: Replica, reporter, saver: Checkpoints, state, validation, seconds: float) -> TrainResult:
    test: dict[str, float] = {}
    progress = replica.progress
    saver.finish(progress.best_step)
    if validation.test_split:
        step, params = saver.restore_best(_nth(state.params, 0))
        evaluation = replica.evaluators[validation.test_split](params)
        reporter.evaluation(validation.test_split, step, evaluation)
        evaluation.write(replica.directory / "predictions" / f"{validation.test_split}.jsonl")
        test = evaluation.metrics
    result = TrainResult(replica.step, progress.stopped, progress.best_step, progress.best, test, seconds)
    reporting.write_result(replica.directory, dataclasses.asdict(result))
    return result
