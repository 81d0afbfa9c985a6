"""The command line. This is the only place, with ``configuration``, where gin files become arguments."""

import argparse
import contextlib
import dataclasses
import logging
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill import command_line, flags
from distill.precompile import command as precompile

if TYPE_CHECKING:
    from distill.sweep import Run, Sweep

# TensorFlow only reads data here, and has nothing to say.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

CONFIG = "config.gin"
EXIT_STOPPED = 75  # EX_TEMPFAIL: stopped by a signal, checkpoint saved; run the same command again to go on
EXIT_FAILED = 4  # sweep, demo: at least one run failed; the others were trained
EXIT_NO_ROOM = 3  # precompile: a step does not fit


def _import_quietly() -> None:
    """Imports TensorFlow while nobody listens: it writes to the terminal before it can be told not to."""
    sys.stderr.flush()
    terminal, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        import seqio  # noqa: F401
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)
        os.close(nowhere)


def _parse_configuration(options: argparse.Namespace, extra_files: Sequence[str] = ()) -> None:
    from distill import configuration

    files, bindings = list(options.gin_file), list(options.gin_bindings)
    model_dir = getattr(options, "model_dir", None)
    if model_dir:
        config = Path(model_dir) / CONFIG
        if not config.exists():
            raise configuration.ConfigurationError(f"{model_dir} holds no {CONFIG}; is it a trained model's directory?")
        files.insert(0, str(config))
        bindings.append(f"MODEL_DIR = {model_dir!r}")
    paths = [path for path in options.gin_search_paths.split(",") if path]
    configuration.parse([*files, *extra_files], bindings, paths, options.gin_module)


def _join(options: argparse.Namespace) -> None:
    """Meets the other processes of the run, if there are any; before JAX is used for anything else."""
    given = (options.coordinator_address, options.num_processes, options.process_id)
    if options.multiprocess or any(value is not None for value in given):
        import jax

        jax.distributed.initialize(*given, heartbeat_timeout_seconds=options.heartbeat_timeout_seconds)


def _is_first() -> bool:
    import jax

    return jax.process_index() == 0


def _register() -> None:
    from distill import configuration
    from tasks import registration

    configuration.configured(registration.register)()


def _train(options: argparse.Namespace) -> int:
    _join(options)
    _parse_configuration(options)
    from distill import configuration, train

    run = configuration.configured(train.train)
    configuration.arguments_of(train.train)  # whatever does not fit together is said before anything is written
    with train.lock_directory(configuration.macro("MODEL_DIR")) as lock:
        _write_configuration()
        _register()
        result = run(lock=lock, quiet=_is_quiet(options))
    if result.stopped not in (None, "early"):
        print(
            f"stopped by {result.stopped} at step {result.step}; run the same command again to go on", file=sys.stderr
        )
        return EXIT_STOPPED
    for name, value in result.test.items() if _is_first() else ():
        print(f"test {name}: {value:.4f}")
    return 0


def _is_quiet(options: argparse.Namespace) -> bool:
    return bool(getattr(options, "quiet", False))


def _cache(options: argparse.Namespace) -> int:
    options.gin_bindings.insert(0, "MODEL_DIR = None")  # nothing is trained, so nothing needs one
    _parse_configuration(options)
    from distill import cache, configuration, locking
    from tasks import registration

    names = configuration.configured(registration.register)()
    tasks = [names.label, names.rationale, names.single, names.paired]
    if registration.prompt(names.shared_label) != registration.prompt(names.shared_rationale):
        tasks.append(names.shared)  # else its two targets could not be told apart
    told = _Told(quiet=_is_quiet(options))
    with locking.held(locking.of_output(options.output), options.output, "choose another --output"):
        built = cache.build(tasks, options.output, shards=options.shards, tfrecord=options.tfrecord, told=told)
    for name, splits in built.manifest["tasks"].items():
        for split, entry in splits.items():
            size = sum(shard["bytes"] for shard in entry["shards"])
            print(f"{name} {split}: {entry['examples']:,} examples, {len(entry['shards'])} shards, {size:,} bytes")
    print(f"{'wrote' if built.new else 'is complete already:'} {built.directory}")
    return 0


