"""Results of a sweep: a CSV of runs, a table with mean and interval over seeds, and a plot."""

import csv
import dataclasses
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath
from rich.console import Console
from rich.table import Table

from distill import atomic_files, terminal
from distill.counting import counted
from distill.experiments.report import collect, quantities, scales, settings, statistics
from distill.experiments.report import figure as figures
from distill.experiments.report.blocks import Chart, Point, Series
from distill.experiments.report.text import spreadsheet_cell
from distill.experiments.sweep import SEED, Run, Sweep, files, outcomes
from distill.experiments.sweep import failures as sweep_failures
from distill.experiments.sweep.levels import RATES, number_of
from distill.tasks.metrics import higher_is_better
from distill.training import record, reporting
from distill.training.curves import COLOURS

_WEIGHTS = ("label_rate", "rationale_rate", "effective_lambda")
_INTERVAL = "mean with its 95 % interval over seeds"


@dataclasses.dataclass(frozen=True)
class Cell:
    """Runs that differ only in their seed.

    Attributes:
      values: axis → level, without the seed. What else distinguishes runs with these levels, such as changed rows or
        an edited gin file, is a level, too, as in a report.
      scores: the metric, per seed.
      steps: updates, per seed.
      seconds: training seconds, per seed.
      unset: axis → level that its runs have on an axis which its point does not set and points that are otherwise alike do.
    """

    values: dict[str, str]
    scores: tuple[float, ...]
    steps: tuple[int, ...]
    seconds: tuple[float, ...]
    unset: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return float(np.mean(self.scores))

    @property
    def deviation(self) -> float:
        """Sample standard deviation over seeds; nan for one seed."""
        return float(np.std(self.scores, ddof=1)) if len(self.scores) > 1 else math.nan

    @property
    def interval(self) -> statistics.Interval:
        """The mean with its 95 % interval over seeds (Student's t); of shares, within 0 and 1.

        It is unknown for one seed, and where it would hold all shares.
        """
        found = statistics.share_interval(self.scores)
        shares = all(0 <= score <= 1 for score in self.scores)
        return statistics.Interval(found.value) if shares and statistics.is_whole(found) else found


def cells(sweep: Sweep) -> list[Cell]:
    """Returns the finished runs, grouped over seeds, in the order of the grid."""
    gathered: dict[tuple, list[tuple[Run, dict[str, Any]]]] = {}
    done = [run for run in sweep.runs() if run.done]
    for run, key in zip(done, _keys(done)):
        gathered.setdefault(key, []).append((run, reporting.read_result(epath.Path(run.directory))))
    optional = [axis for axis in sweep.all_axes() if settings.optional([dict(key) for key in gathered], axis)]
    out = []
    for key, results in gathered.items():
        read = _with_record(results[0][0])
        missing = [axis for axis in optional if axis not in dict(key)]
        unset = {} if read is None else {axis: settings.unset_level(read, axis) for axis in missing}
        for run, result in results:
            if sweep.metric not in result["test"]:
                raise ValueError(files.no_metric(run.directory, sweep.metric, result["test"]))
        out.append(
            Cell(
                dict(key),
                tuple(result["test"][sweep.metric] for _, result in results),
                tuple(result["step"] for _, result in results),
                tuple(result["seconds"] for _, result in results),
                {axis: level for axis, level in unset.items() if level != settings.ABSENT},
            )
        )
    return out


def _keys(runs: Sequence[Run]) -> list[tuple[tuple[str, str], ...]]:
    """Of each run its levels without the seed, and what else distinguishes it from others of its setting in a report."""
    plain = [tuple((axis, value) for axis, value in run.values.items() if axis != SEED) for run in runs]
    read = _records(runs)
    if not read:
        return plain
    axes, by_data = {axis for run in read for axis in run.axes}, settings.by_data(read, of_sweep=True)
    more: dict[str, tuple[tuple[str, str], ...]] = {}
    for rows, group, _ in by_data:
        of_test = [(settings.TEST_DATA, rows[:8])] if len(by_data) > 1 else []
        for run, key in zip(group, settings.keys(group)):
            more[run.name] = (*of_test, *(pair for pair in key if pair[0] not in axes))
    return [(*key, *more[run.name]) for key, run in zip(plain, runs)]


def _records(runs: Sequence[Run]) -> list[collect.Run]:
    """The runs with their records; none if one cannot be read: the report names what is wrong with it."""
    found = [_with_record(run) for run in runs]
    return [run for run in found if run is not None] if None not in found else []


def _with_record(run: Run) -> collect.Run | None:
    """A run with its record; None if it cannot be read."""
    try:
        found = record.read(run.directory).to_json()
    except (FileNotFoundError, ValueError):
        return None
    return collect.Run(run.name, run.directory, run.directory.parent, run.values, found)


