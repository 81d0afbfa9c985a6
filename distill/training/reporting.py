"""Reports of a run: TensorBoard files, lines on the terminal, and JSON files beside the checkpoint."""

import json
import logging
import math
import time
from collections.abc import Mapping
from typing import Any

from etils import epath
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from distill import atomic_files
from distill.inference.evaluation import Evaluation
from distill.inference.own_files import EVALUATIONS, RESULT
from distill.terminal import Terminal
from distill.training import curves, event_files, remaining
from distill.training.tracking import Trackers

LOGS = "logs"
SELECTED = "selected"  # tag of the validation metric at the best step
COLUMNS = 110  # of the lines on the terminal; details that do not fit are in TensorBoard only
_ALIVE_S = 30.0  # seconds without a line after which the current step is printed


def _is_first() -> bool:
    """Whether this process writes the files. Imports JAX here: a report reads these files without it."""
    import jax

    return jax.process_index() == 0


class Reporter:
    """Writes the metrics of a run; does nothing on processes other than the first.

    Drops what an earlier attempt wrote for steps after ``step``: lines of ``evaluations.jsonl``, and the points that
    TensorBoard shows.

    Args:
      directory: the model directory; TensorBoard files go to its ``logs`` folder.
      train_steps: for the progress bar.
      terminal: prints the lines.
      step: the step to continue from; 0 starts a run.
      test_split: the split that is evaluated once, at the end.
      trackers: services that receive the same values.
      settings: configuration of the run, for TensorBoard's HParams plugin; empty writes none.
      selection: the validation split and the metric that select the best parameters; None without validation.
      evaluation_period: steps between validations, for the time that is left; None without validation.
    """

    def __init__(
        self,
        directory: epath.Path,
        train_steps: int,
        terminal: Terminal,
        *,
        step: int = 0,
        test_split: str | None = None,
        trackers: Trackers | None = None,
        settings: Mapping[str, Any] | None = None,
        selection: tuple[str, str] | None = None,
        evaluation_period: int | None = None,
    ):
        self._trackers, self._settings, self._selection = trackers or Trackers({}, terminal), settings or {}, selection
        self._complete = False
        self._summary: dict[str, Any] = {}
        self._directory, self._terminal, self._test_split = directory, terminal, test_split
        self._active = _is_first()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[speed]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=terminal.console,
            disable=terminal.silent or not terminal.console.is_terminal,
        )
        self._train_steps, self._step = train_steps, step
        self._left = remaining.Remaining(train_steps, step, evaluation_period)
        self._last: tuple[float, int, float] | None = None

    def __enter__(self) -> "Reporter":
        if self._active:
            self._directory.mkdir(parents=True, exist_ok=True)
            drop_evaluations(self._directory, self._step, self._test_split)
            self._writer = event_files.ScalarWriter(self._directory / LOGS, self._step)
            if self._step == 0 and self._settings:
                self._writer.write_settings(self._directory.name, self._settings, self._columns())
        if not self._bar.disable:  # before rich 15, a disabled bar prints an empty line when it stops
            self._bar.start()
        self._task = self._bar.add_task("training", total=self._train_steps, completed=self._step, speed="", left="")
        self._last = None
        return self

    def __exit__(self, *_: object) -> None:
        if not self._bar.disable:
            self._bar.stop()
        if self._active:
            self._writer.close()
        self._trackers.finish(self._summary, complete=self._complete)

    def _columns(self) -> dict[str, str]:
        """The metrics in the table of the HParams plugin: validation at the best step, and test."""
        columns = {}
        if self._selection is not None:
            split, metric = self._selection
            columns[f"{SELECTED}/{split}/{metric}"] = f"{split} {metric}, best step"
            if self._test_split is not None:
                columns[f"{self._test_split}/{metric}"] = f"{self._test_split} {metric}, best step"
        return columns

    def _send(self, step: int, values: dict[str, float]) -> None:
        self._writer.write(step, values)
        self._trackers.log(step, values)

    def train(self, step: int, values: dict[str, float]) -> None:
        """Writes training metrics of the steps since the last call; adds examples and steps per second to ``values``.

        The printed line ends with the time that is left, once some updates were timed. The first one after a restart names
        the step of the checkpoint: its means are over the steps since then, which may be fewer than between two lines.

        Args:
          step: updates made.
          values: metrics by name. ``steps_per_second`` is kept if it is given, as :func:`distill.training.timing.rates`
            measures it; ``mfu`` and the share of the time that waited for data are printed if they fit into the line.
        """
        now, restarted = time.monotonic(), self._last is None and self._step > 0
        if self._last is not None:
            seconds, steps = now - self._last[0], step - self._last[1]
            if "steps_per_second" in values:
                seconds = steps / values["steps_per_second"]
            values["steps_per_second"] = steps / seconds
            values["examples_per_second"] = (values["examples"] - self._last[2]) / seconds
        self._last = (now, step, values["examples"])
        self._left.logged(step, now, values.get("steps_per_second"))
        if not self._active:
            return
        self._send(step, {f"train/{name}": value for name, value in values.items()})
        shown = [f"step {step}/{self._train_steps}"]
        shown += [f"loss {values['loss']:.4f}"] if "loss" in values else []  # all its updates were skipped
        shown += [f"{task} {values[f'loss/{task}']:.4f}" for task in ("label", "rationale") if f"loss/{task}" in values]
        if "effective_lambda" in values:
            shown.append(f"λ {values['effective_lambda']:.3g}")
        if values.get("skipped_updates"):
            shown.append(f"skipped {values['skipped_updates']:.0f}")
        shown.append(f"epoch {values['epoch']:.2f}")
        shown += [f"means since step {self._step}"] if restarted else []
        speed = f"{values['examples_per_second']:.1f} examples/s" if "examples_per_second" in values else ""
        left = self._time_left(step)
        self._bar.update(self._task, completed=step, speed=speed, left=left)
        details = [f"MFU {values['mfu']:.0%}"] if "mfu" in values else []
        if values.get("data_wait_share", 0.0) >= 0.1:
            details.append(f"waits for data {values['data_wait_share']:.0%}")
        self._terminal.say(fitted([*shown, speed, left], details if speed else []))

    def alive(self, step: int, metrics: Any) -> None:
        """Prints the current step if no line was printed for ``_ALIVE_S`` seconds.

        Args:
          step: updates dispatched to the device.
          metrics: metrics of the last one; the call waits for them, so that the printed step is complete.
        """
        if self._terminal.silent or time.monotonic() - self._terminal.last < _ALIVE_S:
            return
        import jax

        jax.block_until_ready(metrics)
        left = self._time_left(step)
        self._bar.update(self._task, completed=step, left=left)
        self._terminal.say(fitted([f"step {step}/{self._train_steps}", left], []))

    def _time_left(self, step: int) -> str:
        return remaining.words(self._left.seconds(step)) if step < self._train_steps else ""

    def evaluation(self, split: str, step: int, evaluation: Evaluation, seconds: float = 0.0) -> None:
        """Writes the metrics of an evaluation to the logs, and as a JSON line.

        ``seconds`` is its duration, which the reported training speed excludes.
        """
        if self._last is not None:
            self._last = (self._last[0] + seconds, *self._last[1:])
        if seconds:
            self._left.evaluated(seconds)
        if not self._active:
            return
        self._send(step, {f"{split}/{name}": value for name, value in evaluation.metrics.items()})
        self._writer.flush()
        line = json.dumps({"split": split, "step": step, **evaluation.metrics})
        with (self._directory / EVALUATIONS).open("a") as file:
            file.write(line + "\n")
        metrics = "  ".join(f"{name} {value:.4f}" for name, value in evaluation.metrics.items())
        best = " (parameters of the best step)" if split == self._test_split and self._selection is not None else ""
        self._terminal.say(f"step {step}  {split}{best}: {metrics}")

    def say(self, line: str) -> None:
        """Prints a line on the first process, if this run's terminal is not silent."""
        self._terminal.say(line)

    def outcome(self, step: int, best: float | None, summary: Mapping[str, Any]) -> None:
        """Writes the outcome of a complete run: the best validation score, and a summary for the trackers.

        Args:
          step: of the best parameters.
          best: their validation score; None without validation.
          summary: plain values by name.
        """
        self._complete, self._summary = True, dict(summary)
        if self._active and best is not None and self._selection is not None:
            split, metric = self._selection
            self._send(step, {f"{SELECTED}/{split}/{metric}": best})

    def flush(self) -> None:
        """Blocks until the event file holds all values. Call it before a checkpoint: a restart continues after them."""
        if self._active:
            self._writer.flush()


