"""Shared by the commands that act on a run: its configuration, its processes, and the files that describe its student."""

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from distill.api import tensorflow_log
from distill.inference.own_files import CONFIG, FAILURE
from distill.validation import did_you_mean

if TYPE_CHECKING:
    from distill.tasks.registered import Registered

CONFIGURED = ("eval", "replay")
"""The commands that read ``config.gin`` of ``--model_dir``."""
STUDENT = "student.json"
SERVING = ("infer", "export")
"""The commands that read ``student.json`` of ``--model_dir``."""
joined = False
"""Whether this process is one of several."""


def load_tensorflow(options: argparse.Namespace) -> None:
    """Prints a line and imports TensorFlow, which takes seconds, silently; with ``--verbose``, its user imports it."""
    print(f"distill {options.command}: loading TensorFlow and JAX", file=sys.stderr, flush=True)
    if not options.verbose:
        tensorflow_log.import_quietly()


def check_flags(options: argparse.Namespace) -> None:
    """Raises ValueError if a flag is missing that the parser cannot require, or has no effect: it depends on others."""
    command, needed = options.command, "--model_dir, the directory of a trained student"
    if command == "eval" and not options.model_dir and not options.gin_file:
        raise ValueError(f"eval needs {needed}, or --gin_file")
    if command in SERVING and not options.model_dir:
        raise ValueError(f"{command} needs {needed}")
    if command == "cache" and options.dry_run and not options.beam_runner:
        raise ValueError("--dry_run describes a pipeline of Apache Beam; give --beam_runner=direct, dataflow or flink")
    from distill.cli import combinations, parser, process_flags

    if command in combinations.RULES:
        combinations.check(options, parser.of_command(command))
    if hasattr(options, "process_id"):
        process_flags.check(options)


def check_directories(options: argparse.Namespace) -> None:
    """Checks the local directories that a command reads: a misspelt path is an error before anything slow is imported.

    Raises:
      FileNotFoundError: a directory of ``--model_dir`` or of ``report``, or the input of ``infer``, does not exist; or
        ``infer`` or ``export`` of a directory that holds no student.
      OSError: the folder of an output cannot be made or written.
      ValueError: ``eval`` or ``replay`` of a directory that holds no configuration.
    """
    model_dir = getattr(options, "model_dir", None)
    read = [(model_dir, "a directory that `distill train` wrote")] if model_dir else []
    if options.command == "report":
        read += [(path, "the folder of a sweep or a model directory") for path in options.runs]
    for path, expected in read:
        if "://" not in path and not Path(path).exists():
            raise FileNotFoundError(f"{path} does not exist; expected {expected}{_near(path)}")
    if model_dir and options.command in CONFIGURED:
        _configuration_in(model_dir)
    if model_dir and options.command in SERVING and not _may_hold_student(model_dir):
        raise FileNotFoundError(f"{model_dir} holds no {STUDENT}; {_other_directory(model_dir)}")
    if model_dir and options.command in ("eval", *SERVING):
        _check_saved(model_dir)
    output = getattr(options, "output", None)
    if output and output != "-" and options.command in ("infer", "export", "eval", "cache"):
        from distill.inference import own_files

        folder = os.path.dirname(output) or "." if options.command == "infer" else output
        if not (options.command == "cache" and options.beam_runner):  # other machines write it
            own_files.check_can_be_made("--output", folder)
    if options.command == "infer" and "://" not in options.input and not Path(options.input).exists():
        from distill.tasks import sources

        sources.open_bytes(options.input, "rows to answer")  # raises the error, with a similar name in the folder


def _near(path: str) -> str:
    """The end of an error that suggests the folder with the nearest name beside a path; empty if there is none."""
    place = Path(path)
    folders = [str(one) for one in place.parent.iterdir() if one.is_dir()] if place.parent.is_dir() else []
    return did_you_mean(str(place), folders)


def _may_hold_student(model_dir: str) -> bool:
    """Whether a directory is remote, or holds a student, or a configuration: an earlier version wrote no student."""
    return "://" in model_dir or any((Path(model_dir) / name).exists() for name in (STUDENT, CONFIG))


def _configuration_in(model_dir: str) -> Path:
    config = Path(model_dir) / CONFIG
    if not config.exists():
        raise ValueError(f"{model_dir} holds no {CONFIG}; {_other_directory(model_dir)}")
    return config


def _other_directory(path: str) -> str:
    """What a directory may be that holds no student: a sweep, of whose runs one is named."""
    from distill.experiments.sweep import plan

    if not (Path(path) / plan.PLAN).exists():
        return "is it a trained model's directory?"
    runs = sorted(str(student.parent) for student in Path(path).glob(f"*/{STUDENT}"))
    return "it is the directory of a sweep; give that of one of its runs" + (f", such as {runs[0]}" if runs else "")


def _check_saved(model_dir: str) -> None:
    """Raises ValueError for a run of a sweep that failed before it saved parameters."""
    note = Path(model_dir) / FAILURE
    if not note.exists() or any(step.name.isdigit() for step in Path(model_dir).glob("*/*")):
        return
    from distill.experiments.sweep import outcomes

    try:
        error = str(json.loads(note.read_text(encoding="utf-8"))["error"])
    except (OSError, ValueError, KeyError, TypeError):
        error = f"see {note}"
    raise ValueError(
        f"{model_dir} has no parameters: the run failed before its first checkpoint ({outcomes.brief(error)}); give "
        "another run of the sweep; `distill sweep --retry_failed` repeats failed runs"
    )


