"""Configuration of a training run, its progress and its result."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from distill import validation
from distill.data.batches import BatchStream
from distill.data.packing import Layout
from distill.inference.evaluate import DecodeConfig
from distill.sharding import partitioning, xla_options


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
