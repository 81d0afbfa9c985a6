"""Groups runs: by the data that they were scored on, then by setting (runs that differ only in their seed)."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from distill.counting import counted, form, joined
from distill.experiments.report.collect import Collection, ReportError, Run, Unfinished
from distill.experiments.report.text import one_line
from distill.experiments.sweep import SEED
from distill.experiments.sweep.levels import RATES, number_of

RATE = "LABEL_RATE:RATIONALE_RATE"
METHODS = ("method", "FORM")
ABSENT = "–"
"""The level of a run on an axis that does not apply to it."""
# Macros that name an axis best, in this order, when several change together.
_FIRST = ("FORM", "NORMALIZER", "LAMBDA", RATE, "SUBSAMPLE", "TRAIN_ROWS", "LABEL_SOURCE")
TRAIN_DATA = "training rows"
TEST_DATA = "test rows"
_MOST_NAMES = 2
# Macros on which the rows of a run, and their texts and tokens, do not depend.
_OF_ANY_ROWS = frozenset({
    "ALPHA", "ATTENTION", "BATCH_SIZE", "CHECKPOINT_PERIOD", "DROPOUT_RATE", "DTYPE", "EMA_DECAY", "EVAL_FORM",
    "EVAL_PERIOD", "FORM", "LABEL_RATE", "LABEL_SMOOTHING", "LAMBDA", "LAMBDA_END", "LAMBDA_START", "LEARNING_RATE",
    "LORA_ALPHA", "LORA_RANK", "LOSS", "MODEL", "MUTUAL_INFORMATION", "NORMALIZER", "NUM_MICROBATCHES", "OPTIMIZER",
    "PATIENCE", "RATIONALE_RATE", "TRAIN_STEPS", "WARMUP_STEPS", "Z_LOSS",
})  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class Cell:
    """A setting: runs that differ only in their seed.

    Attributes:
      values: axis → level.
      runs: ordered by seed.
      label: the levels of the axes that vary.
    """

    values: Mapping[str, str]
    runs: tuple[Run, ...]
    label: str

    def scores(self, metric: str, split: str = "test") -> list[float]:
        """The metric, per seed."""
        return [run.score(metric, split) for run in self.runs]

    def training(self, name: str) -> float:
        """Mean over seeds of a number of the record's section ``training``."""
        return sum(run.training(name) for run in self.runs) / len(self.runs)

    def macro(self, name: str) -> Any:
        """A macro of its configuration, or None."""
        return self.runs[0].record["configuration"].get(name)

    @property
    def seeds(self) -> list[str]:
        """The seeds, with a number after those that occur more than once."""
        seen: dict[str, int] = {}
        out = []
        for run in self.runs:
            seen[run.seed] = seen.get(run.seed, 0) + 1
            out.append(run.seed if seen[run.seed] == 1 else f"{run.seed} ({seen[run.seed]})")
        return out


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
    """Settings that were scored on the same test rows. Nothing is compared or pooled across parts.

    Attributes:
      fingerprint: of the test rows; several where each seed of a sweep has its data.
      cells: the settings.
      axes: axes that vary → levels in their order.
      crossed: whether all seeds were scored on the same rows; else only runs of the same seed were.
      rows: test rows of a run.
      before: runs of at most one update, which score the students before distillation; they are no setting.
      to_do: runs of its sweeps that are still to do.
    """

    fingerprint: str
    cells: tuple[Cell, ...]
    axes: Mapping[str, tuple[str, ...]]
    crossed: bool
    rows: int
    before: tuple[Run, ...] = ()
    to_do: tuple[Unfinished, ...] = ()

    @property
    def runs(self) -> list[Run]:
        """All runs."""
        return [run for cell in self.cells for run in cell.runs]

    @property
    def data_name(self) -> str:
        """Its test rows in words, with the beginning of their fingerprint."""
        return named(self.runs, self.fingerprint)

    def method_axis(self) -> str | None:
        """The axis that names methods, if there is one."""
        return next((axis for axis in METHODS if axis in self.axes), None)