class _Told:
    """Says how far a cache has come: often on a terminal, every few seconds in a pipe."""

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


def _write_configuration() -> None:
    """Writes the resolved configuration beside the checkpoint."""
    from etils import epath

    from distill import configuration

    if _is_first():
        directory = epath.Path(configuration.macro("MODEL_DIR"))
        directory.mkdir(parents=True, exist_ok=True)
        (directory / CONFIG).write_text(configuration.resolved())


PAPER_SETS = ("cqa", "svamp", "esnli", "anli1", "asdiv")


def _data(options: argparse.Namespace) -> int:
    import importlib
    import json

    from distill import data_report
    from tasks import vocabularies

    unknown = sorted(set(options.set) - set(PAPER_SETS))
    if unknown:
        raise ValueError(f"--set must be one of {', '.join(PAPER_SETS)}; got {', '.join(unknown)}")
    here = [name for name in PAPER_SETS if (Path(options.data_dir) / name).is_dir()]
    if not (options.set or here):
        raise FileNotFoundError(f"{options.data_dir} holds none of {', '.join(PAPER_SETS)}")
    modules = [importlib.import_module(f"tasks.{name}") for name in options.set or here]
    result = data_report.report(
        [module.dataset(options.data_dir, teacher=options.teacher) for module in modules],
        vocabularies.load(options.vocabulary),
        {"inputs": options.inputs, "targets": options.targets},
        details=options.failures,
    )
    if options.json:
        print(json.dumps(result, ensure_ascii=False))
    else:
        data_report.render(result)
    return 0


def _sweep(options: argparse.Namespace) -> int:
    from distill import configuration, locking, sweep, sweep_report

    paths = [path for path in options.gin_search_paths.split(",") if path]
    grid = sweep.read(configuration.find(options.sweep, configuration.search_paths(paths)), options.directory)
    grid = dataclasses.replace(grid, bindings=(*grid.bindings, *options.gin_bindings))
    if options.report_only:
        sweep_report.write_all(grid)
        return _failed(sweep.failures(grid))
    remedy = "give another --directory"
    with locking.held(locking.of_directory(grid.directory), str(grid.directory), remedy):
        failures = _run_sweep(grid, options)
        sweep_report.write_all(grid)
    return _failed(failures)


def _run_sweep(grid: "Sweep", options: argparse.Namespace) -> dict[str, str]:
    from distill import sweep

    return sweep.run(
        grid,
        lambda runs, joint: _train_group(runs, joint, options),
        check=lambda run: _check_run(run, grid.metric, options),
        retry_failed=options.retry_failed,
    )


def _failed(failures: Mapping[str, str]) -> int:
    """The exit code of a sweep."""
    if not failures:
        return 0
    for name, error in failures.items():
        print(f"failed: {name}: {error}", file=sys.stderr)
    return EXIT_FAILED


def _demo(options: argparse.Namespace) -> int:
    from distill import configuration, demo, locking, sweep, sweep_report

    directory = Path(options.directory)
    grid = sweep.read(configuration.find(options.sweep, configuration.search_paths()), directory)
    with locking.held(locking.of_directory(directory), str(directory), "give another --directory"):
        vocabulary = demo.write_vocabulary(directory)
        shared = (f"VOCABULARY_PATH = {str(vocabulary)!r}", *options.gin_bindings)
        start = demo.pretraining_run(directory, shared)
        more = (*shared, f"INITIAL_CHECKPOINT_PATH = {str(start.directory)!r}")
        if not start.done:
            print(demo.INTRODUCTION)
            for error in _train_group([start], False, options).values():
                raise ValueError(f"the pretraining that all runs start from failed: {error}")
        grid = dataclasses.replace(grid, bindings=(*grid.bindings, *more))
        failures = _run_sweep(grid, options)
        found = sweep_report.write_all(grid, demo.TITLE, demo.XLABEL)
    print(demo.json_line(grid, found))
    return _failed(failures)