def notes(sweep: Sweep) -> list[str]:
    """Lines below the table: settings that were trained, or scored, on other rows than the rest, and test rows that have
    the input of a training row."""
    labelled: dict[str, list[collect.Run]] = {}
    done = [run for run in sweep.runs() if run.done]
    for run, key in zip(_records(done), _keys(done)):
        label = ", ".join(f"{axis} {level}" for axis, level in key) or "all runs"
        labelled.setdefault(label, []).append(run)
    changed = [line for split in ("train", "test") for line in settings.other_rows(labelled, split)]
    return [*changed, *settings.seen_sentence([run for runs in labelled.values() for run in runs])]


def write_csv(sweep: Sweep, path: Path, failures: Mapping[str, str] = {}) -> None:
    """Writes one line per finished run: its levels, steps, seconds, weights, validation score and all test metrics.

    Scores have the names of ``report.csv``, and are as the metrics give them: accuracies are shares, not per cent.
    What else distinguishes settings in the table, such as changed rows, has a column beside those of the axes. The rates
    are those of a mixture; they and the effective λ are empty where the run has none, or no record of them.
    The test rows that have the input of a training row have a column if a run has such rows.
    A failed run has a line with its levels, the step that it reached, and its error; a trial that a search ended early, one
    with its levels and the step of the validation that ended it.
    """
    done = [(run, reporting.read_result(epath.Path(run.directory))) for run in sweep.runs() if run.done]
    metrics = sorted({name for _, result in done for name in result["test"]})
    keys = [dict(key) for key in _keys([run for run, _ in done])]
    names = dict.fromkeys([*sweep.all_axes(), *(axis for key in keys for axis in key)])
    axes = sorted(names, key=lambda name: name == SEED)
    read = [_with_record(run) for run, _ in done]
    seen = ["test_rows_seen"] if settings.any_seen([run for run in read if run is not None]) else []
    held = io.StringIO(newline="")
    writer = csv.writer(held)
    columns = [*map(spreadsheet_cell, axes), "steps", "seconds", *_WEIGHTS, "best_step", _validation_column(done)]
    columns += [*(f"test/{name}" for name in metrics), *seen]
    writer.writerow([*columns, "state", "error"])
    for (run, result), key, found in zip(done, keys, read):
        writer.writerow(
            [spreadsheet_cell(level) for level in _levels({**run.values, **key}, axes)]
            + [result["step"], round(result["seconds"], 2), *_weights(found)]
            + [result["best_step"], result["best"]]
            + [result["test"].get(name, "") for name in metrics]
            + ["" if found is None or found.seen is None else found.seen for _ in seen]
            + ["done", ""]
        )
    for run in sweep.runs():
        pruned = outcomes.pruned(run)
        if run.name not in failures and pruned is None:
            continue
        reached = files.reached_step(run.directory) if pruned is None else pruned.get("step")
        steps = "" if reached is None else str(reached)
        blank = [""] * (len(columns) - len(axes) - 1)
        ended = ["pruned", ""] if pruned is not None else ["failed", failures[run.name]]
        writer.writerow(map(spreadsheet_cell, [*_levels(run.values, axes), steps, *blank, *ended]))
    atomic_files.replace(path, held.getvalue())


def _validation_column(done: Sequence[tuple[Run, Mapping[str, Any]]]) -> str:
    """The column of the validation score that selected a run's step; ``best`` if several metrics or none selected them."""
    names = {name for _, result in done if (name := (result.get("selection") or {}).get("metric"))}
    return spreadsheet_cell(f"validation/{names.pop()}") if len(names) == 1 else "best"


def _weights(run: collect.Run | None) -> list[float | str]:
    """The cells of ``_WEIGHTS``."""
    if run is None:
        return [""] * len(_WEIGHTS)
    effective = run.training("lambda")
    return [*(run.rates or ("", "")), effective if math.isfinite(effective) else ""]


def _levels(values: Mapping[str, str], axes: Sequence[str], without: str = "") -> list[str]:
    """The levels of a run or cell on all axes; ``without`` where a conditional axis does not apply."""
    return [values.get(axis, without) for axis in axes]


