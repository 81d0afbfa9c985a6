"""Mistakes of a configuration that are found in a second: before TensorFlow and JAX are imported.

Names of files, macros and arguments are read from the gin files and from source files. Local files that macros name must
exist. All other checks follow when the configuration is parsed.
"""

import contextlib
import functools
import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from distill.api import statement_checks
from distill.api.gin_files import ConfigurationError, close
from distill.api.paths import expand_home
from distill.api.statements import COMMAND_LINE, Scan
from distill.inference.own_files import CONFIG
from distill.tasks import row_fields
from distill.tasks.records import RowError, SourceError
from distill.validation import quoted, suggested

_READ = 10_000  # rows that are read at most
_PURPOSE = "rows of split train"
_SOURCE = ("files", "fields", "label_names", "parser", "mode", "solution_marker")  # arguments of jsonl.JsonLines


def check(
    gin_files: Sequence[str],
    bindings: Sequence[str],
    extra_paths: Sequence[str] = (),
    *,
    provided: Sequence[str] = (),
    trains: bool = False,
    reads: bool = True,
    evaluates: str | None = None,
    place: str = COMMAND_LINE,
    hardware: str = "",
) -> Scan:
    """Checks the statements of files and bindings, and the files of a new run; returns the statements.

    Args:
      gin_files, bindings, extra_paths, place: as in :func:`distill.api.configuration.parse`.
      provided: macros that the command itself sets if nothing else does.
      evaluates: the split that the command scores.
      trains: whether the command trains, and so reads the vocabulary, the training rows and the initial parameters.
      hardware: the file of ``gin/hardware`` that an error suggests, if the machines are known.
      reads: whether these files must be there, and are read; else a command may write them later.

    Raises:
      ConfigurationError: a mistake in the gin files or bindings; one line each.
      FileNotFoundError: a local file that a new run needs does not exist.
      ValueError: the model directory is a file, or holds files of another program and no run.
      distill.tasks.records.SourceError: such a file has no rows.
    """
    names = statement_checks.unset(provided, gin_files, bindings, extra_paths) if provided and gin_files else []
    given = [*bindings, *(f"{name} = 'unused'" for name in names)]
    scan = statement_checks.check_names(gin_files, given, extra_paths, place, hardware)
    of_files = scan.given.get(("", "jsonl.dataset", "files"))
    reads_files = of_files is not None and of_files.macro == "FILES"
    source = _source(scan) if reads_files else None  # its message shows the form that rows are named in
    statement_checks.check_values(scan)
    chooses_of_rows = _check_choices(scan)
    if reads_files:
        _check_split(scan.values.get("FILES"), evaluates)
    if trains:
        used = {name: value for name, value in scan.values.items() if name in scan.referenced}
        if reads:
            with naming_example(scan.values.get("DATASET_NAME")):
                check_files(used)
        validates = not any(
            one.argument == "validation" and one.value is None and one.macro is None for one in scan.given.values()
        )
        if reads_files and used.get("CACHE_DIR") is None:
            _check_named(used, used.get("TEST_SPLIT") if validates else None, source if reads else None)
    if chooses_of_rows and source is not None and reads:
        begun = trains and _has_begun(expand_home(scan.values.get("MODEL_DIR")))
        scored = ("validation", scan.values.get("TEST_SPLIT")) if trains and validates and not begun else (evaluates,)
        for split in filter(None, scored):
            _check_rows_have_choices(source, split)
    return scan


def _check_choices(scan: Scan) -> bool:
    """Checks the choices of ``DecodeConfig`` as far as they are literals; returns whether a run chooses among each row's.

    Raises:
      ConfigurationError: a list that the class refuses, or one that it would not use.
    """
    of_rows, called = False, scan.called()
    places = {(scope, selector) for scope, selector, _ in scan.given if selector.rpartition(".")[2] == "DecodeConfig"}
    for scope, selector in sorted(places):
        choices, answers = (scan.given.get((scope, selector, name)) for name in ("choices", "answers"))
        found, method = (None if given is None else scan.literal(given) for given in (choices, answers))
        chooses = method is not None and method.value == "choose"
        of_rows |= selector in called and chooses and choices is None
        if found is None or not found.value or selector not in called:
            continue
        name = f"{selector}.choices (set in {found.place})"
        try:
            row_fields.choices_of_all(list(found.value))
        except RowError as error:
            expected = "expected a list of two or more different texts, such as ['yes', 'no']"
            raise ConfigurationError(f"{name}: {expected}; got {quoted(found.value)}: {error}") from None
        if answers is None or (method is not None and not chooses):
            raise ConfigurationError(f"{name} changes nothing without {selector}.answers='choose'; set it, too")
    return of_rows


