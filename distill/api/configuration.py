"""Checks and parses configurations. Only this module, ``statements`` and ``gin_values`` import gin."""

import contextlib
import io
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import gin

from distill.api import statement_checks, trusted, value_types
from distill.api.gin_files import ConfigurationError, close, find, search_paths, without_gin
from distill.api.paths import expand_home
from distill.api.statements import (
    COMMAND_LINE,
    Scan,
    bindings_of,
    readable,
    setting,
    shown_binding,
)
from distill.validation import suggested

__all__ = [
    "COMMAND_LINE",
    "ConfigurationError",
    "arguments_of",
    "bindings_of",
    "configured",
    "find",
    "macro",
    "mentions",
    "own",
    "parse",
    "resolved",
    "search_paths",
    "training_arguments",
    "value",
]


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
        raise ConfigurationError(statement_checks.NO_FILE)
    paths = search_paths(extra_paths)
    bindings = [readable(binding) for binding in bindings]
    scan = statement_checks.check(gin_files, bindings, paths, allowed, place)
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
        why = f"{missing[1]} has no {missing[2]!r}{suggested(close(missing[2], public))}"
    return f"{place}: {shown_binding(texts[at], place)}: {why}"


def _outside(allowed: Sequence[str]) -> Iterator[str]:
    """One line for each function and class that gin has found, and that no configuration may name, or have called.

    :func:`distill.api.statement_checks.check` refuses almost all of them, with their places, but looks names up as a file
    imports them: here are those that one file registers and another one names.
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


@contextlib.contextmanager
def own() -> Iterator[None]:
    """Lets gin's global configuration be replaced, and puts back the caller's."""
    state = [getattr(gin.config, name) for name in ("_CONFIG", "_SINGLETONS", "_IMPORTS", "_OPERATIVE_CONFIG")]
    saved = [container.copy() for container in state]
    names = exchange_names()
    locked = gin.config_is_locked()
    try:
        yield
    finally:
        for container, contents in zip(state, saved):
            container.clear()
            container.update(contents)
        exchange_names(names)
        gin.config._set_config_is_locked(locked)


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
