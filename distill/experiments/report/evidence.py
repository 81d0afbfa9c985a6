"""Scores of all runs of a part, row by row, and bootstrap draws of them that all questions share."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from distill.experiments.report import statistics
from distill.experiments.report.collect import ReportError, Run, read_predictions
from distill.experiments.report.settings import Cell, Part
from distill.experiments.sweep import files
from distill.tasks import metrics

_CHUNK = 256  # draws of rows that are in memory at a time


@dataclasses.dataclass(frozen=True)
class Evidence:
    """Scores of a part's runs, and bootstrap draws.

    Attributes:
      part: the settings.
      metric: the test metric.
      scale: factor from the metric to the displayed value: 100 for shares.
      ids: of the rows, for each run; runs on the same rows share one tuple.
      correct: for each run ``[rows]`` bool; empty if the metric does not judge single rows.
      row_draws: for each run ``[draws]``, the score on rows drawn with replacement; the same draw for all runs.
      seed_draws: ``[draws, most seeds]``, uniform numbers that choose a seed in the order of a setting's seeds.
      constant: for each run that gives one answer to all of its rows, this answer.
    """

    part: Part
    metric: str
    scale: float
    ids: Mapping[Run, tuple[str, ...]]
    correct: Mapping[Run, np.ndarray]
    row_draws: Mapping[Run, Float[np.ndarray, " draws"]]
    seed_draws: Float[np.ndarray, "draws order"]
    constant: Mapping[Run, str] = dataclasses.field(default_factory=dict)

    @property
    def sign(self) -> float:
        """1, or -1 if the lowest value of the metric is the best: scores times this are better if they are larger."""
        return 1.0 if metrics.higher_is_better(self.metric) else -1.0

    def run_score(self, run: Run) -> float:
        """The run's score as shown."""
        return self.scale * run.score(self.metric)

    def cell_interval(self, cell: Cell) -> statistics.Interval:
        """Mean over seeds with Student's interval, as shown; of shares, within 0 and 100 %."""
        return self.mean_interval([self.run_score(run) for run in cell.runs])

    def mean_interval(self, scores: Sequence[float]) -> statistics.Interval:
        """Mean of scores as shown, one per seed, with Student's interval; of shares, within 0 and 100 %."""
        return statistics.mean_interval(scores) if self.scale == 1.0 else statistics.share_interval(scores, self.scale)

    def possible(self, difference: statistics.Interval) -> statistics.Interval:
        """A difference as shown; of shares, its interval ends at -100 and 100 points."""
        return difference if self.scale == 1.0 else statistics.within(difference, -self.scale, self.scale)

    def matrix(self, runs: Sequence[Run]) -> list[Float[np.ndarray, " _"]]:
        """For each run its rows' scores as shown; one number for a run without them."""
        return [
            self.scale * self.correct[run].astype(np.float64)
            if run in self.correct
            else np.array([self.run_score(run)])
            for run in runs
        ]

    def components(self, values: Sequence[Float[np.ndarray, " _"]]) -> statistics.Components:
        """Variance components of values per seed and row, crossed where all seeds have the same rows."""
        same = self.part.crossed and len({len(each) for each in values}) == 1 and len(values[0]) > 1
        return statistics.crossed(np.stack(values)) if same else statistics.nested(list(values))

    def draws(self, runs: Sequence[Run], subtracted: Sequence[Run] = ()) -> Float[np.ndarray, " draws"]:
        """Bootstrap draws of the mean over seeds of ``runs``, minus that of the runs paired with them.

        Args:
          runs: one run per seed.
          subtracted: empty, or as many runs, in the order of the seeds.
        """
        per_seed = np.stack([self.row_draws[run] for run in runs])
        if subtracted:
            per_seed = per_seed - np.stack([self.row_draws[run] for run in subtracted])
        number = len(runs)
        chosen = (self.seed_draws[:, :number] * number).astype(int)
        return self.scale * per_seed.T[np.arange(len(chosen))[:, None], chosen].mean(axis=1)

    def cell_draws(self, cell: Cell) -> Float[np.ndarray, " draws"]:
        """Draws of a setting's mean score, widened for few seeds."""
        return statistics.widened(self.draws(cell.runs), self.components(self.matrix(cell.runs)))


def gather(part: Part, metric: str, *, seed: int = 0, draws: int = statistics.DRAWS) -> Evidence:
    """Reads the predictions of all runs of a part, and draws rows and seeds.

    The draws of rows are the same for all runs with the same rows, and draw ``b`` takes the same place in the order of
    seeds for all settings, so differences between settings are paired.

    Args:
      part: the settings.
      metric: the test metric.
      seed: of the bootstrap.
      draws: number of draws.

    Raises:
      ReportError: a run has no such metric, or runs with the same fingerprint have different rows.
    """
    scores = {run: run.score(metric) for run in part.runs}
    missing = next((run for run, score in scores.items() if not np.isfinite(score)), None)
    if missing is not None:
        raise ReportError(files.no_metric(missing.directory, metric, missing.record["test"]))
    ids: dict[Run, tuple[str, ...]] = {}
    correct: dict[Run, np.ndarray] = {}
    constant: dict[Run, str] = {}
    first: dict[str, tuple[Run, tuple[str, ...]]] = {}
    for run in part.runs:
        found = read_predictions(run.directory)
        if found is None:
            continue
        fingerprint = str(run.fingerprint("test"))
        other, names = first.setdefault(fingerprint, (run, found.ids))
        if names != found.ids:
            raise ReportError(
                f"{run.directory} and {other.directory} have the same fingerprint of test rows and different ids in "
                "predictions/test.jsonl; evaluate both again"
            )
        ids[run] = names
        if found.constant is not None:
            constant[run] = found.constant
        if found.correct is not None and metric == "accuracy":
            correct[run] = found.correct
    random = np.random.default_rng(seed)
    seed_draws = random.random((draws, max(len(cell.runs) for cell in part.cells)))
    row_draws = _row_draws(part.runs, correct, scores, random, draws)
    shares = metrics.higher_is_better(metric) and all(0 <= score <= 1 for score in scores.values())
    scale = 100.0 if shares else 1.0
    return Evidence(part, metric, scale, ids, correct, row_draws, seed_draws, constant)


def _row_draws(
    runs: Sequence[Run],
    correct: Mapping[Run, np.ndarray],
    scores: Mapping[Run, float],
    random: np.random.Generator,
    draws: int,
) -> dict[Run, np.ndarray]:
    """Scores of each run on rows drawn with replacement; the score itself for a run without rows."""
    out = {run: np.full(draws, scores[run]) for run in runs}
    alike: dict[str, list[Run]] = {}
    for run in runs:
        if run in correct:
            alike.setdefault(str(run.fingerprint("test")), []).append(run)
    for group in alike.values():
        values = np.stack([correct[run] for run in group]).astype(np.float32)
        rows = values.shape[1]
        for start in range(0, draws, _CHUNK):
            counts = random.multinomial(rows, np.full(rows, 1 / rows), size=min(_CHUNK, draws - start))
            scored = values @ counts.T.astype(np.float32) / rows
            for run, mine in zip(group, scored):
                out[run][start : start + mine.size] = mine
    return out
