"""The training loop, and nothing but the loop."""

import contextlib
import dataclasses
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from etils import epath
from flax import linen as nn

from distill import locking, validation
from distill.checkpoints import initial
from distill.checkpoints.manager import CheckpointConfig, Checkpoints
from distill.data import fullness
from distill.data.batches import BatchStream, Prefetch
from distill.data.packing import Layout
from distill.inference.evaluate import DecodeConfig, Decoder, Evaluation, Evaluator
from distill.model.network import T5Config
from distill.sharding import partitioning, xla_options
from distill.tasks import registration
from distill.terminal import Terminal
from distill.training import finite, reporting
from distill.training.losses import TwoTaskLoss
from distill.training.optimizers import Optimizer
from distill.training.preemption import StopRequest
from distill.training.state import TrainState, make_state, shardings_of
from distill.training.step import jit_step, make_train_step, summarize


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
      param_gather: when parameters split over ``fsdp`` are gathered, see :func:`distill.training.step.make_train_step`.
      sequence_parallel: whether the step splits positions between the blocks over ``model``, see there.
      compiler_options: what the compiler is told besides the step, see :func:`distill.sharding.xla_options.accepted`.
    """

    train_steps: int
    seed: int = 0
    log_period: int = 100
    num_microbatches: int = 1
    ema_decay: float | None = None
    chunk_tokens: int = 0
    param_gather: str = "layer"
    sequence_parallel: bool = False
    compiler_options: xla_options.Options | None = None

    def __post_init__(self):
        validation.check("LoopConfig.param_gather", self.param_gather, partitioning.PARAM_GATHERS)
        for name in ("train_steps", "log_period", "num_microbatches"):
            if getattr(self, name) < 1:
                raise ValueError(f"LoopConfig.{name} must be ≥ 1; got {getattr(self, name)}")
        if self.ema_decay is not None and not 0.0 < self.ema_decay < 1.0:
            raise ValueError(f"LoopConfig.ema_decay must lie in (0, 1); got {self.ema_decay}")

    def step_options(self) -> dict[str, Any]:
        """The arguments of :func:`distill.training.step.make_train_step` that are part of the loop's configuration."""
        names = ("num_microbatches", "ema_decay", "chunk_tokens", "param_gather", "sequence_parallel")
        return {name: getattr(self, name) for name in names}


