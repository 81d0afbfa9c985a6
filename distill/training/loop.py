"""The training loop. It trains one or several lanes: runs that share their steps and have their own files.

An ordinary run is one lane. Joint seeds (:mod:`distill.training.joint_seeds`) are one lane per seed.
"""

import contextlib
import dataclasses
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from distill import allocator, stuck
from distill.checkpoints.manager import CheckpointConfig
from distill.data import fullness
from distill.data.stream import Batch, Prefetch
from distill.inference.evaluation import Evaluation
from distill.model import lora
from distill.terminal import Terminal
from distill.training import accounting, finite, nonfinite, profiling, provenance, record, reporting, timing
from distill.training.callbacks import RunStep, Stop
from distill.training.config import LoopConfig, TrainResult, ValidationConfig
from distill.training.evaluators import validation_score
from distill.training.lanes import Lane, Students
from distill.training.preemption import StopRequest
from distill.training.step import Fetchable, summarize

_PADDING = re.compile(r"\d+ % padding|the \d+ tokens of")  # of the first batch, which differs between seeds
_IN_FLIGHT = 2  # updates dispatched beyond the newest finished one: enough to keep the devices busy


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
      summary: sizes and lengths of the data, for lines that precede the first step.
      devices: number of devices, over all processes.
      cost_model: counts the operations of the compiled step; None counts none.
      trained_parameters: number of parameters of a student that are trained, adapters included; None: all.
      dtype: of the activations, for the remedies of errors.
    """

    lanes: Sequence[Lane]
    students: Students
    config: LoopConfig
    validation: ValidationConfig | None
    checkpoints: CheckpointConfig | None
    stop: StopRequest
    terminal: Terminal
    summary: fullness.Summary
    devices: int = 1
    cost_model: timing.CostModel | None = None
    trained_parameters: int | None = None
    dtype: str = "float32"

    def train(self) -> list[TrainResult | FloatingPointError]:
        """Trains, tests, and writes the result of every lane that is complete.

        Returns:
          Per lane, its result, or the error of a lane whose loss, state or score is not finite.
        """
        if jax.default_backend() == "cpu":
            allocator.keep_freed()
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
            if all(lane.complete or lane.failure for lane in self.lanes):
                self.stop.will = "the last step is made; the run ends after its test"
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
        clock = timing.Clock([lane.progress for lane in self.lanes], timing.charged(self.devices))
        profiler = profiling.Profiler(self.lanes[0].directory, self.config.profile_steps, clock.phase)
        self._watch = nonfinite.Watch(self.students.metrics, _IN_FLIGHT)
        pending: list[Any] = []
        self._fetched: list[list[Fetchable]] = []  # of the pending updates, per lane, on the host
        self._timed_from = step + 1  # the first update is timed as compilation
        try:
            stuck.doing("waiting for the first batch", step)
            with clock.phase("data"):
                batches = [next(source) for source in sources]
            with profiler.step(step + 1), clock.phase("compile"):
                metrics = self._first_update(batches)
            while True:
                step += 1
                profiler.after(step, metrics)
                pending.append(metrics)
                self._watch.add(step, metrics, batches)
                for lane, batch in zip(self.lanes, batches):
                    if lane.active:
                        lane.step, lane.progress.examples = step, lane.progress.examples + batch.examples
                for attempts, lane in zip(self._attempts, self.lanes):
                    attempts.made(lane.step)
                pending = self._after_update(step, batches, pending, clock)
                self.lanes[0].reporter.alive(step, metrics)
                if step == self.config.train_steps or not self._active():
                    return
                stuck.doing("waiting for a batch")
                # A lane that has ended keeps its last batch: the step has a fixed number of lanes.
                with clock.phase("data"):
                    batches = [next(s) if lane.active else b for lane, s, b in zip(self.lanes, sources, batches)]
                stuck.doing("making a step")
                with profiler.step(step + 1), clock.phase("step"):
                    metrics = self.students.update(batches)
                    # Devices lag the host. Without a limit, a signal would wait for all dispatched updates.
                    if len(pending) >= _IN_FLIGHT:
                        jax.block_until_ready(pending[-_IN_FLIGHT])
        finally:
            profiler.stop()
            clock.read()
            for source in sources:
                source.close()

    def _first_update(self, batches: Sequence[Batch]) -> Any:
        for line in self.summary.lines(batches[0], _over_processes):
            self.terminal.introduce(line, compared=_PADDING.sub("", line))
        for line in self.summary.warnings():
            self.terminal.introduce(line, warns=True)
        seeds = f" of {len(self.lanes)} seeds" if len(self.lanes) > 1 else ""
        stuck.doing("compiling and making the first step")
        with self.terminal.stage(f"compiling the training step{seeds}"):
            compiled = self.students.compiled(batches)
            if self.cost_model is not None:  # reading a large program takes seconds, which the first steps hide
                self._counting = timing.Counting(self.cost_model, compiled, self.devices)
            return jax.block_until_ready(self.students.update(batches))

    def _after_update(self, step: int, batches: Sequence[Batch], pending: list[Any], clock: timing.Clock) -> list[Any]:
        """Logs, validates, obeys signals and saves at ``step``; returns the metrics that are not logged yet."""
        stuck.doing("finishing a step", step)
        last = step == self.config.train_steps
        updated = [(number, lane) for number, lane in enumerate(self.lanes) if lane.active]
        logs = step % self.config.log_period == 0 or last
        validation = self.validation if self.validation and (step % self.validation.period == 0 or last) else None
        waits = logs or validation is not None or any(self._saves(step, lane, last) for _, lane in updated)
        if waits:
            self._count(updated, pending, clock)
        self._refuse_nonfinite(all_updates=waits)
        if logs:
            window = clock.window()
            hint = timing.straggler(window, step - self._timed_from)
            for number, lane in updated:
                if lane.failure is None:
                    self._log(number, lane, batches[number].epoch, window, hint)
            pending, self._fetched, self._timed_from = [], [], step
        if validation:
            with clock.phase("evaluation"):
                for number, lane in updated:
                    if lane.active:
                        with self._noting_failure(number, lane):
                            self._validate(number, lane, validation)
                            if last:
                                lane.progress.end(None)  # no step is left that patience could skip
                            lane.stopped = lane.progress.stopped
        stuck.doing("agreeing on signals")
        ends = self.stop.agreed(step, [lane.ends is not None for _, lane in updated])
        for (number, lane), wanted in zip(updated, ends):
            if not last and lane.active and wanted:
                self._count(updated, pending, clock)
                self._refuse_nonfinite(all_updates=True)
                self._end(number, lane, clock)
        if self._active() and self.stop.requested(step):
            self._refuse_nonfinite(all_updates=True)
            for lane in self._active():
                lane.stopped = self.stop.name
        if any(not lane.active or self._saves(step, lane, last) for _, lane in updated):
            self._count(updated, pending, clock)
        for number, lane in updated:
            if lane.failure is None and self._saves(step, lane, last):
                with self._noting_failure(number, lane), clock.phase("checkpoint"):
                    self._save(number, lane, batches[number].position)
            if jax.process_count() == 1:  # several processes raise together, at the next save
                lane.saver.check_for_errors()
        return pending

    def _end(self, number: int, lane: Lane, clock: timing.Clock) -> None:
        """Ends a lane whose callback has raised :class:`Stop` as its patience would, validated at this step."""
        if self.validation and lane.failure is None and lane.progress.score_step != lane.step:
            with clock.phase("evaluation"), self._noting_failure(number, lane):
                self._validate(number, lane, self.validation)
        if lane.failure is None:
            lane.progress.end(f"callback {lane.ends}" if lane.ends else "a callback of another process")
            lane.stopped = lane.progress.stopped
            self.terminal.say(
                f"{lane.directory}: stopped after step {lane.step} by {lane.ends or 'a callback of another process'}"
            )

    def _call(self, lane: Lane, method: str, at: RunStep, *given: Any) -> None:
        """Calls a method of all callbacks of a lane."""
        for callback in lane.callbacks:
            try:
                getattr(callback, method)(at, *given)
            except Stop as reason:
                lane.ends = ": ".join(filter(None, [type(callback).__name__, str(reason)]))
            except KeyboardInterrupt:
                self.stop.interrupt()

    def _refuse_nonfinite(self, *, all_updates: bool) -> None:
        """Counts updates that were skipped, and ends lanes whose update is not finite or that skipped too many."""
        for found in self._watch.found(all_updates=all_updates):
            lane, limit = self.lanes[found.lane], self.config.max_skipped
            if lane.failure is not None or found.step > lane.step:
                continue
            if found.skipped:
                lane.progress.skipped += 1
                self._record(lane, found)
                count = f"{lane.progress.skipped} of at most {limit}"
                self.terminal.warn(
                    f"{lane.directory}: the update of step {found.step} was skipped ({count}): {found.reason}"
                )
                if lane.progress.skipped <= limit:
                    continue
                reason = f"{lane.progress.skipped} updates were skipped, more than {limit}, the last one"
                remedy = finite.remedy(self.dtype)
            else:
                reason = found.reason
                remedy = finite.remedy(self.dtype) + finite.OR_SKIP
            lane.failure = self._recorded(lane, found, f"{reason} at step {found.step}; {lane.kept}; {remedy}")

    @contextlib.contextmanager
    def _noting_failure(self, number: int, lane: Lane) -> Iterator[None]:
        """Ends the lane, and only the lane, at a number that is not finite."""
        try:
            yield
        except finite.NonFinite as error:
            lane.failure = self._recorded(lane, self._watch.newest(number, str(error)), str(error))
        except FloatingPointError as error:
            lane.failure = error

    def _record(self, lane: Lane, found: nonfinite.Found) -> epath.Path:
        lane.lock.check()
        rows = lane.stream.layout.numbers(lane.stream.rows)
        return nonfinite.write(lane.directory, found, lane.seed, rows, self.config)

    def _recorded(self, lane: Lane, found: nonfinite.Found, text: str) -> FloatingPointError:
        path = self._record(lane, found)
        lane.step = found.step  # updates after it do not count
        self._attempts[found.lane].made(lane.step)
        return FloatingPointError(f"{text}; the batch is in {path}, run it again with: distill replay {lane.directory}")

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
        if hint is not None:
            values |= {"slowest_process": float(hint.process), "slowest_process_seconds": hint.seconds}
            values["median_process_seconds"] = hint.median
        lane.reporter.train(lane.step, values)
        if hint is not None and hint.notable:
            self.terminal.say(str(hint))
        self._call(lane, "on_log", lane.at, dict(values))

    def _validate(self, number: int, lane: Lane, validation: ValidationConfig) -> None:
        """Scores the validation split, and saves the parameters if the score is the best so far."""
        started = time.monotonic()
        params = self.students.state(number).eval_params
        finite.check({"params": params}, lane.step, lane.kept, self.dtype)
        evaluation = self._decoded(lane, validation.split, params)
        score = validation_score(validation, lane.step, evaluation.metrics)
        lane.reporter.evaluation(validation.split, lane.step, evaluation, time.monotonic() - started)
        if lane.progress.validated(lane.step, score, validation.patience):
            lane.best_evaluation = lane.step, evaluation
            lane.lock.check()
            lane.saver.save_best(lane.step, params, evaluation.metrics)
        self._call(lane, "on_evaluation", lane.at, validation.split, evaluation)

    def _save(self, number: int, lane: Lane, position: Mapping[str, Any]) -> None:
        stuck.doing("saving a checkpoint")
        state = self.students.state(number)
        finite.check({"params": state.params, "optimizer": state.opt_state}, lane.step, lane.kept, self.dtype)
        lane.lock.check()
        lane.reporter.flush()
        lane.saver.save(state, position, dataclasses.asdict(lane.progress))
        self._attempts[number].seen(lane.step, now=True)
        self._call(lane, "on_checkpoint", lane.at, state)

    def _result(self, number: int, lane: Lane) -> TrainResult:
        test = self._test(number, lane) if lane.complete else {}
        progress, attempts = lane.progress, self._attempts[number]
        attempts.seen(lane.step, complete=lane.complete, now=True)
        student = lora.without(self.students.state(number).params)
        parameters = sum(leaf.size for leaf in jax.tree.leaves(student))
        training = accounting.training(
            progress,
            steps=lane.step,
            parameters=parameters,
            trained_parameters=parameters if self.trained_parameters is None else self.trained_parameters,
            lanes=len(self.lanes),
            devices=self.devices,
            costs=self._costs,
            attempts=attempts,
        )
        performance = training.to_json()
        selection: dict[str, Any] = {}
        if self.validation is not None and progress.best_step:
            chosen = record.Selection(
                self.validation.split,
                self.validation.metric,
                progress.best_step,
                progress.best,
                progress.higher_is_better,
            )
            selection = dataclasses.asdict(chosen)
            if lane.complete and (equal := progress.all_scores_equal(self.validation.metric)):
                self.terminal.warn(f"{lane.directory}: {equal}")
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
            skipped=progress.skipped,
            reason=progress.reason,
            selection=selection,
            performance=performance,
        )

    def _test(self, number: int, lane: Lane) -> dict[str, float]:
        """Scores the test split with the best parameters on validation."""
        best_step = lane.progress.best_step
        stuck.doing("finishing the checkpoints")
        lane.saver.finish(best_step or None)
        if self.validation is None:
            return {}
        best, split = lane.best_evaluation, self.validation.test_split
        measured = best is not None and best[0] == best_step  # in this attempt
        if not measured or split is not None:
            step, params = lane.saver.restore_best(lora.without(self.students.state(number).params))
            if step != best_step:
                raise ValueError(f"step {best_step} validated best, but {lane.directory}/best holds step {step}")
        if best is None or not measured:
            best = lane.best_evaluation = step, self._decoded(lane, self.validation.split, params)
        self._write_predictions(lane, record.VALIDATION, best[1])
        if split is None:
            return {}
        evaluation = self._decoded(lane, split, params)
        lane.reporter.evaluation(split, step, evaluation)
        self._write_predictions(lane, record.TEST, evaluation)
        self._call(lane, "on_evaluation", dataclasses.replace(lane.at, step=step), split, evaluation)
        return evaluation.metrics

    def _write_predictions(self, lane: Lane, name: str, evaluation: Evaluation) -> None:
        if jax.process_index() == 0:
            evaluation.write(lane.directory / record.PREDICTIONS / f"{name}.jsonl")

    def _decoded(self, lane: Lane, split: str, params: Any) -> Evaluation:
        evaluator = lane.evaluators[split]
        stuck.doing(f"evaluating {split}")
        with self.terminal.stage(f"evaluating {len(evaluator)} {split} examples", announce=False):
            return evaluator(params)


def _over_processes(counts: np.ndarray) -> np.ndarray:
    """The sum of an array of counts over all processes, each of which calls this."""
    if jax.process_count() == 1:
        return counts
    return np.asarray(multihost_utils.process_allgather(counts)).reshape(-1, *counts.shape).sum(axis=0)