def table(sweep: Sweep, found: Sequence[Cell], failures: Mapping[str, str] = {}) -> Table:
    """Returns a table with mean and spread over seeds, one row per cell; failed seeds, if any, have a column.

    Shares are in per cent.
    """
    axes = [axis for axis in sweep.all_axes() if axis != SEED]
    axes += dict.fromkeys(axis for cell in found for axis in cell.values if axis not in axes)
    scale, metric = _unit(sweep, found)
    digits = 1 if scale == 100 else 3
    out = Table(title=f"test {metric}: mean over seeds with its 95 % interval")
    for axis in axes:
        out.add_column(axis)
    for heading in (metric, "95 % interval", "std", "seeds", "steps", "s/run"):
        out.add_column(heading, justify="right")
    failed: dict[tuple[str, ...], list[int | None]] = {}  # the steps that they reached
    for run in sweep.runs():
        if run.name in failures:
            failed.setdefault(tuple(_levels(run.values, axes, "–")), []).append(files.reached_step(run.directory))
    if failed:
        out.add_column("failed", justify="right")
    for cell in found:
        key = tuple(_levels(cell.values, axes, "–"))
        out.add_row(
            *key,
            f"{scale * cell.mean:.{digits}f}",
            _interval_text(cell, scale, digits),
            f"{scale * cell.deviation:.{digits}f}" if len(cell.scores) > 1 else "–",
            str(len(cell.scores)),
            f"{np.mean(cell.steps):.0f}",
            f"{np.mean(cell.seconds):.1f}",
            *([str(len(failed.pop(key, [])))] if failures else []),
        )
    for key, reached in failed.items():
        steps = [step for step in reached if step is not None]
        out.add_row(*key, "–", "–", "–", "0", f"{np.mean(steps):.0f}" if steps else "–", "–", str(len(reached)))
    return out


def _unit(sweep: Sweep, found: Sequence[Cell]) -> tuple[float, str]:
    """The factor of scores that people read, and the metric with its unit: 100 and per cent for shares."""
    shares = higher_is_better(sweep.metric) and all(0 <= score <= 1 for cell in found for score in cell.scores)
    return (100.0, f"{sweep.metric}, %") if shares else (1.0, sweep.metric)


def _interval_text(cell: Cell, scale: float = 1.0, digits: int = 3) -> str:
    """The interval, or why there is none."""
    found = cell.interval
    if not found.known:
        return "too few seeds"
    if found.low == found.high:
        return "all seeds equal"  # whose spread says nothing of other seeds
    return f"{scale * found.low:.{digits}f} – {scale * found.high:.{digits}f}".replace("-", "−")


def numeric_axis(sweep: Sweep) -> str | None:
    """Returns the horizontal axis: ``sweep.x``, or the first axis with numbers that is not the seed."""
    if sweep.x is not None:
        return sweep.x
    return next((axis for axis in sweep.axes if axis != SEED and _numbers(sweep, axis) is not None), None)


def _numbers(sweep: Sweep, axis: str) -> dict[str, float] | None:
    """Level → its position on the axis; None for an axis with a level that is no number."""
    found = {run.values[axis]: run.numbers[axis] for run in sweep.runs() if axis in run.numbers}
    for level in sweep.all_axes()[axis]:
        try:
            found[level.name] = float(level.name) if level.number is None else level.number
        except ValueError:
            return None
    return found


def _point(x: float, cell: Cell, scale: float) -> Point:
    low, high = (cell.interval.low, cell.interval.high) if cell.interval.known else (cell.mean, cell.mean)
    runs = tuple(scale * score for score in cell.scores)
    return Point(x, scale * cell.mean, scale * low, scale * high, runs, bare=low == high)


def _name(cell: Cell, along: str = "") -> str:
    """The levels of a setting, with their axes where they are numbers, without that of the horizontal axis."""
    levels = {axis: level for axis, level in {**cell.values, **cell.unset}.items() if axis != along}
    return ", ".join(settings.level_name(axis, level) for axis, level in levels.items())


def _place(cell: Cell, axis: str, numbers: Mapping[str, float]) -> float | None:
    """The position of a setting on the horizontal axis; None where this does not apply to it."""
    if axis in cell.values:
        return numbers[cell.values[axis]]
    return number_of(cell.unset[axis]) if axis in cell.unset else None


def _quantity(sweep: Sweep, axis: str) -> str:
    """What an axis of numbers shows, as the report names it: rates of a mixture, λ; else the name of the axis."""
    macros = {text.partition(" = ")[0] for level in sweep.axes[axis] for text in level.bindings}
    macros |= set(sweep.ranges[axis][1].macros) if axis in sweep.ranges else set()
    key = {frozenset(RATES): "rate", frozenset({"LAMBDA"}): "lambda"}.get(frozenset(macros))
    return axis if key is None else quantities.quantity(key).name