def _check_rows_have_choices(source: dict[str, Any], split: str) -> None:
    """Raises SourceError if none of the first local rows of a split has choices, of which each must have some."""
    from distill.tasks import jsonl

    files = source["files"]
    given = "train" if split == "validation" and split not in files else split  # validation rows may be cut from these
    if given not in files:
        return
    try:
        first = next(jsonl.resolved(jsonl.paths_of(files[given], given), f"rows of split {given}"))
        if "://" in str(first):
            return
        records = itertools.islice(jsonl.JsonLines(**source)(given), _READ)
        if any(record.choices for record in records):
            return
    except FileNotFoundError:  # `eval` may find it in the folder of the training
        return
    raise SourceError(
        f"{first}: no row has choices, which DecodeConfig.answers='choose' takes the answers of split {split!r} from; name "
        f"their field, FIELDS={{'choices': 'FIELD'}} (the rows have: {', '.join(jsonl.first_fields(first, 'rows'))}), or "
        "give those of all rows, DecodeConfig.choices=['yes', 'no']"
    )


def _source(scan: Scan) -> dict[str, Any] | None:
    """The arguments of the source of the rows that ``FILES`` and ``FIELDS`` name; None if one is no literal.

    Raises:
      ConfigurationError: an argument of another form, such as a path in place of a mapping.
    """
    from distill.tasks import jsonl

    given = {argument: one for (_, selector, argument), one in scan.given.items() if selector == "jsonl.dataset"}
    bound = {argument for _, selector, argument in scan.refers if selector == "jsonl.dataset"}
    literal = {name: one for name, one in given.items() if one.macro is None or one.macro in scan.values}
    if not bound & {*_SOURCE} <= {*literal}:
        return None
    arguments = {name: one.value if one.macro is None else scan.values[one.macro] for name, one in literal.items()}
    arguments = expand_home({name: arguments[name] for name in _SOURCE if name in arguments})
    try:
        jsonl.JsonLines(**arguments)
    except ValueError as error:
        macro = given["fields" if "FIELDS" in str(error) else "files"].macro
        where = f" (set in {scan.defined[macro][-1]})" if macro else ""
        raise ConfigurationError(f"{error}{where}") from None
    return arguments


def _check_named(values: Mapping[str, Any], test_split: Any, source: dict[str, Any] | None) -> None:
    """Raises ConfigurationError if ``FILES`` of a new run names no rows to train on, or none of the split to test.

    The rows of ``source`` are read first: mistakes in them are to be corrected before.
    """
    files = values.get("FILES")
    if not isinstance(files, dict) or _has_begun(expand_home(values.get("MODEL_DIR"))):
        return
    if "train" not in files:
        raise ConfigurationError(f"FILES has no split 'train', whose rows are trained on; {_remedy(files, 'train')}")
    if source is not None:
        _check_training_rows(source)
    if not isinstance(test_split, str) or test_split in files or test_split == "validation":
        return
    raise ConfigurationError(
        f"FILES has no split {test_split!r}, which TEST_SPLIT scores at the end; {_remedy(files, test_split)}, or give "
        "--gin.TEST_SPLIT=None to score none"
    )


def _has_begun(directory: Any) -> bool:
    """Whether a model directory holds a run that has begun; one of an object store may."""
    return isinstance(directory, str) and ("://" in directory or (Path(directory) / CONFIG).exists())


def _remedy(files: Mapping[str, Any], split: str) -> str:
    others = [name for name in files if isinstance(name, str) and name not in ("train", "validation", "test")]
    if near := close(split, others)[:1]:
        return f"rename {near[0]!r} to {split!r} in FILES"
    return f'it has {", ".join(map(str, files))}: add "{split}": "FILE.jsonl" to FILES'


