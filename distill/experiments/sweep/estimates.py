"""Time and cost of the runs that are still to do, from finished runs of the directory or from bounds for TPUs."""

import dataclasses
from collections.abc import Mapping, Sequence

from distill.counting import counted
from distill.experiments.sweep import files, outcomes
from distill.experiments.sweep.budgets import Cost
from distill.experiments.sweep.runs import Run, without_seed
from distill.training import record

_FIRST_RUN = "--index=0 trains the first run; --dry_run then estimates the others from it"
_FIRST_TRIAL = "start the search; after its first run, --dry_run estimates the others from it"
_BOUND = "for TPUs, --topology=v5e:4x4 gives the least time without training, by libtpu's compiler (extra `precompile`)"


@dataclasses.dataclass(frozen=True)
class Bound:
    """The least time of one update on a TPU slice, from ``distill precompile``.

    Attributes:
      seconds: per update.
      chips: of the slice.
      peak_bytes: HBM that a device needs.
      fits: whether a device has them.
    """

    seconds: float
    chips: int
    peak_bytes: int
    fits: bool


@dataclasses.dataclass(frozen=True)
class Forecast:
    """The runs that are still to do.

    Attributes:
      runs: their number.
      flops: floating-point operations of all their updates.
      seconds: training time of all of them, one after another; None without a finished run or a bound.
      chip_seconds: the same, times chips.
      unit: of ``chip_seconds`` / 3600: ``chip-hours``, or ``core-hours`` for runs on CPUs.
      source: where the time comes from.
      remedy: how to get a time, if there is none.
    """

    runs: int
    flops: float
    seconds: float | None
    chip_seconds: float | None
    source: str
    remedy: str = ""
    unit: str = "chip-hours"

    def lines(self, workers: int = 1, price_per_chip_hour: float | None = None) -> list[str]:
        """Returns the forecast as text: operations, time with ``workers`` at once, chip-hours or core-hours, and cost.

        Without a time, the text names the two ways to get one.
        """
        if not self.runs:
            return [f"{counted(0)} to do"]
        out = [f"{counted(self.runs)} to do, {self.flops:.3g} floating-point operations in matrix products"]
        if self.seconds is None or self.chip_seconds is None:
            unknown = "the time is" if price_per_chip_hour is None else "time and cost are"
            return [*out, f"{unknown} unknown: no run is finished. {self.remedy}"]
        chip_hours = self.chip_seconds / 3600
        at_once = f", {duration(self.seconds / workers)} with {workers} workers" if workers > 1 else ""
        out.append(f"{duration(self.seconds)} one after another{at_once}, {chip_hours:.3g} {self.unit} ({self.source})")
        if price_per_chip_hour is not None:
            price = chip_hours * price_per_chip_hour
            out.append(f"cost {price:.2f} at {price_per_chip_hour:g} per {self.unit.removesuffix('s')}")
        return out


def duration(seconds: float) -> str:
    """Returns a time in a unit that fits.

    >>> duration(27.1), duration(200), duration(9000)
    ('27.1 s', '3.33 min', '2.5 h')
    """
    size, unit = (1, "s") if seconds < 120 else (60, "min") if seconds < 7200 else (3600, "h")
    return f"{seconds / size:.3g} {unit}"


def forecast(
    waiting: Sequence[Run],
    costs: Mapping[str, Cost],
    finished: Sequence[Run] = (),
    bounds: Mapping[str, Bound] | None = None,
    *,
    others: Sequence[Run] = (),
    anew: Sequence[Run] = (),
    is_search: bool = False,
) -> Forecast:
    """Returns the forecast of the waiting runs.

    A run that continues from a checkpoint has only the steps after it to do, one of ``anew`` has all. With ``bounds``, a
    run takes at least steps · seconds of an update. Otherwise a run takes steps · s, where s is the mean of the seconds
    per update of the finished runs with the same levels, or, without one, the seconds of all finished runs divided by
    their floating-point operations, times the operations of an update. So a run of a few updates, most of whose time is
    compilation, counts little. Seconds are those of ``result.json``: compilation and evaluation are included, and the
    start of the process is not.

    Args:
      waiting: the runs to do.
      costs: name → cost, of waiting and finished runs.
      finished: runs with a result.
      bounds: name → bound.
      others: finished runs of the directory that are not in the sweep; their seconds per operation count, from their
        records.
      anew: waiting runs that start from their beginning, even if they have a checkpoint.
      is_search: whether the runs are trials of a search, which are not known before.
    """
    saved = [0 if run in anew else outcomes.checkpoint_step(run.directory) or 0 for run in waiting]
    steps = [max(0, costs[run.name].steps - step) for step, run in zip(saved, waiting)]
    flops = sum(number * costs[run.name].flops for number, run in zip(steps, waiting))
    if bounds is not None:
        each = [(number * bounds[run.name].seconds, bounds[run.name].chips) for number, run in zip(steps, waiting)]
        total = sum(seconds for seconds, _ in each)
        chip_seconds = sum(seconds * chips for seconds, chips in each)
        return Forecast(len(waiting), flops, total, chip_seconds, "least time by distill precompile; runs take longer")
    same: dict[str, list[float]] = {}
    spent: list[tuple[float, float]] = []  # seconds and operations of a run
    chips, unit = 1.0, "chip-hours"
    for run in finished:
        result = files.read_result(run.directory)
        each_update = result["seconds"] / max(1, result["step"])
        same.setdefault(without_seed(run), []).append(each_update)
        spent.append((result["seconds"], max(1, result["step"]) * costs[run.name].flops))
        charge, unit = _charge(_record(run))
        chips = max(chips, charge)
    for run in others:
        found = _record(run)
        if found is not None and found.training.flops:
            spent.append((found.training.seconds, found.training.flops))
            charge, unit = _charge(found)
            chips = max(chips, charge)
    if not spent:
        remedy = f"To get it: {_FIRST_TRIAL if is_search else _FIRST_RUN}. Or, {_BOUND}"
        return Forecast(len(waiting), flops, None, None, "", remedy)
    seconds, rate = 0.0, sum(each for each, _ in spent) / sum(operations for _, operations in spent)
    for number, run in zip(steps, waiting):
        known = same.get(without_seed(run))
        seconds += number * (_mean(known) if known else rate * costs[run.name].flops)
    return Forecast(
        len(waiting), flops, seconds, seconds * chips, f"from {counted(len(spent), 'finished run')}", unit=unit
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _record(run: Run) -> record.Record | None:
    """The record of a finished run; None if it cannot be read."""
    try:
        return record.read(run.directory)
    except (OSError, ValueError, RecursionError):
        return None


def _charge(found: record.Record | None) -> tuple[float, str]:
    """``chip_seconds`` per second of a finished run, and the unit of its hours; 1 device without a record."""
    if found is None or not found.training.seconds:
        return 1.0, "chip-hours"
    unit = "core-hours" if found.environment.device_kind == "cpu" else "chip-hours"
    return found.training.chip_seconds / found.training.seconds, unit
