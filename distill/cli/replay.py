"""``distill replay``."""

import argparse
import dataclasses
import json
import logging

from distill.cli import runs


def replay_command(options: argparse.Namespace) -> int:
    runs.parse_configuration(options)
    from distill.api import configuration
    from distill.training import replay, train

    if options.exact:
        runs.register()
    arguments = dict(configuration.arguments_of(train.train))
    logging.info("replaying in %s", arguments.pop("model_dir"))
    report = replay.replay(options.model_dir, options.step, exact=options.exact, **arguments)
    print(json.dumps(dataclasses.asdict(report), indent=2) if options.json else "\n".join(report.lines()))
    return 0
