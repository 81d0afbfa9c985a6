"""The training loop, and nothing but the loop."""

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
from etils import epath
from flax import linen as nn
from jax.sharding import Mesh

from distill import choices, compiler, partitioning, reporting
from distill.batches import BatchStream, Prefetch
from distill.checkpoints import CheckpointConfig, Checkpoints
from distill.evaluate import DecodeConfig, Decoder, Evaluation, Evaluator
from distill.losses import TwoTaskLoss
from distill.network import T5Config
from distill.optimizers import Optimizer
from distill.packing import Layout
from distill.state import TrainState, make_state, shardings_of
from distill.stopping import StopRequest
from distill.train_step import jit_step, make_train_step, summarize
from tasks import registration


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What is trained on.

    Attributes:
      mixture_or_task_name: a registered SeqIO task or mixture.
      task_feature_lengths: window lengths, ``{"inputs": …, "targets": …}``.
      batch_size: rows (windows) of the global batch; unpacked, a paired example takes two.
      packed: whether several sequences share a window.
      split: SeqIO split.
      shuffle: whether every epoch has an order of its own.
      cache_dir: what ``distill cache`` wrote, to read instead of the task's source; the batches are the same.
      shared_encoder: whether the task is one whose label and rationale share their input, which is encoded once.
    """

    mixture_or_task_name: str
    task_feature_lengths: Mapping[str, int]
    batch_size: int
    packed: bool = True
    split: str = "train"
    shuffle: bool = True
    cache_dir: str | None = None
    shared_encoder: bool = False

    def __post_init__(self):
        if set(self.task_feature_lengths) != {"inputs", "targets"}:
            got = sorted(self.task_feature_lengths)
            raise ValueError(f"task_feature_lengths must name exactly 'inputs' and 'targets'; got {got}")

    @property
    def layout(self) -> Layout:
        """The shape of a global batch."""
        lengths = self.task_feature_lengths
        return Layout(self.batch_size, lengths["inputs"], lengths["targets"], self.packed, self.shared_encoder)

    def stream(self, seed: int, rows: slice = slice(None)) -> BatchStream:
        """The batches: some rows of each global batch, in the order of a seed."""
        return BatchStream(
            self.mixture_or_task_name,
            self.layout,
            split=self.split,
            seed=seed,
            rows=rows,
            shuffle=self.shuffle,
            cache_dir=self.cache_dir,
        )


@dataclasses.dataclass(frozen=True)
class ValidationConfig:
    """What the student is measured on while it trains, and once at the end.

    Attributes:
      task_name: a SeqIO task with metrics, usually ``<set>_label``.
      period: steps between measurements.
      split: the split that chooses the best parameters.
      test_split: scored once, at the end, with the best parameters; None scores none.
      metric: which of the task's metrics chooses; higher is better.
      patience: measurements without improvement after which training ends; None never ends early.
      max_examples: measure on the split's first so many only; None takes all.
      decode: how.
    """

    task_name: str
    period: int = 250
    split: str = "validation"
    test_split: str | None = "test"
    metric: str = "accuracy"
    patience: int | None = None
    max_examples: int | None = None
    decode: DecodeConfig = DecodeConfig()

    def __post_init__(self):
        if self.period < 1:
            raise ValueError(f"ValidationConfig.period must be ≥ 1; got {self.period}")
        if self.patience is not None and self.patience < 1:
            raise ValueError(f"ValidationConfig.patience must be ≥ 1 or None; got {self.patience}")


@dataclasses.dataclass(frozen=True)
class LoopConfig:
    """How long and how.

    Attributes:
      train_steps: updates to make in all.
      seed: of the initial parameters, dropout and the order of the data.
      log_period: steps between log lines.
      num_microbatches: cuts of a batch whose gradients are summed (gradient accumulation).
      ema_decay: decay of the moving average of the parameters used for evaluation; None is off.
      chunk_tokens: target positions whose logits exist at once on a device (0: all).
      param_gather: when parameters split over ``fsdp`` are gathered, see :func:`distill.train_step.make_train_step`.
      sequence_parallel: whether the step splits positions between the blocks over ``model``, see there.
      compiler_options: what the compiler is told besides the step, see :func:`distill.compiler.accepted`.
    """

    train_steps: int
    seed: int = 0
    log_period: int = 100
    num_microbatches: int = 1
    ema_decay: float | None = None
    chunk_tokens: int = 0
    param_gather: str = "layer"
    sequence_parallel: bool = False
    compiler_options: compiler.Options | None = None

    def __post_init__(self):
        choices.check("LoopConfig.param_gather", self.param_gather, partitioning.PARAM_GATHERS)
        for name in ("train_steps", "log_period", "num_microbatches"):
            if getattr(self, name) < 1:
                raise ValueError(f"LoopConfig.{name} must be ≥ 1; got {getattr(self, name)}")
        if self.ema_decay is not None and not 0.0 < self.ema_decay < 1.0:
            raise ValueError(f"LoopConfig.ema_decay must lie in (0, 1); got {self.ema_decay}")

    def step_options(self) -> dict[str, Any]:
        """The arguments of :func:`distill.train_step.make_train_step` that are part of the loop's configuration."""
        names = ("num_microbatches", "ema_decay", "chunk_tokens", "param_gather", "sequence_parallel")
        return {name: getattr(self, name) for name in names}


