"""``distill infer`` and ``distill export``: from flags to function calls. Imports no gin."""

import argparse
import ast
import dataclasses
import functools
import re
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distill import allocator
from distill.api import value_types
from distill.counting import counted
from distill.inference import student as students
from distill.inference.student import Student
from distill.validation import did_you_mean, quoted

# Macros of inference, by the field of Student that they set.
_MACROS = {
    "MAX_DECODE_LEN": "decode.max_decode_len",
    "MAX_INPUT_LEN": "decode.max_input_len",
    "EVAL_BATCH_SIZE": "decode.batch_size",
    "PARAM_GATHER": "decode.param_gather",
    "EVAL_FORM": "form",
    "DTYPE": "model.dtype",
    "ATTENTION": "model.attention",
}
_PLACE = "the command line"
_PERIOD = 10.0  # seconds between lines if stderr is not a terminal
_EXPORT_PERIOD = 3.0  # seconds between lines of an export


def infer_command(options: argparse.Namespace) -> int:
    """``distill infer``. Raises ValueError, after all lines are written, if no row could be answered.

    With ``--shard``, a block of rows that cannot be read is no error if other rows of the input can be read.
    """
    allocator.use_one_arena()
    model_dir = options.model_dir
    longest: int | None = options.max_rationale_len
    if longest is not None and not options.rationale:
        raise ValueError(f"--max_rationale_len={longest} changes nothing without --rationale; give both, or neither")
    student = with_bindings(students.read(model_dir), options.gin_bindings)
    if longest is not None and student.form == "single":
        raise ValueError(
            f"--max_rationale_len={longest} changes nothing for this student: rationale and answer are one text "
            "(form 'single'); --gin.MAX_DECODE_LEN=N sets the tokens of that text"
        )
    progress = Progress(Path(options.input), quiet=getattr(options, "quiet", False))
    progress.note(f"{model_dir}: loading a student of {student.dataset or 'an unnamed data set'}")
    from distill.cli import compilation_cache
    from distill.inference import answering, infer

    compilation_cache.enable()

    output = str(Path(options.output).expanduser())
    shown = "standard output" if output == "-" else output
    with progress:
        report = infer.infer(
            Path(options.input).expanduser(),
            output,
            model_dir=model_dir,
            student=student,
            input_field=options.input_field,
            choices=options.choices,
            rationale=options.rationale,
            rationale_decode=None if longest is None else answering.rationale_config(student.decode, longest),
            overwrite=options.overwrite,
            shard=options.shard,
            progress=progress,
        )
    total, failed = report.found + report.answered + report.failed, sum(report.reasons.values())
    if not total:
        raise ValueError(f"{options.input} holds no rows; nothing was answered")
    if failed == total and not report.others_readable:
        reasons = "; ".join(infer.counted_reason(report, reason) for reason in list(report.reasons)[:3])
        field = options.input_field or student.input_field
        of_field = any(reason.startswith("field ") for reason in report.reasons)
        hint = f". The input was expected in field {field!r}; --input_field names another" if of_field else ""
        block = "" if options.shard is None else f" of block {options.shard[0]}/{options.shard[1]}"
        whole = f"{counted(total, 'row')}{block} of {options.input}"
        raise ValueError(f"none of {whole} could be answered: {reasons}{hint}. {shown} has a line for each row")
    progress.note(infer.summary(report, shown))
    if report.others_readable:
        progress.note("WARNING no row of this block could be read; rows of other blocks can")
    return 0


def export_command(options: argparse.Namespace) -> int:
    """``distill export``."""
    model_dir = options.model_dir
    student = with_bindings(students.read(model_dir), options.gin_bindings)
    vocabulary = students.read_vocabulary(model_dir, student)
    shown = ExportProgress(quiet=getattr(options, "quiet", False))
    shown.note(f"{model_dir}: exporting a student of {student.dataset or 'an unnamed data set'} to {options.output}")
    from distill.inference import export

    folder = export.export(
        model_dir,
        str(Path(options.output).expanduser()),
        options.format,
        vocabulary=vocabulary,
        label_prefix=student.label_prefix,
        rationale_prefix=student.rationale_prefix,
        form=student.form,
        encoder_bos=student.encoder_bos,
        decode=student.decode,
        dataset=student.dataset or None,
        quantization=options.quantization,
        progress=shown,
    )
    print(folder)
    return 0


