"""``distill data``: from its flags to the report."""

import argparse
import dataclasses
import importlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distill import terminal
from distill.api import tensorflow_log
from distill.cli import runs
from distill.data import report as data_report
from distill.data import report_text
from distill.tasks import jsonl, paper_files
from distill.tasks.dataset import Dataset
from distill.tasks.records import SourceError
from distill.tasks.selection import Selection

LENGTHS = {"inputs": 512, "targets": 256}


def data_command(options: argparse.Namespace) -> int:
    """Prints the report; returns the exit code.

    Args:
      options: the flags of ``distill data``.

    Raises:
      ValueError: flags that exclude each other, or rows that cannot be used.
      FileNotFoundError: no data was found.
    """
    given = [name for name in ("data_dir", "gin_file", "file") if getattr(options, name)]
    if len(given) != 1 and given != ["data_dir", "gin_file"]:
        raise ValueError(
            "where are the rows? Give one of --file=train=rows.jsonl, --data_dir=DIR and --gin_file=FILE"
            + (f"; got {' and '.join(f'--{name}' for name in given)}" if given else "")
        )
    if options.field and not options.file:
        raise ValueError("--field is for the rows of --file; with --gin_file, give --gin.FIELDS")
    if options.gin_bindings and not options.gin_file:
        raise ValueError("--gin.NAME=VALUE is for --gin_file=FILE, which is missing")
    if options.gin_file:
        if not all(Path(name).parent.name == "tasks" for name in options.gin_file):
            tensorflow_log.import_quietly()  # files of runs and models name what trains
        datasets, plan = _configured(options)
    else:
        datasets, plan = (_files(options) if options.file else _paper_sets(options)), data_report.Plan(lengths=LENGTHS)
    lengths = dict(plan.lengths or {})
    for name in ("inputs", "targets"):
        if getattr(options, name) is not None:
            lengths[name] = getattr(options, name)
    vocabulary = options.vocabulary or plan.vocabulary
    if vocabulary != "bytes" and not Path(vocabulary).is_file():
        tensorflow_log.import_quietly()
    try:
        result = data_report.report(
            datasets,
            vocabulary,
            lengths,
            details=options.failures,
            label_prefix=plan.label_prefix,
            rationale_prefix=plan.rationale_prefix,
            encoder_bos=plan.encoder_bos,
            selection=plan.selection,
        )
    except SourceError as error:
        raise (type(error)(_with_flags(str(error))) if options.file else error) from None
    if options.file:
        _check_targets(result, options)
    if options.json:
        print(json.dumps(result, ensure_ascii=False, allow_nan=False))
    else:
        report_text.render(result, terminal.output())
    return 0


def _check_targets(result: Mapping[str, Any], options: argparse.Namespace) -> None:
    """Raises SourceError if no row has anything to train on: the fields of label and rationale are not mapped."""
    found = [split for splits in result["sets"].values() for split in splits.values() if "missing" not in split]
    if any(split[name] for split in found for name in ("with_label", "with_rationale", "with_llm_label")):
        return
    path = next(jsonl.resolved(jsonl.paths_of(options.file[0].partition("=")[2], "train"), "rows"))
    raise SourceError(
        f"{path}: no row has a label or a rationale to train on; give --field=label=FIELD and --field=rationale=FIELD "
        f"(the rows have: {', '.join(jsonl.first_fields(path, 'rows'))})"
    )


def _with_flags(message: str) -> str:
    """An error on the rows of ``--file`` with the flag in place of the macro ``FIELDS``.

    >>> _with_flags("a: FIELDS maps the fields of a record to those of the rows (the rows have: q)")
    'a: --field=input=FIELD maps it to a field of the rows (the rows have: q)'
    """
    message = message.replace(jsonl.FIELDS_REMEDY, "--field=input=FIELD maps it to a field of the rows")
    return message.replace("FIELDS", "--field")


def _pairs(texts: Sequence[str], flag: str, example: str) -> list[tuple[str, str]]:
    pairs = [text.partition("=") for text in texts]
    for text, (name, equals, value) in zip(texts, pairs):
        if not (equals and name and value):
            raise ValueError(f"--{flag} expects {example}; got {text!r}")
    return [(name, value) for name, _, value in pairs]


def _files(options: argparse.Namespace) -> list[Dataset]:
    files: dict[str, list[str]] = {}
    for split, path in _pairs(options.file, "file", "SPLIT=FILE, as train=rows.jsonl"):
        files.setdefault(split, []).append(path)
    fields = dict(_pairs(options.field, "field", "NAME=FIELD, as input=question"))
    for name, field in fields.items():
        if name not in jsonl.FIELDS and field in jsonl.FIELDS:
            raise ValueError(f"--field=NAME=FIELD begins with the record's field; did you mean --field={field}={name}?")
    return [jsonl.dataset(files, fields=fields, answer=options.answer)]


def _paper_sets(options: argparse.Namespace) -> list[Dataset]:
    unknown = sorted(set(options.set) - set(paper_files.SETS))
    if unknown:
        raise ValueError(f"--set must be one of {', '.join(paper_files.SETS)}; got {', '.join(unknown)}")
    here = [name for name in paper_files.SETS if (Path(options.data_dir) / name).is_dir()]
    if not (options.set or here):
        raise FileNotFoundError(
            f"{options.data_dir} holds none of {', '.join(paper_files.SETS)}; for JSON lines, give --file=train=rows.jsonl"
        )
    modules = [importlib.import_module(f"distill.tasks.{name}") for name in options.set or here]
    return [module.dataset(options.data_dir, teacher=options.teacher) for module in modules]


def _configured(options: argparse.Namespace) -> tuple[list[Dataset], data_report.Plan]:
    from distill.api import configuration, statement_checks
    from distill.api.gin_files import ConfigurationError

    paths = runs.search_paths(options)
    bindings = list(options.gin_bindings)
    if options.data_dir:
        bindings.append(f"DATA_DIR = {options.data_dir!r}")
    files = ["gin/runs/data.gin", *options.gin_file]
    # A whole training configuration may be given, too; where its run would be written does not matter.
    bindings += [f"{name} = 'unused'" for name in statement_checks.unset(("MODEL_DIR",), files, bindings, paths)]
    try:
        configuration.parse(files, bindings, paths, options.gin_module)
    except ConfigurationError as error:
        if "nothing uses" not in str(error):
            raise
        raise ConfigurationError(
            f"{error}; with settings of a training, give all files of its command: those of the model, the run and the "
            "hardware, too"
        ) from None
    dataset = configuration.configured(data_report.of_dataset)()
    return [dataset], dataclasses.replace(configuration.configured(data_report.Plan)(), selection=_subsample())


def _subsample() -> Selection:
    """The subsample of a whole training configuration that was parsed; all rows if there is none."""
    from distill.api import configuration
    from distill.inference import model_directory

    given = model_directory.plain(configuration.bindings_of(configuration.resolved()))
    options = {name: given.get(f"registration.register.{name}") for name in ("subsample_seed", "subsample_validation")}
    share = given.get("registration.register.subsample", given.get("SUBSAMPLE", 1.0))
    return Selection(subsample=share, **{name: value for name, value in options.items() if value is not None})
