"""The command line. This is the only place, with ``configuration``, where gin files become arguments."""

import argparse
import contextlib
import dataclasses
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill import command_line, errors, exit_codes, flags, paths
from distill.precompile import command as precompile

if TYPE_CHECKING:
    from distill.student import Student
    from distill.sweep import Run, Sweep

# TensorFlow only reads data here, and has nothing to say.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

CONFIG = "config.gin"


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
        return exit_codes.STOPPED
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
    """Writes the resolved configuration, and the student as data, beside the checkpoint.

    Raises:
      ValueError: the directory holds a run with other settings.
    """
    from etils import epath

    from distill import configuration, model_directory

    directory = configuration.macro("MODEL_DIR")
    there = epath.Path(directory) / CONFIG
    before = configuration.bindings_of(there.read_text(), str(there)) if there.exists() else None
    text = configuration.resolved()
    student, vocabulary = _described()
    said = model_directory.begin(
        directory, text, before, configuration.bindings_of(text), student, vocabulary, writes=_is_first()
    )
    for line in said if _is_first() else ():
        print(line, file=sys.stderr)


def _described() -> tuple["Student | None", bytes | None]:
    """The student of the configuration as data, and its vocabulary's file. No student where no plain vocabulary fits."""
    from distill import configuration, train
    from distill.decoder import DecodeConfig
    from distill.partitioning import MeshConfig
    from distill.student import Student
    from tasks import registration, vocabularies

    given, registered = configuration.arguments_of(train.train), configuration.arguments_of(registration.register)
    vocabulary = registered.get("vocabulary", "t5")
    vocabulary = vocabularies.load(vocabulary) if isinstance(vocabulary, str) else vocabulary
    try:
        model = vocabularies.model_bytes(vocabulary)
    except ValueError:
        return None, None
    dataset, validation = registered["dataset"], given.get("validation")
    task = validation.task_name if validation is not None else given["data"].mixture_or_task_name
    student = Student(
        given["model"],
        "bytes" if model is None else "sentencepiece",
        vocabulary.extra_ids,
        form=task.removeprefix(f"{dataset.name}_"),
        label_prefix=registered.get("label_prefix", registration.LABEL_PREFIX),
        rationale_prefix=registered.get("rationale_prefix", registration.RATIONALE_PREFIX),
        separator=dataset.separator,
        input_field=getattr(dataset.source, "input_field", "input"),
        dataset=dataset.name,
        answer=dataset.answer,
        decode=DecodeConfig() if validation is None else validation.decode,
        mesh=given.get("mesh") or MeshConfig(),
        trained_in=os.getcwd(),
    )
    return student, None if model is None else vocabularies.without_extra_ids(model, vocabulary.extra_ids)


def _data(options: argparse.Namespace) -> int:
    from distill import data_command

    return data_command.run(options, _import_quietly)


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
    return exit_codes.SOME_FAILED


def _example(options: argparse.Namespace) -> int:
    from distill import example

    directory = Path(options.output)
    for line in example.write(directory, options.train_rows, options.seed):
        print(line)
    print(f"next: {example.next_command(directory)}")
    return 0


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
    from distill import locking, train

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
                raise exit_codes.Stopped(stopped)
    except (exit_codes.Stopped, locking.Locked, MemoryError):
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
    explained = errors.explain(error)
    return explained[1] if explained else f"{type(error).__name__}: {error}".splitlines()[0]


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
    if options.model_dir:
        _find_files(options)
    _parse_configuration(options, ["gin/runs/eval.gin"])
    from distill import configuration, evaluate

    run = configuration.configured(evaluate.evaluate)
    _register()
    metrics = run(output_dir=options.output).metrics
    for name, value in metrics.items() if _is_first() else ():
        print(f"{options.split} {name}: {value:.4f}")
    return 0