@dataclasses.dataclass
class Progress:
    """What the loop remembers besides the state; travels in the checkpoint."""

    best: float = -math.inf
    best_step: int = 0
    stale: int = 0
    examples: int = 0
    seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """How a run ended.

    Attributes:
      step: updates made.
      stopped: None if it ran to its end, ``"early"`` or the name of the signal that stopped it.
      best_step, best: where and how validation was best.
      test: metrics on the test split, empty if there was none (or the run is not over).
      seconds: training time, evaluation included, over all restarts.
    """

    step: int
    stopped: str | None
    best_step: int
    best: float
    test: dict[str, float]
    seconds: float


def train(
    model_dir: str,
    *,
    model: T5Config,
    data: DataConfig,
    loss: TwoTaskLoss,
    optimizer: Optimizer,
    loop: LoopConfig,
    validation: ValidationConfig | None = None,
    mesh: partitioning.MeshConfig = partitioning.MeshConfig(),
    rules: partitioning.Rules = partitioning.DEFAULT_RULES,
    checkpoints: CheckpointConfig = CheckpointConfig(),
    initial_checkpoint_path: str | None = None,
) -> TrainResult:
    """Trains the student, or goes on where ``model_dir`` left off.

    Args:
      model_dir: checkpoints, logs, predictions and results go here.
      model: the student.
      data: what is trained on.
      loss: how much each task counts.
      optimizer: see :mod:`distill.optimizers`.
      loop: how long and how.
      validation: what is measured while training; None measures nothing.
      mesh: the device mesh.
      rules: logical axis → mesh axis.
      checkpoints: when to save.
      initial_checkpoint_path: whatever :func:`distill.interop.initial.load` reads, to start from; None starts at random.

    Returns:
      A :class:`TrainResult`; also written to ``<model_dir>/result.json`` when the run is over.
    """
    directory = epath.Path(model_dir)
    if (directory / reporting.RESULT).exists():
        logging.info("%s is complete; nothing to do", directory)
        return TrainResult(**reporting.read_result(directory))
    device_mesh = mesh.build()
    partitioning.check_batch(data.batch_size, device_mesh, loop.num_microbatches)
    compiler_options = compiler.accepted(loop.compiler_options, device_mesh)
    stream = data.stream(loop.seed, partitioning.local_rows(data.batch_size, device_mesh))
    check_vocabulary(data.mixture_or_task_name, model)
    if validation is not None:
        registration.check_prompts(data.mixture_or_task_name, validation.task_name)
    evaluators = _evaluators(validation, model, device_mesh)
    saver = Checkpoints(directory, model, keep=checkpoints.keep)
    with jax.set_mesh(device_mesh), nn.logical_axis_rules(list(rules)), StopRequest() as stop:
        state = make_state(
            model,
            optimizer,
            device_mesh,
            rules,
            seed=loop.seed,
            ema=loop.ema_decay is not None,
            initial_checkpoint_path=initial_checkpoint_path,
        )
        shardings = shardings_of(state)
        progress = Progress()
        if saver.latest_step() is not None:
            state, position, saved = saver.restore(state)
            stream.restore(position)
            progress = Progress(**saved)
            logging.info("restored step %d from %s", int(state.step), directory)
        step_fn = jit_step(
            make_train_step(model, loss, optimizer, **loop.step_options()),
            shardings,
            device_mesh,
            compiler_options,
        )
        with reporting.Reporter(directory, loop.train_steps, stream) as reporter:
            run = _Run(state, stream, step_fn, evaluators, saver, reporter, progress, stop)
            stopped = run.until(loop, validation, checkpoints, device_mesh)
            test: dict[str, float] = {}
            if stopped in (None, "early"):
                test = run.test(directory, validation)
        result = TrainResult(int(run.state.step), stopped, progress.best_step, progress.best, test, progress.seconds)
        saver.wait()
        saver.close()
    if stopped in (None, "early"):
        reporting.write_result(directory, dataclasses.asdict(result))
    return result


