"""Finds, checks and parses configuration files. Only this module and ``distill.cli.main`` import gin."""

import contextlib
import dataclasses
import difflib
import io
import os
import re
import tokenize
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gin
from gin import config_parser

import distill
from distill.api import trusted, value_types
from distill.api.paths import expand_home

COMMAND_LINE = "the command line"
# Folders of gin files of which a run takes one each; errors about their macros suggest a file.
FOLDERS_OF_CHOICES = {"hardware": "cpu.gin", "models": "t5_1_1_small.gin", "tasks": "svamp.gin", "runs": "distill.gin"}


class ConfigurationError(ValueError):
    """A mistake in the configuration, reported in one message before any work is done."""


class _Use(NamedTuple):
    """A name in a file: with arguments bound (``train.LoopConfig``), or as a value (``@optimizers.adamw()``)."""

    selector: str
    called: bool
    imports: trusted.Imports
    place: str


@dataclasses.dataclass
class _Scan:
    """The statements of the files, without importing or binding anything.

    Attributes:
      defined: macro → where it is set.
      referenced: macro → where it is used.
      required: macro → where it is set to ``%gin.REQUIRED``.
      imports: import statements and their places.
      uses: names of functions and classes.
      bound: "function.argument" → where it is bound.
      texts: file's name as given or included → its text, which is what gin parses afterwards.
    """

    defined: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    referenced: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    required: dict[str, str] = dataclasses.field(default_factory=dict)
    imports: list[tuple[config_parser.ImportStatement, str]] = dataclasses.field(default_factory=list)
    uses: list[_Use] = dataclasses.field(default_factory=list)
    bound: dict[str, str] = dataclasses.field(default_factory=dict)
    texts: dict[str, str] = dataclasses.field(default_factory=dict)

    def import_lines(self) -> list[str]:
        """Every import of every file, once, as gin text: bindings of the command line may use the imported names."""
        lines = dict.fromkeys(statement.format() for statement, _ in self.imports)
        return sorted(lines, key=lambda line: "__gin__" not in line)


class _Spelling(config_parser.ParserDelegate):
    """Keeps references and macros as text."""

    def configurable_reference(self, scoped_configurable_name: str, evaluate: bool) -> str:
        return f"@{scoped_configurable_name}" + ("()" if evaluate else "")

    def macro(self, macro_name: str) -> str:
        return f"%{macro_name}"


class _Recorder(config_parser.ParserDelegate):
    """Notes each macro and each configurable that a value refers to."""

    def __init__(self) -> None:
        self.macros: list[str] = []
        self.selectors: list[str] = []

    def configurable_reference(self, scoped_configurable_name: str, evaluate: bool) -> str:
        del evaluate
        self.selectors.append(scoped_configurable_name.rsplit("/", 1)[-1])
        return scoped_configurable_name

    def macro(self, macro_name: str) -> str:
        self.macros.append(macro_name)
        return macro_name


def search_paths(extra: Sequence[str] = ()) -> list[str]:
    """The folders to search: the current one, ``extra``, and the package's, which holds ``gin/``."""
    return ["", *(expand_home(path) for path in extra), str(Path(distill.__file__).parent)]


def find(name: str, paths: Sequence[str] | None = None) -> str:
    """The path of a gin or sweep file; those in a folder ``gin`` are found with or without their leading ``gin/``.

    Args:
      name: as given, ``~`` allowed.
      paths: folders to look in, in order; by default those of :func:`search_paths`.

    Raises:
      ConfigurationError: nothing found; names the nearest known file.
    """
    paths, name = search_paths() if paths is None else paths, expand_home(name)
    candidates = [os.path.join(path, name) for path in paths]
    candidates += [os.path.join(path, "gin", name) for path in paths]
    for full in candidates:
        if os.path.isfile(full):
            return full
    kind = os.path.splitext(name)[1] or ".gin"
    known = {
        os.path.relpath(os.path.join(folder, file), base)
        for base in paths[1:]
        for folder, _, files in os.walk(os.path.join(base, "gin"))
        for file in files
        if file.endswith(kind)
    }
    near = _nearest(name if name.startswith(("gin/", "/")) else f"gin/{name}", known)
    if os.path.isdir(name):
        raise ConfigurationError(f"{name!r} is a folder, not a {kind.removeprefix('.')} file")
    raise ConfigurationError(
        f"no {kind.removeprefix('.')} file {name!r}{near} (looked in {', '.join(p or os.getcwd() for p in paths)})"
    )


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(repr(n) for n in near)}?" if near else ""


