"""Errors and warnings in the words of the Python interface: arguments, where the command line's name flags and macros."""

import contextlib
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from absl import logging as absl_logging

from distill import terminal

# Macro → argument of :func:`distill.train`.
ARGUMENTS = {
    "ALPHA": "alpha",
    "ANSWER": "answer",
    "BATCH_SIZE": "batch_size",
    "EVAL_PERIOD": "eval_period",
    "FIELDS": "fields",
    "FILES": "rows",
    "INITIAL_CHECKPOINT_PATH": "initial",
    "LAMBDA": "lam",
    "LEARNING_RATE": "learning_rate",
    "MAX_DECODE_LEN": "max_answer_length",
    "MESH": "mesh",
    "MODEL_DIR": "directory",
    "PATIENCE": "patience",
    "RANDOM_SEED": "seed",
    "TASK_FEATURE_LENGTHS": "lengths",
    "TEST_SPLIT": "test",
    "TRAIN_STEPS": "steps",
    "VOCABULARY_PATH": "vocabulary",
}
OF_ROWS = {name: ARGUMENTS[name] for name in ("ANSWER", "FIELDS", "FILES", "VOCABULARY_PATH")}
"""Macro → argument of :func:`distill.read`, ``register`` and ``evaluate``."""

_FOLDERS = {"hardware": "hardware", "models": "model"}


def in_python(text: str, arguments: Mapping[str, str], others: str) -> str:
    """A message of the command line with the arguments of a Python function in place of flags.

    Args:
      text: the message.
      arguments: macro → argument; empty for a function that takes macros only.
      others: the argument that takes all other macros, such as ``settings``.

    >>> in_python("--gin.BATCH_SIZE=8 fits; raise TRAIN_STEPS or --gin.Z_LOSS=0.1", ARGUMENTS, "settings")
    "batch_size=8 fits; raise steps or settings={'Z_LOSS': 0.1}"
    """

    def flag(found: re.Match[str]) -> str:
        name, value = found["name"], found["value"] or "…"
        if name in arguments and not found["value"]:
            return arguments[name]
        word = value if re.fullmatch(r"…|None|True|False|[-\d.e]+", value) else repr(value)
        return f"{arguments[name]}={word}" if name in arguments else f"{others}={{{name!r}: {word}}}"

    def file(found: re.Match[str]) -> str:
        argument = _FOLDERS.get(found["folder"]) if arguments else None
        return f"{argument}={found['name']!r}" if argument else repr(f"gin/{found['folder']}/{found['name']}.gin")

    text = _subject(_methods(text) if "MODEL_DIR" in arguments else text, arguments, others)
    text = re.sub(r"--gin\.(?P<name>[A-Za-z_](?:[\w.]*\w)?)(?:=(?P<value>[^\s;,)]*[^\s;,).]))?", flag, text)
    text = re.sub(r"--gin_file=gin/(?P<folder>\w+)/(?P<name>\w+)\.gin", file, text)
    text = re.sub(r"--gin_module=([\w.]+)", r"distill.from_gin(…, allowed=['\1'])", text)
    for name, argument in arguments.items():
        text = re.sub(rf"(?<![\w'\"/.]){name}(?![\w'\"])", argument, text)
    return re.sub(r"[;,] (\w+) sets \1\b", "", text)


def _methods(text: str) -> str:
    """The message with arguments of :func:`distill.train` in place of settings that one of them stands for.

    >>> _methods("FORM=label (gin/runs/finetune.gin) trains on labels alone")
    "method='finetune' trains on labels alone"
    >>> _methods("Give rows, FILES={'train': …, 'validation': …}, or more")
    'Give rows, validation=…, or more'
    """
    text = re.sub(r"\b[A-Z_]+=\w+ \(gin/runs/(\w+)\.gin\)", r"method='\1'", text)
    text = re.sub(r"\bLABEL_SOURCE=teacher\b", "method='task_distill'", text)
    text = re.sub(r"\bFILES=\{'train': …, '(validation|test)': …\}", r"\1=…", text)
    axes = r"--gin\.partitioning\.MeshConfig\.data=, \.fsdp= and \.model= set the axes"
    text = re.sub(
        rf"use (--gin_file=gin/hardware/.*) here, after the other files; {axes}",
        r"leave out mesh and take that of \1, or give a mesh that fits",
        text,
    )
    return re.sub(axes, "mesh sets the axes", text)


def _subject(text: str, arguments: Mapping[str, str], others: str) -> str:
    """The message with the argument that the caller gave, or its macro, in place of the configured function's argument.

    >>> _subject("LoopConfig.train_steps must be ≥ 1; got 0; --gin.TRAIN_STEPS sets train_steps", ARGUMENTS, "settings")
    'steps must be ≥ 1; got 0'
    >>> _subject("Z_LOSS (set in the arguments), as losses.TwoTaskLoss.z_loss: z_loss must be ≥ 0", {}, "bindings")
    "bindings['Z_LOSS'] must be ≥ 0"
    """

    def name(macro: str) -> str:
        return arguments.get(macro, f"{others}[{macro!r}]")

    def early(found: re.Match[str]) -> str:
        return f"{name(found[1])}{':' if found['end'] is None else ''}"

    text = re.sub(
        r"\b([A-Z][A-Z_]+) \(set in the arguments\), as [\w.]*\.(?P<argument>\w+):(?: (?P=argument)(?P<end>(?=[\[ ])))?",
        early,
        text,
    )
    for macro, argument in re.findall(r"[;,] --gin\.(\w+) sets (\w+)\b", text):
        subject = rf"^(?:[A-Za-z_]\w*\.)?{argument}(?= must |\[)"
        if re.search(subject, text):
            text = re.sub(subject, lambda _, macro=macro: name(macro), text)  # type: ignore[misc]
            return re.sub(r"(?:[;,] --gin\.\w+ sets \w+)+$", "", text)
    return text


@contextlib.contextmanager
def speaking_python(arguments: Mapping[str, str], others: str) -> Iterator[None]:
    """Errors, warnings and lines inside name Python arguments; types of errors stay. Arguments as in :func:`in_python`."""

    def rewrite(text: str) -> str:
        return in_python(text, arguments, others)

    try:
        with terminal.worded(rewrite), _logged(rewrite):
            yield
    except (ValueError, OSError) as error:
        if error.args and isinstance(error.args[0], str):
            error.args = (rewrite(error.args[0]), *error.args[1:])
        elif isinstance(error, OSError) and isinstance(error.strerror, str):
            error.strerror = rewrite(error.strerror)
        raise


@contextlib.contextmanager
def _logged(rewrite: Callable[[str], str]) -> Iterator[None]:
    """Passes the messages that this package logs inside through ``rewrite``; other packages' messages stay."""
    package = str(Path(terminal.__file__).parent)

    def reword(record: logging.LogRecord) -> bool:
        if record.pathname.startswith(package):
            record.msg, record.args = rewrite(record.getMessage()), None
        return True

    # A filter of a logger does not see the records of its children.
    loggers = (logging.getLogger(), absl_logging.get_absl_logger())
    for logger in loggers:
        logger.addFilter(reword)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(reword)
