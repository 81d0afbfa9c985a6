"""``distill sweep``: reads a sweep, lists and prints the shipped sweep files, and shows the state of a sweep's runs."""

import argparse
import dataclasses
import json
import os
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import distill
from distill import exit_codes, terminal
from distill.cli import runs as command_runs
from distill.counting import form
from distill.validation import did_you_mean, quoted, suggested

if TYPE_CHECKING:
    from distill.experiments.sweep import Sweep, documents
    from distill.experiments.sweep.plan import Plan

_SHIPPED = "gin/sweeps"


def only_target(words: Sequence[str]) -> str:
    """The one file or directory on the command line. Raises ValueError for none or several."""
    if not words:
        raise ValueError("no sweep was given; expected a file or directory (--list lists the shipped files)")
    if len(words) == 2 and words[0] != "status" and not Path(words[0]).exists():
        near = did_you_mean(words[0], ["status"])
        if near:
            raise ValueError(f"distill sweep takes one file or directory; got {' '.join(words)}{near}")
    if len(words) != 1:
        raise ValueError(f"distill sweep takes one file or directory; got {' '.join(words)}")
    return words[0]


def read(options: argparse.Namespace, target: str) -> "Sweep":
    """Reads the sweep of a file, or of a directory, with the bindings of the command line.

    Raises:
      SweepError: neither a sweep file nor a sweep directory.
    """
    from distill.api import configuration
    from distill.experiments.sweep import SweepError, documents, plan, reading

    no_lines: documents.Lines = {}
    is_directory = Path(target).is_dir()
    added: list[Any] = []
    if is_directory:
        found = plan.read_plan(target)
        if found.source is None:
            raise SweepError(f"{target} was not made from a sweep file; give the command that made it")
        path, directory = Path(target) / plan.PLAN, target
        source, lines = found.source, no_lines
        bindings = [*found.added, *options.gin_bindings]
    else:
        _check_exists(target, starts=options.sweep[0] != "status")
        paths = configuration.search_paths(command_runs.search_paths(options))
        path, directory = _found(target, paths), options.directory
        source, lines = documents.read(path)
        bindings = options.gin_bindings
    if isinstance(source, dict):
        where = directory or source.get("directory")
        source, added = with_points(source, options, Path(str(where)) if where else None, is_plan=is_directory)
    read_sweep = reading.from_document(source, lines, path, directory).with_bindings(bindings)
    return dataclasses.replace(read_sweep, added_points=tuple(added))


def recorded(sweep: "Sweep", made: "Plan") -> "Sweep":
    """The sweep that a directory's plan records, with its runs; metric and horizontal axis are those of ``sweep``."""
    from distill.experiments.sweep import plan, reading

    found = sweep
    if made.source is not None:
        found = reading.from_document(made.source, {}, made.directory / plan.PLAN, str(made.directory))
    x = sweep.x if sweep.x in found.axes else found.x
    return dataclasses.replace(found, planned=tuple(made.runs), metric=sweep.metric, x=x)


def lines_of(options: argparse.Namespace) -> tuple[Path, "documents.Lines"]:
    """The sweep file on the command line and the line of each of its values; of a directory its plan, without lines."""
    from distill.api import configuration
    from distill.experiments.sweep import documents, plan

    target = only_target(options.sweep)
    if Path(target).is_dir():
        return Path(target) / plan.PLAN, {}
    path = _found(target, configuration.search_paths(command_runs.search_paths(options)))
    return path, documents.read(path)[1]


def _found(target: str, paths: Sequence[str]) -> Path:
    """The path of a sweep file; raises FileNotFoundError where a file beside it differs in the suffix alone."""
    from distill.api import gin_files
    from distill.experiments.sweep import documents

    try:
        return Path(gin_files.find(target, paths))
    except gin_files.ConfigurationError:
        near = [str(other) for suffix in documents.SUFFIXES if (other := Path(target).with_suffix(suffix)).is_file()]
        if not near:
            raise
        raise FileNotFoundError(f"{target} does not exist{suggested(near[:1])}") from None