def _scan(
    text: str, where: str, paths: Sequence[str], scan: _Scan, seen: set[str], imports: trusted.Imports | None = None
) -> str:
    """Adds the statements of ``text`` to ``scan``; returns the text with public modules imported by their full names."""
    lines = text.split("\n")
    recorder = _Recorder()
    parser = config_parser.ConfigParser(text, recorder)
    imports = trusted.Imports() if imports is None else imports
    while True:
        try:
            statement = next(parser)
        except StopIteration:
            return "\n".join(lines)
        except (SyntaxError, ValueError, tokenize.TokenError, RecursionError) as error:
            raise ConfigurationError(f"{where}: {error}") from None
        line = getattr(getattr(statement, "location", None), "line_num", 0)
        place = f"{where}:{line}" if where != COMMAND_LINE else where
        for macro in recorder.macros:
            scan.referenced.setdefault(macro, []).append(place)
        scan.uses.extend(_Use(selector, True, imports, place) for selector in recorder.selectors)
        required = recorder.macros == ["gin.REQUIRED"]
        recorder.macros, recorder.selectors = [], []
        if isinstance(statement, config_parser.BindingStatement) and not statement.arg_name:
            name = f"{statement.scope}/{statement.selector}" if statement.scope else statement.selector
            scan.defined.setdefault(name, []).append(place)
            if required:
                scan.required[name] = place
            else:
                scan.required.pop(name, None)
        elif isinstance(statement, (config_parser.BindingStatement, config_parser.BlockDeclaration)):
            scan.uses.append(_Use(statement.selector, False, imports, place))
            if isinstance(statement, config_parser.BindingStatement):
                scan.bound[f"{statement.selector}.{statement.arg_name}"] = place
        elif isinstance(statement, config_parser.ImportStatement):
            real = trusted.real_import(statement)
            if real != statement:
                given = re.fullmatch(r"\s*(?:from|import)\s[^#\\]*?(\s*(?:#.*)?)", lines[line - 1])
                if given is None:
                    raise ConfigurationError(f"{place}: an import must be on one line; write: {real.format()}")
                lines[line - 1] = f"{real.format()}{given[1]}"
            imports.add(real)
            scan.imports.append((real, place))
        elif isinstance(statement, config_parser.IncludeStatement):
            _scan_file(statement.filename, paths, scan, seen)


def _scan_file(name: str, paths: Sequence[str], scan: _Scan, seen: set[str]) -> None:
    path = find(name, paths)
    if path in seen:
        raise ConfigurationError(f"{name} includes itself")
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path} is not UTF-8: {error}") from None
    scan.texts[name] = _scan(text, name, paths, scan, seen | {path})


def check(
    gin_files: Sequence[str], bindings: Sequence[str], paths: Sequence[str], allowed: Sequence[str] = ()
) -> _Scan:
    """Finds mistakes that gin itself does not report, and names that no configuration may use; returns the statements.

    Trusted modules are imported to look names up, and no others.

    Raises:
      ConfigurationError: a macro that nothing uses (a misspelt one, most likely), one that is used and never defined,
        one that is required and not given, an import of a module that is not trusted, or a name outside of them.
    """
    scan = _Scan()
    for name in gin_files:
        _scan_file(name, paths, scan, set())
    everything = trusted.Imports()
    for statement, _ in sorted(scan.imports, key=lambda found: "__gin__" not in found[0].module):
        everything.add(statement)
    _scan("\n".join(bindings), COMMAND_LINE, paths, scan, set(), everything)
    scan.referenced.pop("gin.REQUIRED", None)
    problems = _macro_problems(scan)
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


def check_macros(gin_files: Sequence[str], bindings: Sequence[str], extra_paths: Sequence[str] = ()) -> None:
    """Finds misspelt, missing and required macros; imports and calls nothing. For a run on other machines.

    Raises:
      ConfigurationError: as :func:`check` for macros, or a file that is not there or cannot be read.
    """
    paths, scan = search_paths(extra_paths), _Scan()
    for name in gin_files:
        _scan_file(name, paths, scan, set())
    _scan("\n".join(_readable(binding) for binding in bindings), COMMAND_LINE, paths, scan, set())
    scan.referenced.pop("gin.REQUIRED", None)
    problems = _macro_problems(scan)
    if problems:
        raise ConfigurationError("\n".join(problems))


