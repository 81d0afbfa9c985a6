"""Checks and parses configurations. Only this module, the ones it imports and ``distill.api.run`` import gin."""

import contextlib
import io
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gin

import distill
from distill.api import signatures, trusted, value_checks, value_types
from distill.api.gin_files import ConfigurationError, close, did_you_mean, find, search_paths, without_gin
from distill.api.paths import expand_home, vocabulary_of
from distill.api.statements import (
    COMMAND_LINE,
    Scan,
    bindings_of,
    readable,
    scan_file,
    scan_text,
    setting,
    shown_binding,
)

__all__ = [
    "COMMAND_LINE",
    "FOLDERS_OF_CHOICES",
    "ConfigurationError",
    "arguments_of",
    "bindings_of",
    "check",
    "check_names",
    "check_statements",
    "check_values",
    "configured",
    "find",
    "macro",
    "mentions",
    "parse",
    "resolved",
    "search_paths",
    "training_arguments",
    "unset",
    "value",
]

# Folders of gin files of which a run takes one each; errors about their macros suggest a file.
FOLDERS_OF_CHOICES = {"hardware": "cpu.gin", "models": "t5_1_1_small.gin", "tasks": "svamp.gin", "runs": "distill.gin"}
_NO_FILE = "no gin file was given; start with --gin_file=gin/recipes/quickstart.gin"


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
    scan.referenced.pop("gin.REQUIRED", None)
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
    gin_files: Sequence[str], bindings: Sequence[str], extra_paths: Sequence[str] = (), place: str = COMMAND_LINE
) -> Scan:
    """Finds misspelt, missing and required macros, misspelt arguments and mistyped values; imports and calls nothing.

    For a run on other machines, and before TensorFlow is imported.

    Raises:
      ConfigurationError: see :func:`check_names` and :func:`check_values`.
    """
    scan = check_names(gin_files, bindings, extra_paths, place)
    check_values(scan)
    return scan


def check_names(
    gin_files: Sequence[str], bindings: Sequence[str], extra_paths: Sequence[str] = (), place: str = COMMAND_LINE
) -> Scan:
    """The first half of :func:`check_statements`: macros and arguments.

    Raises:
      ConfigurationError: as :func:`check` for macros and arguments; no file, or one that does not exist or cannot be read.
    """
    if not gin_files:
        raise ConfigurationError(_NO_FILE)
    scan = _scanned(gin_files, bindings, search_paths(extra_paths), place)
    scan.referenced.pop("gin.REQUIRED", None)
    if problems := [*_macro_problems(scan, bindings), *signatures.problems(scan)]:
        raise ConfigurationError("\n".join(problems))
    return scan


def check_values(scan: Scan) -> None:
    """The second half of :func:`check_statements`: types, ranges and choices.

    Raises:
      ConfigurationError: values that the functions that take them refuse.
    """
    if problems := [*value_checks.problems(scan)]:
        raise ConfigurationError("\n".join(problems))


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
    return scan


def _macro_problems(scan: Scan, bindings: Sequence[str]) -> list[str]:
    """One line for each macro that nothing uses, that nothing sets, or that is required."""
    unset = {name for name in scan.referenced if name not in scan.defined}
    problems = []
    for name, places in scan.defined.items():
        if name not in scan.referenced and places:
            names = close(name, set(scan.referenced) - {name})
            unset -= set(names[:1])  # the same mistake: MODEL_DRI is set, and so MODEL_DIR is not
            hint = did_you_mean(names) or "; `distill config` prints the macros"
            problems.append(f"nothing uses {name} (set in {places[-1]}){hint}")
    for name, places in scan.referenced.items():
        if name in unset:
            of_model = any(place.startswith("gin/models/") for place in places)  # no other model's file sets its value
            how = _how_to_give(name, ("hardware",) if of_model else tuple(FOLDERS_OF_CHOICES))
            if name == "VOCABULARY_PATH" and (file := vocabulary_of(_bound(bindings, "INITIAL_CHECKPOINT_PATH"))):
                how = f"the initial checkpoint has a vocabulary, give it with --gin.{name}={file}"
            problems.append(f"{name} is used by {places[0]} and nothing sets it; {how}")
    for name, place in scan.required.items():
        problems.append(f"{name} is required by {place}; {_how_to_give(name, ('hardware', 'models', 'tasks'))}")
    return problems


