"""The commands that follow a command, printed at its end with the paths and field names of the run, ready to be pasted."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distill.api.run import Run
    from distill.inference.student import Student

_SPLITS = ("test", "validation", "train")
_NEW_ROWS = "new.jsonl"  # the name of a file that the user writes, where the run reads no JSON lines of this machine


def after_training(run: "Run") -> list[str]:
    """Lines that name the model directory, and the commands that score, serve and export its student.

    A student that was pretrained answers nothing yet: its lines name the flag by which a later run starts from it.

    Args:
      run: the run, of which ``student.json`` has been written and whose tasks are registered.
    """
    from distill.inference import student as students

    directory = run.directory
    lines = [f"student: {directory}"]
    if _is_pretraining(run):
        start = shlex.quote(f"--gin.INITIAL_CHECKPOINT_PATH={directory}")
        return [*lines, f"a run with this model file and vocabulary starts from it with {start}"]
    validation = run.arguments.get("validation")
    split = "test" if validation is None else validation.test_split or validation.split
    commands = [["eval", f"--model_dir={directory}", f"--split={split}"]]
    if not _is_file(directory, students.FILE):  # its vocabulary cannot be served
        return [*lines, *_listed(commands)]
    rows = _rows_of(run.bindings.get("FILES"))
    described = students.read(directory)
    stem = f"{Path(rows).name.partition('.')[0]}_" if rows else ""  # the answers to other rows have another name
    commands.append(
        ["infer", f"--model_dir={directory}", f"--input={rows or _NEW_ROWS}", f"--output={stem}answers.jsonl"]
    )
    commands.append(["export", f"--model_dir={directory}", f"--output={_export_folder(directory)}"])
    return [*lines, *_listed(commands, {1: _reads(described, rows)})]


def after_sweep(directory: Path) -> list[str]:
    """The command that reports on the runs of a sweep: its own report has the default options."""
    return _listed([["report", str(directory)]], {0: "writes the report anew, with the options that you add"})


def show(lines: Sequence[str], *, quiet: bool) -> None:
    """Prints lines on standard error, after the results on standard output; nothing where ``quiet``."""
    if not quiet:
        sys.stdout.flush()
        print("\n".join(lines), file=sys.stderr, flush=True)


def _listed(commands: Sequence[Sequence[str]], remarks: Mapping[int, str] = {}) -> list[str]:
    """One line per command, each after ``next:``, with the remarks of their numbers."""
    lines = [f"next: {shlex.join(['distill', *words])}" for words in commands]
    return [line + (f"  # {remarks[number]}" if number in remarks else "") for number, line in enumerate(lines)]


def _reads(student: "Student", rows: str | None) -> str:
    """What ``infer`` reads of a row, and the flag that chooses among a row's choices, if it has some."""
    kind = "template" if "{" in student.input_field else "field"
    text = f"reads the {kind} {student.input_field!r} of each row"
    if student.choices is not None:
        source = f"in its field {student.choices!r}" if isinstance(student.choices, str) else f"{student.choices}"
        return f"{text}, and chooses among the choices {source}"
    field = _field_of_choices(student, rows)
    return text if field is None else f"{text}; {shlex.quote(f'--choices={field}')} chooses among its choices"


def _field_of_choices(student: "Student", rows: str | None) -> str | None:
    """The field of a row's choices, if the student can choose, and its rows were read with one or the first has one."""
    from distill.inference import answering
    from distill.tasks import row_fields, sources
    from distill.tasks.records import SourceError

    try:
        answering.check_chooses(student)
    except ValueError:
        return None
    fields = {} if student.rows is None else student.rows.fields
    if "choices" in fields or student.rows is None or rows is None:
        return fields.get("choices")
    try:
        first = next((row for _, row in sources.read_rows(Path(rows), "rows") if isinstance(row, dict)), {})
    except (SourceError, OSError):  # a file that the training did not read
        return None
    return "choices" if row_fields.has(first, "choices") else None


def _is_pretraining(run: "Run") -> bool:
    """Whether a run learns to fill gaps in text."""
    from distill.tasks import registration

    task = getattr(run.arguments.get("data"), "mixture_or_task_name", None)
    return task in registration.registered_names() and registration.spans_of(registration.get(task)) is not None


def _is_file(directory: str, name: str) -> bool:
    from etils import epath

    return (epath.Path(directory) / name).exists()


def _rows_of(files: Any) -> str | None:
    """The first file of the run's rows that exists, of the test rows if it has some; None if it reads none."""
    if not isinstance(files, Mapping):
        return None
    for split in _SPLITS:
        given = files.get(split)
        for name in [given] if isinstance(given, str) else given or ():
            if isinstance(name, str) and Path(name).is_file():
                return name
    return None


def _export_folder(directory: str) -> str:
    """A folder beside the model directory, or in the current one for a directory of an object store."""
    return f"{directory.rstrip('/').rpartition('/')[2] if '://' in directory else directory.rstrip('/')}-exported"