def check_vocabulary(mixture_or_task_name: str, model: T5Config) -> None:
    """Raises ValueError if the task's vocabulary has more ids than the model has rows."""
    size = registration.get(mixture_or_task_name).output_features["targets"].vocabulary.vocab_size
    if size > model.vocab_size:
        raise ValueError(
            f"the vocabulary of {mixture_or_task_name!r} has {size} ids, but the model's vocab_size is {model.vocab_size}"
        )


def _evaluators(validation: ValidationConfig | None, model: T5Config, mesh: Mesh) -> dict[str, Evaluator]:
    if validation is None:
        return {}
    decoder = Decoder(model, mesh, validation.decode)
    return {
        validation.split: Evaluator(
            validation.task_name, validation.split, decoder, max_examples=validation.max_examples
        )
    } | (
        {validation.test_split: Evaluator(validation.task_name, validation.test_split, decoder)}
        if validation.test_split
        else {}
    )


@dataclasses.dataclass
class _Run:
    """The loop's moving parts."""

    state: TrainState
    stream: BatchStream
    step_fn: Callable
    evaluators: dict[str, Evaluator]
    saver: Checkpoints
    reporter: "reporting.Reporter"
    progress: Progress
    stop: StopRequest

    def until(self, loop, validation, checkpoints, mesh) -> str | None:
        """Steps to the end of training, an early stop or a signal."""
        rng = jax.random.key(loop.seed + 1)
        step, pending = int(self.state.step), []
        position = self.stream.position()
        batches = Prefetch(self.stream)
        started = time.monotonic() - self.progress.seconds
        stopped = None
        try:
            while step < loop.train_steps and stopped is None:
                batch = next(batches)
                self.state, metrics = self.step_fn(self.state, partitioning.to_global(batch.arrays, mesh), rng)
                step, position = step + 1, batch.position
                pending.append(metrics)
                self.progress.examples += batch.examples
                last = step == loop.train_steps
                if step % loop.log_period == 0 or last:
                    self._log(step, pending, batch.epoch)
                    pending = []
                if validation and (step % validation.period == 0 or last):
                    self.progress.seconds = time.monotonic() - started
                    if self._validate(step, validation) and not last:
                        stopped = "early"
                if stopped is None and self.stop.requested(step):
                    stopped = self.stop.name
                self.progress.seconds = time.monotonic() - started
                if step % checkpoints.period == 0 or last or stopped:
                    self.saver.save(self.state, position, dataclasses.asdict(self.progress))
        finally:
            batches.close()
        return stopped

    def _log(self, step: int, pending: list, epoch: float) -> None:
        values = summarize(pending)
        values["examples"], values["epoch"] = float(self.progress.examples), epoch
        if not math.isfinite(values["loss"]):
            raise FloatingPointError(
                f"the loss is {values['loss']} at step {step}; lower the learning rate, or compute in float32"
            )
        self.reporter.train(step, values)

    def _validate(self, step: int, validation: ValidationConfig) -> bool:
        """Scores the validation split, keeps the parameters if they are the best yet; True if patience is out."""
        started = time.monotonic()
        evaluation = self.evaluators[validation.split](self.state.eval_params)
        if validation.metric not in evaluation.metrics:
            raise ValueError(
                f"task {validation.task_name!r} has no metric {validation.metric!r}; it has {sorted(evaluation.metrics)}"
            )
        self.reporter.evaluation(validation.split, step, evaluation, time.monotonic() - started)
        score = evaluation.metrics[validation.metric]
        if score > self.progress.best:
            self.progress.best, self.progress.best_step, self.progress.stale = score, step, 0
            self.saver.save_best(step, self.state.eval_params, evaluation.metrics)
        else:
            self.progress.stale += 1
        return validation.patience is not None and self.progress.stale >= validation.patience

    def test(self, directory: epath.Path, validation: ValidationConfig | None) -> dict[str, float]:
        """Scores the test split with the parameters that validated best."""
        if validation is None or validation.test_split is None:
            return {}
        self.saver.wait()
        step, params = self.saver.restore_best(self.state.params)
        evaluation: Evaluation = self.evaluators[validation.test_split](params)
        self.reporter.evaluation(validation.test_split, step, evaluation)
        if jax.process_index() == 0:
            evaluation.write(directory / "predictions" / f"{validation.test_split}.jsonl")
        return evaluation.metrics
