"""Gin files and rows of a sweep's run, for its plan, and whether they are still those of the plan when the run starts."""

import argparse
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from distill.cli import runs as command_runs

if TYPE_CHECKING:
    from distill.experiments.sweep import Run
    from distill.experiments.sweep.inputs import Inputs


def read(run: "Run", given: Mapping[str, Any], options: argparse.Namespace) -> "Inputs":
    """The inputs of a run that was just configured. Reads its gin files and its rows.

    Args:
      run: the run.
      given: its arguments of ``train``.
      options: the flags of the command.
    """
    from distill.api import configuration, statements
    from distill.experiments.sweep.inputs import Inputs
    from distill.training import provenance

    paths = configuration.search_paths(command_runs.search_paths(options))
    found = statements.bindings_of_files(run.gin_files, paths)
    bindings = json.loads(json.dumps(found, default=str))  # as the plan has them
    return Inputs(bindings, provenance.rows_read(given["data"], given.get("validation")))


def refuse_changed(run: "Run", given: Mapping[str, Any], options: argparse.Namespace) -> None:
    """Compares the inputs of a run that was just configured with those of the plan of its sweep, if it has one.

    Raises:
      distill.experiments.sweep.inputs.Changed: they differ.
    """
    from distill.api import configuration
    from distill.experiments.sweep import plan

    planned = plan.inputs(run.directory.parent)
    if planned.gin or planned.rows:
        planned.refuse_changed(run, read(run, given, options), configuration.macro("FILES"))
