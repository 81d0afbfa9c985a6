"""The files that a job writes, and the check that none of them is an input or of another program."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

from distill import outputs
from distill.tasks.records import Record
from distill.teacher.assembly import rows
from distill.teacher.clients.recorded import RecordedConfig
from distill.teacher.job.config import ExtractConfig

_REPORT = 2**24  # bytes of a report


def groups(config: ExtractConfig) -> dict[str, tuple[str, ...]]:
    """Output file → the teachers whose answers it holds."""
    names = tuple(each.called for each in config.teachers)
    if config.combine == "merge" or len(names) == 1:
        return {config.output: names}
    return {str(rows.of_teacher(config.output, name)): (name,) for name in names}


def check(config: ExtractConfig, records: Sequence[Record], more: Sequence[str] = ()) -> None:
    """Checks the files of a job before its first request.

    Args:
      config: the job.
      records: its rows, whose provenance names the files that they were read from.
      more: further files that are read.

    Raises:
      ValueError: a file would replace an input or another output; or, unless ``config.overwrite``, one that no job wrote.
    """
    written = _written(config)
    read = dict.fromkeys(str(record.provenance["file"]) for record in records if record.provenance.get("file"))
    prompts = [config.prompt] if Path(config.prompt).is_file() else []
    recordings = [each.path for each in config.teachers if isinstance(each, RecordedConfig)]
    store = {"the store": config.store_path} if config.store_path != ":memory:" else {}
    paths = {what: path for what, (path, _) in written.items()}
    outputs.check(paths | store, [*read, *prompts, *recordings, *more])
    if not config.overwrite:
        for what, (path, is_own) in written.items():
            outputs.check_own(what, path, is_own, "distill extract")


def _written(config: ExtractConfig) -> dict[str, tuple[str, Callable[[BinaryIO], bool]]]:
    """The name of a file in messages → its path, and whether an existing one is of an earlier job."""
    failures, report = (str(rows.beside(config.output, name)) for name in ("failures.jsonl", "report.json"))
    records = groups(config)
    files: dict[str, tuple[str, Callable[[BinaryIO], bool]]] = {}
    for path, names in records.items():
        files["the output" if len(records) == 1 else f"the output of {names[0]}"] = path, _is_output
    files["the file of failures"] = failures, lambda file: {"id", "reason", "raw"} <= {*outputs.first_object(file)}
    files["the report"] = report, lambda file: b'"prompt_hash"' in file.read(_REPORT)
    if config.record_to:
        files["the recording"] = config.record_to, lambda file: {"key", "replies"} <= {*outputs.first_object(file)}
    return files


def _is_output(file: BinaryIO) -> bool:
    origin = outputs.first_object(file).get("provenance")
    return isinstance(origin, dict) and "prompt_hash" in origin