def with_points(
    source: Mapping[str, Any], options: argparse.Namespace, directory: Path | None, *, is_plan: bool
) -> tuple[dict[str, Any], list[Any]]:
    """The contents of a sweep file with the points of ``--more``, and these points: of this command and of earlier ones.

    Args:
      source: the contents of the file.
      options: the flags; ``--drop_more`` leaves out the points of earlier commands, or those with given values, and warns
        if there are none.
      directory: of the sweep, whose plan has the points of earlier commands; None: no directory is given.
      is_plan: whether ``source`` is that of the plan, which contains them.

    Raises:
      SweepError: a point is no JSON object, or the plan of the directory cannot be read.
    """
    from distill.experiments.sweep import SweepError, documents, more, plan

    own = source.get("more", [])
    if not isinstance(own, list):
        return dict(source), []  # which its reader refuses
    before = [] if directory is None or not (directory / plan.PLAN).exists() else plan.added_points(directory)
    if is_plan:
        own = [point for point in own if point not in before]
    given = [] if None in options.drop_more else list(before)
    for values in filter(None, options.drop_more):
        kept = more.without(given, values)
        if kept == given and not options.prepare:  # in the process that prepares for --workers: the command has warned
            terminal.Terminal().warn(
                f"--drop_more drops nothing: no point that --more added has {quoted(values)}; there "
                f"{form(len(given), 'is', 'are')} {quoted(given, 400) if given else 'none'}. A point of the sweep file is "
                "deleted there"
            )
        given = kept
    for text in options.more:
        try:
            points = json.loads(text)
            documents.check_integers(points, "--more")
        except SweepError:
            raise
        except (ValueError, RecursionError) as error:
            raise SweepError(f"--more must be a JSON object of axes and values, or a list of them: {error}") from None
        given += points if isinstance(points, list) else [points]
    added: list[Any] = []
    for point in given:
        if point not in own and point not in added:
            added.append(point)
    without = {key: value for key, value in source.items() if key != "more"}
    return ({**without, "more": [*own, *added]} if own or added else without), added


def _check_exists(target: str, *, starts: bool) -> None:
    """Raises FileNotFoundError for a name without the suffix of a sweep file that is no file, either.

    Args:
      target: a sweep file or the directory of a sweep.
      starts: whether the command may start a sweep, so that a shipped file may be meant.
    """
    from distill.api import gin_files
    from distill.experiments.sweep import documents, plan

    path = Path(target)
    if path.suffix in documents.SUFFIXES or path.is_file():
        return
    beside = path.parent.iterdir() if path.parent.is_dir() else ()
    sweeps = (one for one in beside if one.suffix in documents.SUFFIXES or os.path.isfile(one / plan.PLAN))
    here = [str(path.with_name(one.name)) for one in sweeps]
    files = {name: f"{_SHIPPED}/{name}.yaml" for name in shipped()}
    near = gin_files.close(target, here)
    if not near and starts and path.parent in (Path(), Path(_SHIPPED)):
        near = [files[name] for name in gin_files.close(path.name, files)]
    raise FileNotFoundError(
        f"{target} does not exist; expected a sweep file ({', '.join(documents.SUFFIXES)}) or the directory of a sweep, "
        f"which `distill sweep FILE` makes{suggested(near[:1])}"
    )


def check_index(sweep: "Sweep", index: int | None, number: int | None = None) -> None:
    """Raises SweepError if ``--index`` names no run of a sweep.

    Args:
      sweep: the sweep.
      index: the value of the flag; None checks nothing.
      number: of the runs, or groups of seeds, if it is known.
    """
    from distill.experiments.sweep import SweepError
    from distill.experiments.sweep.runs import grouped

    if index is None:
        return
    if sweep.search is not None:
        raise SweepError("--index needs runs that are known before, and those of a search are not; give --workers")
    number = len(grouped(sweep.runs(), sweep.joint_seeds)) if number is None else number
    if not 0 <= index < number:
        raise SweepError(f"--index must be 0 to {number - 1}; got {index}")


