"""Finds mistakes in the statements of gin files and bindings that gin itself does not report, before it parses them.

Except :func:`check`, which looks names up in trusted modules, nothing here imports or calls what a configuration names.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import distill
from distill.api import signatures, trusted, value_checks
from distill.api.gin_files import ConfigurationError, close, search_paths
from distill.api.paths import vocabulary_of
from distill.api.statements import COMMAND_LINE, Scan, bindings_of, readable, scan_file, scan_text
from distill.validation import suggested

# Folders of gin files of which a run takes one each; errors about their macros suggest a file.
_FOLDERS_OF_CHOICES = {"hardware": "cpu.gin", "models": "t5_1_1_small.gin", "tasks": "svamp.gin", "runs": "distill.gin"}
NO_FILE = "no gin file was given; start with --gin_file=gin/recipes/quickstart.gin"


def check(
    gin_files: Sequence[str],
    bindings: Sequence[str],
    paths: Sequence[str],
    allowed: Sequence[str] = (),
    place: str = COMMAND_LINE,
) -> Scan:
    """Finds mistakes that gin itself does not report, and names that no configuration may use; returns the statements.

    Trusted modules are imported to look names up, and no others.

    Raises:
      ConfigurationError: a macro that nothing uses (a misspelt one, most likely), one that is used and never defined,
        one that is required and not given, an import of a module that is not trusted, or a name outside of them.
    """
    scan = _scanned(gin_files, bindings, paths, place)
    problems = [*_macro_problems(scan, bindings), *signatures.problems(scan)]
    outside = [
        f"{place} {problem}"
        for statement, place in scan.imports
        if (problem := trusted.import_problem(statement.module, allowed))
    ]
    if not outside:
        outside = [
            f"{use.place} {problem}"
            for use in dict.fromkeys(scan.uses)
            if (problem := trusted.selector_problem(use.selector, use.imports, use.called, allowed))
        ]
    if problems or outside:
        raise ConfigurationError("\n".join((*problems, *outside)))
    return scan


def check_statements(
    gin_files: Sequence[str],
    bindings: Sequence[str],
    extra_paths: Sequence[str] = (),
    place: str = COMMAND_LINE,
    hardware: str = "",
) -> Scan:
    """Finds misspelt, missing and required macros, misspelt arguments and mistyped values; imports and calls nothing.

    For a run on other machines, and before TensorFlow is imported.

    Args:
      gin_files: names of the files.
      bindings: those of the command line.
      extra_paths: folders to look for files in.
      place: where the bindings are, for messages.
      hardware: the file of ``gin/hardware`` that an error suggests, if the machines are known.

    Raises:
      ConfigurationError: see :func:`check_names` and :func:`check_values`.
    """
    scan = check_names(gin_files, bindings, extra_paths, place, hardware)
    check_values(scan)
    return scan


def check_names(
    gin_files: Sequence[str],
    bindings: Sequence[str],
    extra_paths: Sequence[str] = (),
    place: str = COMMAND_LINE,
    hardware: str = "",
) -> Scan:
    """The first half of :func:`check_statements`, with the same arguments: macros and arguments.

    Raises:
      ConfigurationError: as :func:`check` for macros and arguments; no file, or one that does not exist or cannot be read.
    """
    if not gin_files:
        raise ConfigurationError(NO_FILE)
    scan = _scanned(gin_files, bindings, search_paths(extra_paths), place)
    if problems := [*_macro_problems(scan, bindings, hardware), *signatures.problems(scan)]:
        raise ConfigurationError("\n".join(problems))
    return scan


def check_values(scan: Scan) -> None:
    """The second half of :func:`check_statements`: types, ranges and choices.

    Raises:
      ConfigurationError: values that the functions that take them refuse.
    """
    if problems := [*value_checks.problems(scan)]:
        raise ConfigurationError("\n".join(problems))


def unset(
    names: Sequence[str], gin_files: Sequence[str], bindings: Sequence[str], extra_paths: Sequence[str] = ()
) -> list[str]:
    """Those of the macros ``names`` that the files use and nothing sets.

    Raises:
      ConfigurationError: a file that does not exist or cannot be read.
    """
    scan = _scanned(gin_files, bindings, search_paths(extra_paths))
    return [name for name in names if name in scan.required or (name in scan.referenced and name not in scan.defined)]


def _scanned(
    gin_files: Sequence[str], bindings: Sequence[str], paths: Sequence[str], place: str = COMMAND_LINE
) -> Scan:
    """The statements of files and bindings, nothing imported."""
    scan = Scan(place=place)
    for name in gin_files:
        scan_file(name, paths, scan, set())
    everything = trusted.Imports()
    for statement, _ in sorted(scan.imports, key=lambda found: "__gin__" not in found[0].module):
        everything = everything.with_statement(statement)
    for binding in bindings:
        scan_text(readable(binding), scan.place, paths, scan, set(), everything)
    scan.referenced.pop("gin.REQUIRED", None)
    return scan


def _macro_problems(scan: Scan, bindings: Sequence[str], hardware: str = "") -> list[str]:
    """One line for each macro that nothing uses, that nothing sets, or that is required."""
    choices = _FOLDERS_OF_CHOICES | ({"hardware": hardware} if hardware else {})
    unset = {name for name in scan.referenced if name not in scan.defined}
    problems = []
    for name, places in scan.defined.items():
        if name not in scan.referenced and places:
            names = close(name, set(scan.referenced) - {name})
            unset -= set(names[:1])  # the same mistake: MODEL_DRI is set, and so MODEL_DIR is not
            hint = suggested(names) or "; `distill config` prints the macros"
            problems.append(f"nothing uses {name} (set in {places[-1]}){hint}")
    for name, places in scan.referenced.items():
        if name in unset:
            of_model = any(place.startswith("gin/models/") for place in places)  # no other model's file sets its value
            how = _how_to_give(name, choices, ("hardware",) if of_model else tuple(choices))
            if name == "VOCABULARY_PATH" and (file := vocabulary_of(_bound(bindings, "INITIAL_CHECKPOINT_PATH"))):
                how = f"the initial checkpoint has a vocabulary, give it with --gin.{name}={file}"
            problems.append(f"{name} is used by {places[0]} and nothing sets it; {how}")
    for name, place in scan.required.items():
        problems.append(
            f"{name} is required by {place}; {_how_to_give(name, choices, ('hardware', 'models', 'tasks'))}"
        )
    return problems


def _bound(bindings: Sequence[str], name: str) -> Any:
    """The value of a macro that bindings set; None if they do not."""
    return bindings_of("\n".join(readable(binding) for binding in bindings)).get(name)


def _how_to_give(name: str, choices: Mapping[str, str], folders: Sequence[str]) -> str:
    """How a macro is set: by a shipped file of the right folder, such as that of ``choices``, or on the command line."""
    base = Path(distill.__file__).parent / "gin"
    for folder in folders:
        files = sorted((base / folder).glob("*.gin"))
        if any(re.search(rf"^{re.escape(name)}\s*=", file.read_text(encoding="utf-8"), re.MULTILINE) for file in files):
            example = f"--gin_file=gin/{folder}/{choices[folder]}"
            return f"give a file of gin/{folder}, such as {example}, or --gin.{name}=…"
    return f"give it with --gin.{name}=…"
