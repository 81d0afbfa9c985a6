"""Callbacks: user code that the training loop calls after a log, an evaluation and a checkpoint."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from etils import epath

from distill.inference.evaluation import Evaluation
from distill.training.state import TrainState


@dataclasses.dataclass(frozen=True)
class RunStep:
    """The run and the step at which a callback is called.

    Attributes:
      directory: the model directory.
      seed: the seed of the run.
      step: number of updates made.
    """

    directory: epath.Path
    seed: int
    step: int


class Stop(Exception):
    """Raised by a callback, ends the run as ``patience`` does: the parameters that validated best are tested and kept.

    All callbacks of that step are called, the step is validated if it was not, and a checkpoint is saved. After
    ``on_checkpoint``, one more update is made. Several processes agree every 20 steps: the run ends there if any of them
    has raised it. The text is printed, and recorded as the ``reason`` in ``result.json``.
    """


@runtime_checkable
class Callback(Protocol):
    """User code that the training loop calls. Derive a class from it and override the methods you need.

    The loop waits for each method. :class:`Stop` ends the run with its result, ``KeyboardInterrupt`` as Ctrl-C does, with a
    checkpoint; any other exception ends it at once, and what was not saved before is lost. With several processes,
    every process calls the methods; check ``jax.process_index() == 0`` before writing a file.

    >>> class Losses(Callback):
    ...     def __init__(self):
    ...         self.seen = []
    ...
    ...     def on_log(self, at, metrics):
    ...         self.seen.append((at.step, metrics["loss"]))
    """

    def on_log(self, at: RunStep, metrics: Mapping[str, float]) -> None:
        """Runs after each log line.

        Args:
          at: the run and the step.
          metrics: the values that were logged, without the prefix ``train/``.
        """

    def on_evaluation(self, at: RunStep, split: str, evaluation: Evaluation) -> None:
        """Runs after each validation, and after the test at the end.

        Args:
          at: the run and the step whose parameters were evaluated.
          split: the SeqIO split.
          evaluation: its metrics, and one row per example.
        """

    def on_checkpoint(self, at: RunStep, state: TrainState) -> None:
        """Runs after each checkpoint was handed to Orbax, which writes it in the background.

        Args:
          at: the run and the step.
          state: the saved state. Valid during the call only: the next step donates its buffers.
        """


def check(callbacks: Sequence[Callback]) -> None:
    """Raises TypeError unless ``callbacks`` is a list of instances with the methods of :class:`Callback`."""
    if not isinstance(callbacks, list | tuple):
        name = callbacks.__name__ if isinstance(callbacks, type) else type(callbacks).__name__
        one = name if isinstance(callbacks, Callback) else "MyCallback"
        raise TypeError(f"callbacks must be a list; got {name}; write callbacks=[{one}(…)], in gin [@…{one}()]")
    for number, item in enumerate(callbacks):
        if isinstance(item, type):
            raise TypeError(
                f"callbacks[{number}] must be an instance; got the class {item.__name__}; write {item.__name__}(), "
                f"in gin @…{item.__name__}()"
            )
        if not isinstance(item, Callback):
            raise TypeError(
                f"callbacks[{number}] must have the methods on_log, on_evaluation and on_checkpoint; got "
                f"{type(item).__name__}; derive its class from distill.training.callbacks.Callback"
            )
