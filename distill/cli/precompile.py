"""``distill precompile``."""

import argparse
import os

from distill import exit_codes
from distill.cli import flags, runs
from distill.precompile import command as precompile


def precompile_command(options: argparse.Namespace) -> int:
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    from distill.api import configuration, statement_checks
    from distill.training import train

    paths = runs.search_paths(options)
    if not options.measure_data:  # then nothing is read there; and nothing is written
        names = statement_checks.unset(runs.PROVIDED["precompile"], options.gin_file, options.gin_bindings, paths)
        options.gin_bindings += (f"{name} = 'unused'" for name in names)
    runs.parse_configuration(options)
    given = configuration.arguments_of(train.train)
    if options.measure_data:
        runs.register()
    fits = precompile.precompile(given, flags.call(precompile.Settings, options))
    return 0 if fits else exit_codes.NO_ROOM