def _macro_problems(scan: _Scan) -> list[str]:
    problems = []
    for name, places in scan.defined.items():
        if name not in scan.referenced and places:
            near = _nearest(name, set(scan.referenced) - {name})
            problems.append(f"nothing uses {name} (set in {places[-1]}){near}")
    for name, places in scan.referenced.items():
        if name not in scan.defined:
            near = _nearest(name, set(scan.defined) - set(scan.referenced))
            problems.append(f"{name} is used by {places[0]} and nothing sets it{near}; {_how_to_give(name)}")
    for name, place in scan.required.items():
        problems.append(f"{name} is required by {place}; {_how_to_give(name, ('hardware', 'models', 'tasks'))}")
    return problems


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
      ConfigurationError: a file that is not there or cannot be read.
    """
    paths, scan = search_paths(extra_paths), _Scan()
    for name in gin_files:
        _scan_file(name, paths, scan, set())
    _scan("\n".join(_readable(binding) for binding in bindings), COMMAND_LINE, paths, scan, set())
    return [name for name in names if name in scan.required or (name in scan.referenced and name not in scan.defined)]


def parse(
    gin_files: Sequence[str], bindings: Sequence[str], extra_paths: Sequence[str] = (), allowed: Sequence[str] = ()
) -> None:
    """Checks and parses files and bindings into gin's global configuration, which is cleared first.

    ``~`` at the beginning of a path is the home folder, in every value.

    Args:
      gin_files: in order; later ones override earlier ones.
      bindings: ``NAME = value`` and ``module.function.argument = value`` strings; they override the files.
      extra_paths: folders to look for gin files in.
      allowed: modules that files may import and name, in addition to ``distill.api.trusted.TRUSTED_MODULES``.

    Raises:
      ConfigurationError: any mistake.
    """
    if not gin_files:
        raise ConfigurationError("no gin file was given; start with --gin_file=gin/runs/distill.gin")
    paths = search_paths(extra_paths)
    bindings = [_readable(binding) for binding in bindings]
    scan = check(gin_files, bindings, paths, allowed)
    gin.clear_config()
    try:
        with _reading_only(scan.texts):
            gin.parse_config_files_and_bindings(gin_files, [*scan.import_lines(), *bindings], finalize_config=False)
    except (ValueError, SyntaxError, ImportError, AttributeError, NameError, TypeError, RecursionError) as error:
        raise ConfigurationError(str(error)) from None
    for arguments in gin.config._CONFIG.values():
        arguments.update(expand_home(dict(arguments)))
    problems = list(_type_problems(scan))
    if problems:
        raise ConfigurationError("\n".join(problems))


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


def _type_problems(scan: _Scan) -> Iterator[str]:
    """One line for each value that does not have the type that its argument is annotated with."""
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
            problem = value_types.mismatch(value, hints[name])
            if not problem:
                continue
            if macro_name is not None:
                places = scan.defined.get(macro_name, [COMMAND_LINE])
                yield f"{macro_name} (set in {places[-1]}), as {short}.{name}: {problem}"
            else:
                place = scan.bound.get(f"{short}.{name}", COMMAND_LINE)
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


def _readable(binding: str) -> str:
    """Reads a bare word as a string: shells remove the quotes of ``--gin.MODEL_DIR='"runs/a"'``."""
    key, equals, value = binding.partition("=")
    value = value.strip()
    if not equals:
        raise ConfigurationError(f"a binding reads NAME=value; got {binding!r:.200}")
    try:
        config_parser.ConfigParser(value, _Recorder()).parse_value()
    except (SyntaxError, ValueError, tokenize.TokenError, RecursionError):
        if re.fullmatch(r"[\w./:~+,-][\w./:~+,@ -]*", value):
            return f"{key.strip()} = {value!r}"
    return f"{key.strip()} = {value}"


def resolved() -> str:
    """The whole configuration as gin text: every binding and the macros that they use, without includes.

    A macro that is no longer used, because a binding overrides its use, is left out: :func:`parse` would refuse it.
    """
    everything = gin.config._CONFIG
    kept = dict(everything)
    while unused := [key for key in kept if key[1] == "gin.macro" and key not in _macros_used(kept)]:
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
    """The arguments that the configuration gives ``function``, references resolved."""
    configured(function)
    return gin.get_bindings(function)


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


def bindings_of(text: str, where: str = "the configuration") -> dict[str, Any]:
    """The bindings of a resolved configuration by name, macros included; nothing is imported, called or bound.

    Args:
      text: as :func:`resolved` returns it.
      where: its name in errors.

    Raises:
      ConfigurationError: it is not gin.
    """
    found: dict[str, Any] = {}
    try:
        for statement in config_parser.ConfigParser(text, _Spelling()):
            if isinstance(statement, config_parser.BindingStatement):
                scope = f"{statement.scope}/" if statement.scope else ""
                argument = f".{statement.arg_name}" if statement.arg_name else ""
                found[f"{scope}{statement.selector}{argument}"] = statement.value
    except (SyntaxError, ValueError, tokenize.TokenError, RecursionError) as error:
        raise ConfigurationError(f"{where}: {error}") from None
    return found