@dataclasses.dataclass
class Progress:
    """What the loop remembers besides the state; travels in the checkpoint.

    Attributes:
      best, best_step: the best validation score and its step; 0: nothing was validated yet.
      stale: validations since then.
      examples: source rows seen.
      seconds: training time over all restarts.
      stopped: ``"early"`` once patience has run out, so that a restart trains no further.
    """

    best: float = -math.inf
    best_step: int = 0
    stale: int = 0
    examples: int = 0
    seconds: float = 0.0
    stopped: str | None = None

    def validated(self, step: int, score: float, patience: int | None) -> bool:
        """Notes a validation score; whether it is the best so far (the earliest of equals stays)."""
        if score > self.best:
            self.best, self.best_step, self.stale = score, step, 0
            return True
        self.stale += 1
        if patience is not None and self.stale >= patience:
            self.stopped = "early"
        return False


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
    quiet: bool = False,
    lock: locking.Lock | None = None,
) -> TrainResult:
    """Trains the student, or goes on where ``model_dir`` left off.

    Args:
      model_dir: checkpoints, logs, predictions and results go here.
      model: the student.
      data: what is trained on.
      loss: how much each task counts.
      optimizer: see :mod:`distill.training.optimizers`.
      loop: how long and how.
      validation: what is measured while training; None measures nothing.
      mesh: the device mesh.
      rules: logical axis → mesh axis.
      checkpoints: when to save.
      initial_checkpoint_path: whatever :func:`distill.checkpoints.initial.load` reads, to start from; None starts at
        random.
      quiet: print warnings only.
      lock: of ``model_dir``, if the caller holds it; None: it is taken here.

    Returns:
      A :class:`TrainResult`; also written to ``<model_dir>/result.json`` when the run is over.

    Raises:
      ValueError: settings, data or a checkpoint that do not fit together.
      distill.locking.Locked: another process trains in ``model_dir``.
      FloatingPointError: the loss, the state or a score is no finite number; nothing of that step was saved.
      distill.checkpoints.manager.SaveError: a checkpoint could not be written.
    """
    directory = epath.Path(model_dir)
    if (directory / reporting.RESULT).exists():
        logging.info("%s is complete; nothing to do", directory)
        return TrainResult(**reporting.read_result(directory))
    terminal = Terminal(active=jax.process_index() == 0, quiet=quiet)
    device_mesh = mesh.build()
    partitioning.check_batch(data.batch_size, device_mesh, loop.num_microbatches)
    compiler_options = xla_options.accepted(loop.compiler_options, device_mesh)
    check_vocabulary(data.mixture_or_task_name, model)
    if validation is not None:
        registration.check_prompts(data.mixture_or_task_name, validation.task_name)
    with contextlib.ExitStack() as stack:
        if lock is None:
            lock = stack.enter_context(lock_directory(directory))
        with terminal.stage(f"reading {data.cache_dir or data.mixture_or_task_name}, split {data.split!r}"):
            stream = data.stream(loop.seed, partitioning.local_rows(data.batch_size, device_mesh))
            summary = fullness.Summary.of(stream)
        evaluators = {}
        if validation is not None:
            evaluators = make_evaluators(validation, Decoder(model, device_mesh, validation.decode), terminal)
        stack.enter_context(jax.set_mesh(device_mesh))
        stack.enter_context(nn.logical_axis_rules(list(rules)))
        stop = stack.enter_context(StopRequest())
        kept = {"keep": checkpoints.keep, "keep_every": checkpoints.keep_every, "verify": checkpoints.verify}
        saver = Checkpoints(directory, model, **kept, clean=True)
        with terminal.stage("making the parameters", announce=False):
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
            terminal.say(f"going on from step {int(state.step)} of {directory}")
        removed, has_best = saver.agree(progress.best_step or None)
        for stale in removed:
            terminal.warn(f"removed best/{stale}: it is of an attempt whose later steps were not saved")
        if not has_best:
            if progress.best_step == int(state.step):
                saver.save_best(progress.best_step, state.eval_params, {"score": progress.best})
            else:
                terminal.warn(f"best/{progress.best_step} is missing: the best is looked for among later steps")
                progress.best, progress.best_step, progress.stale = -math.inf, 0, 0
        step_fn = jit_step(
            make_train_step(model, loss, optimizer, **loop.step_options()), shardings, device_mesh, compiler_options
        )
        devices = (
            f"{device_mesh.size} {device_mesh.devices.flat[0].platform} device{'s' if device_mesh.size > 1 else ''}"
        )
        terminal.say(
            f"student: {model.num_encoder_layers} + {model.num_decoder_layers} layers, "
            f"{sum(leaf.size for leaf in jax.tree.leaves(state.params)):,} parameters, {model.dtype}, on {devices}"
        )
        test_split = validation.test_split if validation and validation.test_split != validation.split else None
        with reporting.Reporter(
            directory, loop.train_steps, terminal, step=int(state.step), test_split=test_split
        ) as reporter:
            run = _Run(state, stream, step_fn, evaluators, saver, reporter, progress, stop, terminal, lock, summary)
            stopped = run.until(loop, validation, checkpoints, device_mesh)
            test: dict[str, float] = {}
            if stopped in (None, "early"):
                test = run.test(directory, validation)
        result = TrainResult(int(run.state.step), stopped, progress.best_step, progress.best, test, progress.seconds)
        saver.wait()
        saver.close()
        if stopped in (None, "early"):
            lock.check()
            reporting.write_result(directory, dataclasses.asdict(result))
            shown = (validation.split, validation.metric) if validation else (None, None)
            reporting.draw_curves(directory, *shown)
    return result


