"""The entry point of ``distill``: parses the command line, runs one command, and turns its errors into exit codes."""

import argparse
import contextlib
import functools
import gc
import importlib
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Sequence

from distill import exit_codes, terminal
from distill.api import paths, tensorflow_log
from distill.cli import errors, interrupts, runs
from distill.cli import parser as command_line
from distill.terminal import LogFormat

tensorflow_log.set_level()

# Command → module of distill.cli and function. Modules are imported when their command runs: each needs other libraries.
COMMANDS = {
    "example": ("experiments", "example_command"),
    "extract": ("teacher", "extract_command"),
    "prompt": ("prompts", "prompt_command"),
    "inspect": ("teacher", "inspect_command"),
    "train": ("training", "train_command"),
    "cache": ("training", "cache_command"),
    "replay": ("replay", "replay_command"),
    "eval": ("evaluation", "eval_command"),
    "infer": ("serving", "infer_command"),
    "export": ("serving", "export_command"),
    "data": ("data", "data_command"),
    "profile": ("profile", "profile_command"),
    "sweep": ("sweeps", "sweep_command"),
    "demo": ("experiments", "demo_command"),
    "report": ("report", "report_command"),
    "precompile": ("precompile", "precompile_command"),
    "config": ("training", "config_command"),
    "convert": ("tools", "convert_command"),
    "vocabulary": ("tools", "vocabulary_command"),
    "completion": ("completion", "completion_command"),
}
# What the same command continues after a signal; the others start over.
CONTINUING = ("extract", "train", "cache", "infer", "sweep", "demo", "launch")
# `sweep` loads TensorFlow and enables the compilation cache where it trains, not in its scheduler.
WITH_TENSORFLOW = ("train", "replay", "cache", "eval", "demo", "precompile", "config")
# `infer` enables the compilation cache after its first line.
COMPILING = ("train", "replay", "eval", "demo")


# With Python's own thresholds, the garbage collector visits the modules of JAX and TensorFlow many times while they are
# imported, which took a fifth of that time, and all that is alive during training.
_COLLECTOR = (100_000, 50, 50)

_words: Sequence[str] = ()  # the command line, for the line after a signal


def _stop_line(name: str, command: str) -> str:
    advice = exit_codes.CONTINUE if command in CONTINUING else exit_codes.START_OVER
    if command == "train" and (interrupts.unsaved() is not None or not _has_checkpoint(_words)):
        advice = exit_codes.NOTHING_SAVED
    elif command == "sweep" and (directory := interrupts.unsaved()) is not None:
        advice = f"nothing was saved of the run in {directory}, which starts again; {advice}"
    return f"stopped by {name}; {advice}\n"


def _has_checkpoint(words: Sequence[str]) -> bool:
    """Whether the model directory of a command line may hold a checkpoint; imports nothing, for signals during imports."""
    given = re.findall(r"^--gin\.MODEL_DIR=[\"']?(.*?)[\"']?$", "\n".join(words), re.MULTILINE)
    if not given or "://" in given[-1]:  # a gin file names it, or it is remote
        return True
    return interrupts.holds_checkpoint(os.path.expanduser(given[-1]))


def command_function(command: str) -> Callable[[argparse.Namespace], int]:
    module, name = COMMANDS[command]
    return getattr(importlib.import_module(f"distill.cli.{module}"), name)


def _run(options: argparse.Namespace, received: interrupts.Received) -> int:
    """Runs a command that the parser knows; see :func:`_ended`."""

    def run() -> int:
        for name, value in vars(options).items():
            setattr(options, name, paths.expand_home(value))
        # Progress and warnings, which go to standard error, are not shown. The log of errors is.
        with terminal.hidden() if options.quiet else contextlib.nullcontext():
            runs.check_flags(options)
            runs.check_directories(options)
            runs.check_configuration(options)
            if options.command in WITH_TENSORFLOW:
                runs.load_tensorflow(options)
            if options.command in COMPILING:
                from distill.cli import compilation_cache

                compilation_cache.enable()
            return command_function(options.command)(options)

    return _ended(run, options.command, received, verbose=options.verbose)


def _ended(run: Callable[[], int], name: str, received: interrupts.Received, *, verbose: bool = False) -> int:
    """Runs a command; returns its exit code, or that of the error that ended it, which is printed in one line."""
    try:
        code = run()
        sys.stdout.flush()  # reports a full disk now, and not when Python ends
        return code
    except (exit_codes.Stopped, interrupts.Interrupted, KeyboardInterrupt) as stopped:
        return _stopped(str(stopped) or "SIGINT", name)
    except BrokenPipeError:  # `distill … | head`: the reader has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return exit_codes.MACHINE
    except Exception as error:
        if received.names:
            return _stopped(received.names[0], name)
        explained = errors.explain(error)
        _leave_others(1 if explained is None else explained[0])
        if explained is None or verbose:
            raise
        code, message = explained
        print(f"distill {name}: {message}", file=sys.stderr)
        return code


def _stopped(name: str, command: str) -> int:
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one changes nothing; SIGINT and SIGKILL still end it
    print(_stop_line(name, command), end="", file=sys.stderr)
    _leave_others(exit_codes.STOPPED)
    return exit_codes.STOPPED


def _leave_others(code: int) -> None:
    """Ends this process of several soon: at its end, JAX would wait for the others, which may wait for this one."""
    if runs.joined:
        from distill.checkpoints import watchdog

        watchdog.do_not_outlive(code=code)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code, as in ``distill.exit_codes``. Mistakes give no traceback."""
    global _words
    if arguments is None:  # the program itself, and no call from another one
        gc.set_threshold(*_COLLECTOR)
    words = _words = list(sys.argv[1:] if arguments is None else arguments)
    command = _command(words)
    line = functools.partial(_stop_line, command=command)
    with (
        interrupts.second_ends() as again,
        interrupts.signals_raise(line, again, last=arguments is None) as received,
    ):
        try:
            code = _main(words, received)
        except interrupts.Interrupted as stopped:  # before or after the command itself
            code = _stopped(str(stopped), command)
        # Several processes end together: JAX does it at Python's end.
        if arguments is None and code == exit_codes.STOPPED and not runs.joined:
            interrupts.leave(code)
        return code


def _command(words: Sequence[str]) -> str:
    """The subcommand of a command line; empty without one."""
    return next((word for word in words if not word.startswith("-")), "")


def _main(words: Sequence[str], received: interrupts.Received) -> int:
    if words[:1] == ["launch"]:  # its flags depend on the backend, and another command's line follows them
        from distill.cli import launch

        return _ended(lambda: launch.launch_command(words[1:]), "launch", received)
    given = command_line.split_arguments(words)
    parsed: list[argparse.Namespace] = []

    def parse() -> int:
        parsed.append(command_line.parser(_command(given)).parse_args(given))
        return exit_codes.DONE

    if code := _ended(parse, _command(given) or "--help", received):
        return code
    (options,) = parsed
    level = logging.INFO if options.verbose else logging.ERROR if options.quiet else logging.WARNING
    handler = logging.StreamHandler()
    handler.setFormatter(LogFormat())
    logging.basicConfig(level=level, handlers=[handler])
    return _run(options, received)


if __name__ == "__main__":
    sys.exit(main())