def fitted(shown: list[str], details: list[str], columns: int = COLUMNS) -> str:
    """Joins the parts of a line, and those of ``details`` that fit into ``columns`` characters.

    >>> fitted(["step 1/2", "", "loss 1.0"], ["MFU 41%", "a detail that is too long"], 30)
    'step 1/2  loss 1.0  MFU 41%'
    """
    line = "  ".join(filter(None, shown))
    for detail in details:
        if len(line) + 2 + len(detail) <= columns:
            line += f"  {detail}"
    return line


def drop_evaluations(directory: epath.Path, step: int, test_split: str | None) -> None:
    """Removes from ``evaluations.jsonl`` the lines of steps after ``step``, those of ``test_split``, and broken ones.

    A restarted run repeats its test, at any step.
    """
    path = directory / EVALUATIONS
    if not path.exists():
        return
    text = path.read_text()
    kept = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            entry = json.loads(line)
            keep = int(entry["step"]) <= step and entry["split"] != test_split
        except (ValueError, TypeError, KeyError, RecursionError):
            logging.warning("%s:%d is no evaluation and was removed: %.60r", path, number, line)
            continue
        if keep:
            kept.append(line + "\n")
    if "".join(kept) != text:
        atomic_files.replace(path, "".join(kept))


def draw_curves(directory: epath.Path, validation_split: str | None, metric: str | None) -> None:
    """Draws ``curves.png`` on the first process. A plot that fails is logged and does not end the run."""
    if not _is_first():
        return
    try:
        curves.draw(directory, validation_split, metric)
    except Exception as error:
        logging.warning("%s was not drawn: %s: %s", directory / curves.FILE, type(error).__name__, error)


def write_result(directory: epath.Path, result: dict[str, Any]) -> None:
    """Writes ``result.json``. The file exists if and only if the run is complete."""
    if not _is_first():
        return
    if isinstance(result.get("best"), float) and not math.isfinite(result["best"]):
        result = {**result, "best": None}
    atomic_files.replace(directory / RESULT, json.dumps(result, indent=2) + "\n")
    logging.info("wrote %s", directory / RESULT)


def read_result(directory: epath.Path) -> dict[str, Any]:
    """Reads the file that :func:`write_result` wrote. Raises ValueError if it is no JSON object."""
    text = (directory / RESULT).read_text()
    try:
        result = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{directory / RESULT} is not JSON: {error}") from None
    if not isinstance(result, dict):
        raise ValueError(f"{directory / RESULT} must hold a JSON object; got {type(result).__name__}")
    return result
