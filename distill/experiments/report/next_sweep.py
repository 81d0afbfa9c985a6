"""The complete settings of proposed runs, and what trains them: a command for their sweep, or a sweep file."""

import dataclasses
import json
import math
import shlex
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from distill.experiments.report.collect import Unfinished
from distill.experiments.report.next_runs import APART, Knob, NextRun, Proposal, Recipe, knob
from distill.experiments.report.quantities import Line
from distill.experiments.report.settings import ABSENT, RATE, Cell
from distill.experiments.sweep import SEED, SweepError, read_plan, reading
from distill.experiments.sweep.levels import RATES, number_of
from distill.experiments.sweep.runs import Sweep
from distill.inference.own_files import CONFIG


def seeds_of(line: Line) -> int:
    """The number of seeds of a new setting of a line: that of the design of its sweep.

    More seeds of some settings (``more``) do not change it. For runs of no sweep with a known design, it is the largest
    number that at least half of the settings have.
    """
    sweep = _only_sweep(line.cells)
    if sweep is not None:
        return max(1, len(sweep.seeds()))
    return statistics.median_high(len(cell.runs) for cell in line.cells)


def with_recipe(proposal: Proposal, line: Line, best: Cell, to_do: Sequence[Unfinished] = ()) -> Proposal:
    """Returns the proposal with the levels that its runs keep and what trains them, where a setting is known to set λ.

    Axes on which the settings of the line agree keep their level. The others, except the one that sets λ, keep that of the
    best setting. Runs of the sweep that are still to do at a λ are subtracted from those proposed there.

    Args:
      proposal: the runs.
      line: the settings that they extend.
      best: the setting with the best validation score.
      to_do: runs of the sweeps that are still to do.
    """
    found = knob(line)
    if not proposal.runs or found is None:
        return proposal
    there = _at_each(proposal.runs, line, best, found, to_do)
    number = sum(min(run.runs, len(planned)) for run, planned in zip(proposal.runs, there))
    left = [(run, planned) for run, planned in zip(proposal.runs, there) if run.runs > len(planned)]
    runs = tuple(dataclasses.replace(run, runs=run.runs - len(planned)) for run, planned in left)
    proposal = dataclasses.replace(proposal, runs=runs, to_do=number)
    if not runs:
        return proposal
    seeds = [_seeds(line, run, planned) for run, (_, planned) in zip(runs, left)]
    sweep = _only_sweep(line.cells)
    setter = None if sweep is None else _setter(sweep, found.name)
    if sweep is not None and (setter or found.name != RATE):
        axis = setter or found.name
        keep = _keep(sweep, axis, line, best)
        values = [_level(line, run, axis, found.level(run.lam)) for run in proposal.runs]
        points = _points(keep, axis, values, seeds)
        if _accepted(sweep, points):
            recipe = Recipe(keep, _command(sweep, points), remark=_remark(sweep, line.cells))
            return dataclasses.replace(proposal, recipe=recipe)
    return dataclasses.replace(proposal, recipe=_file(proposal, found, best, seeds))


@dataclasses.dataclass(frozen=True)
class SharedSeeds:
    """Seeds that settings need so that each has all of ``number`` seeds.

    Attributes:
      added: of each setting, the seeds to train; none that is trained or still to do.
      to_do: of each setting, the number of these seeds that its sweep still trains.
    """

    added: tuple[tuple[int, ...], ...]
    to_do: tuple[int, ...]


def shared_seeds(cells: Sequence[Cell], number: int, to_do: Sequence[Unfinished] = ()) -> SharedSeeds:
    """The seeds that settings need to share ``number`` of them: first those that most settings have, then new ones.

    Args:
      cells: the settings.
      number: of seeds that all of them are to have.
      to_do: runs of the sweeps that are still to do.
    """
    trained = [_numbers(run.seed for run in cell.runs) for cell in cells]
    planned = [_numbers(each.seed for each in runs_to_do(cell, to_do)) for cell in cells]
    there = [{*own, *later} for own, later in zip(trained, planned)]
    known = sorted(set().union(*there), key=lambda seed: (-sum(seed in own for own in there), seed))
    first = max(known, default=-1) + 1
    wanted = sorted([*known, *range(first, first + number)][:number])
    return SharedSeeds(
        tuple(tuple(seed for seed in wanted if seed not in own) for own in there),
        tuple(sum(seed in wanted and seed not in own for seed in later) for own, later in zip(trained, planned)),
    )