def plot(
    sweep: Sweep, found: Sequence[Cell], path: Path, title: str = "", xlabel: str | None = None, failed: int = 0
) -> None:
    """Plots mean and interval along the numeric axis, one line per setting of the other axes; bars without such an axis.

    A setting to which the axis does not apply is a dashed line over its whole length. Intervals are drawn as in a report,
    with an arrow where the picture cuts them; points without one have open marks. Shares are in per cent. A line below
    gives the number of failed runs, if there are any.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    scale, metric = _unit(sweep, found)
    x = numeric_axis(sweep)
    numbers = _numbers(sweep, x) if x is not None else None
    below = [f"not shown: {counted(failed, 'failed run')}"] if failed else []
    figure, axes = plt.subplots(figsize=(6.4, 4.4), layout="constrained")
    if x is None or numbers is None:
        names = [_name(cell) or "all" for cell in found]
        bars = [_point(0, cell, scale) for cell in found]
        errors = [[bar.y - bar.low for bar in bars], [bar.high - bar.y for bar in bars]]
        axes.barh(names, [bar.y for bar in bars], xerr=errors, color="#4477aa")
        for name, bar, cell in zip(names, bars, found):
            if bar.bare:
                axes.annotate(f" {_interval_text(cell)}", (bar.y, name), va="center", fontsize=8)
        axes.set_xlabel(f"test {metric}, {_INTERVAL}")
    else:
        legend = ""
        lines: dict[str, list[tuple[float, Cell]]] = {}
        series: list[Series] = []
        for cell in found:
            others = _name(cell, x) or sweep.metric
            at = _place(cell, x, numbers)
            if at is not None:
                lines.setdefault(others, []).append((at, cell))
            else:
                axes.axhline(scale * cell.mean, color="#777777", linestyle="--", linewidth=1.2, label=others)
        for number, (name, points) in enumerate(lines.items()):
            points.sort(key=lambda point: point[0])
            colour, marker = COLOURS[number % len(COLOURS)], "osD^vP"[number % 6]
            drawn = Series(name, tuple(_point(value, cell, scale) for value, cell in points))
            series.append(drawn)
            xs, means = [p.x for p in drawn.points], [p.y for p in drawn.points]
            size, style = figures.mark_size(number, len(lines)), figures.line_style(number, len(lines))
            axes.plot(xs, means, marker=marker, markersize=size, color=colour, label=name, **style)
            figures.bare_marks(axes, drawn, colour, marker, size)
            for p in drawn.points:
                axes.scatter([p.x] * len(p.runs), p.runs, color=colour, s=9, alpha=0.5, linewidths=0)
        ticks = sorted({value for points in lines.values() for value, _ in points})
        log = len(ticks) > 2 and ticks[0] > 0
        if log:
            axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        levels = tuple((_name(cell), scale * cell.mean) for cell in found if _place(cell, x, numbers) is None)
        chart = Chart(title, x, sweep.metric, tuple(series), log, levels)
        axes.set_ylim(*scales.vertical(chart))
        if series:
            for number, each in enumerate(series):
                figures.intervals(axes, chart, each, COLOURS[number % len(COLOURS)])
            axes.set_xlim(*scales.horizontal(chart))
            barred = any(point.high > point.low for each in series for point in each.points)
            legend = "bars: 95 % interval over seeds" if barred else ""
            below += figures.notes(chart)
        axes.set_xlabel(xlabel or _quantity(sweep, x))
        axes.set_ylabel(f"test {metric}")
        axes.legend(title=legend, framealpha=0.9, edgecolor="none", handlelength=4)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if title:
        axes.set_title(title)
    if below:
        figure.supxlabel("\n".join(below), fontsize=8)
    held = io.BytesIO()
    figure.savefig(held, dpi=150, format="png")
    atomic_files.replace(path, held.getvalue())
    plt.close(figure)


def write_all(sweep: Sweep, title: str = "", xlabel: str | None = None) -> list[Cell]:
    """Writes ``results.csv`` and ``results.png`` into the folder of the sweep, and prints the table."""
    found, failures = cells(sweep), sweep_failures(sweep)
    console = terminal.output()
    if found or failures or any(outcomes.pruned(run) is not None for run in sweep.runs()):
        write_csv(sweep, sweep.directory / "results.csv", failures)
    if not found:
        console.print("no run of this sweep is finished")
        if failures:
            console.print(table(sweep, found, failures))
        return found
    plot(sweep, found, sweep.directory / "results.png", title, xlabel, len(failures))
    console.print(table(sweep, found, failures))
    for line in notes(sweep):
        console.print(f"NOTE {line}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"{sweep.directory / 'results.csv'}  {sweep.directory / 'results.png'}", highlight=False)
    write_report(sweep.directory, title, console)
    return found


def write_report(directory: Path, title: str, console: Console) -> None:
    """Writes ``report.html`` and its twins into the folder of a sweep, each set of test rows separately.

    Where no report can be made, as of runs that an earlier version trained, the reason is printed: the runs are done.
    """
    from distill.experiments.report import analysis, collect, write

    try:
        options = analysis.Options(title=title, data="all")
        written = write.write([directory], directory / "report.html", options, overwrite=True)
    except collect.ReportError as error:
        console.print(f"no report was written: {error}", highlight=False, markup=False)
        return
    console.print("  ".join(map(str, written.files)), highlight=False)
