"""Several seeds of one small run, trained at once: the training step under ``vmap``.

For students so small that a machine is idle between their operations. Each replica has its own data order, initial
parameters, dropout and best checkpoint, and leaves the same files behind as :func:`distill.train.train`; only the
checkpoints to go on from are missing, since such a run is over in minutes.
"""

import dataclasses
import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import linen as nn
from jax.sharding import SingleDeviceSharding

from distill import compiler, reporting
from distill.batches import BatchStream
from distill.checkpoints import Checkpoints
from distill.evaluate import Decoder, Evaluator
from distill.interop import initial
from distill.losses import TwoTaskLoss
from distill.network import T5Config
from distill.optimizers import Optimizer
from distill.parameters import param_shapes
from distill.state import TrainState, init_state, random_state
from distill.train import DataConfig, LoopConfig, Progress, TrainResult, ValidationConfig, check_vocabulary
from distill.train_step import make_train_step, summarize
from tasks import registration


@dataclasses.dataclass
class Replica:
    """One seed's part of a joint run; made while its data set is the registered one.

    Attributes:
      directory: where its files go.
      seed: of its parameters, dropout and order.
      stream: its training batches.
      evaluators: by split; the validation split first.
      progress: its best score so far.
    """

    directory: epath.Path
    seed: int
    stream: BatchStream
    evaluators: dict[str, Evaluator]
    progress: Progress = dataclasses.field(default_factory=Progress)

    @classmethod
    def build(
        cls, directory: str, data: DataConfig, loop: LoopConfig, validation: ValidationConfig, decoder: Decoder
    ) -> "Replica":
        """Reads what the replica evaluates on and prepares its stream, from the tasks registered now."""
        check_vocabulary(data.mixture_or_task_name, decoder.model)
        registration.check_prompts(data.mixture_or_task_name, validation.task_name)
        stream = data.stream(loop.seed)
        evaluators = {
            validation.split: Evaluator(
                validation.task_name, validation.split, decoder, max_examples=validation.max_examples
            )
        }
        if validation.test_split:
            evaluators[validation.test_split] = Evaluator(validation.task_name, validation.test_split, decoder)
        return cls(epath.Path(directory), loop.seed, stream, evaluators)


def train_replicas(
    replicas: Sequence[Replica],
    *,
    model: T5Config,
    loss: TwoTaskLoss,
    optimizer: Optimizer,
    loop: LoopConfig,
    validation: ValidationConfig,
    initial_checkpoint_path: str | None = None,
) -> list[TrainResult]:
    """Trains all replicas together and writes each one's result; arguments as of :func:`distill.train.train`.

    Args:
      replicas: at least one; all with batches of the same shape.
      initial_checkpoint_path: where all replicas start; None starts each at random from its own seed.

    Returns:
      A result for each replica. ``seconds`` is the joint time over the number of replicas.
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
    compiler_options = compiler.accepted(loop.compiler_options)
    step_fn = jax.jit(jax.vmap(one_step), donate_argnums=0, compiler_options=compiler_options)
    if initial_checkpoint_path is None:
        state = jax.jit(jax.vmap(lambda key: random_state(model, optimizer, key, ema=ema)))(keys)
    else:
        here = SingleDeviceSharding(jax.devices()[0])
        params = initial.load(initial_checkpoint_path, model, jax.tree.map(lambda _: here, param_shapes(model)))
        one = jax.jit(lambda params: init_state(params, optimizer, ema=ema))(params)
        state = jax.tree.map(lambda leaf: jnp.stack([leaf] * len(replicas)), one)

    reporters = [
        reporting.Reporter(r.directory, loop.train_steps, r.stream, quiet=i > 0) for i, r in enumerate(replicas)
    ]
    savers = [Checkpoints(replica.directory, model) for replica in replicas]
    started, pending = time.monotonic(), []
    with nn.logical_axis_rules([]):
        for reporter in reporters:
            reporter.__enter__()
        try:
            for step in range(1, loop.train_steps + 1):
                batches = [next(replica.stream) for replica in replicas]
                arrays = {name: np.stack([b.arrays[name] for b in batches]) for name in batches[0].arrays}
                state, metrics = step_fn(state, arrays, dropout)
                pending.append(metrics)
                for replica, batch in zip(replicas, batches):
                    replica.progress.examples += batch.examples
                last = step == loop.train_steps
                if step % loop.log_period == 0 or last:
                    _log(step, pending, replicas, reporters, [b.epoch for b in batches])
                    pending = []
                if step % validation.period == 0 or last:
                    for index, (replica, reporter, saver) in enumerate(zip(replicas, reporters, savers)):
                        _validate(step, _nth(state, index), replica, reporter, saver, validation)
            seconds = (time.monotonic() - started) / len(replicas)
            return [
                _finish(replica, reporter, saver, state, validation, loop, seconds)
                for replica, reporter, saver in zip(replicas, reporters, savers)
            ]
        finally:
            for reporter in reporters:
                reporter.__exit__()
            for saver in savers:
                saver.close()


def _nth(tree, index: int):
    return jax.tree.map(lambda x: x[index], tree)


def _log(step, pending, replicas, reporters, epochs) -> None:
    host = jax.device_get(pending)
    for index, (replica, reporter) in enumerate(zip(replicas, reporters)):
        values = summarize([_nth(metrics, index) for metrics in host])
        values["examples"], values["epoch"] = float(replica.progress.examples), epochs[index]
        if not np.isfinite(values["loss"]):
            raise FloatingPointError(f"the loss of seed {replica.seed} is {values['loss']} at step {step}")
        reporter.train(step, values)


def _validate(step: int, state: TrainState, replica: Replica, reporter, saver: Checkpoints, validation) -> None:
    started = time.monotonic()
    evaluation = replica.evaluators[validation.split](state.eval_params)
    reporter.evaluation(validation.split, step, evaluation, time.monotonic() - started)
    score = evaluation.metrics[validation.metric]
    if score > replica.progress.best:
        replica.progress.best, replica.progress.best_step = score, step
        saver.save_best(step, state.eval_params, evaluation.metrics)


def _finish(replica: Replica, reporter, saver: Checkpoints, state, validation, loop, seconds: float) -> TrainResult:
    test: dict[str, float] = {}
    if validation.test_split:
        saver.wait()
        step, params = saver.restore_best(_nth(state.params, 0))
        evaluation = replica.evaluators[validation.test_split](params)
        reporter.evaluation(validation.test_split, step, evaluation)
        evaluation.write(replica.directory / "predictions" / f"{validation.test_split}.jsonl")
        test = evaluation.metrics
    progress = replica.progress
    result = TrainResult(loop.train_steps, None, progress.best_step, progress.best, test, seconds)
    reporting.write_result(replica.directory, dataclasses.asdict(result))
    return result