def more_seeds(cells: Sequence[Cell], number: int, to_do: Sequence[Unfinished] = ()) -> Recipe:
    """What trains the seeds of :func:`shared_seeds`: a command for their sweep, or commands for single runs.

    Args:
      cells: the settings; at least one lacks seeds.
      number: seeds that all settings are to have, those that were trained or are still to do included.
      to_do: runs of the sweeps that are still to do.
    """
    sweep = _only_sweep(cells)
    added = shared_seeds(cells, number, to_do).added
    if sweep is not None:
        points = []
        for cell, each in ((cell, each) for cell, each in zip(cells, added) if each):
            levels = {axis: _value(level) for axis, level in cell.values.items() if level != ABSENT and axis != SEED}
            points.append({**levels, SEED: list(each)})
        if _accepted(sweep, points):
            return Recipe({}, _command(sweep, points), remark=_remark(sweep, cells))
    return Recipe({}, commands="\n".join(_training(cell, each) for cell, each in zip(cells, added) if each))


def _training(cell: Cell, seeds: Sequence[int]) -> str:
    """The command that trains more seeds of a setting as runs of no sweep, which a report pools with the others."""
    run = cell.runs[0]
    directory = run.directory if run.sweep is None else Path(f"{run.sweep}_next") / run.name
    return (
        f"for seed in {' '.join(map(str, seeds))}; do distill train --gin_file={shlex.quote(str(run.directory / CONFIG))} "
        f"--gin.RANDOM_SEED=$seed --gin.MODEL_DIR={shlex.quote(str(directory))}-seed-$seed; done"
    )


def runs_to_do(cell: Cell, to_do: Sequence[Unfinished]) -> list[Unfinished]:
    """The runs of a setting that are still to do."""
    known = [(run.sweep, _without_seed(run.axes)) for run in cell.runs if run.sweep is not None]
    return [each for each in to_do if (each.sweep, _without_seed(each.axes)) in known]


def _without_seed(axes: Mapping[str, str]) -> dict[str, str]:
    return {axis: level for axis, level in axes.items() if axis != SEED}


def _at_each(
    runs: Sequence[NextRun], line: Line, best: Cell, found: Knob, to_do: Sequence[Unfinished]
) -> list[list[Unfinished]]:
    """For each proposed run, those still to do at its λ, or less than 10 % from it, with the levels that it keeps."""
    out: list[list[Unfinished]] = [[] for _ in runs]
    sweeps = {directory: _sweep(directory) for directory in {each.sweep for each in to_do}}
    for each in to_do:
        sweep = sweeps[each.sweep]
        lam = math.nan if sweep is None else _lam(each, sweep, line, best, found)
        apart = [abs(math.log(run.lam / lam)) for run in runs] if lam > 0 else [math.inf]
        if min(apart) < math.log(APART):
            out[apart.index(min(apart))].append(each)
    return out


def _lam(each: Unfinished, sweep: Sweep, line: Line, best: Cell, found: Knob) -> float:
    """The effective λ of a run that is still to do; nan if it is not on the line."""
    axis = _setter(sweep, found.name) or found.name
    others = {name: level for name, level in each.axes.items() if name not in (axis, SEED)}
    if others != _keep(sweep, axis, line, best):
        return math.nan
    trained = [value for cell, value in zip(line.cells, line.values) if runs_to_do(cell, [each])]
    levels = [level for level in sweep.all_axes().get(axis, ()) if level.name == each.axes.get(axis)]
    if trained or not levels:
        return trained[0] if trained else math.nan
    values = dict(text.split(" = ", 1) for text in levels[0].bindings)
    macros = RATES if found.name == RATE else (found.name,)
    numbers = [number for name in macros if (number := number_of(values.get(name, ""))) is not None and number > 0]
    if len(numbers) < len(macros):
        return math.nan
    return found.lam(numbers[0] / numbers[1] if found.name == RATE else numbers[0])


def _keep(sweep: Sweep, axis: str, line: Line, best: Cell) -> dict[str, str]:
    """The levels that runs keep which extend a line along an axis of a sweep."""
    kept = {name: _kept(line, best, name) for name in sweep.axes if name not in (axis, SEED)}
    return {name: level for name, level in kept.items() if level != ABSENT}


def _numbers(seeds: Iterable[str]) -> list[int]:
    return sorted({int(seed) for seed in seeds if seed.lstrip("-").isdigit()})


def _command(sweep: Sweep, points: Sequence[Mapping[str, Any]]) -> str:
    more = json.dumps(points[0] if len(points) == 1 else points, ensure_ascii=False)
    return f"distill sweep {shlex.quote(str(sweep.directory))} --more={shlex.quote(more)}"


def _remark(sweep: Sweep, cells: Sequence[Cell]) -> str:
    """What the seeds of new runs are, where those of the sweep are no axis: the report takes them for the same settings."""
    if SEED in sweep.all_axes():
        return ""
    seeds = sorted({run.seed for cell in cells for run in cell.runs}, key=lambda seed: (len(seed), seed))
    return (
        f"The sweep has no axis {SEED}: its runs have the seed {' or '.join(seeds)}, and the command names the seeds of "
        "the new runs. The report takes runs that differ in the seed alone for one setting."
    )


def _only_sweep(cells: Sequence[Cell]) -> Sweep | None:
    """The sweep of all runs of some settings; None if they are of several, or of none with a known design."""
    directories = {run.sweep for cell in cells for run in cell.runs}
    return _sweep(next(iter(directories))) if len(directories) == 1 else None


