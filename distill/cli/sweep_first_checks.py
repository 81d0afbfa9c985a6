"""Mistakes of a sweep that are found in seconds: before TensorFlow and JAX are imported."""

import argparse
import dataclasses
import json
import os
import re
from typing import TYPE_CHECKING

from distill.cli import runs as command_runs
from distill.cli import sweep_files

if TYPE_CHECKING:
    from distill.api.statements import Scan
    from distill.experiments.sweep import Run, Sweep
    from distill.experiments.sweep.remarks import Setting

_PLACE = "the sweep's bindings"


def check(sweep: "Sweep", options: argparse.Namespace) -> None:
    """Checks the directory of a sweep, the configuration and the files of each run, and that each axis changes something.

    The checks of a configuration are those of ``distill train`` (:mod:`distill.api.first_checks`).

    Raises:
      SweepError: the directory holds another sweep, runs cannot be trained, bindings set what the sweep itself sets, or an
        axis changes nothing. It names the file, the line and the axis that sets the value.
    """
    from distill.experiments.sweep import SweepError, plan, planning, remarks
    from distill.inference import own_files

    if not (options.dry_run and sweep.directory.exists()):
        own_files.check_can_be_made("directory", sweep.directory)
    runs, places = _runs(sweep), _Places(sweep, options)
    for run in runs:
        _refuse_set_by_sweep(sweep, run, places)
    scans: dict[str, Scan] = {}
    known: dict[str, Scan] = {}  # runs that differ in the seed alone have one configuration
    failed: dict[str, Exception] = {}
    seeds: set[str] = set()

    def one(run: "Run") -> None:
        key, seed = _identity(run), run.values.get("RANDOM_SEED", "")
        if key in failed:
            raise failed[key]
        if key not in known or seed not in seeds:
            try:
                known[key] = _checked(run, sweep, options, places)
            except (ValueError, OSError) as error:
                failed[key] = error
                raise
            seeds.add(seed)
        scans[run.name] = known[key]

    try:
        planning.check_all(runs, one)
    except SweepError as error:
        before = plan.folder(sweep.directory)
        if before in (None, os.getcwd()):
            raise
        raise SweepError(
            f"{error}; {sweep.directory} was planned in {before}, where its relative paths begin"
        ) from None
    planning.refuse_other_sweep(sweep)  # after the checks: a misspelt name is another configuration, too
    settings = {name: found for name, scan in scans.items() if (found := _setting(scan)) is not None}
    if len(settings) == len(runs) and not options.run and options.index is None:
        if not sweep.budgets:  # their steps are not known yet
            named = {run.name: _identity(run) for run in runs}
            settings = {name: dataclasses.replace(one, configuration=named[name]) for name, one in settings.items()}
        remarks.refuse_idle_axes(sweep, runs, settings, places.of_axis)


def _refuse_set_by_sweep(sweep: "Sweep", run: "Run", places: "_Places") -> None:
    """Raises SweepError if bindings of a run set what the sweep itself sets."""
    from distill.experiments.sweep import SweepError

    start = sweep.start_run()
    own = {"MODEL_DIR": "each run has a folder of the sweep's directory, which 'directory' or --directory=DIR names"}
    if start is not None and run != start:
        own["INITIAL_CHECKPOINT_PATH"] = "the runs start from that of 'start'; to start from another, delete 'start'"
    if sweep.vocabulary():
        own["VOCABULARY_PATH"] = "'start' writes and sets the demo's vocabulary; to use another, delete 'start'"
    given = [re.split(r"\s*=", text, maxsplit=1)[0] for text in run.bindings]
    for macro, why in own.items():
        argument = f"train.{macro.lower()}"
        names = [name for name in given if name == argument or name.endswith(f".{argument}")]
        names += [macro] if given.count(macro) > 1 else []  # one is the sweep's
        if names:
            raise SweepError(
                places.named(run, f"{names[0]} (set in {_PLACE}) cannot be set: {why}. Delete this setting")
            )


