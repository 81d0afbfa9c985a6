"""What the training loop trains: lanes, and the states of their students.

A lane is one run. An ordinary run is one lane; joint seeds are one lane per seed.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import jax
from etils import epath

from distill import locking
from distill.checkpoints.manager import Checkpoints
from distill.data.stream import Batch, Stream
from distill.inference.evaluation import Evaluation
from distill.training import provenance, reporting
from distill.training.callbacks import Callback, RunStep
from distill.training.config import Progress
from distill.training.state import TrainState
from distill.training.step import Fetchable

if TYPE_CHECKING:
    from distill.inference.evaluate import Evaluator


@dataclasses.dataclass
class Lane:
    """One run of the loop: its data, its files and its progress.

    Attributes:
      directory: the model directory.
      seed: the seed of the run.
      stream: its training batches.
      evaluators: by split; empty if nothing is validated.
      saver: its checkpoints.
      reporter: its logs.
      lock: the lock of ``directory``.
      origin: its data, code and machine, for the record.
      callbacks: user code.
      progress: the part of its progress that checkpoints hold.
      step: updates that count: those until it was stopped or failed.
      stopped: None while it is trained and when it was trained to its end; ``"early"``, by its patience or a callback; or
        the name of a signal.
      failure: the error that ended this lane, or None. The other lanes continue.
      ends: the reason of a callback that wants to end this lane, or None.
      best_evaluation: step and outcome of the best validation, if this process has measured it.
    """

    directory: epath.Path
    seed: int
    stream: Stream
    evaluators: "Mapping[str, Evaluator]"
    saver: Checkpoints
    reporter: reporting.Reporter
    lock: locking.Lock
    origin: provenance.Origin
    callbacks: Sequence[Callback] = ()
    progress: Progress = dataclasses.field(default_factory=Progress)
    step: int = 0
    stopped: str | None = None
    failure: FloatingPointError | None = None
    ends: str | None = None
    best_evaluation: tuple[int, Evaluation] | None = None

    @property
    def active(self) -> bool:
        """Whether further updates count."""
        return self.stopped is None and self.failure is None

    @property
    def complete(self) -> bool:
        """Whether the run has ended for good: at its last step or early, not by a signal or an error."""
        return self.failure is None and self.stopped in (None, "early")

    @property
    def kept(self) -> str:
        """The newest checkpoint, in words, for errors."""
        newest = self.saver.latest_step()
        kept = "no checkpoint was saved before" if newest is None else f"the newest checkpoint is of step {newest}"
        return f"nothing of this step was saved, {kept}"

    @property
    def best_metrics(self) -> Mapping[str, float]:
        """The validation metrics at the best step; empty without validation."""
        return self.best_evaluation[1].metrics if self.best_evaluation is not None else {}

    @property
    def positions(self) -> int:
        """Positions of the windows of a global batch, inputs and targets."""
        layout = self.stream.layout
        return layout.windows * (layout.encoder_length + layout.decoder_length)

    @property
    def at(self) -> RunStep:
        """The run and its step, for callbacks."""
        return RunStep(self.directory, self.seed, self.step)


class Students(Protocol):
    """The states of all lanes, and the step that updates them together."""

    def update(self, batches: Sequence[Batch]) -> Any:
        """Makes one update per lane. Returns the metrics of the step on the device."""

    def state(self, lane: int) -> TrainState:
        """Returns the state of a lane; valid until the next update."""

    def metrics(self, pending: Sequence[Any]) -> list[list[Fetchable]]:
        """Returns, per lane, the metrics of some steps on the host; waits for these steps."""

    def compiled(self, batches: Sequence[Batch]) -> jax.stages.Compiled:
        """Compiles the step that :meth:`update` runs, and returns it."""