def parts(collection: Collection, data: str = "") -> list[Part]:
    """Divides the runs by the fingerprint of their test rows.

    Args:
      collection: the runs.
      data: ``all``, or the beginning of a fingerprint; empty: the runs must have the same data.

    Raises:
      ReportError: the runs have several sets of test rows and ``data`` selects none; or none has this fingerprint.
    """
    groups: dict[str, list[Run]] = {}
    per_seed: set[str] = set()
    for sweep in {run.sweep: None for run in collection.runs}:
        for key, runs, by_seed in by_data([run for run in collection.runs if run.sweep == sweep], sweep is not None):
            groups.setdefault(key, []).extend(runs)
            per_seed |= {key} if by_seed else set()
    if data and data != "all":
        groups = {key: runs for key, runs in groups.items() if any(part.startswith(data) for part in key.split("+"))}
        if not groups:
            raise ReportError(
                f"no run has test rows with a fingerprint that begins with {data!r}; see {_found(collection)}"
            )
    if len(groups) > 1 and data != "all":
        listed = "; ".join(
            f"{named(runs, key)} ({counted(len(runs))}, e.g. {runs[0].name})" for key, runs in groups.items()
        )
        raise ReportError(
            f"the runs were scored on {len(groups)} different sets of test rows, which are never pooled: {listed}; "
            "--data=FINGERPRINT reports on one of them, --data=all on each of them separately"
        )
    out = []
    for key, runs in groups.items():
        trained = [run for run in runs if run.training("steps") > 1]
        kept = trained or runs
        part = _part(key, kept, key not in per_seed, tuple(run for run in runs if run not in kept))
        sweeps = {run.sweep for run in runs if run.sweep is not None}
        to_do = tuple(each for each in collection.unfinished if each.to_do and each.sweep in sweeps)
        out.append(dataclasses.replace(part, to_do=to_do))
    return out


def named(runs: Sequence[Run], fingerprint: str) -> str:
    """Test rows in words: the name of their data set or their files, if there is one, and the fingerprint's beginning."""
    names = list(dict.fromkeys(name for run in runs if (name := run.data_name())))
    text = " or ".join(one_line(name, 60) for name in names[:_MOST_NAMES]) + " …" * (len(names) > _MOST_NAMES)
    return f"{text} {fingerprint[:12]}".strip()


def _found(collection: Collection) -> str:
    return ", ".join(sorted({str(run.fingerprint("test"))[:12] for run in collection.runs}))


def by_data(runs: Sequence[Run], of_sweep: bool) -> list[tuple[str, list[Run], bool]]:
    """Returns fingerprint, runs, and whether each seed has its data.

    In a sweep whose every seed draws its data, the fingerprint is a function of the seed. Its runs form one group in which
    only runs of the same seed are compared row by row. Runs that were not planned together are not grouped this way.
    """
    by_key: dict[str, list[Run]] = {}
    by_seed: dict[str, set[str]] = {}
    for run in runs:
        key = str(run.fingerprint("test"))
        by_key.setdefault(key, []).append(run)
        by_seed.setdefault(run.seed, set()).add(key)
    if (
        of_sweep
        and len(by_key) > 1
        and len(by_key) == len(by_seed)
        and all(len(keys) == 1 for keys in by_seed.values())
    ):
        return [("+".join(sorted(by_key)), list(runs), True)]
    return [(key, found, False) for key, found in by_key.items()]