def _runs(sweep: "Sweep") -> list["Run"]:
    """The runs to check: all of a design, or those with every level and every end of a range of a search."""
    if sweep.search is None:
        return [*filter(None, [sweep.start_run()]), *sweep.runs()]
    from distill.experiments.sweep import search

    return search.probes(sweep)


def _checked(run: "Run", sweep: "Sweep", options: argparse.Namespace, places: "_Places") -> "Scan":
    """The statements of a run. Raises ValueError or OSError if it cannot be trained."""
    from distill.api import first_checks
    from distill.api.gin_files import ConfigurationError

    start, bindings = sweep.start_run(), run.bindings
    if start is not None and not start.done:  # the sweep trains it first
        bindings = tuple(text for text in bindings if text != f"INITIAL_CHECKPOINT_PATH = {str(start.directory)!r}")
    bindings = tuple("VOCABULARY_PATH = 'bytes'" if text in sweep.vocabulary() else text for text in bindings)
    try:
        return first_checks.check(
            run.gin_files, bindings, command_runs.search_paths(options), trains=not run.done, place=_PLACE
        )
    except ConfigurationError as error:
        raise ConfigurationError(places.named(run, str(error))) from None


def _identity(run: "Run") -> str:
    """A text that runs with the same files and bindings share, seed and directory excepted."""
    files, bindings = run.configuration()
    last = dict(text.split(" = ", 1) for text in bindings if " = " in text)
    return json.dumps((files, {name: last[name] for name in sorted(last) if name != "RANDOM_SEED"}))


def _setting(scan: "Scan") -> "Setting | None":
    """What decides whether rates and λ matter, as far as the statements give it; None if they do not."""
    from distill.experiments.sweep.remarks import Setting

    name, form = (scan.values.get(macro) for macro in ("MIXTURE_OR_TASK_NAME", "FORM"))
    task = name if isinstance(name, str) else f"FORM={form}" if isinstance(form, str) else None
    return None if task is None else Setting(task, str(scan.values.get("NORMALIZER", "")))


class _Places:
    """Where the values of a sweep's runs are set, in the words of a message."""

    def __init__(self, sweep: "Sweep", options: argparse.Namespace):
        self._sweep = sweep
        self._path, self._lines = sweep_files.lines_of(options)

    def of_axis(self, axis: str) -> str:
        """An axis with its file and line."""
        return f"axis {axis!r} of {self._at('axes', axis)}"

    def named(self, run: "Run", text: str) -> str:
        """An error about a run's configuration, with the axis or the key of the file that sets each value it names."""

        def place(found: re.Match[str]) -> str:
            return f"{found[1]} (set in {self._of(run, found[1])})"

        return re.sub(rf"([^\s(]+) \(set in {re.escape(_PLACE)}\)", place, text)

    def _of(self, run: "Run", name: str) -> str:
        for axis, level in reversed(list(run.values.items())):
            macros, key = self._level(axis, level)
            if name in macros:
                if key and (*key, "bindings", name) in self._lines:
                    return f"level {level!r} of axis {axis!r} of {self._at(*key, 'bindings', name)}"
                return self.of_axis(axis) if ("axes", axis) in self._lines or axis in self._sweep.axes else "'more'"
        if name in {text.partition(" = ")[0] for text in self._sweep.added}:
            return "the command line"
        for key in (("start", "bindings", name), ("bindings", name)):
            if key in self._lines and (key[0] == "start") == (not run.values and run == self._sweep.start_run()):
                return f"'{key[0]}' of {self._at(*key)}"
        return _PLACE

    def _level(self, axis: str, name: str) -> tuple[set[str], tuple[str, ...]]:
        """The macros that a level sets, and where the file describes it."""
        found = [level for level in self._sweep.all_axes().get(axis, ()) if level.name == name]
        macros = {text.partition(" = ")[0] for level in found for text in level.bindings}
        if axis in self._sweep.ranges:
            macros |= set(self._sweep.ranges[axis][1].macros)
        keys = (("axes", axis, name), ("axes", axis, "levels", name))
        return macros, next((key for key in keys if key in self._lines), ())

    def _at(self, *key: str) -> str:
        line = self._lines.get(key)
        return str(self._path) if line is None else f"{self._path}:{line}"
