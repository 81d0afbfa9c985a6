"""Configuration of a training run, its progress and its result."""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

from etils import epath

from distill import validation
from distill.data.curriculum import Curriculum
from distill.data.packing import Layout, Rows
from distill.data.stream import Stream
from distill.data.token_batches import TokenBatches, Windows
from distill.inference.decoder import DecodeConfig
from distill.model.lora import Lora
from distill.sharding import partitioning, xla_options
from distill.tasks import metrics
from distill.training.trainable import Trainable

FEATURES = ("inputs", "targets")
PATIENCE = "patience"
"""Why a run has ended early, in its progress and result, if no callback has ended it."""


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The training data and the shape of its batches.

    Attributes:
      mixture_or_task_name: a registered SeqIO task or mixture.
      task_feature_lengths: window lengths, ``{"inputs": …, "targets": …}``.
      batch_size: windows of the global batch. Unpacked, a paired example takes two.
      packed: whether several sequences share a window.
      split: SeqIO split.
      shuffle: whether the order of the examples differs between epochs.
      cache_dir: folder that ``distill cache`` wrote, to read instead of the task's source. The batches are the same.
      shared_encoder: whether label and rationale share their input, which is then encoded once. Must be that of the task.
      curriculum: the order of the first epochs; None shuffles all.
    """

    mixture_or_task_name: str
    task_feature_lengths: Mapping[str, int]
    batch_size: int
    packed: bool = True
    split: str = "train"
    shuffle: bool = True
    cache_dir: str | None = None
    shared_encoder: bool = False
    curriculum: Curriculum | None = None

    def __post_init__(self) -> None:
        validation.check_items("DataConfig.task_feature_lengths", self.task_feature_lengths, FEATURES, "an integer ≥ 1")
        validation.check_range("DataConfig.batch_size", self.batch_size, "≥ 1")

    @property
    def layout(self) -> Layout:
        """Returns the shape of a global batch."""
        lengths = self.task_feature_lengths
        return Layout(self.batch_size, lengths["inputs"], lengths["targets"], self.packed, self.shared_encoder)

    @property
    def source(self) -> str:
        """Returns what is read, in words."""
        return f"{self.cache_dir or self.mixture_or_task_name}, split {self.split!r}"

    def stream(self, seed: int, rows: Rows = slice(None)) -> Stream:
        """Returns the batches: the given rows of each global batch, in the order of a seed."""
        from distill.data.batches import BatchStream  # imports SeqIO, which token windows do not need

        return BatchStream(
            self.mixture_or_task_name,
            self.layout,
            split=self.split,
            seed=seed,
            rows=rows,
            shuffle=self.shuffle,
            cache_dir=self.cache_dir,
            curriculum=self.curriculum,
        )


@dataclasses.dataclass(frozen=True)
class TokenBatchesConfig:
    """Training data that are already token windows; the place of :class:`DataConfig` where SeqIO is not installed.

    The windows' lengths, and whether they are packed or share an encoder, are those of the file.

    Attributes:
      path: a file that :func:`distill.data.token_batches.write` wrote.
      batch_size: windows of the global batch.
      shuffle: whether the order of the windows differs between epochs.
    """

    path: str
    batch_size: int
    shuffle: bool = True

    @functools.cached_property
    def windows(self) -> Windows:
        """Reads the file, once. Raises ValueError or OSError if it holds no token windows."""
        return Windows.read(self.path)

    @property
    def source(self) -> str:
        """Returns what is read, in words."""
        return self.path

    @property
    def layout(self) -> Layout:
        """Returns the shape of a global batch."""
        return self.windows.layout(self.batch_size)

    @property
    def shared_encoder(self) -> bool:
        """Whether label and rationale share their input."""
        return self.layout.shared_encoder

    def stream(self, seed: int, rows: Rows = slice(None)) -> TokenBatches:
        """Returns the batches: the given rows of each global batch, in the order of a seed."""
        return TokenBatches(self.windows, self.batch_size, seed=seed, rows=rows, shuffle=self.shuffle)


@dataclasses.dataclass(frozen=True)
class ValidationConfig:
    """Evaluation of the student during training, and once at the end.

    Attributes:
      task_name: a SeqIO task with metrics, usually ``<set>_label``.
      period: steps between validations.
      split: the split that selects the best parameters.
      test_split: split evaluated once, at the end, with the best parameters; None evaluates none.
      metric: the metric of the task that selects the best parameters: its highest value; of ``loss``, the lowest.
      patience: validations without improvement after which training ends; None never ends early.
      max_examples: number of examples of the split to validate on, from its start; None takes all.
      decode: options of decoding.
    """

    task_name: str
    period: int = 250
    split: str = "validation"
    test_split: str | None = "test"
    metric: str = "accuracy"
    patience: int | None = None
    max_examples: int | None = None
    decode: DecodeConfig = DecodeConfig()

    def __post_init__(self) -> None:
        validation.check_range("ValidationConfig.period", self.period, "≥ 1")
        for name in ("patience", "max_examples"):
            validation.check_range(f"ValidationConfig.{name}", getattr(self, name), "≥ 1 or None")


@dataclasses.dataclass(frozen=True)
class LoopConfig:
    """Length and options of the training loop.

    Attributes:
      train_steps: total number of updates.
      seed: seed of the initial parameters, dropout and the order of the data.
      log_period: steps between log lines.
      num_microbatches: parts of a batch whose gradients are accumulated.
      ema_decay: decay of the moving average of the parameters that evaluation uses; None keeps no average.
      chunk_tokens: target positions for which a device materialises logits at a time; 0 is all.
      param_gather: when FSDP-sharded parameters are all-gathered, see :func:`distill.training.step.make_train_step`.
      sequence_parallel: whether positions between blocks are sharded over ``model``, see there.
      compiler_options: XLA compiler options of the step, see :func:`distill.sharding.xla_options.accepted`.
      stuck_after_s: seconds without a sign of life after which the process ends, see :func:`distill.stuck.watching`; None
        never ends it.
      on_nonfinite: what follows an update whose loss or gradient has nan or infinity. ``stop``: the run ends with an error.
        ``skip``: the update is skipped.
      max_skipped: updates that ``skip`` may skip in the whole run; one more ends it with an error.
      profile_steps: ``(first, last)``: these updates, both included, are traced; None traces none. See
        :mod:`distill.training.profiling`.
      lora_rank: rank of low-rank adapters, which are then trained instead of their kernels; None: there are none.
      lora_alpha, lora_targets: see :class:`distill.model.lora.Lora`; None: its defaults.
      frozen: patterns of parameters that are not trained, see :class:`distill.training.trainable.Trainable`. None freezes
        nothing or, with adapters, everything else.
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
    stuck_after_s: float | None = 1800.0
    on_nonfinite: str = "stop"
    max_skipped: int = 10
    profile_steps: tuple[int, int] | None = None
    lora_rank: int | None = None
    lora_alpha: float | None = None
    lora_targets: tuple[str, ...] | None = None
    frozen: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        self.trainable  # noqa: B018 - checks its settings
        validation.check("LoopConfig.param_gather", self.param_gather, partitioning.PARAM_GATHERS)
        validation.check("LoopConfig.on_nonfinite", self.on_nonfinite, ("stop", "skip"))
        for name in ("train_steps", "log_period", "num_microbatches", "max_skipped"):
            validation.check_range(f"LoopConfig.{name}", getattr(self, name), "≥ 1")
        for name in ("seed", "chunk_tokens"):
            validation.check_range(f"LoopConfig.{name}", getattr(self, name), "≥ 0")
        validation.check_range("LoopConfig.stuck_after_s", self.stuck_after_s, "> 0 or None")
        validation.check_range("LoopConfig.ema_decay", self.ema_decay, "in (0, 1) or None")
        if self.profile_steps is not None:
            first, last = self.profile_steps
            if not 1 <= first <= last <= self.train_steps:
                raise ValueError(
                    f"PROFILE_STEPS must be (first, last) with 1 ≤ first ≤ last ≤ TRAIN_STEPS = {self.train_steps}; got "
                    f"{self.profile_steps}"
                )

    @property
    def trainable(self) -> Trainable | None:
        """Which parameters are trained; None: all."""
        adapters = None
        if self.lora_rank is not None:
            adapters = Lora(
                self.lora_rank,
                Lora.alpha if self.lora_alpha is None else self.lora_alpha,
                Lora.targets if self.lora_targets is None else self.lora_targets,
            )
        elif self.lora_alpha is not None or self.lora_targets is not None:
            raise ValueError(
                f"LORA_ALPHA and LORA_TARGETS need LORA_RANK; got LORA_RANK=None, LORA_ALPHA={self.lora_alpha}, "
                f"LORA_TARGETS={self.lora_targets}: set LORA_RANK, for example to 8, or leave them out"
            )
        return Trainable(adapters, self.frozen) if adapters or self.frozen else None

    def step_options(self) -> dict[str, Any]:
        """Returns the arguments of :func:`distill.training.step.make_train_step` that this configuration holds."""
        names = ("num_microbatches", "ema_decay", "chunk_tokens", "param_gather", "sequence_parallel")
        return {name: getattr(self, name) for name in names} | {"skip_nonfinite": self.on_nonfinite == "skip"}