def keys(runs: Sequence[Run]) -> list[tuple[tuple[str, str], ...]]:
    """Returns the setting of each run: its levels without the seed, and what else distinguishes it from other runs."""
    names = list(dict.fromkeys(axis for run in runs for axis in run.axes if axis != SEED))
    macros = [_macros(run) for run in runs]
    found = [tuple((axis, _level(run, own, axis)) for axis in names) for run, own in zip(runs, macros)]
    # Runs that no axis of a sweep distinguishes are split by the macros in which they differ.
    every = {name for own in macros for name in own}
    order = {name: _FIRST.index(name) if name in _FIRST else len(_FIRST) + ("." in name) for name in every}
    for macro in sorted(every, key=lambda name: (order[name], name)):
        values = [plain(own.get(macro)) for own in macros]
        if macro not in names and _splits(found, values):
            found = [(*key, (macro, value)) for key, value in zip(found, values)]
    data = [str(run.fingerprint("train"))[:8] for run in runs]
    if _other_data(found, data, runs):
        found = [(*key, (TRAIN_DATA, value)) for key, value in zip(found, data)]
    return found


def other_rows(labelled: Mapping[str, Sequence[Run]], split: str) -> list[str]:
    """A line on settings that read other rows than the rest, although their configurations give the same ones.

    Their files were edited between the runs. Rows that the seed draws are compared within a seed.

    Args:
      labelled: name of a setting → its runs.
      split: ``train`` or ``test``.
    """
    groups: dict[str, dict[str | None, list[str]]] = {}
    for label, runs in labelled.items():
        for run in runs:
            own = {name: value for name, value in run.configuration.items() if name not in _OF_ANY_ROWS}
            found = groups.setdefault(json.dumps([run.seed, own], sort_keys=True, default=str), {})
            found.setdefault(run.fingerprint(split), []).append(label)
    most: dict[str, None] = {}
    others: dict[str, None] = {}
    for found in groups.values():
        if len(found) > 1:
            ranked = sorted(found.values(), key=len, reverse=True)
            most |= dict.fromkeys(ranked[0])
            others |= dict.fromkeys(label for labels in ranked[1:] for label in labels)
    if not others:
        return []
    listed, than = (joined([one_line(label) for label in labels]) for labels in (others, most))
    was, verb = form(len(others), "was", "were"), "trained" if split == "train" else "scored"
    return [
        f"{listed} {was} {verb} on other rows than {than}: the files have changed between these runs, so "
        "their scores differ for another reason than the settings."
    ]


def seen_range(runs: Sequence[Run]) -> str:
    """How many test rows of a run have the input of a training row, ``3`` or ``0 to 3``; empty if it is not known."""
    numbers = sorted({run.seen for run in runs if run.seen is not None})
    return " to ".join(f"{number:,}" for number in dict.fromkeys((*numbers[:1], *numbers[-1:])))


def any_seen(runs: Sequence[Run]) -> bool:
    """Whether a run has test rows with the input of a training row."""
    return any(run.seen for run in runs)


def seen_sentence(runs: Sequence[Run]) -> list[str]:
    """A sentence on test rows that have the input of a training row; none if no run has any."""
    if not any_seen(runs):
        return []
    most = max(run.seen or 0 for run in runs)
    rows = max(int(run.record["data"]["test"]["rows"]) for run in runs if run.seen)
    differ = ", depending on the run" if any((run.seen or 0) != most for run in runs) else ""
    return [
        f"{seen_range(runs)} of {counted(rows, 'test row')} {form(most, 'has', 'have')} the input of a training "
        f"row{differ}: the scores are not those of unseen rows."
    ]


def _part(fingerprint: str, runs: Sequence[Run], crossed: bool, before: tuple[Run, ...]) -> Part:
    grouped: dict[tuple[tuple[str, str], ...], list[Run]] = {}
    for key, run in zip(keys(runs), runs):
        grouped.setdefault(key, []).append(run)
    axes: dict[str, dict[str, None]] = {}
    for key in grouped:
        for axis, level in key:
            axes.setdefault(axis, {})[level] = None
    vary = {axis: tuple(sorted(levels, key=_level_order(levels))) for axis, levels in axes.items() if len(levels) > 1}
    cells = []
    for key, found in grouped.items():
        label = (
            ", ".join(level_name(axis, level) for axis, level in key if axis in vary and level != ABSENT) or "all runs"
        )
        ordered = tuple(sorted(found, key=lambda run: (len(run.seed), run.seed, run.name)))
        cells.append(Cell(dict(key), ordered, label))
    cells.sort(key=lambda cell: [vary[axis].index(cell.values[axis]) for axis in vary if axis in cell.values])
    entry = runs[0].record["data"].get("test") or {}
    return Part(fingerprint, tuple(cells), vary, crossed, int(entry.get("rows", 0)), before)