def check(
    *,
    model: T5Config,
    data: DataConfig,
    loop: LoopConfig,
    validation: ValidationConfig | None = None,
    mesh: partitioning.MeshConfig = partitioning.MeshConfig(),
    initial_checkpoint_path: str | None = None,
    metrics: Sequence[str] = (),
    **others: object,
) -> None:
    """Checks what can be checked of a run before it is begun: arguments of :func:`train`, whose tasks are registered.

    Reads the rows of the splits that it needs; makes no parameters and compiles nothing.

    Args:
      metrics: that the task has to have, besides the one that chooses.

    Raises:
      ValueError, FileNotFoundError: what :func:`train` would raise.
    """
    del others
    device_mesh = mesh.build()
    partitioning.check_batch(data.batch_size, device_mesh, loop.num_microbatches)
    xla_options.accepted(loop.compiler_options, device_mesh)
    check_vocabulary(data.mixture_or_task_name, model)
    wanted = {(data.mixture_or_task_name, data.split)}
    if validation is not None:
        registration.check_prompts(data.mixture_or_task_name, validation.task_name)
        wanted |= {(validation.task_name, split) for split in (validation.split, validation.test_split) if split}
    for name, split in sorted(wanted):
        check_rows(name, split)
    if validation is not None:
        few = Evaluator(validation.task_name, validation.split, lambda *_: [], max_examples=2)
        for metric in (validation.metric, *metrics):
            few.check_metric(metric)
    if initial_checkpoint_path is not None:
        initial.kind_of(initial_checkpoint_path)


def check_rows(mixture_or_task_name: str, split: str) -> None:
    """Raises ValueError or FileNotFoundError if a split has no rows; those of a task's own records are read for it."""
    provider = registration.get(mixture_or_task_name)
    if split not in provider.splits:
        raise ValueError(
            f"{mixture_or_task_name!r} has no split {split!r}; it has {', '.join(sorted(provider.splits))}"
        )
    if provider.num_input_examples(split) == 0:
        raise ValueError(f"{mixture_or_task_name!r} has no row in split {split!r}")


def lock_directory(directory: epath.PathLike) -> contextlib.AbstractContextManager[locking.Lock]:
    """The lock of a model directory, held by the processes of a run together."""
    return locking.held_together(locking.of_directory(directory), str(directory), "choose another MODEL_DIR")


def check_vocabulary(mixture_or_task_name: str, model: T5Config) -> None:
    """Raises ValueError if the task's vocabulary has more ids than the model has rows."""
    size = registration.get(mixture_or_task_name).output_features["targets"].vocabulary.vocab_size
    if size > model.vocab_size:
        raise ValueError(
            f"the vocabulary of {mixture_or_task_name!r} has {size} ids, but the model's vocab_size is {model.vocab_size}"
        )


def make_evaluators(validation: ValidationConfig, decoder: Decoder, terminal: Terminal) -> dict[str, Evaluator]:
    """What a run is measured with, by split, the validation split first; prints which targets cannot be predicted.

    Raises:
      ValueError: no such task, split or metric, or targets none of which fits what is decoded.
    """
    evaluators: dict[str, Evaluator] = {}
    for split in (validation.split, validation.test_split):
        if split is None or split in evaluators:
            continue
        limit = None if split == validation.test_split else validation.max_examples
        with terminal.stage(f"reading {validation.task_name}, split {split!r}"):
            evaluators[split] = Evaluator(validation.task_name, split, decoder, max_examples=limit)
        evaluators[split].check_metric(validation.metric)
        if warning := evaluators[split].check_lengths(validation.decode.max_decode_len):
            terminal.warn(warning)
    return evaluators


