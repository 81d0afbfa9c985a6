"""``distill demo`` and ``example``, and the training of runs that they share with ``distill sweep``."""

import argparse
import contextlib
import dataclasses
import functools
import json
import logging
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill import exit_codes, terminal
from distill.cli import errors, interrupts, next_steps, sweep_inputs
from distill.cli import runs as command_runs

if TYPE_CHECKING:
    from distill.cli.sweep_checks import Configurations
    from distill.experiments.sweep import Run, Sweep


def _run_sweep(grid: "Sweep", options: argparse.Namespace) -> dict[str, str]:
    from distill.experiments import sweep

    configurations = configurations_of(grid, options)
    return sweep.run(
        grid,
        lambda runs, joint: train_group(runs, joint, options),
        check=configurations.check_and_note,
        differs=configurations.differs,
        read=lambda: configurations.inputs,
        retry_failed=options.retry_failed,
    )


def exit_code(failures: Mapping[str, str], directory: Path | None = None) -> int:
    """Prints the failed runs; returns the exit code of a sweep.

    Args:
      failures: name of a run → error.
      directory: of the sweep, for errors that are shown without remedies: each was printed whole when its run failed. None
        prints them whole.
    """
    from distill.experiments.sweep import outcomes

    if not failures:
        return 0
    for name, error in failures.items():
        terminal.error(f"failed: {name}: {error if directory is None else outcomes.brief(error)}")
    if directory is not None:
        where = f"{directory}/RUN/{outcomes.FAILURE}"
        terminal.error(f"whole messages: {where}; --retry_failed repeats failed runs")
    return exit_codes.SOME_FAILED


def example_command(options: argparse.Namespace) -> int:
    from distill.experiments import example

    directory = Path(options.output)
    for line in example.write(directory, options.train_rows, options.seed):
        print(line)
    print(f"next: {example.next_command(directory)}")
    return 0


def demo_command(options: argparse.Namespace) -> int:
    from distill import locking
    from distill.api import configuration
    from distill.experiments import demo, sweep
    from distill.experiments.report import terminal as sweep_report
    from distill.experiments.sweep import plan

    directory = Path(options.directory)
    plan.check_directory(directory)
    grid = sweep.read(configuration.find(options.sweep, configuration.search_paths()), directory)
    lock = locking.held(locking.of_directory(directory), str(directory), "give another --directory")
    with lock, terminal.comparing_runs():
        vocabulary = demo.write_vocabulary(directory)
        shared = (f"VOCABULARY_PATH = {str(vocabulary)!r}", *options.gin_bindings)
        start = demo.pretraining_run(directory, shared)
        more = (*shared, f"INITIAL_CHECKPOINT_PATH = {str(start.directory)!r}")
        if not start.done:
            print(demo.INTRODUCTION)
            for error in train_group([start], False, options).values():
                raise ValueError(f"the pretraining of all runs failed: {error}")
        grid = dataclasses.replace(grid, bindings=(*grid.bindings, *more), start=None)  # the start above, with bindings
        failures = _run_sweep(grid, options)
        found = sweep_report.write_all(grid, demo.TITLE, demo.XLABEL)
    print(demo.json_line(grid, found))
    next_steps.show(next_steps.after_sweep(directory), quiet=command_runs.is_quiet(options))
    return exit_code(failures, directory)


def configure_run(run: "Run", options: argparse.Namespace) -> dict[str, Any]:
    """Parses the configuration of a run and registers its tasks; returns the arguments of ``train``."""
    from distill.api import configuration

    paths = command_runs.search_paths(options)
    configuration.parse(run.gin_files, run.bindings, paths, options.gin_module, place="the sweep's bindings")
    given = configuration.training_arguments()
    command_runs.register()
    return given


def configuration_values() -> dict[str, Any]:
    """The bindings of the configuration that was parsed last, without seed and directory."""
    from distill.api import configuration

    bindings = configuration.bindings_of(configuration.resolved())
    return {name: value for name, value in bindings.items() if name not in ("MODEL_DIR", "RANDOM_SEED")}


def configuration_text() -> str:
    """:func:`configuration_values` as a text: runs with one text train the same student."""
    return repr(list(configuration_values().items()))


def configurations_of(sweep: "Sweep", options: argparse.Namespace) -> "Configurations":
    """All that the sweep's runs are configured with, read when it is first needed."""
    from distill.cli.sweep_checks import Configurations

    return Configurations(
        sweep,
        lambda run: configure_run(run, options),
        configuration_values,
        lambda run, given: sweep_inputs.read(run, given, options),
    )


def train_group(runs: Sequence["Run"], joint: bool, options: argparse.Namespace) -> dict[str, str]:
    """Trains runs one after another, or several seeds of one together; returns those that failed: name → error.

    Errors outside of the run end the sweep: a signal (Stopped), an error of the machine such as a full disk
    (OSError), a directory in which another process trains (Locked), gin files or rows that are not those of the plan
    (Changed).
    """
    if joint:
        terminal.begin_run()
        with interrupts.training_in(str(runs[0].directory)):
            failed = _attempt(runs, lambda: _train_jointly(runs, options))
    else:
        failed = {}
        for run in runs:
            terminal.begin_run()
            with interrupts.training_in(str(run.directory)):
                failed |= _attempt([run], functools.partial(_train_one, run, options))
    return {run.name: _in_a_sweep(run, failed[run.name]) for run in runs if run.name in failed}