def _find_files(options: argparse.Namespace) -> None:
    """Lets a model directory be evaluated from any folder: its own vocabulary, and data where the training found it."""
    from etils import epath

    from distill import configuration, student

    directory = epath.Path(options.model_dir)
    if not ((directory / student.FILE).exists() and (directory / CONFIG).exists()):
        return
    described = student.read(directory)
    there = configuration.bindings_of((directory / CONFIG).read_text(), str(directory / CONFIG))
    given = {binding.partition("=")[0].strip() for binding in options.gin_bindings}
    found: dict[str, object] = {}
    if described.vocabulary == "sentencepiece" and "VOCABULARY_PATH" in there:
        student.read_vocabulary(directory, described)  # says in one line what is wrong with the file
        found["VOCABULARY_PATH"] = str(directory / student.VOCABULARY_FILE)

    def moved(path: object) -> object:
        """The path as the training command meant it, where nothing is at it from here."""
        if not isinstance(path, str) or "://" in path or os.path.isabs(path) or os.path.exists(path):
            return path
        absolute = os.path.join(described.trained_in, path)
        return absolute if described.trained_in and os.path.exists(absolute) else path

    for name in ("FILES", "DATA_DIR"):
        value = there.get(name)
        new = {key: moved(path) for key, path in value.items()} if isinstance(value, dict) else moved(value)
        if new != value:
            found[name] = new
            print(f"{name} is taken from {described.trained_in}, where the student was trained", file=sys.stderr)
    options.gin_bindings[:0] = [f"{name} = {value!r}" for name, value in found.items() if name not in given]


def _infer(options: argparse.Namespace) -> int:
    from distill import serving

    return serving.run_infer(options)


def _export(options: argparse.Namespace) -> int:
    from distill import serving

    return serving.run_export(options)


def _completion(options: argparse.Namespace) -> int:
    import shtab

    print(shtab.complete(command_line.parser("extract"), options.shell))
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
    return 0 if fits else exit_codes.NO_ROOM


COMPILING = ("train", "eval", "sweep", "demo")  # `infer` turns the cache on after its first line
WITHOUT_TENSORFLOW = ("completion", "example", "extract", "inspect", "data", "infer", "export")
TRAINING = ("train", "sweep", "demo", "cache")  # say at once that they have begun: importing takes seconds
COMMANDS = {
    "example": _example,
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
    "completion": _completion,
}


class _Interrupted(BaseException):
    """A signal ended a command outside of the training loop, which listens itself; the text is the signal's name."""


@contextlib.contextmanager
def _signals_raise() -> Iterator[None]:
    """SIGTERM ends a command as SIGINT does, by an exception, so that what it was doing is cleaned up."""

    def interrupt(number: int, frame: object) -> None:
        raise _Interrupted(signal.Signals(number).name)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextlib.contextmanager
def _quiet(quiet: bool) -> Iterator[None]:
    """With ``quiet``, progress and warnings, which go to standard error, are not shown. The log of errors is."""
    with contextlib.ExitStack() as stack:
        if quiet:
            stack.enter_context(contextlib.redirect_stderr(stack.enter_context(open(os.devnull, "w"))))
        yield


def _run(options: argparse.Namespace) -> int:
    """Runs a command; returns its exit code, or that of the error that ended it, with one line said of it."""
    try:
        for name, value in vars(options).items():
            setattr(options, name, paths.expand_home(value))
        with _signals_raise(), _quiet(options.quiet):
            if options.command in TRAINING:
                print(f"distill {options.command}: loading TensorFlow and JAX", file=sys.stderr, flush=True)
            if not options.verbose and options.command not in WITHOUT_TENSORFLOW:
                _import_quietly()
            if options.command in COMPILING:
                from distill import compile_cache

                compile_cache.enable()
            code = COMMANDS[options.command](options)
            sys.stdout.flush()  # a full disk is told now, and not when Python ends
            return code
    except (exit_codes.Stopped, _Interrupted, KeyboardInterrupt) as stopped:
        name = str(stopped) or "SIGINT"
        print(f"stopped by {name}; run the same command again to go on", file=sys.stderr)
        return exit_codes.STOPPED
    except BrokenPipeError:  # of `distill … | head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return exit_codes.MACHINE
    except Exception as error:
        explained = errors.explain(error)
        if explained is None or options.verbose:
            raise
        code, message = explained
        print(f"distill {options.command}: {message}", file=sys.stderr)
        return code


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code, as in ``distill.exit_codes``. Mistakes end in one message, no traceback."""
    given = command_line.split_arguments(sys.argv[1:] if arguments is None else arguments)
    options = command_line.parser(next((word for word in given if not word.startswith("-")), "")).parse_args(given)
    level = logging.INFO if options.verbose else logging.ERROR if options.quiet else logging.WARNING
    logging.basicConfig(level=level, format="%(levelname)s %(message)s")
    return _run(options)


if __name__ == "__main__":
    sys.exit(main())