def _check_training_rows(source: dict[str, Any]) -> None:
    """:func:`_check_rows` of local files; once for the runs of a sweep, which read the same."""
    from distill.tasks import jsonl

    paths = jsonl.paths_of(source["files"]["train"], "train")
    if any("://" in str(path) for path in paths):
        return
    found = [os.stat(file) for file in jsonl.resolved(paths, _PURPOSE)]
    _check_rows(json.dumps(source), tuple((one.st_ino, one.st_size, one.st_mtime_ns) for one in found))


@functools.cache
def _check_rows(source: str, state: tuple[tuple[int, int, int], ...]) -> None:
    """Raises SourceError if the first local rows to train on cannot be used: no input, no answer, or another field.

    A mapped field that no row has is found where the rows are read to their end.

    Args:
      source: the arguments of :class:`distill.tasks.jsonl.JsonLines`, as JSON.
      state: of the files, so that files that were changed are read again.
    """
    from distill.tasks import jsonl

    arguments = json.loads(source)
    has_target = False
    number = 0
    for record in itertools.islice(jsonl.JsonLines(**arguments)("train"), _READ):
        number += 1
        has_target |= bool(record.rationales) or record.label is not None or record.llm_label is not None
    if not number or has_target:
        return
    first = next(jsonl.resolved(jsonl.paths_of(arguments["files"]["train"], "train"), _PURPOSE))
    raise SourceError(
        f"{first}: no row has a label, llm_label or rationale to train on; {jsonl.FIELDS_REMEDY}, as "
        f"{{'label': 'FIELD', 'rationale': 'FIELD'}} (the rows have: {', '.join(jsonl.first_fields(first, _PURPOSE))})"
    )


def _check_split(files: Any, split: str | None) -> None:
    """Raises ConfigurationError if ``FILES`` has no rows for ``--split``; validation rows may be cut from training rows."""
    if not isinstance(files, dict) or not files or split is None:
        return
    has = [*files, *(["validation"] if "train" in files and "validation" not in files else [])]
    if split not in has:
        near = suggested(close(split, has))
        added = "" if near else f'; add "{split}": "FILE.jsonl" to FILES'
        raise ConfigurationError(
            f"--split: FILES has no split {split!r}; it has {', '.join(map(str, has))}{near}{added}"
        )


def check_files(values: Mapping[str, Any]) -> None:
    """Raises FileNotFoundError if a local file is missing that macros name, SourceError if a file of rows has none.

    Args:
      values: macro → value, of macros that are used and whose values are literals. A run that has begun is not checked.
    """
    from distill.inference import own_files
    from distill.tasks import jsonl, vocabularies

    values = expand_home(dict(values))
    directory = values.get("MODEL_DIR")
    if _has_begun(directory):
        return
    if isinstance(directory, str):
        own_files.check(directory)
    vocabulary, files, initial = (values.get(name) for name in ("VOCABULARY_PATH", "FILES", "INITIAL_CHECKPOINT_PATH"))
    if isinstance(vocabulary, str):
        vocabularies.check_exists(vocabulary)
    for split in ("train", "validation", values.get("TEST_SPLIT")):
        given = files.get(split) if isinstance(files, dict) and values.get("CACHE_DIR") is None else None
        named = [given] if isinstance(given, str) else given
        if isinstance(named, list | tuple) and named and all(isinstance(file, str) for file in named):
            jsonl.check_exist(named, str(split))
    if isinstance(initial, str) and initial.startswith(("/", "./", "../")) and not os.path.exists(initial):
        raise FileNotFoundError(f"no checkpoint at {initial}")


@contextlib.contextmanager
def naming_example(dataset: Any) -> Iterator[None]:
    """Files of ``gin/recipes/quickstart.gin`` that are missing raise an error that names the command that writes them."""
    try:
        yield
    except FileNotFoundError as error:
        from distill.experiments import example

        folder = example.RECIPE_DIRECTORY
        if dataset != "example" or f"{folder}/" not in str(error) or os.path.isdir(folder):
            raise
        command = f"distill example --output={folder}"
        raise FileNotFoundError(f"{error}; `{command}` writes the rows and the vocabulary of this recipe") from None