def _bound(bindings: Sequence[str], name: str) -> Any:
    """The value of a macro that bindings set; None if they do not."""
    return bindings_of("\n".join(readable(binding) for binding in bindings)).get(name)


def _how_to_give(name: str, folders: Sequence[str] = tuple(FOLDERS_OF_CHOICES)) -> str:
    """How a macro is set: by a shipped file of the right folder, or on the command line."""
    base = Path(distill.__file__).parent / "gin"
    for folder in folders:
        files = sorted((base / folder).glob("*.gin"))
        if any(re.search(rf"^{re.escape(name)}\s*=", file.read_text(encoding="utf-8"), re.MULTILINE) for file in files):
            example = f"--gin_file=gin/{folder}/{FOLDERS_OF_CHOICES[folder]}"
            return f"give a file of gin/{folder}, such as {example}, or --gin.{name}=…"
    return f"give it with --gin.{name}=…"


def unset(
    names: Sequence[str], gin_files: Sequence[str], bindings: Sequence[str], extra_paths: Sequence[str] = ()
) -> list[str]:
    """Those of the macros ``names`` that the files use and nothing sets.

    Raises:
      ConfigurationError: a file that does not exist or cannot be read.
    """
    scan = _scanned(gin_files, bindings, search_paths(extra_paths))
    return [name for name in names if name in scan.required or (name in scan.referenced and name not in scan.defined)]


def parse(
    gin_files: Sequence[str],
    bindings: Sequence[str],
    extra_paths: Sequence[str] = (),
    allowed: Sequence[str] = (),
    place: str = COMMAND_LINE,
) -> None:
    """Checks and parses files and bindings into gin's global configuration, which is cleared first.

    ``~`` at the beginning of a path is the home folder, in every value.

    Args:
      gin_files: in order; later ones override earlier ones.
      bindings: ``NAME = value`` and ``module.function.argument = value`` strings; they override the files.
      extra_paths: folders to look for gin files in.
      allowed: modules that files may import and name, in addition to ``distill.api.trusted.TRUSTED_MODULES``.
      place: where the bindings were given, for errors: "… (set in the command line)".

    Raises:
      ConfigurationError: any mistake.
    """
    if not gin_files:
        raise ConfigurationError(_NO_FILE)
    paths = search_paths(extra_paths)
    bindings = [readable(binding) for binding in bindings]
    scan = check(gin_files, bindings, paths, allowed, place)
    gin.clear_config()
    exchange_names()
    texts = [*scan.import_lines(), *bindings]
    try:
        with _reading_only(scan.texts):
            gin.parse_config_files_and_bindings(gin_files, texts, finalize_config=False)
    except (ValueError, SyntaxError, ImportError, AttributeError, NameError, TypeError, RecursionError) as error:
        raise ConfigurationError(_of_binding(str(error), texts, place)) from None
    if outside := list(_outside(allowed)):
        gin.clear_config()
        raise ConfigurationError("\n".join(outside))
    for arguments in gin.config._CONFIG.values():
        arguments.update(expand_home(dict(arguments)))
    problems = list(_type_problems(scan))
    if problems:
        raise ConfigurationError("\n".join(problems))


def _of_binding(message: str, texts: Sequence[str], place: str) -> str:
    """gin's error with the binding that it is about, if it is about one: gin counts the lines of all bindings, joined."""
    found = re.search(r"\n\s*In bindings string line (\d+)\n", message)
    if found is None:
        return message
    number, at = int(found[1]), 0
    while (lines := texts[at].count("\n") + 1) < number and at + 1 < len(texts):
        number, at = number - lines, at + 1
    why = message[: found.start()].strip().removesuffix(".")
    if name := re.fullmatch("'(.*)' was not provided by an import statement", why):
        why = f"no gin file imports {name[1]!r}, as a value with @ needs; a text needs quotes"
    elif missing := re.search(r"<module '([\w.]+)' from '.*'> has no attribute (\w+)$", why):
        public = [name for name in dir(sys.modules.get(missing[1])) if not name.startswith("_")]
        why = f"{missing[1]} has no {missing[2]!r}{did_you_mean(close(missing[2], public))}"
    return f"{place}: {shown_binding(texts[at], place)}: {why}"


