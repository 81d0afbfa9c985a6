"""Whether a directory holds the runs of this sweep: with other axes or another configuration they would not compare."""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from distill.counting import counted
from distill.experiments.sweep import leases
from distill.experiments.sweep.budgets import STEPS
from distill.experiments.sweep.levels import SweepError
from distill.experiments.sweep.runs import START, Run, Sweep
from distill.inference.own_files import CONFIG, RESULT

_OWN = re.compile(rf"^(INITIAL_CHECKPOINT_PATH|VOCABULARY_PATH) = '[^']*/({START}|vocabulary\.model)'$")
_WHOLE = re.compile(r"^([\w./]+ = -?\d+)\.0$")
_SOURCE = ("gin_files", "bindings", "start")
_REMEDY = "give another directory with --directory=DIR, or delete this one if its runs are not needed"
_UNSET = object()
_Configuration = tuple[list[str], list[str]]


def known(there: Mapping[str, Any]) -> dict[str, Any]:
    """The runs of a plan and those that were dropped from it, whose folders are kept: name → entry."""
    return {**there.get("dropped", {}), **there.get("runs", {})}


def changed(sweep: Sweep, runs: Sequence[Run], there: Mapping[str, Any], *, steps: bool = True) -> list[Run]:
    """Returns the runs that the plan of the directory has, or has dropped, with other files or bindings.

    Args:
      sweep: the sweep.
      runs: its runs.
      there: the contents of ``sweep.json``, of this or the older format; empty without a plan.
      steps: False does not compare ``TRAIN_STEPS`` of a sweep with budgets: its runs are not resolved yet.
    """
    before = known(there)
    return [run for run in runs if run.name in before and _pair(sweep, run, before[run.name], steps)[2]]


def differences(sweep: Sweep, runs: Sequence[Run], there: Mapping[str, Any]) -> list[str]:
    """Returns how the runs of a sweep differ from those of the plan of its directory, in words; none if they do not.

    Args:
      sweep, there: as for :func:`changed`.
      runs: its runs; of a search none, which is compared by its file.
    """
    if sweep.search is not None:
        what = _other_source(sweep, there, ("axes", *_SOURCE))
        return [what] if what else []
    before, now = there.get("runs", {}), {run.name for run in runs}
    found = (
        ("only in this file", [run.name for run in runs if run.name not in before]),
        ("only in the directory", [name for name in before if name not in now]),
        ("with another configuration", [run.name for run in changed(sweep, runs, there, steps=False)]),
    )
    return [
        f"{counted(len(names), 'run')} {what} ({names[0]}{', …' * (len(names) > 1)})" for what, names in found if names
    ]


def refuse(
    sweep: Sweep, runs: Sequence[Run], there: Mapping[str, Any], failed: Collection[str], *, steps: bool = True
) -> None:
    """Refuses a directory that holds runs of another sweep, once one of them has begun.

    Runs that have not begun, such as those whose folders were deleted, may have another configuration.

    Args:
      sweep, runs, there, steps: as for :func:`changed`.
      failed: names of runs that failed; they may have another configuration, and start again.

    Raises:
      SweepError: a run or the common start that has begun has another configuration; or this sweep has none of the
        directory's runs, one of them has begun, and the axes or what all runs share differ. It names what differs first.
    """
    if sweep.search is not None or _is_search(there):
        _refuse_other_search(sweep, there)
        return
    _refuse_other_start(sweep, there)
    before = known(there)
    begun = [name for name in before if has_begun(sweep.directory / name) and name not in failed]
    held = leases.is_any_run_held(sweep.directory)
    if not begun and not held:
        return  # the file was mended before anything was trained
    refused = [run for run in changed(sweep, runs, there, steps=steps) if run.name not in failed]
    refused.sort(key=lambda run: not has_begun(run.directory))
    if refused and (held or has_begun(refused[0].directory)):  # a worker may be about to begin any run of the plan
        first, others = refused[0], _others(len(refused) - 1)
        what = _difference(*_pair(sweep, first, before[first.name], steps)[:2])
        rename = ""
        if len(refused) < len(runs):
            rename = "give the changed level another name, delete the folders of its runs to train them again, or "
        raise SweepError(
            f"{sweep.directory} holds runs of another configuration: {first.name} {what}{others}; {rename}{_REMEDY}"
        )
    if begun and not {run.name for run in runs} & set(before):
        what = _other_axes(sweep, there) or _other_source(sweep, there)
        if what:
            number = counted(len(begun), "run")
            raise SweepError(
                f"{sweep.directory} holds {number} of another sweep, such as {begun[0]}: {what}; {_REMEDY}"
            )


def refuse_trained_otherwise(sweep: Sweep, found: Mapping[str, str]) -> None:
    """Refuses a directory with runs whose files in their folders have another configuration than this sweep.

    Args:
      sweep: the sweep.
      found: name of such a run → what differs, as the end of a sentence.

    Raises:
      SweepError: there is one; it names what differs in the first.
    """
    if found:
        name, what = next(iter(found.items()))
        raise SweepError(
            f"{sweep.directory} holds runs of another configuration: {name} {what}{_others(len(found) - 1)}; a gin file "
            f"may have been edited since: undo that, or {_REMEDY}"
        )


def _others(number: int) -> str:
    return f" ({counted(number, 'other run')} {'differs' if number == 1 else 'differ'}, too)" if number else ""