def _sweep(directory: Path | None) -> Sweep | None:
    """The sweep of a directory; None for runs without one, for a search, and for a plan that was made in Python."""
    if directory is None:
        return None
    plan = read_plan(directory)
    if plan.source is None:
        return None
    sweep = reading.from_document(plan.source, {}, directory, directory)
    return sweep if sweep.search is None else None


def _accepted(sweep: Sweep, points: Sequence[Mapping[str, Any]]) -> bool:
    source = {**(sweep.source or {}), "more": [*(sweep.source or {}).get("more", []), *points]}
    try:
        reading.from_document(source, {}, sweep.directory, sweep.directory)
    except SweepError:  # its levels set more than the rates or λ, so no value between them is known
        return False
    return True


def _setter(sweep: Sweep, name: str) -> str | None:
    """The axis that sets the rates or ``LAMBDA``, and nothing else."""
    wanted = set(RATES) if name == RATE else {name}
    for axis, levels in sweep.axes.items():
        macros = [{text.partition(" = ")[0] for text in level.bindings} for level in levels]
        if macros and all(each == wanted for each in macros) and not any(level.gin_files for level in levels):
            return axis
    return None


def _kept(line: Line, best: Cell, axis: str) -> str:
    levels = {cell.values.get(axis, ABSENT) for cell in line.cells}
    return levels.pop() if len(levels) == 1 else best.values.get(axis, ABSENT)


def _level(line: Line, run: NextRun, axis: str, level: str) -> Any:
    """The level of the axis at a run's λ: the trained one, where only seeds are added."""
    if run.trained:
        nearest = min(zip(line.cells, line.values), key=lambda pair: abs(math.log(pair[1] / run.lam)))[0]
        level = nearest.values.get(axis, level)
    return _value(level)


def _value(level: str) -> Any:
    """A level as in a sweep file: a number where its name is one."""
    return level if ":" in level else json.loads(level) if _is_number(level) else level


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(json.loads(text)))
    except (ValueError, TypeError):
        return False


def _seeds(line: Line, run: NextRun, planned: Sequence[Unfinished]) -> list[int]:
    """The seeds of a run: those of the settings, or new ones where its λ is trained already; none of ``planned``."""
    known, taken = _numbers(r.seed for cell in line.cells for r in cell.runs), _numbers(each.seed for each in planned)
    first = max((*known, *taken), default=-1) + 1
    if run.trained:
        return list(range(first, first + run.runs))
    free = [seed for seed in known if seed not in taken]
    return [*free, *range(first, first + run.runs)][: run.runs]


def _points(
    keep: Mapping[str, str], axis: str, values: Sequence[Any], seeds: Sequence[list[int]]
) -> list[dict[str, Any]]:
    """Points of a sweep; one of a setting without a level of the axis, to which ``more`` added it, has none either."""
    without = [value == ABSENT for value in values]
    own = [(value, each) for value, each, absent in zip(values, seeds, without) if not absent]
    out = [{**keep, axis: levels, SEED: each} for levels, each in _grouped(*map(list, zip(*own)))] if own else []
    return out + [{**keep, SEED: each} for each, absent in zip(seeds, without) if absent]


def _grouped(values: Sequence[Any], seeds: Sequence[list[int]]) -> list[tuple[list[Any], list[int]]]:
    """Values with the same seeds together."""
    out: list[tuple[list[Any], list[int]]] = []
    for value, each in zip(values, seeds):
        same = next((found for found in out if found[1] == each), None)
        if same is None:
            out.append(([value], each))
        elif value not in same[0]:
            same[0].append(value)
    return out


def _file(proposal: Proposal, found: Knob, best: Cell, seeds: Sequence[list[int]]) -> Recipe:
    """A sweep file that starts from the configuration of the best setting's first run."""
    run, name = best.runs[0], found.name
    changed = {SEED, "rates", RATE} if name == RATE else {SEED, name}
    keep = {axis: level for axis, level in best.values.items() if level != ABSENT and axis not in changed}
    levels = [found.level(each.lam) for each in proposal.runs]
    axis, values = ("rates", levels) if name == RATE else (name, list(map(json.loads, levels)))
    # The grid trains all its levels with the same seeds. ``more`` adds levels of which other seeds are trained already.
    (first, of_first), *rest = _grouped(values, seeds)
    content = {
        "directory": f"{run.sweep or run.directory}_next",
        "gin_files": [str(run.directory / CONFIG)],
        "axes": {axis: {"ratio": first} if name == RATE else first, SEED: of_first},
    }
    more = [{axis: others, SEED: each} for others, each in rest]
    return Recipe(keep, "", _yaml({**content, **({"more": more} if more else {})}))


def _yaml(content: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(content), default_flow_style=None, sort_keys=False, allow_unicode=True, width=1000)