def with_bindings(student: Student, bindings: Sequence[str]) -> Student:
    """The student with the decoding and mesh settings of the command line; no expression is evaluated.

    Args:
      student: as read from its directory.
      bindings: ``NAME = value``: ``MAX_DECODE_LEN`` and the other macros of decoding, ``evaluate.DecodeConfig.…``,
        ``partitioning.MeshConfig.…``; values are literals or bare words.

    Raises:
      ValueError: another name, suggesting its neighbour, or a value of the wrong type or out of range.
    """
    kinds = {"": type(student), **{part: type(getattr(student, part)) for part in ("decode", "mesh", "model")}}
    known = _MACROS | {
        f"{spelling}.{field.name}": f"{part}.{field.name}"
        for spelling, part in (("evaluate.DecodeConfig", "decode"), ("partitioning.MeshConfig", "mesh"))
        for field in dataclasses.fields(kinds[part])
    }
    given: dict[str, str] = {}
    fields: dict[str, Any] = dataclasses.asdict(student)
    for binding in bindings:
        name, _, text = (part.strip() for part in binding.partition("="))
        if name not in known:
            hint = did_you_mean(name[:80], known)
            raise ValueError(
                f"--gin.{name:.80} does not apply here{hint} (the student is read from {students.FILE}; settings: "
                f"{', '.join(_MACROS)}, evaluate.DecodeConfig.… and partitioning.MeshConfig.…)"
            )
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            if not re.fullmatch(r"[A-Za-z_]\w*", text):
                raise ValueError(
                    f"--gin.{name} must be a number, a quoted text or a word; got {quoted(text)}"
                ) from None
            value = text
        part, _, field = known[name].rpartition(".")
        hint = value_types.annotations(kinds[part])[field]
        if problem := value_types.mismatch(value, hint, functools.partial(_flag, name)):
            raise ValueError(f"--gin.{name}: {problem}")
        (fields[part] if part else fields)[field] = value
        given[field] = f"--gin.{name}={text}"
    try:
        return students.built(fields, _PLACE) if bindings else student
    except ValueError as error:
        flags = [flag for field, flag in given.items() if re.search(rf"\b{field}\b", str(error))]
        text = re.sub(rf"^{_PLACE}: (\w+: )?", "", str(error))
        raise ValueError(f"{', '.join(flags) or _PLACE}: {text}") from None


def _flag(name: str, value: str) -> str:
    return f"--gin.{name}={shlex.quote(value)}"


class ExportProgress:
    """Lines on stderr: what is exported, how many of its parameters were read, at most every few seconds, and the last."""

    def __init__(self, *, quiet: bool = False):
        self._quiet, self._last = quiet, time.monotonic()

    def note(self, text: str) -> None:
        """Prints a line."""
        if not self._quiet:
            print(text, file=sys.stderr, flush=True)

    def __call__(self, done: int, total: int) -> None:
        """Prints the progress if the last line is old enough, or if all parameters were read."""
        if done < total and time.monotonic() - self._last < _EXPORT_PERIOD:
            return
        self._last = time.monotonic()
        self.note(f"{done:,} of {total:,} parameters" + ("; finishing the files" if done == total else ""))


class Progress:
    """A bar on a terminal; otherwise a line every few seconds, on stderr."""

    def __init__(self, input_path: Path, *, quiet: bool = False):
        self._input, self._quiet = input_path.expanduser(), quiet
        self._bar: Any = None
        self._task: Any = None
        self._started = self._last = time.monotonic()
        self._first: int | None = None

    def note(self, text: str) -> None:
        """Prints a line."""
        if self._quiet:
            return
        if self._bar is not None:
            self._bar.console.print(text, highlight=False, markup=False, soft_wrap=True)
        else:
            print(text, file=sys.stderr, flush=True)

    def __enter__(self) -> "Progress":
        if sys.stderr.isatty() and not self._quiet:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
            from rich.progress import Progress as Bar

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            self._bar = Bar(*columns, console=Console(stderr=True))
            self._bar.start()
            self._task = self._bar.add_task("answering", total=self._count())
        return self

    def __exit__(self, *_: Any) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def rows(self, done: int, failed: int) -> None:
        """Redraws the bar, or prints a line if the last one is old enough."""
        now = time.monotonic()
        if self._bar is not None:
            text = f"answering ({failed:,} failed)" if failed else "answering"
            self._bar.update(self._task, completed=done, description=text)
        elif self._first is None or now - self._last >= _PERIOD:
            speed = ""
            if self._first is not None and now > self._started:
                speed = f", {(done - self._first) / (now - self._started):.1f} rows/s"
            else:
                self._first, self._started = done, now
            self._last = now
            self.note(f"{counted(done, 'row')} done, {failed:,} without an answer{speed}")

    def _count(self) -> int | None:
        """The number of rows of a file of lines; None for an array, or if counting would take long."""
        try:
            with self._input.open("rb") as file:
                head = file.read(4)
                if head.lstrip(b"\xef\xbb\xbf \n").startswith((b"[", b"\x1f\x8b")):
                    return None
                if self._input.stat().st_size > 2**30:
                    return None
                file.seek(0)
                number, end = 0, b"\n"
                while block := file.read(2**20):
                    number, end = number + block.count(b"\n"), block[-1:]
                return number + (end != b"\n")
        except OSError:
            return None
