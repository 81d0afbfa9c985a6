"""The training loop. It trains one or several lanes: runs that share their steps and have their own files.

An ordinary run is one lane. Joint seeds (:mod:`distill.training.joint_seeds`) are one lane per seed.
"""

import contextlib
import dataclasses
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import jax
from etils import epath

from distill import locking
from distill.checkpoints.manager import CheckpointConfig, Checkpoints
from distill.data.batches import Batch, BatchStream, Prefetch
from distill.inference.evaluate import Decoder, Evaluation, Evaluator
from distill.terminal import Terminal
from distill.training import accounting, finite, profiling, provenance, record, reporting, timing
from distill.training.callbacks import Callback, RunStep
from distill.training.config import LoopConfig, Progress, TrainResult, ValidationConfig
from distill.training.preemption import StopRequest
from distill.training.state import TrainState
from distill.training.step import Fetchable, summarize

_IN_FLIGHT = 2  # updates dispatched beyond the newest finished one: enough to keep the devices busy


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
      stopped: None while it is trained and when it was trained to its end; ``"early"``, or the name of a signal.
      failure: the error that ended this lane, or None. The other lanes continue.
      best_evaluation: step and outcome of the best validation, if this process has measured it.
    """

    directory: epath.Path
    seed: int
    stream: BatchStream
    evaluators: Mapping[str, Evaluator]
    saver: Checkpoints
    reporter: reporting.Reporter
    lock: locking.Lock
    origin: provenance.Origin
    callbacks: Sequence[Callback] = ()
    progress: Progress = dataclasses.field(default_factory=Progress)
    step: int = 0
    stopped: str | None = None
    failure: FloatingPointError | None = None
    best_evaluation: tuple[int, Evaluation] | None = None

    @property
    def active(self) -> bool:
        """Whether further updates count."""
        return self.stopped is None and self.failure is None

    @property
    def complete(self) -> bool:
        """Whether the run has ended for good: at its last step or by its patience, not by a signal or an error."""
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


@dataclasses.dataclass
class Loop:
    """Trains lanes to their end; see :meth:`train`.

    Attributes:
      lanes: at least one. All are at the same step and have batches of the same shape.
      students: their states.
      config: length and periods.
      validation: when and how to validate; None trains without validation.
      checkpoints: when to save the states; None saves none, only the best parameters.
      stop: the signals to obey.
      terminal: for lines about all lanes.
      opening: lines about the data, made from the first batch.
      devices: number of devices, over all processes.
      cost_model: counts the operations of the compiled step; None counts none.
    """

    lanes: Sequence[Lane]
    students: Students
    config: LoopConfig
    validation: ValidationConfig | None
    checkpoints: CheckpointConfig | None
    stop: StopRequest
    terminal: Terminal
    opening: Any
    devices: int = 1
    cost_model: timing.CostModel | None = None

    def train(self) -> list[TrainResult | FloatingPointError]:
        """Trains, tests, and writes the result of every lane that is complete.

        Returns:
          Per lane, its result, or the error of a lane whose loss, state or score is not finite.
        """
        with contextlib.ExitStack() as stack:
            for lane in self.lanes:
                stack.enter_context(lane.reporter)
            first = jax.process_index() == 0
            self._attempts = [
                timing.Attempts(lane.directory, lane.step, started=lane.origin.started, writes=first)
                for lane in self.lanes
            ]
            self._costs, self._counting = timing.StepCosts(), timing.Counting()
            self._run()
            results = [lane.failure or self._result(number, lane) for number, lane in enumerate(self.lanes)]
        for lane, result in zip(self.lanes, results):
            lane.saver.wait()
            lane.saver.close()
            if lane.complete and isinstance(result, TrainResult):
                lane.lock.check()
                if jax.process_index() == 0:
                    record.write(lane.directory, provenance.record_of(lane.origin, result, lane.best_metrics))
                reporting.write_result(lane.directory, dataclasses.asdict(result))
                shown = (self.validation.split, self.validation.metric) if self.validation else (None, None)
                reporting.draw_curves(lane.directory, *shown)
        return results

    def _run(self) -> None:
        """Makes updates until the last step, or until no lane is active."""
        step = self.lanes[0].step
        for lane in self.lanes:
            lane.stopped = lane.progress.stopped
        if step >= self.config.train_steps or not self._active():
            return
        sources = [Prefetch(lane.stream) for lane in self.lanes]
        clock = timing.Clock([lane.progress for lane in self.lanes], self.devices)
        profiler = profiling.Profiler(self.lanes[0].directory, self.config.profile_steps)
        pending: list[Any] = []
        self._fetched: list[list[Fetchable]] = []  # of the pending updates, per lane, on the host
        self._timed_from = step + 1  # the first update is timed as compilation
        try:
            with clock.phase("data"):
                batches = [next(source) for source in sources]
            with profiler.step(step + 1), clock.phase("compile"):
                metrics = self._first_update(batches)
            while True:
                step += 1
                profiler.after(step, metrics)
                pending.append(metrics)
                for lane, batch in zip(self.lanes, batches):
                    if lane.active:
                        lane.step, lane.progress.examples = step, lane.progress.examples + batch.examples
                pending = self._after_update(step, batches, pending, clock)
                self.lanes[0].reporter.alive(step, metrics)
                if step == self.config.train_steps or not self._active():
                    return
                # A lane that has ended keeps its last batch: the step has a fixed number of lanes.
                with clock.phase("data"):
                    batches = [next(s) if lane.active else b for lane, s, b in zip(self.lanes, sources, batches)]
                with profiler.step(step + 1), clock.phase("step"):
                    metrics = self.students.update(batches)
                    # Devices run behind the host. Without a limit, a signal would wait for all dispatched updates.
                    if len(pending) >= _IN_FLIGHT:
                        jax.block_until_ready(pending[-_IN_FLIGHT])
        finally:
            profiler.stop()
            clock.read()
            for source in sources:
                source.close()

    def _first_update(self, batches: Sequence[Batch]) -> Any:
        for line in self.opening(batches[0]):
            self.terminal.say(line)
        seeds = f" of {len(self.lanes)} seeds" if len(self.lanes) > 1 else ""
        with self.terminal.stage(f"compiling the training step{seeds}"):
            compiled = self.students.compiled(batches)
            if self.cost_model is not None:  # reading a large program takes seconds, which the first steps hide
                self._counting = timing.Counting(self.cost_model, compiled, self.devices, len(self.lanes))
            return jax.block_until_ready(self.students.update(batches))

    def _after_update(self, step: int, batches: Sequence[Batch], pending: list[Any], clock: timing.Clock) -> list[Any]:
        """Logs, validates, obeys signals and saves at ``step``; returns the metrics that are not logged yet."""
        last = step == self.config.train_steps
        updated = [(number, lane) for number, lane in enumerate(self.lanes) if lane.active]
        if step % self.config.log_period == 0 or last:
            self._count(updated, pending, clock)
            window = clock.window()
            hint = timing.straggler(window, step - self._timed_from)
            for number, lane in updated:
                with _noting_failure(lane):
                    self._log(number, lane, batches[number].epoch, window, hint)
            pending, self._fetched, self._timed_from = [], [], step
        if self.validation and (step % self.validation.period == 0 or last):
            self._count(updated, pending, clock)
            with clock.phase("evaluation"):
                for number, lane in updated:
                    if lane.active:
                        with _noting_failure(lane):
                            self._validate(number, lane, self.validation)
                            if last:
                                lane.progress.stopped = None  # no step is left that patience could skip
                            lane.stopped = lane.progress.stopped
        if self._active() and self.stop.requested(step):
            for lane in self._active():
                lane.stopped = self.stop.name
        if any(not lane.active or self._saves(step, lane, last) for _, lane in updated):
            self._count(updated, pending, clock)
        for number, lane in updated:
            if lane.failure is None and self._saves(step, lane, last):
                with _noting_failure(lane), clock.phase("checkpoint"):
                    self._save(number, lane, batches[number].position)
            if jax.process_count() == 1:  # several processes raise together, at the next save
                lane.saver.check_for_errors()
        return pending

    def _active(self) -> list[Lane]:
        return [lane for lane in self.lanes if lane.active]

    def _saves(self, step: int, lane: Lane, last: bool) -> bool:
        if self.checkpoints is None:
            return False
        return step % self.checkpoints.period == 0 or last or lane.stopped is not None

    def _count(self, updated: Sequence[tuple[int, Lane]], pending: list[Any], clock: timing.Clock) -> None:
        """Fetches the pending metrics, and adds those of updates not counted yet to the totals of the lanes.

        It waits for the updates. Call it only where the loop waits anyway: at a log line, a validation, a checkpoint.
        """
        with clock.phase("step"):
            fresh = [list(each) for each in zip(*self.students.metrics(pending[len(self._fetched) :]))]
        self._fetched += fresh
        with clock.phase("compile"):
            self._costs = self._counting.result()
        peak = timing.device_memory()[1]
        for number, lane in updated:
            accounting.add(lane.progress, [each[number] for each in fresh], lane.positions, self._costs.flops)
            if peak is not None:
                lane.progress.peak_memory_bytes = max(peak, lane.progress.peak_memory_bytes or 0)
        clock.read()

    def _log(
        self, number: int, lane: Lane, epoch: float, window: Mapping[str, float], hint: timing.Straggler | None
    ) -> None:
        metrics = [each[number] for each in self._fetched]
        values = summarize(metrics)
        values["examples"], values["epoch"] = float(lane.progress.examples), epoch
        tokens, steps = values["tokens/encoder"] + values["tokens/decoder"], lane.step - self._timed_from
        values["padding_share"] = 1.0 - tokens / (lane.positions * len(metrics))
        values |= timing.log_values(window, self._attempts[number], lane.progress, len(self.lanes))
        timed = tokens * len(self.lanes) * steps / len(metrics)
        values |= timing.rates(window, steps, timed, self.devices, self._costs.times(len(self.lanes)))
        self._attempts[number].seen(lane.step)
        if not math.isfinite(values["loss"]):
            raise FloatingPointError(f"the loss is {values['loss']} at step {lane.step}; {lane.kept}; {finite.REMEDY}")
        if hint is not None:
            values |= {"slowest_process": float(hint.process), "slowest_process_seconds": hint.seconds}
            values["median_process_seconds"] = hint.median
        lane.reporter.train(lane.step, values)
        if hint is not None and hint.notable:
            self.terminal.say(str(hint))
        for callback in lane.callbacks:
            callback.on_log(lane.at, dict(values))

    def _validate(self, number: int, lane: Lane, validation: ValidationConfig) -> None:
        """Scores the validation split, and saves the parameters if the score is the best so far."""
        started = time.monotonic()
        params = self.students.state(number).eval_params
        finite.check({"params": params}, lane.step, lane.kept)
        evaluation = self._decoded(lane, validation.split, params)
        score = validation_score(validation, lane.step, evaluation.metrics)
        lane.reporter.evaluation(validation.split, lane.step, evaluation, time.monotonic() - started)
        if lane.progress.validated(lane.step, score, validation.patience):
            lane.best_evaluation = lane.step, evaluation
            lane.lock.check()
            lane.saver.save_best(lane.step, params, evaluation.metrics)
        for callback in lane.callbacks:
            callback.on_evaluation(lane.at, validation.split, evaluation)

    def _save(self, number: int, lane: Lane, position: Mapping[str, Any]) -> None:
        state = self.students.state(number)
        finite.check({"params": state.params, "optimizer": state.opt_state}, lane.step, lane.kept)
        lane.lock.check()
        lane.reporter.flush()
        lane.saver.save(state, position, dataclasses.asdict(lane.progress))
        self._attempts[number].seen(lane.step, now=True)
        for callback in lane.callbacks:
            callback.on_checkpoint(lane.at, state)

    def _result(self, number: int, lane: Lane) -> TrainResult:
        test = self._test(number, lane) if lane.complete else {}
        progress, attempts = lane.progress, self._attempts[number]
        attempts.seen(lane.step, complete=lane.complete, now=True)
        parameters = sum(leaf.size for leaf in jax.tree.leaves(self.students.state(number).params))
        training = accounting.training(
            progress,
            steps=lane.step,
            parameters=parameters,
            lanes=len(self.lanes),
            devices=self.devices,
            costs=self._costs,
            attempts=attempts,
        )
        performance = training.to_json()
        selection: dict[str, Any] = {}
        if self.validation is not None and progress.best_step:
            chosen = record.Selection(self.validation.split, self.validation.metric, progress.best_step, progress.best)
            selection = dataclasses.asdict(chosen)
        if lane.complete:
            for line in timing.summary_lines(performance):
                lane.reporter.say(line)
            scores = {f"{self.validation.test_split}/{k}": v for k, v in test.items()} if self.validation else {}
            scalars = {k: v for k, v in performance.items() if isinstance(v, int | float)}
            lane.reporter.outcome(progress.best_step, selection.get("value"), scores | scalars)
        return TrainResult(
            lane.step,
            lane.stopped,
            progress.best_step,
            progress.best,
            test,
            progress.seconds,
            selection=selection,
            performance=performance,
        )

    def _test(self, number: int, lane: Lane) -> dict[str, float]:
        """Scores the test split with the best parameters on validation."""
        best_step = lane.progress.best_step
        lane.saver.finish(best_step or None)
        if self.validation is None:
            return {}
        if lane.best_evaluation is None or lane.best_evaluation[0] != best_step or self.validation.test_split:
            step, params = lane.saver.restore_best(self.students.state(number).params)
            if step != best_step:
                raise ValueError(f"step {best_step} validated best, but {lane.directory}/best holds step {step}")
            if (
                lane.best_evaluation is None or lane.best_evaluation[0] != best_step
            ):  # an earlier attempt has measured it
                lane.best_evaluation = step, self._decoded(lane, self.validation.split, params)
        self._write_predictions(lane, record.VALIDATION, lane.best_evaluation[1])
        if self.validation.test_split is None:
            return {}
        split = self.validation.test_split
        evaluation = self._decoded(lane, split, params)
        lane.reporter.evaluation(split, step, evaluation)
        self._write_predictions(lane, record.TEST, evaluation)
        for callback in lane.callbacks:
            callback.on_evaluation(dataclasses.replace(lane.at, step=step), split, evaluation)
        return evaluation.metrics

    def _write_predictions(self, lane: Lane, name: str, evaluation: Evaluation) -> None:
        if jax.process_index() == 0:
            evaluation.write(lane.directory / record.PREDICTIONS / f"{name}.jsonl")

    def _decoded(self, lane: Lane, split: str, params: Any) -> Evaluation:
        evaluator = lane.evaluators[split]
        with self.terminal.stage(f"decoding {len(evaluator)} {split} examples", announce=False):
            return evaluator(params)


@contextlib.contextmanager
def _noting_failure(lane: Lane) -> Iterator[None]:
    """Ends the lane, and only the lane, at a number that is not finite."""
    try:
        yield
    except FloatingPointError as error:
        lane.failure = error


def make_evaluators(
    validation: ValidationConfig | None, decoder: Decoder | None, terminal: Terminal
) -> dict[str, Evaluator]:
    """Reads the splits to evaluate, the validation split first. Warns if targets are longer than the decoded length.

    Args:
      validation: None returns no evaluators.
      decoder: None only without ``validation``.
      terminal: prints the names of the splits, and the warnings.

    Raises:
      ValueError: no such task, split or metric, or no target fits the decoded length.
    """
    evaluators: dict[str, Evaluator] = {}
    if validation is None:
        return evaluators
    assert decoder is not None
    if validation.split == validation.test_split:
        terminal.warn(
            f"the best parameters are selected on split {validation.split!r}, which is also the test split: its score is "
            "not that of unseen rows"
        )
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


def final_split(validation: ValidationConfig | None) -> str | None:
    """Returns the split that only the test at the end evaluates, or None."""
    return validation.test_split if validation and validation.test_split != validation.split else None


def validation_score(validation: ValidationConfig, step: int, metrics: Mapping[str, float]) -> float:
    """Returns the metric that selects the best parameters. Raises FloatingPointError if it is not finite."""
    score = metrics[validation.metric]
    if not math.isfinite(score):
        raise FloatingPointError(
            f"{validation.split} {validation.metric} is {score} at step {step}; nothing of this step was saved; choose "
            "another metric, or more validation examples"
        )
    return score