def _refuse_other_start(sweep: Sweep, there: Mapping[str, Any]) -> None:
    """Raises SweepError if the run that all start from has begun with another configuration: it is not trained again."""
    start, entry = sweep.start_run(), there.get("start")
    if start is None or entry is None or not has_begun(start.directory):
        return
    before, now, differ = _pair(sweep, start, entry, True)
    if differ:
        what = _difference(before, now)
        raise SweepError(f"{sweep.directory} holds a common start of another configuration: {START} {what}; {_REMEDY}")


def _is_search(there: Mapping[str, Any]) -> bool:
    design = (there.get("source") or {}).get("design")
    return isinstance(design, dict) and design.get("kind") == "optuna"


def _refuse_other_search(sweep: Sweep, there: Mapping[str, Any]) -> None:
    """Raises SweepError if a search is continued with another space, or a directory has runs of another kind of design."""
    if not there.get("runs"):
        return
    if there.get("source") is not None and (sweep.search is not None) != _is_search(there):
        kinds = ("a search", "a design whose points are known")
        what = kinds if _is_search(there) else kinds[::-1]
        raise SweepError(f"{sweep.directory} holds the runs of {what[0]}, and this sweep is {what[1]}; {_REMEDY}")
    what_differs = _other_source(sweep, there, ("axes", *_SOURCE))
    if what_differs:
        raise SweepError(f"{sweep.directory} holds the trials of another search: {what_differs}; {_REMEDY}")


def _other_axes(sweep: Sweep, there: Mapping[str, Any]) -> str:
    before, now = list(there.get("axes", {})), list(sweep.all_axes())
    if not before or set(before) == set(now):
        return ""
    return f"its axes are {', '.join(before)}, and this sweep's are {', '.join(now)}"


def _other_source(sweep: Sweep, there: Mapping[str, Any], keys: Sequence[str] = _SOURCE) -> str:
    """What differs first between the sweep file of the plan and this one, or between bindings of the command line."""
    if there.get("source") is None or sweep.source is None:
        return ""
    for key in keys:
        before, now = there["source"].get(key), sweep.source.get(key)
        if before == now:
            continue
        if isinstance(before, dict) and isinstance(now, dict):
            name = next(name for name in (*before, *now) if before.get(name, _UNSET) != now.get(name, _UNSET))
            return f"{key!r} has {name} {had(before.get(name), now.get(name))}"
        return f"{key!r} {had(before, now)}"
    added = tuple(there.get("added", ()))
    return "" if added == sweep.added else f"bindings of the command line {had(added, sweep.added)}"


def _pair(sweep: Sweep, run: Run, entry: Any, steps: bool) -> tuple[_Configuration, _Configuration, bool]:
    """The configuration of a run in the plan and in the sweep, for comparisons, and whether they differ."""
    without = () if steps or not sweep.budgets else (STEPS,)
    before, now = (_compared(sweep, one, without) for one in (_configuration(entry), run.configuration()))
    return before, now, before != now


def _difference(there: _Configuration, here: _Configuration) -> str:
    """What differs first between two configurations of a run, as the end of a sentence."""
    (files, before), (files_now, now) = there, here
    if files != files_now:
        at = next((n for n, pair in enumerate(zip(files, files_now)) if pair[0] != pair[1]), None)
        at = min(len(files), len(files_now)) if at is None else at
        one = [names[at] if at < len(names) else None for names in (files, files_now)]
        return f"has gin file {at + 1} {had(*one)}"
    values, values_now = (dict(text.split(" = ", 1) for text in texts if " = " in text) for texts in (before, now))
    for name in dict.fromkeys((*values, *values_now)):
        if values.get(name) != values_now.get(name):
            return f"has {name} {had(values.get(name), values_now.get(name), quoted=False)}"
    return "has the same bindings in another order"


def had(before: Any, now: Any, *, quoted: bool = True) -> str:
    """Returns ``10 there and 20 in this sweep``; a value that is None is not set."""

    def shown(value: Any) -> str:
        text = json.dumps(value, ensure_ascii=False, default=list) if quoted else str(value)
        return "unset" if value is None else text if len(text) <= 80 else f"{text[:79]}…"

    return f"{shown(before)} there and {shown(now)} in this sweep"


def _configuration(entry: Any) -> _Configuration:
    files, bindings = entry if isinstance(entry, list) else (entry["gin_files"], entry["bindings"])
    return list(files), [text for text in bindings if not text.startswith("MODEL_DIR = ")]


def _compared(sweep: Sweep, configuration: _Configuration, without: Collection[str] = ()) -> _Configuration:
    """The configuration for comparisons: a sweep directory may be moved, 16 and 16.0 are one value, and the last value of
    a name counts."""
    files, bindings = configuration
    last: dict[str, str] = {}
    for text in bindings:
        name = text.partition(" = ")[0]
        last.pop(name, None)  # the place of the last value counts, too
        last[name] = text
    bindings = [_WHOLE.sub(r"\1", text) for name, text in last.items() if name not in without]
    if sweep.start is not None:
        bindings = [_OWN.sub(r"\1 = '\2'", text) for text in bindings]
    return files, bindings


def has_begun(directory: Path) -> bool:
    """Returns whether a run has begun in its folder."""
    return (directory / RESULT).exists() or (directory / CONFIG).exists()