def validation_score(validation: ValidationConfig, step: int, metrics: Mapping[str, float]) -> float:
    """The metric that chooses. Raises FloatingPointError if it is no finite number."""
    score = metrics[validation.metric]
    if not math.isfinite(score):
        raise FloatingPointError(
            f"{validation.split} {validation.metric} is {score} at step {step}; nothing of this step was saved; choose "
            "another metric, or more validation examples"
        )
    return score


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
    terminal: Terminal
    lock: locking.Lock
    summary: fullness.Summary

    def until(self, loop, validation, checkpoints, mesh) -> str | None:
        """Steps to the end of training, an early stop or a signal."""
        rng = jax.random.key(loop.seed + 1)
        step, pending = int(self.state.step), []
        position = self.stream.position()
        stopped = self.progress.stopped
        if step >= loop.train_steps or stopped is not None:
            return stopped
        batches = Prefetch(self.stream)
        started = time.monotonic() - self.progress.seconds
        compiled = False
        try:
            while step < loop.train_steps and stopped is None:
                batch = next(batches)
                arrays = partitioning.to_global(batch.arrays, mesh)
                if compiled:
                    self.state, metrics = self.step_fn(self.state, arrays, rng)
                else:
                    for line in self.summary.lines(batch):
                        self.terminal.say(line)
                    with self.terminal.stage("compiling the training step"):
                        self.state, metrics = self.step_fn(self.state, arrays, rng)
                        jax.block_until_ready(metrics)
                    compiled = True
                step, position = step + 1, batch.position
                pending.append(metrics)
                self.progress.examples += batch.examples
                last = step == loop.train_steps
                if step % loop.log_period == 0 or last:
                    self._log(step, pending, batch.epoch)
                    pending = []
                if validation and (step % validation.period == 0 or last):
                    self.progress.seconds = time.monotonic() - started
                    self._validate(step, validation)
                    if last:
                        self.progress.stopped = None  # nothing was left to stop
                    stopped = self.progress.stopped
                if stopped is None and self.stop.requested(step):
                    stopped = self.stop.name
                self.progress.seconds = time.monotonic() - started
                if step % checkpoints.period == 0 or last or stopped:
                    self._save(step, position)
                if jax.process_count() == 1:  # several processes learn of it together, at the next save
                    self.saver.check_for_errors()
                self.reporter.alive(step, metrics)
        finally:
            batches.close()
        return stopped

    @property
    def _kept(self) -> str:
        """What a run that ends with an error can go back to, in words."""
        newest = self.saver.latest_step()
        kept = "no checkpoint was saved before" if newest is None else f"the newest checkpoint is of step {newest}"
        return f"nothing of this step was saved, {kept}"

    def _save(self, step: int, position) -> None:
        finite.check({"params": self.state.params, "optimizer": self.state.opt_state}, step, self._kept)
        self.lock.check()
        self.reporter.flush()
        self.saver.save(self.state, position, dataclasses.asdict(self.progress))

    def _log(self, step: int, pending: list, epoch: float) -> None:
        values = summarize(pending)
        values["examples"], values["epoch"] = float(self.progress.examples), epoch
        if not math.isfinite(values["loss"]):
            raise FloatingPointError(f"the loss is {values['loss']} at step {step}; {self._kept}; {finite.REMEDY}")
        self.reporter.train(step, values)

    def _validate(self, step: int, validation: ValidationConfig) -> None:
        """Scores the validation split, and keeps the parameters if they are the best yet."""
        started = time.monotonic()
        finite.check({"params": self.state.eval_params}, step, self._kept)
        evaluator = self.evaluators[validation.split]
        with self.terminal.stage(f"decoding {len(evaluator)} {validation.split} examples", announce=False):
            evaluation = evaluator(self.state.eval_params)
        score = validation_score(validation, step, evaluation.metrics)
        self.reporter.evaluation(validation.split, step, evaluation, time.monotonic() - started)
        if self.progress.validated(step, score, validation.patience):
            self.lock.check()
            self.saver.save_best(step, self.state.eval_params, evaluation.metrics)

    def test(self, directory: epath.Path, validation: ValidationConfig | None) -> dict[str, float]:
        """Scores the test split with the parameters that validated best."""
        best_step = self.progress.best_step
        self.saver.finish(best_step or None)
        if validation is None or validation.test_split is None:
            return {}
        step, params = self.saver.restore_best(self.state.params)
        if step != best_step:
            raise ValueError(f"step {best_step} validated best, but {directory}/best holds step {step}")
        evaluator = self.evaluators[validation.test_split]
        with self.terminal.stage(f"decoding {len(evaluator)} {validation.test_split} examples", announce=False):
            evaluation: Evaluation = evaluator(params)
        self.reporter.evaluation(validation.test_split, step, evaluation)
        if jax.process_index() == 0:
            evaluation.write(directory / "predictions" / f"{validation.test_split}.jsonl")
        return evaluation.metrics