def _configure_run(run: "Run", options: argparse.Namespace) -> dict[str, Any]:
    """Parses a run's configuration and registers its tasks; the arguments of its training."""
    from distill import configuration, train

    paths = [path for path in options.gin_search_paths.split(",") if path]
    configuration.parse(run.gin_files, run.bindings, paths, options.gin_module)
    configuration.configured(train.train)
    given = configuration.arguments_of(train.train)
    _register()
    return given


def _check_run(run: "Run", metric: str, options: argparse.Namespace) -> None:
    """Raises ValueError or OSError if a run of a sweep cannot be trained, or has no such metric."""
    from distill import train

    train.check(**_configure_run(run, options), metrics=[metric])


def _train_group(runs: Sequence["Run"], joint: bool, options: argparse.Namespace) -> dict[str, str]:
    """Trains one run, or several seeds of it together; returns those that failed: name → error.

    What is no fault of a run ends the sweep: a signal (Stopped), a full disk and the like (OSError), a directory that
    another process trains in (Locked).
    """
    from distill import locking, sweep, train

    failed: dict[str, str] = {}
    try:
        if joint:
            return _train_jointly(runs, options)
        for run in runs:
            given = _configure_run(run, options)
            with train.lock_directory(run.directory) as lock:
                _write_configuration()
                stopped = train.train(**given, lock=lock, quiet=_is_quiet(options)).stopped
            if stopped not in (None, "early"):
                raise sweep.Stopped(stopped)
    except (sweep.Stopped, locking.Locked, MemoryError):
        raise
    except OSError as error:
        if not isinstance(error, ValueError):  # a data file that is missing is both
            raise
        failed = {run.name: _one_line(error) for run in runs}
    except Exception as error:  # of JAX, of the data, of the program: this run's, and not the next one's
        logging.info("a run failed", exc_info=error)
        failed = {run.name: _one_line(error) for run in runs}
    return failed


def _one_line(error: Exception) -> str:
    text = _without_gin(str(error)).splitlines()
    kind = "" if isinstance(error, (ValueError, FloatingPointError)) else f"{type(error).__name__}: "
    return kind + (text[0] if text else type(error).__name__)


def _train_jointly(runs: Sequence["Run"], options: argparse.Namespace) -> dict[str, str]:
    """Trains runs that differ in their seed alone side by side; those that failed: name → error."""
    import jax

    from distill import partitioning, train
    from distill.evaluate import Decoder
    from distill.replicas import Replica, train_replicas
    from distill.terminal import Terminal

    terminal, decoder, replicas = Terminal(quiet=_is_quiet(options)), None, []
    with contextlib.ExitStack() as stack:
        for run in runs:
            given = _configure_run(run, options)
            stack.enter_context(train.lock_directory(run.directory))
            _write_configuration()
            if decoder is None:
                # Replicas share one device; the run's own mesh is for students that need one.
                one_device = partitioning.MeshConfig(1, 1, 1).build(jax.devices()[:1])
                decoder = Decoder(given["model"], one_device, given["validation"].decode)
            settings = (given["model_dir"], given["data"], given["loop"], given["validation"])
            replicas.append(Replica.build(*settings, decoder, terminal))
        shared = ("model", "loss", "optimizer", "loop", "validation", "initial_checkpoint_path")
        results = train_replicas(replicas, **{name: given[name] for name in shared}, terminal=terminal)
    return {run.name: str(result) for run, result in zip(runs, results) if isinstance(result, Exception)}


def _eval(options: argparse.Namespace) -> int:
    _join(options)
    options.gin_bindings.append(f"SPLIT = {options.split!r}")
    _parse_configuration(options, ["gin/runs/eval.gin"])
    from distill import configuration, evaluate

    run = configuration.configured(evaluate.evaluate)
    _register()
    metrics = run().metrics
    for name, value in metrics.items() if _is_first() else ():
        print(f"{options.split} {name}: {value:.4f}")
    return 0