def _outside(allowed: Sequence[str]) -> Iterator[str]:
    """One line for each function and class that gin has found, and that no configuration may name, or have called.

    :func:`check` refuses almost all of them, with their places, but looks names up as a file imports them: here are those
    that one file registers and another one names.
    """
    called = {reference.configurable.wrapped for reference in gin.config.iterate_references(gin.config._CONFIG)}
    for selector, found in gin.config._REGISTRY.items():
        if found.import_source is None:
            continue
        problem = trusted.configurable_problem(selector, found.wrapped, found.wrapped in called, allowed)
        if problem:
            yield f"the configuration {problem}"


def exchange_names(names: Sequence[Any] = ()) -> list[Any]:
    """Drops the names under which configurations registered functions and classes, and registers ``names`` instead.

    gin keeps the first name for good: one configuration that says ``config.T5Config`` would rename ``network.T5Config`` in
    the text of every later one. What modules register themselves stays.

    Returns:
      What was dropped, as gin's records.
    """
    registry, inverse = gin.config._REGISTRY, gin.config._INVERSE_REGISTRY
    dropped = [configurable for _, configurable in registry.items() if configurable.import_source is not None]
    for configurable in dropped:
        registry.pop(configurable.selector)
        if inverse.get(configurable.wrapped) is configurable:
            del inverse[configurable.wrapped]
    for configurable in names:
        registry[configurable.selector] = configurable
        inverse[configurable.wrapped] = configurable
    return dropped


class _Text(io.StringIO):
    """A text with the name of its file, which gin's messages give."""

    def __init__(self, name: str, text: str):
        super().__init__(text)
        self.name = name


@contextlib.contextmanager
def _reading_only(texts: Mapping[str, str]) -> Iterator[None]:
    """Makes gin read these texts and no file, so that gin parses exactly the checked text."""
    prefixes, readers = gin.config._LOCATION_PREFIXES[:], gin.config._FILE_READERS[:]
    gin.config._LOCATION_PREFIXES[:] = [""]
    gin.config._FILE_READERS[:] = [(lambda name: _Text(name, texts[name]), texts.__contains__)]
    try:
        yield
    finally:
        gin.config._LOCATION_PREFIXES[:], gin.config._FILE_READERS[:] = prefixes, readers


def _type_problems(scan: Scan) -> Iterator[str]:
    """One line for each value, or macro, that does not have the type that its argument is annotated with."""
    named: set[str] = set()  # a macro may be used more than once
    for (_, selector), arguments in list(gin.config._CONFIG.items()):
        if selector.startswith("gin."):
            continue
        function = gin.config._REGISTRY[selector].wrapped
        hints = value_types.annotations(function)
        short = ".".join(selector.split(".")[-2:])
        for name, value in arguments.items():
            value, macro_name = _looked_up(value)
            if name not in hints or value is gin.REQUIRED:
                continue
            if macro_name is not None:
                place = scan.defined.get(macro_name, [scan.place])[-1]
            else:
                place = scan.bound.get(f"{short}.{name}", scan.place)
            example = setting(macro_name or f"{short}.{name}", place, scan.place)
            problem = value_types.mismatch(value, hints[name], example)
            if not problem or macro_name in named:
                continue
            if macro_name is not None:
                named.add(macro_name)
                yield f"{macro_name} (set in {place}), as {short}.{name}: {problem}"
            else:
                yield f"{short}.{name} (set in {place}): {problem}"


def _looked_up(value: Any) -> tuple[Any, str | None]:
    """A value with its macros looked up, nothing called; and the macro's name if all of the value is one macro's."""
    if isinstance(value, gin.config.ConfigurableReference):
        function = value.configurable.wrapped
        if function is gin.config.macro and value.evaluate:
            name = "/".join(value.scopes)
            found = gin.config._CONFIG.get((name, value.configurable.selector), {})
            return _looked_up(found["value"])[0] if "value" in found else value_types.Unknown(None), name
        return value_types.Unknown(function) if value.evaluate else function, None
    if isinstance(value, (list, tuple)):
        return type(value)(_looked_up(item)[0] for item in value), None
    if isinstance(value, dict):
        return {key: _looked_up(item)[0] for key, item in value.items()}, None
    return value, None