def _level(run: Run, own: Mapping[str, Any], axis: str) -> str:
    """A run's level of an axis: its sweep's, else the macro of this name; ``ABSENT`` where the axis does not apply."""
    if axis in run.axes:
        return run.axes[axis]
    value = None if run.axes else own.get(axis)
    return ABSENT if value is None else plain(value)


def _macros(run: Run) -> dict[str, Any]:
    """The configuration, with the two rates of a mixture as one ratio."""
    own = run.configuration
    for name in RATES:
        own.pop(name, None)
    if run.rates is not None:
        own[RATE] = ratio(run.rates)
    return own


def ratio(rates: tuple[float, float]) -> str:
    """The rates of a mixture as in a sweep file, such as ``4:1``."""
    return f"{rates[0]:g}:{rates[1]:g}"


def _splits(keys: Sequence[Any], values: Sequence[str]) -> bool:
    seen: dict[Any, str] = {}
    return any(seen.setdefault(key, value) != value for key, value in zip(keys, values))


def _other_data(keys: Sequence[Any], data: Sequence[str], runs: Sequence[Run]) -> bool:
    """Whether runs of one setting were trained on different rows, other than a sweep's seeds drawing theirs."""
    grouped: dict[Any, list[tuple[str, str, bool]]] = {}
    for key, value, run in zip(keys, data, runs):
        grouped.setdefault(key, []).append((run.seed, value, run.sweep is not None))
    for found in grouped.values():
        rows, seeds = {value for _, value, _ in found}, {seed for seed, _, _ in found}
        drawn_by_seed = all(planned for *_, planned in found) and len({(s, v) for s, v, _ in found}) == len(seeds)
        if len(rows) > 1 and not (drawn_by_seed and len(rows) == len(seeds)):
            return True
    return False


def plain(value: Any) -> str:
    """The value of a macro as text."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)


def level_name(axis: str, level: str) -> str:
    """``standard`` for a method, ``LAMBDA 0.5`` for a level that its axis has to explain."""
    explained = number_of(level) is not None or level in ("true", "false") or axis == TRAIN_DATA
    return f"{axis} {level}" if explained and axis not in METHODS else level


def optional(points: Sequence[Mapping[str, str]], axis: str) -> bool:
    """Whether points with and without a level of an axis are otherwise alike, as where ``more`` adds an axis to a sweep."""

    def others(point: Mapping[str, str]) -> frozenset[tuple[str, str]]:
        return frozenset((name, level) for name, level in point.items() if name != axis and level != ABSENT)

    without = {others(point) for point in points if point.get(axis, ABSENT) == ABSENT}
    return any(point.get(axis, ABSENT) != ABSENT and others(point) in without for point in points)


def unset_level(run: Run, axis: str) -> str:
    """What a run has on an axis that its point does not set: the macro of this name; ``ABSENT`` if nothing says it."""
    value = run.weight if axis == "LAMBDA" else run.configuration.get(axis)
    known = value is not None and not (isinstance(value, float) and math.isnan(value))
    return (f"{value:g}" if isinstance(value, float) else plain(value)) if known else ABSENT


def _level_order(levels: Mapping[str, None]) -> Any:
    numbers = {level: number_of(level) for level in levels if level != ABSENT}
    if all(number is not None for number in numbers.values()):
        return lambda level: (level == ABSENT, numbers.get(level, 0.0))
    order = list(levels)
    return order.index
