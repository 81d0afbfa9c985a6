"""Start a distill command on TPU pods, GPU clusters or hosts; --dry-run prints the plan instead."""

import argparse
import dataclasses
import sys
import typing
from collections.abc import Sequence
from typing import Any

from distill import exit_codes
from distill.api import gin_files, statement_checks
from distill.cli import flags, launch_checks, parser, runs, spelling
from distill.sharding import hardware
from distill.tools.launch import gcloud, hosts, plan, skypilot, slurm, splitting, xpk
from distill.tools.launch.job import PARALLEL, Job
from distill.tools.launch.machines import Machines

BACKENDS: dict[str, tuple[Any, str]] = {
    "gcloud": (gcloud.Gcloud, "Cloud TPU VMs, through gcloud … tpu-vm ssh --worker=all"),
    "xpk": (xpk.Xpk, "GKE, through xpk"),
    "skypilot": (skypilot.Skypilot, "clouds and Kubernetes, as a managed job of SkyPilot"),
    "slurm": (slurm.Slurm, "Slurm, as a batch script"),
    "hosts": (hosts.Hosts, "plain hosts, through ssh"),
}


_NO_FLAGS = ("arguments", "points")
_HINTS = typing.get_type_hints(Job)

_CHECKED = ("train", "config", "eval")


def launch_parser() -> argparse.ArgumentParser:
    """The parser of ``distill launch``: one subcommand per backend."""
    whole = spelling.Parser(
        prog="distill launch",
        description=__doc__,
        epilog=f"Example:\n  {parser.EXAMPLES['launch']}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    backends = whole.add_subparsers(dest="backend", required=True, metavar="BACKEND", help="one of:")
    for name, (backend, help) in BACKENDS.items():
        command = backends.add_parser(name, help=help, usage=f"{whole.prog} {name} [options] -- COMMAND …")
        command.add_argument("--dry-run", "--dry_run", action="store_true", help="print the plan as a shell script")
        flags.add(command, backend)
        texts = flags.documented(Job)
        for field in dataclasses.fields(Job):
            if field.name not in _NO_FLAGS:
                flags.add_one(command, field.name, _HINTS[field.name], field.default, texts[field.name])
    return whole


def _check(arguments: Sequence[str], machines: Machines) -> None:
    """Ends the program, as ``distill`` itself would, if the remote command line would be refused.

    If all of its gin files are on this machine, also checks their macros and the bindings of the command line, and compares
    them with the machines.

    Raises:
      ConfigurationError: a macro that is misspelt or missing, or settings that cannot work on the machines.
    """
    command = arguments[0]
    options = parser.parser(command).parse_args(parser.split_arguments(arguments))
    if getattr(options, "model_dir", None) or not getattr(options, "gin_file", None) or command not in _CHECKED:
        return
    own_files, own_bindings = runs.ADDED[command]
    paths = runs.search_paths(options)
    found = gin_files.search_paths(paths)
    for name in options.gin_file:
        if not launch_checks.find(name, found):
            print(f"{name} is not on this machine, so macros are not checked here", file=sys.stderr)
            return
    files, bindings = [*options.gin_file, *own_files], [*options.gin_bindings, *own_bindings]
    example = hardware.example(machines.devices, machines.platform, machines.kind) if machines.platform else ""
    scan = statement_checks.check_statements(files, bindings, paths, hardware=example)
    if command in PARALLEL:
        for warning in launch_checks.check(scan, options.gin_file, machines, trains=command == "train"):
            print(f"WARNING {warning}", file=sys.stderr)


def _points(arguments: Sequence[str]) -> int:
    """The number of runs, or of groups of seeds that are trained together, of the sweep of a command line.

    Raises:
      ValueError: no sweep, a search, whose runs are not known before, or a file that is not on this machine.
    """
    from distill.cli import sweep_files
    from distill.experiments.sweep.runs import grouped

    if arguments[:1] != ["sweep"]:
        raise ValueError(f"--split is for `distill sweep`; got `distill {' '.join(arguments[:1])}`")
    options = parser.parser("sweep").parse_args(parser.split_arguments(arguments))
    if options.run or options.index is not None or options.workers or len(options.sweep) != 1:
        raise ValueError("--split needs a sweep without --run, --index, --workers and status")
    sweep = sweep_files.read(options, sweep_files.only_target(options.sweep))
    if sweep.search is not None:
        raise ValueError("the runs of a search are not known before; give --split=workers")
    return len(grouped(sweep.runs(), sweep.joint_seeds))


def launch_command(argv: Sequence[str]) -> int:
    """Prints or executes a plan; returns the exit code. A mistake gives one message and code 2.

    Raises:
      OSError: a file of the plan cannot be written.
    """
    given = list(argv)
    split = given.index("--") if "--" in given else len(given)
    options, arguments = launch_parser().parse_args(given[:split]), given[split + 1 :]
    try:
        if not arguments and not getattr(options, "stop", False):
            raise ValueError(
                "the command to run is missing; give it after --, such as: -- train --gin_file=gin/recipes/paper_svamp.gin"
            )
        backend = flags.call(BACKENDS[options.backend][0], options)
        shared = {
            field.name: getattr(options, field.name) for field in dataclasses.fields(Job) if field.name not in _NO_FLAGS
        }
        points = _points(arguments) if options.split in ("runs", "array") else 0
        made = splitting.plan_of(backend, Job(arguments=arguments, **shared, points=points))
        if arguments:
            _check(arguments, backend.machines)
        if options.dry_run:
            print(made.shell(), end="")
            return exit_codes.DONE
        return plan.run(made)
    except KeyboardInterrupt:
        print(f"launch {options.backend}: stopped watching; the run continues", file=sys.stderr)
        return exit_codes.INTERRUPTED
    except (ValueError, FileNotFoundError) as error:
        print(f"launch {options.backend}: {error}", file=sys.stderr)
        return exit_codes.MISTAKE