def check_begun(directory: Path, target: str) -> None:
    """Raises FileNotFoundError if the directory of a sweep does not exist.

    Args:
      directory: the directory.
      target: the sweep file on the command line.
    """
    if not directory.exists():
        raise FileNotFoundError(f"{directory} does not exist; `distill sweep {target}` starts the sweep")


def status(options: argparse.Namespace) -> int:
    """``distill sweep status``: prints the state of every run; returns the exit code."""
    from distill import locking
    from distill.experiments.sweep import leases, outcomes, plan
    from distill.experiments.sweep import status as states

    target = only_target(options.sweep[1:])
    directory = Path(target) if Path(target).is_dir() else read(options, target).directory
    if not (directory / plan.PLAN).exists():
        holder = locking.holder(leases.path_of(directory, leases.PREPARING))
        if holder is not None:
            who = f"the sweep command ({states.process(holder)})"
            print(f"{directory} is being prepared: {who} checks its configurations before the first run starts")
            return exit_codes.DONE
        check_begun(directory, target)
    found = plan.read_plan(directory)
    console = terminal.output()
    console.print(states.table(found))
    failed = states.counts(found)["failed"]
    where = f"; whole messages: {found.directory}/RUN/{outcomes.FAILURE}" if failed else ""
    console.print(f"{states.line(found)}{where}", highlight=False)
    sweep = None if found.source is None else read(options, str(found.directory))
    if sweep is not None and sweep.search is not None:
        from distill.experiments.sweep import search

        console.print(search.summary(found.directory, sweep.search, found.selected_by[1]), highlight=False)
    return exit_codes.SOME_FAILED if failed else exit_codes.DONE


def check_runs(sweep: "Sweep", names: Sequence[str], known: Collection[str] | None = None) -> None:
    """Raises SweepError if ``--run`` names no run of a sweep; suggests the nearest name.

    Args:
      sweep: the sweep.
      names: the values of the flag.
      known: the names of its runs; None: those of its design, and nothing is checked for a search, which has none.
    """
    from distill.experiments.sweep import SweepError

    if not names or (known is None and sweep.search is not None):
        return
    if known is None:
        known = [run.name for run in (*filter(None, [sweep.start_run()]), *sweep.runs())]
    unknown = sorted(set(names) - set(known))
    if unknown:
        near = did_you_mean(unknown[0], known)
        raise SweepError(
            f"{sweep.directory} has no run {unknown[0]!r}; `distill sweep status` lists its runs, and --dry_run those of a "
            f"sweep that has not begun{near}"
        )


def show(options: argparse.Namespace) -> int:
    """``distill sweep --list`` and ``--print=NAME``; returns the exit code.

    Raises:
      ValueError: another file or flag is given, too.
      distill.api.gin_files.ConfigurationError: there is no file of that name; names the nearest one.
    """
    if options.sweep or (options.list and options.print_name is not None):
        flag = "--list" if options.list else "--print"
        raise ValueError(f"{flag} takes no other file or flag; got {' '.join(options.sweep) or '--list and --print'}")
    if options.list:
        for name, text in shipped().items():
            print(f"{name:22} {text}")
        print("\ndistill sweep --print=NAME > my.yaml copies one; distill sweep --help explains its keys")
        return exit_codes.DONE
    from distill.api import gin_files

    paths = gin_files.search_paths(command_runs.search_paths(options))
    name = options.print_name if Path(options.print_name).suffix else f"{options.print_name}.yaml"
    print(Path(gin_files.find(name if "/" in name else f"{_SHIPPED}/{name}", paths)).read_text("utf-8"), end="")
    return exit_codes.DONE


def shipped() -> dict[str, str]:
    """The names of the shipped sweep files, and the first sentence of each."""
    files = sorted((Path(distill.__file__).parent / _SHIPPED).glob("*.yaml"))
    return {file.stem: _first_sentence(file.read_text("utf-8")) for file in files}


def _first_sentence(text: str) -> str:
    lines = re.match(r"(?:#[^\n]*\n)*", text)
    comment = " ".join(line.removeprefix("#").strip() for line in (lines[0] if lines else "").split("\n"))
    return re.split(r"(?<=[.?])\s", comment.strip(), maxsplit=1)[0].rstrip(".")
