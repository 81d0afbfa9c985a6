"""What a run tells: TensorBoard files, lines on the terminal, and JSON files beside the checkpoint."""

import json
import logging
import math
import time
from typing import Any

import jax
from clu import metric_writers
from etils import epath
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from distill.batches import BatchStream
from distill.evaluate import Evaluation

RESULT = "result.json"
VALIDATION = "evaluations.jsonl"


class Reporter:
    """Writes metrics of a run; silent on every process but the first.

    Args:
      directory: the model directory; TensorBoard files go to its ``logs`` folder.
      train_steps: for the progress bar.
      stream: for what it counted (sequences cut to the window).
      quiet: write files, say nothing on the terminal.
    """

    def __init__(self, directory: epath.Path, train_steps: int, stream: BatchStream, *, quiet: bool = False):
        self._directory, self._stream, self._quiet = directory, stream, quiet
        self._active = jax.process_index() == 0
        self._console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[speed]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=quiet or not (self._active and self._console.is_terminal),
        )
        self._train_steps = train_steps
        self._last: tuple[float, int, float] | None = None
        self._told_cuts = False

    def __enter__(self) -> "Reporter":
        if self._active:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._writer: metric_writers.MetricWriter = metric_writers.SummaryWriter(str(self._directory / "logs"))
        self._bar.start()
        self._task = self._bar.add_task("training", total=self._train_steps, speed="")
        self._last = None
        return self

    def __exit__(self, *_) -> None:
        self._bar.stop()
        if self._active:
            self._writer.close()

    def _say(self, text: str) -> None:
        if self._quiet or not self._active:
            return
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def train(self, step: int, values: dict[str, float]) -> None:
        """Writes training metrics of the steps since the last call, with examples and steps a second."""
        now = time.monotonic()
        if self._last is not None:
            seconds, steps = now - self._last[0], step - self._last[1]
            values["steps_per_second"] = steps / seconds
            values["examples_per_second"] = (values["examples"] - self._last[2]) / seconds
        self._last = (now, step, values["examples"])
        if not self._active:
            return
        self._writer.write_scalars(step, {f"train/{name}": value for name, value in values.items()})
        self._tell_cuts()
        shown = [f"step {step}/{self._train_steps}", f"loss {values['loss']:.4f}"]
        shown += [f"{task} {values[f'loss/{task}']:.4f}" for task in ("label", "rationale") if f"loss/{task}" in values]
        if "effective_lambda" in values:
            shown.append(f"λ {values['effective_lambda']:.3g}")
        shown.append(f"epoch {values['epoch']:.2f}")
        speed = f"{values['examples_per_second']:.1f} examples/s" if "examples_per_second" in values else ""
        self._bar.update(self._task, completed=step, speed=speed)
        self._say("  ".join([*shown, speed]).rstrip())

    def _tell_cuts(self) -> None:
        counts = self._stream.counts
        if self._told_cuts or not sum(counts.sequences.values()):
            return
        self._told_cuts = True
        share = counts.share_truncated()
        if share:
            self._say(
                f"{share:.2%} of the training sequences are longer than the window and were cut: "
                f"{sum(counts.truncated_inputs.values())} inputs and {sum(counts.truncated_targets.values())} targets "
                f"of {sum(counts.sequences.values())}"
            )

    def evaluation(self, split: str, step: int, evaluation: Evaluation, seconds: float = 0.0) -> None:
        """Writes an evaluation's metrics, and keeps them as a JSON line.

        ``seconds`` is what it took: not training time, when speed is told.
        """
        if self._last is not None:
            self._last = (self._last[0] + seconds, *self._last[1:])
        if not self._active:
            return
        self._writer.write_scalars(step, {f"{split}/{name}": value for name, value in evaluation.metrics.items()})
        self._writer.flush()
        line = json.dumps({"split": split, "step": step, **evaluation.metrics})
        with (self._directory / VALIDATION).open("a") as file:
            file.write(line + "\n")
        self._say(f"step {step}  {split}: " + "  ".join(f"{n} {v:.4f}" for n, v in evaluation.metrics.items()))


def write_result(directory: epath.Path, result: dict[str, Any]) -> None:
    """Writes a run's outcome; its presence says that the run is over."""
    if jax.process_index() != 0:
        return
    if isinstance(result.get("best"), float) and not math.isfinite(result["best"]):
        result = {**result, "best": None}
    temporary = directory / (RESULT + ".part")
    temporary.write_text(json.dumps(result, indent=2) + "\n")
    temporary.rename(directory / RESULT)
    logging.info("wrote %s", directory / RESULT)


def read_result(directory: epath.Path) -> dict[str, Any]:
    """Reads what :func:`write_result` wrote. Raises ValueError if it is no JSON object."""
    text = (directory / RESULT).read_text()
    try:
        result = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{directory / RESULT} is not JSON: {error}") from None
    if not isinstance(result, dict):
        raise ValueError(f"{directory / RESULT} must hold a JSON object; got {type(result).__name__}")
    return result