def _in_a_sweep(run: "Run", text: str) -> str:
    """The error of a run with remedies for its sweep, which sets ``MODEL_DIR`` and keeps the settings of other runs."""
    from distill.experiments.sweep import more, plan
    from distill.experiments.sweep.runs import START
    from distill.training import finite

    lower = "in the sweep file, replace this point by one with a lower LEARNING_RATE"
    if (added := more.point_of(plan.added_points(run.directory.parent), run.values)) is not None:
        flag = f"--drop_more={shlex.quote(json.dumps(added))}"
        lower = f"with {flag} --more=POINT, replace this added point by one with a lower LEARNING_RATE"
    if run.name == START:
        lower = "train the sweep in another --directory, with 'start' of a lower LEARNING_RATE"
    float32, skip = "DTYPE='float32'", "ON_NONFINITE='skip'"
    text = text.replace(finite.REMEDY + finite.OR_FLOAT32 + finite.OR_SKIP, f"{lower}, {float32} or {skip}")
    text = text.replace(finite.REMEDY + finite.OR_FLOAT32, f"{lower} or {float32}")
    text = text.replace(finite.REMEDY + finite.OR_SKIP, f"{lower} or {skip}")
    text = text.replace(finite.REMEDY, lower)
    return text.replace("train in another MODEL_DIR", "train the sweep in another --directory")


def _attempt(runs: Sequence["Run"], train: Callable[[], dict[str, str]]) -> dict[str, str]:
    """What ``train`` returns; or, of an error of the runs themselves, all of them with its text."""
    from distill import locking
    from distill.experiments.sweep import inputs

    try:
        return train()
    except (exit_codes.Stopped, inputs.Changed, locking.Locked, MemoryError):
        raise
    except OSError as error:
        if not isinstance(error, ValueError):  # a data file that is missing is both
            raise
        return {run.name: one_line(error) for run in runs}
    except Exception as error:  # of JAX, the data or the program: it ends these runs only
        logging.info("a run failed", exc_info=error)
        return {run.name: one_line(error) for run in runs}


def _train_one(run: "Run", options: argparse.Namespace) -> dict[str, str]:
    """Trains a run; returns no failure: its errors are raised.

    Raises:
      Stopped: a signal stopped it.
    """
    from distill.precompile import step_costs
    from distill.training import train

    quiet = command_runs.is_quiet(options)
    given = configure_run(run, options)
    sweep_inputs.refuse_changed(run, given, options)
    with train.lock_directory(run.directory) as lock, _undone(run):
        command_runs.write_configuration(quiet=quiet)
        stopped = train.train(**given, lock=lock, quiet=quiet, cost_model=step_costs.of_run(given)).stopped
    if stopped not in (None, "early"):
        raise exit_codes.Stopped(stopped)
    return {}


def _undone(run: "Run") -> contextlib.AbstractContextManager[None]:
    from distill.inference import model_directory

    return model_directory.start_undone_on_failure(run.directory, writes=command_runs.is_first())


def one_line(error: Exception) -> str:
    explained = errors.explain(error)
    return explained[1] if explained else f"{type(error).__name__}: {error}".splitlines()[0]


def _train_jointly(runs: Sequence["Run"], options: argparse.Namespace) -> dict[str, str]:
    """Trains runs that differ only in their seed together; returns those that failed: name → error.

    Raises:
      ValueError: their configurations differ in more than the seed.
      Stopped: a signal stopped them.
    """
    import jax

    from distill.inference.evaluate import Decoder
    from distill.precompile import step_costs
    from distill.sharding import partitioning
    from distill.terminal import Terminal
    from distill.training import train
    from distill.training.joint_seeds import Seed, train_seeds

    quiet = command_runs.is_quiet(options)
    terminal, decoder, seeds, shared_text = Terminal(quiet=quiet), None, [], None
    with contextlib.ExitStack() as stack:
        for run in runs:
            given = configure_run(run, options)
            sweep_inputs.refuse_changed(run, given, options)
            text = configuration_text()
            if shared_text not in (None, text):
                raise ValueError(
                    f"{run.name} and {runs[0].name} differ in more than the seed; train each by --run=NAME"
                )
            shared_text = text
            lock = stack.enter_context(train.lock_directory(run.directory))
            stack.enter_context(_undone(run))
            command_runs.write_configuration(quiet=quiet)
            if decoder is None and given.get("validation") is not None:
                # Joint seeds share one device; the mesh of the runs is for students that need several.
                one_device = partitioning.MeshConfig(1, 1, 1).build(jax.devices()[:1])
                decoder = Decoder(given["model"], one_device, given["validation"].decode)
            reads = ("model", "data", "loop", "validation", "callbacks", "trackers")
            settings = {name: given[name] for name in reads if name in given}
            seeds.append(Seed.read(given["model_dir"], **settings, decoder=decoder, lock=lock, terminal=terminal))
        shared = ("model", "loss", "optimizer", "loop", "validation", "checkpoints", "initial_checkpoint_path")
        counted = step_costs.of_run(given)
        given = {name: given[name] for name in shared if name in given}
        results = train_seeds(seeds, **given, terminal=terminal, cost_model=counted)
    for result in results:
        if not isinstance(result, Exception) and result.stopped not in (None, "early"):
            raise exit_codes.Stopped(result.stopped)
    return {run.name: str(result) for run, result in zip(runs, results) if isinstance(result, Exception)}