@dataclasses.dataclass
class Progress:
    """The loop's own state, which is saved in the checkpoint with the training state.

    Attributes:
      best, best_step: the best validation score and its step; step 0 means no validation yet.
      stale: validations since then without improvement.
      examples: source rows trained on.
      seconds: training time over all restarts, evaluation included.
      stopped: ``"early"`` once patience has run out or a callback has ended the run, so that a restart trains no further.
      reason: why it is ``"early"``: ``"patience"``, or the callback and its text, ``"callback NAME: TEXT"``; else
        None, also in checkpoints of older versions.
      score, score_step: the newest validation score and its step.
      validations: number of validations.
      scores_differ: whether two of them had different scores; true if a checkpoint of an older version has not noted it.
      higher_is_better: whether the best score is the highest one, see :func:`distill.tasks.metrics.higher_is_better`.
      validation_rows: hash of the rows that the best was selected on; None in checkpoints of older versions.
      skipped: updates that were skipped because they were not finite.
      chip_seconds: the sum over attempts of ``seconds`` × devices; on CPUs × the cores that the processes may use.
      phases: phase of the loop → seconds; see :mod:`distill.training.timing`.
      totals: sums over all updates: tokens, positions, weights; see :mod:`distill.training.accounting`.
      peak_memory_bytes: of the fullest device; None if the backend does not report it.
      limits: ``train_steps`` and ``patience`` of the run; None in checkpoints of older versions.
    """

    best: float = -math.inf
    best_step: int = 0
    stale: int = 0
    examples: int = 0
    seconds: float = 0.0
    stopped: str | None = None
    reason: str | None = None
    score: float = -math.inf
    score_step: int = 0
    validations: int = 0
    scores_differ: bool = False
    higher_is_better: bool = True
    validation_rows: str | None = None
    skipped: int = 0
    chip_seconds: float = 0.0
    phases: dict[str, float] = dataclasses.field(default_factory=dict)
    totals: dict[str, float] = dataclasses.field(default_factory=dict)
    peak_memory_bytes: int | None = None
    limits: list[int | None] | None = None

    @classmethod
    def of(cls, validation: ValidationConfig | None) -> "Progress":
        """The progress of a run before its first step."""
        return cls(higher_is_better=validation is None or metrics.higher_is_better(validation.metric))

    def limit(self, train_steps: int, patience: int | None) -> None:
        """Notes how long the run may train. A run that has ended early goes on if that is longer than it was.

        Raises:
          ValueError: it is longer, but ``patience`` has run out.
        """
        before, self.limits = self.limits, [train_steps, patience]
        if self.stopped is None or before is None or before[0] is None:
            return
        more_patience = before[1] is not None and (patience is None or patience > before[1])
        if train_steps <= before[0] and not more_patience:
            return
        if patience is not None and self.stale >= patience:
            raise ValueError(
                f"the run has ended early, after {self.stale} validations without improvement (PATIENCE={patience}), so a "
                f"larger TRAIN_STEPS (now {train_steps}, before {before[0]}) trains nothing more: raise PATIENCE above "
                f"{self.stale}, or give None, to continue it"
            )
        self.end(None)

    def check_steps(self, directory: epath.PathLike, step: int, train_steps: int, *, validates: bool) -> None:
        """Checks that a run may continue from ``step``.

        Raises:
          ValueError: it has done more steps than ``train_steps``, or as many and has not validated, so that it has no best
            parameters.
        """
        if train_steps > step or (train_steps == step and (self.best_step or not validates)):
            return
        raise ValueError(
            f"the run in {directory} has done {step} steps, and TRAIN_STEPS={train_steps} leaves none to train: "
            f"TRAIN_STEPS must be above {step} to continue it; or give another MODEL_DIR to train {train_steps} steps"
        )

    def end(self, reason: str | None) -> None:
        """Ends the run early, for a reason, unless it has ended; None lets it go on."""
        if reason is None:
            self.stopped = self.reason = None
        elif self.stopped is None:
            self.stopped, self.reason = "early", reason

    def turn(self, step: int) -> None:
        """Selects by the other end of the metric, from ``step`` on: its score, if it was validated, is the best so far."""
        self.higher_is_better, self.stale = not self.higher_is_better, 0
        self.end(None)  # patience counted the wrong validations
        validated = self.score_step == step
        self.best, self.best_step = (self.score, step) if validated else (-math.inf, 0)

    def all_scores_equal(self, metric: str) -> str | None:
        """A warning if more than one validation was made, and all had the same score; else None."""
        if self.validations < 2 or self.scores_differ or self.best_step == self.score_step:
            return None
        return (
            f"all {self.validations} validations had the same {metric}, {self.score:.4f}, and of equal scores the earliest "
            f"is kept: the student is that of step {self.best_step}, not of step {self.score_step}; give more validation "
            "rows (VALIDATION_EXAMPLES), raise MAX_DECODE_LEN or TRAIN_STEPS, or select by another metric "
            "(--gin.train.ValidationConfig.metric=…)"
        )

    def validated(self, step: int, score: float, patience: int | None) -> bool:
        """Adds a validation score. Returns whether it is the best so far; of equal scores, the earliest is the best."""
        if self.score_step and (score != self.score or not self.validations):
            self.scores_differ = True
        self.validations += 1
        self.score, self.score_step = score, step
        sign = 1 if self.higher_is_better else -1
        if sign * score > (sign * self.best if self.best_step else -math.inf):
            self.best, self.best_step, self.stale = score, step, 0
            return True
        self.stale += 1
        if patience is not None and self.stale >= patience:
            self.end(PATIENCE)
        return False


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """The outcome of a run.

    Attributes:
      step: number of updates made.
      stopped: None if it ran to its end, ``"early"`` if its patience or a callback ended it, or the name of a signal.
      best_step, best: the step with the best validation score, and the score.
      test: metrics on the test split; empty without a test split, or if the run was stopped by a signal.
      seconds: training time, evaluation included, over all restarts.
      skipped: updates that were skipped because their loss or gradient was not finite.
      reason: why it is ``"early"``, see :class:`Progress`; else None.
      selection: how the best step was chosen: ``split``, ``metric``, ``step``, ``value``, ``higher_is_better``; empty
        without validation. The test split takes no part.
      performance: where the time went, speed, utilisation and goodput: the ``training`` part of ``record.json``.
    """

    step: int
    stopped: str | None
    best_step: int
    best: float
    test: dict[str, float]
    seconds: float
    skipped: int = 0
    reason: str | None = None
    selection: dict[str, Any] = dataclasses.field(default_factory=dict)
    performance: dict[str, Any] = dataclasses.field(default_factory=dict)
