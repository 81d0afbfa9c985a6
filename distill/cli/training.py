"""``distill train``, ``cache`` and ``config``."""

import argparse
import logging
import shlex
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from distill import exit_codes, terminal
from distill.cli import interrupts, next_steps, runs
from distill.counting import counted

if TYPE_CHECKING:
    from distill.data.cache import pipeline

_NO_DIRECTORY = "no directory"  # the value of MODEL_DIR while a configuration without it is checked; never printed


def train_command(options: argparse.Namespace) -> int:
    runs.join(options)
    runs.parse_configuration(options)
    from distill.api.run import Run

    run = Run.current()
    with interrupts.training_in(run.directory):
        result = run.run(quiet=runs.is_quiet(options))
    if result.stopped not in (None, "early"):
        advice = exit_codes.CONTINUE if result.step else exit_codes.NOTHING_SAVED
        terminal.error(f"stopped by {result.stopped} at step {result.step}; {advice}")
        return exit_codes.STOPPED
    if runs.is_first():
        for name, value in result.test.items():
            print(f"test {name}: {value:.4f}")
        next_steps.show(next_steps.after_training(run), quiet=runs.is_quiet(options))
    return exit_codes.DONE


def cache_command(options: argparse.Namespace) -> int:
    from distill.data.cache import pipeline

    beam = pipeline.Settings.of(options.beam_runner, options.beam_pipeline_options)
    options.gin_bindings.insert(0, "MODEL_DIR = 'unused'")  # caching needs no model directory
    runs.parse_configuration(options)
    from distill import locking
    from distill.data import cache
    from distill.inference import model_directory
    from distill.tasks import registration

    names = runs.register()
    tasks = [names.label, names.rationale, names.single, names.paired]
    if registration.prompt(names.shared_label) != registration.prompt(names.shared_rationale):
        tasks.append(names.shared)  # equal prefixes would make its two targets indistinguishable
    if names.spans is not None:
        tasks = [names.spans]
    if options.dry_run and beam is not None:
        return _describe_pipeline(beam, options, tasks)
    on_progress = _CacheProgress(quiet=runs.is_quiet(options))
    with (
        model_directory.undone_on_failure(options.output),
        locking.held(locking.of_output(options.output), options.output, "choose another --output"),
    ):
        built = cache.build(
            tasks, options.output, shards=options.shards, tfrecord=options.tfrecord, beam=beam, on_progress=on_progress
        )
    for name, splits in built.manifest["tasks"].items():
        for split, entry in splits.items():
            size = sum(shard["bytes"] for shard in entry["shards"])
            parts = counted(entry["examples"], "example"), counted(len(entry["shards"]), "shard"), f"{size:,} bytes"
            print(f"{name} {split}: {', '.join(parts)}")
    print(f"{'wrote' if built.new else 'is complete already:'} {built.directory}")
    if registration.get(tasks[0]).source.dataset.cuts_validation:
        logging.warning(
            "validation rows are a part of the training rows, so a training from this cache reads the files of split "
            "'train' on every host, to score them; a cache with a file of validation rows, "
            "FILES={'train': …, 'validation': …}, needs none"
        )
    return 0


def _describe_pipeline(beam: "pipeline.Settings", options: argparse.Namespace, tasks: Sequence[str]) -> int:
    from distill.data.cache import pipeline
    from distill.data.cache.build import parts_of

    parts = parts_of(tasks)
    for line in pipeline.describe(beam, options.output, parts, options.shards):
        print(line)
    rest = [text for text in sys.argv[1:] if text != "--dry_run"]
    print(f"command: {shlex.join(['distill', *rest])}")
    return 0


class _CacheProgress:
    """Prints the progress of a cache: often on a terminal, every few seconds in a pipe."""

    def __init__(self, *, quiet: bool):
        self._quiet, self._terminal, self._next = quiet, sys.stderr.isatty(), time.monotonic() + 5.0

    def __call__(self, task: str, split: str, done: int, rows: int) -> None:
        now = time.monotonic()
        due = now >= self._next or (self._terminal and (done % 1000 == 0 or done == rows))
        if self._quiet or not due:
            return
        self._next = now + 20.0
        end = "\n" if done == rows or not self._terminal else "\r"
        print(f"{task} {split}: {done:,} of {rows:,} rows", end=end, file=sys.stderr, flush=True)


def config_command(options: argparse.Namespace) -> int:
    """Prints the resolved configuration; without ``MODEL_DIR``, which it need not have, as one that lacks it."""
    from distill.api import configuration, statement_checks

    files, paths = options.gin_file, runs.search_paths(options)
    lacks = bool(files) and bool(statement_checks.unset(["MODEL_DIR"], files, options.gin_bindings, paths))
    if lacks:
        options.gin_bindings.append(f"MODEL_DIR = {_NO_DIRECTORY!r}")
    runs.parse_configuration(options)
    from distill.training import train

    if configuration.mentions(train.train):
        configuration.training_arguments()
    text = configuration.resolved()
    if lacks:
        text = text.replace(f"MODEL_DIR = {_NO_DIRECTORY!r}\n", "")
        print("MODEL_DIR is not set; `distill train` needs it: --gin.MODEL_DIR=…", file=sys.stderr)
    print(text)
    return 0