def _infer(options: argparse.Namespace) -> int:
    _parse_configuration(options, ["gin/runs/infer.gin"])
    from distill import configuration, infer

    run = configuration.configured(infer.infer)
    _register()
    run(options.input, options.output, input_field=options.input_field, rationale=options.rationale)
    return 0


def _export(options: argparse.Namespace) -> int:
    if not options.model_dir:
        raise ValueError("export needs --model_dir, the trained student's directory")
    _parse_configuration(options, ["gin/runs/export.gin"])
    from distill import configuration, export

    run = configuration.configured(export.export)
    dataset = configuration.value("DATASET")
    folder = run(
        options.model_dir,
        options.output,
        options.format,
        quantization=options.quantization,
        dataset=None if dataset is None else dataset.name,
    )
    print(folder)
    return 0


def _config(options: argparse.Namespace) -> int:
    _parse_configuration(options)
    from distill import configuration, train

    if configuration.mentions(train.train):
        configuration.arguments_of(train.train)
    print(configuration.resolved())
    return 0


def _extract(options: argparse.Namespace) -> int:
    from distill.teacher import commands

    return flags.call(commands.run_extract, options)


def _inspect(options: argparse.Namespace) -> int:
    from distill.teacher import commands

    return flags.call(commands.run_inspect, options)


def _precompile(options: argparse.Namespace) -> int:
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    from distill import configuration, train

    paths = [path for path in options.gin_search_paths.split(",") if path]
    if not options.measure_data:  # then nothing is read there; and nothing is written
        names = configuration.unset(("DATA_DIR", "MODEL_DIR"), options.gin_file, options.gin_bindings, paths)
        options.gin_bindings += (f"{name} = 'unused'" for name in names)
    _parse_configuration(options)
    configuration.configured(train.train)
    given = configuration.arguments_of(train.train)
    if options.measure_data:
        _register()
    fits = precompile.precompile(given, flags.call(precompile.Settings, options))
    return 0 if fits else EXIT_NO_ROOM


WITHOUT_TENSORFLOW = ("extract", "inspect")
TRAINING = ("train", "sweep", "demo", "cache")  # say at once that they have begun: importing takes seconds
COMMANDS = {
    "extract": _extract,
    "inspect": _inspect,
    "train": _train,
    "cache": _cache,
    "eval": _eval,
    "infer": _infer,
    "export": _export,
    "data": _data,
    "sweep": _sweep,
    "demo": _demo,
    "precompile": _precompile,
    "config": _config,
}


def _without_gin(message: str) -> str:
    """A message without gin's remarks on which of its calls it came through."""
    return re.sub(r"\n\s*In call to configurable .*", "", message).strip()


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code. Mistakes of the user end in one message, without a traceback."""
    from distill.configuration import split_arguments

    given = split_arguments(sys.argv[1:] if arguments is None else arguments)
    options = command_line.parser(next((word for word in given if not word.startswith("-")), "")).parse_args(given)
    logging.basicConfig(level=logging.INFO if options.verbose else logging.WARNING, format="%(levelname)s %(message)s")
    if options.command in TRAINING and not getattr(options, "quiet", False):
        print(f"distill {options.command}: loading TensorFlow and JAX", file=sys.stderr, flush=True)
    if not options.verbose and options.command not in WITHOUT_TENSORFLOW:
        _import_quietly()
    from distill.sweep import Stopped

    try:
        return COMMANDS[options.command](options)
    except Stopped as stopped:
        print(f"stopped by {stopped}; run the same command again to go on", file=sys.stderr)
        return EXIT_STOPPED
    except (ValueError, FileNotFoundError, FloatingPointError) as error:
        if options.verbose:
            raise
        print(f"distill {options.command}: {_without_gin(str(error))}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