def resolved() -> str:
    """The whole configuration as gin text: every binding and the macros that they use, without includes.

    A macro that is no longer used, because a binding overrides its use, is left out: :func:`parse` would refuse it.
    """
    everything = gin.config._CONFIG
    kept = dict(everything)
    while unused := {key for key in kept if key[1] == "gin.macro"} - _macros_used(kept):
        for key in unused:
            del kept[key]
    left_out = {key: value for key, value in everything.items() if key not in kept}
    for key in left_out:
        del everything[key]
    try:
        return gin.config_str(max_line_length=100)
    finally:
        everything.update(left_out)


def _macros_used(bindings: Mapping[Any, Any]) -> set[tuple[str, str]]:
    return {reference.config_key for reference in gin.config.iterate_references(bindings)}


def configured(function: Any) -> Any:
    """The version of ``function`` that takes its arguments from the configuration.

    Raises:
      ConfigurationError: the configuration does not mention it.
    """
    try:
        return gin.get_configurable(function)
    except (KeyError, ValueError):
        name = f"{function.__module__}.{function.__name__}"
        raise ConfigurationError(
            f"the configuration does not mention {name}; the run file is missing (gin/runs/….gin)"
        ) from None


def mentions(function: Any) -> bool:
    """Whether the configuration mentions ``function``."""
    try:
        configured(function)
    except ConfigurationError:
        return False
    return True


def arguments_of(function: Any) -> dict[str, Any]:
    """The arguments that the configuration gives ``function``, references resolved.

    Raises:
      ConfigurationError: it is not mentioned; a value is refused by what it configures, names the macros; or a called
        reference has given a value of another type.
    """
    configured(function)
    try:
        found = gin.get_bindings(function)
    except ValueError as error:
        text = str(error)
        settings = "" if isinstance(error, OSError) else _settings_named_in(text)
        if not settings:
            raise
        raise ConfigurationError(f"{without_gin(text)}; {settings}") from None
    hints = value_types.annotations(function)
    name = f"{function.__module__.rpartition('.')[2]}.{function.__name__}"
    problems = {
        argument: value_types.mismatch(found[argument], hint) for argument, hint in hints.items() if argument in found
    }
    if lines := [f"{name}.{argument}: {problem}" for argument, problem in problems.items() if problem]:
        raise ConfigurationError("\n".join(lines))
    return found


def training_arguments() -> dict[str, Any]:
    """The arguments of :func:`distill.training.train.train`, as :func:`arguments_of` returns them.

    Raises:
      ConfigurationError: see there; or ``callbacks`` are no list of callbacks.
    """
    from distill.training import callbacks, train

    found = arguments_of(train.train)
    try:
        callbacks.check(found.get("callbacks", ()))
    except TypeError as error:
        raise ConfigurationError(f"train.train.{error}") from None
    return found


def registration_arguments() -> dict[str, Any]:
    """The arguments of :func:`distill.tasks.registration.register`, as :func:`arguments_of` returns them.

    Raises:
      ConfigurationError: see there; or a metric is no function of two arguments.
    """
    from distill.tasks import metrics, registration

    found = arguments_of(registration.register)
    try:
        for name in ("label_metrics", "rationale_metrics"):
            metrics.check_functions(f"registration.register.{name}", found.get(name, ()), seqio=True)
    except TypeError as error:
        raise ConfigurationError(str(error)) from None
    return found


def _settings_named_in(message: str) -> str:
    """Which flags set the arguments that an error names, if a function that gin called raised it."""
    function = re.search(r"In call to configurable '([\w.]+)'", message)
    if function is None:
        return ""
    text, flags = without_gin(message), []
    for (_, selector), arguments in gin.config._CONFIG.items():
        if selector != function[1] and not selector.endswith(f".{function[1]}"):
            continue
        for name, value in arguments.items():
            macro_name = _looked_up(value)[1]
            flag = macro_name or ".".join([*selector.split(".")[-2:], name])
            if re.search(rf"\b{name}\b", text) and flag not in text:
                flags.append(f"--gin.{flag} sets {name}")
    return ", ".join(dict.fromkeys(flags))


def value(name: str) -> Any:
    """The value of a macro, references called; None if there is no such macro."""
    found = macro(name)
    return found.scoped_configurable_fn() if isinstance(found, gin.config.ConfigurableReference) else found


def macro(name: str) -> Any:
    """The value of a macro, or None if the configuration has none of that name."""
    try:
        return gin.query_parameter(f"{name}/macro.value")
    except ValueError:
        return None