ADDED: dict[str, tuple[list[str], list[str]]] = {
    "train": ([], []),
    "config": ([], []),
    "cache": ([], []),
    "replay": ([], []),
    "precompile": ([], []),
    "eval": (["gin/runs/eval.gin"], ["SPLIT = 'test'"]),
}
"""Command → the gin files and bindings that it adds to those of its command line."""
PROVIDED = {
    "cache": ("MODEL_DIR",),
    "config": ("MODEL_DIR",),
    "precompile": ("DATA_DIR", "MODEL_DIR", "VOCABULARY_PATH"),
}
"""Command → the macros that it sets itself if nothing else does."""


def check_configuration(options: argparse.Namespace) -> None:
    """Checks what can be checked of a configuration before TensorFlow and JAX are imported, which takes seconds.

    Raises:
      ConfigurationError: a misspelt file, macro or argument, or a missing macro.
      ValueError: a topology that does not exist.
      FileNotFoundError: a local file that a new run needs does not exist.
    """
    if options.command not in ADDED:
        return
    from distill.api import first_checks

    files, bindings = _given(options)
    own_files, own_bindings = ADDED[options.command]
    evaluates = options.split if options.command == "eval" else None
    hardware = ""
    if options.command == "precompile":
        from distill.precompile import chips

        hardware = chips.hardware_file(options.topology)
    first_checks.check(
        [*files, *own_files],
        [*bindings, *own_bindings],
        search_paths(options),
        provided=PROVIDED.get(options.command, ()),
        trains=options.command == "train",
        evaluates=evaluates,
        hardware=hardware,
    )


def _given(options: argparse.Namespace) -> tuple[list[str], list[str]]:
    """Gin files and bindings of a command line; those of ``--model_dir`` among them."""
    files, bindings = list(options.gin_file), list(options.gin_bindings)
    model_dir = getattr(options, "model_dir", None)
    if model_dir:
        files.insert(0, str(_configuration_in(model_dir)))
        bindings.append(f"MODEL_DIR = {model_dir!r}")
    return files, bindings


def search_paths(options: argparse.Namespace) -> list[str]:
    """The folders of ``--gin_search_paths``."""
    return [path for path in options.gin_search_paths.split(",") if path]


def parse_configuration(options: argparse.Namespace, extra_files: Sequence[str] = ()) -> None:
    from distill.api import configuration

    files, bindings = _given(options)
    configuration.parse([*files, *extra_files], bindings, search_paths(options), options.gin_module)


def join(options: argparse.Namespace) -> None:
    """Initialises JAX's distributed runtime if the run has several processes; call it before any other use of JAX.

    Raises:
      ValueError: JAX does not find out how many processes there are, or which one this is.
      OSError: process 0 cannot listen at the port.
    """
    given = (options.coordinator_address, options.num_processes, options.process_id)
    if options.multiprocess or any(value is not None for value in given):
        import jax

        from distill.cli import coordinator, interrupts

        global joined
        joined = True
        before = signal.getsignal(signal.SIGTERM)
        address = options.coordinator_address or os.environ.get("JAX_COORDINATOR_ADDRESS")
        try:
            with (
                interrupts.ending_at_once(),
                coordinator.waiting(
                    address, options.command, processes=options.num_processes, process=options.process_id
                ),
            ):
                jax.distributed.initialize(
                    *given,
                    initialization_timeout=coordinator.JAX_LIMIT_S,
                    heartbeat_timeout_seconds=options.heartbeat_timeout_seconds,
                )
        except ValueError as error:
            raise ValueError(
                f"the processes of this run are not known, since no cluster is recognised ({str(error).rstrip('.')}); "
                "give --coordinator_address, --num_processes and --process_id in every process"
            ) from None
        except jax.errors.JaxRuntimeError as error:
            if "Failed to start RPC server" not in str(error):
                raise
            where = options.coordinator_address or "the cluster's coordinator address"
            raise OSError(
                f"process 0 cannot listen at the port of {where}, which may be in use; end what uses it, or give another "
                "port in every process"
            ) from None
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)  # JAX took it for its preemption service, which nothing here reads


def is_first() -> bool:
    import jax

    return jax.process_index() == 0


def register() -> "Registered":
    from distill.api import configuration
    from distill.tasks import registration

    return registration.register(**configuration.registration_arguments())


def is_quiet(options: argparse.Namespace) -> bool:
    return bool(getattr(options, "quiet", False))


def write_configuration(*, quiet: bool = False) -> None:
    """Writes the resolved configuration, and the student as data, beside the checkpoint, and says what ``train`` says.

    Args:
      quiet: say nothing.

    Raises:
      ValueError: the directory holds a run with other settings.
    """
    from distill.api import run
    from distill.terminal import Terminal

    first = is_first()
    run.Run.current().introduce(Terminal(active=first, quiet=quiet), writes=first)
