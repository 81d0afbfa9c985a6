"""Gin at the door: finding, checking and parsing configuration files. With ``main``, the only place that knows gin."""

import dataclasses
import difflib
import importlib.util
import logging
import os
import re
import tokenize
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import gin
from gin import config_parser

COMMAND_LINE = "the command line"
# A configuration can name any function of a module it imports, so it may only import these, and what the user allows.
TRUSTED_MODULES = ("__gin__", "__main__", "distill", "tasks", "seqio", "t5x", "optax", "jax.numpy")


class ConfigurationError(ValueError):
    """A mistake in the configuration, told in one message before any work is done."""


@dataclasses.dataclass
class _Scan:
    """What the files say, statement by statement, without importing or binding anything."""

    defined: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    referenced: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    required: dict[str, str] = dataclasses.field(default_factory=dict)
    imports: list[tuple[config_parser.ImportStatement, str]] = dataclasses.field(default_factory=list)


class _Spelling(config_parser.ParserDelegate):
    """Keeps references and macros as they are written."""

    def configurable_reference(self, scoped_configurable_name, evaluate):
        return f"@{scoped_configurable_name}" + ("()" if evaluate else "")

    def macro(self, macro_name):
        return f"%{macro_name}"


class _Recorder(config_parser.ParserDelegate):
    """Notes each macro that a value refers to."""

    def __init__(self):
        self.macros: list[str] = []

    def configurable_reference(self, scoped_configurable_name, evaluate):
        del evaluate
        return scoped_configurable_name

    def macro(self, macro_name):
        self.macros.append(macro_name)
        return macro_name


def split_arguments(arguments: Sequence[str]) -> list[str]:
    """Rewrites T5X's ``--gin.NAME=value`` as ``--gin_bindings=NAME=value``, which a flag parser understands."""
    out = []
    for argument in arguments:
        match = re.match(r"^--gin\.(?P<key>[^=]+)=(?P<value>.*)$", argument, re.DOTALL)
        out.append(f"--gin_bindings={match['key']} = {match['value']}" if match else argument)
    return out


def search_paths(extra: Sequence[str] = ()) -> list[str]:
    """Where gin files are looked for: as given, in ``extra``, and among the files that come with the package."""
    paths = ["", *extra]
    root = Path(__file__).resolve().parents[1]
    if (root / "gin").is_dir():
        paths.append(str(root))
    spec = importlib.util.find_spec("distill.configs")
    if spec is not None and spec.submodule_search_locations:
        paths.extend(spec.submodule_search_locations)
    return paths


def find(name: str, paths: Sequence[str]) -> str:
    """The path of gin file ``name``; installed files are found with or without their leading ``gin/``.

    Raises:
      ConfigurationError: nothing found; names the nearest known file.
    """
    names = [name, name.removeprefix("gin/")]
    for path in paths:
        for candidate in names:
            full = os.path.join(path, candidate)
            if os.path.isfile(full):
                return full
    known = {
        os.path.join("gin", os.path.relpath(os.path.join(folder, file), base)).replace("gin/gin/", "gin/")
        for base in paths[1:]
        for folder, _, files in os.walk(os.path.join(base, "gin") if os.path.isdir(os.path.join(base, "gin")) else base)
        for file in files
        if file.endswith(".gin")
    }
    raise ConfigurationError(f"no gin file {name!r}{_nearest(name, known)} (looked in {[p or '.' for p in paths]})")


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(repr(n) for n in near)}?" if near else ""


def _scan(text: str, where: str, paths: Sequence[str], scan: _Scan, seen: set[str]) -> None:
    recorder = _Recorder()
    parser = config_parser.ConfigParser(text, recorder)
    while True:
        try:
            statement = next(parser)
        except StopIteration:
            return
        except (SyntaxError, ValueError, tokenize.TokenError) as error:
            raise ConfigurationError(f"{where}: {error}") from None
        line = getattr(getattr(statement, "location", None), "line_num", 0)
        place = f"{where}:{line}" if where != COMMAND_LINE else where
        for macro in recorder.macros:
            scan.referenced.setdefault(macro, []).append(place)
        required = recorder.macros == ["gin.REQUIRED"]
        recorder.macros = []
        if isinstance(statement, config_parser.BindingStatement) and not statement.arg_name:
            name = f"{statement.scope}/{statement.selector}" if statement.scope else statement.selector
            scan.defined.setdefault(name, []).append(place)
            if required:
                scan.required[name] = place
            else:
                scan.required.pop(name, None)
        elif isinstance(statement, config_parser.ImportStatement):
            scan.imports.append((statement, place))
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
    _scan(text, name, paths, scan, seen | {path})


def check(
    gin_files: Sequence[str], bindings: Sequence[str], paths: Sequence[str], trusted: Sequence[str] = ()
) -> _Scan:
    """Finds macro mistakes that gin itself lets pass; returns what the files say.

    Raises:
      ConfigurationError: a macro that nothing uses (a misspelt one, most likely), one that is used and never defined,
        one that is required and not given, or an import of a module that is not trusted.
    """
    scan = _Scan()
    for name in gin_files:
        _scan_file(name, paths, scan, set())
    _scan("\n".join(bindings), COMMAND_LINE, paths, scan, set())
    scan.referenced.pop("gin.REQUIRED", None)
    problems = []
    for name, places in scan.defined.items():
        if name not in scan.referenced and places:
            near = _nearest(name, set(scan.referenced) - {name})
            problems.append(f"nothing uses {name} (set in {places[-1]}){near}")
    for name, places in scan.referenced.items():
        if name not in scan.defined:
            near = _nearest(name, set(scan.defined) - set(scan.referenced))
            problems.append(f"{name} is wanted by {places[0]} and nothing sets it{near}; give it with --gin.{name}=…")
    for name, place in scan.required.items():
        problems.append(f"{name} is required by {place}; give it with --gin.{name}=…")
    allowed = (*TRUSTED_MODULES, *trusted)
    for statement, place in scan.imports:
        module = statement.module
        if not any(module == m or module.startswith(m + ".") for m in allowed):
            problems.append(f"{place} imports {module}, which is not trusted; allow it with --gin_module={module}")
    if problems:
        raise ConfigurationError("\n".join(problems))
    return scan


def unset(
    names: Sequence[str], gin_files: Sequence[str], bindings: Sequence[str], extra_paths: Sequence[str] = ()
) -> list[str]:
    """Those of the macros ``names`` that the files want and nothing sets.

    Raises:
      ConfigurationError: a file that is not there or cannot be read.
    """
    paths, scan = search_paths(extra_paths), _Scan()
    for name in gin_files:
        _scan_file(name, paths, scan, set())
    _scan("\n".join(_readable(binding) for binding in bindings), COMMAND_LINE, paths, scan, set())
    return [name for name in names if name in scan.required or (name in scan.referenced and name not in scan.defined)]


def parse(
    gin_files: Sequence[str], bindings: Sequence[str], extra_paths: Sequence[str] = (), trusted: Sequence[str] = ()
) -> None:
    """Checks and parses files and bindings into gin's global configuration, which is cleared first.

    Args:
      gin_files: in order; later ones override earlier ones.
      bindings: ``NAME = value`` and ``module.function.argument = value`` strings; they override the files.
      extra_paths: folders to look for gin files in.
      trusted: modules that files may import besides ``TRUSTED_MODULES``.

    Raises:
      ConfigurationError: any mistake.
    """
    if not gin_files:
        raise ConfigurationError("no gin file was given; start with --gin_file=gin/runs/distill.gin")
    paths = search_paths(extra_paths)
    bindings = [_readable(binding) for binding in bindings]
    scan = check(gin_files, bindings, paths, trusted)
    # Bindings from the command line may name whatever the files have imported.
    imports = list(dict.fromkeys(statement.format() for statement, _ in scan.imports))
    imports.sort(key=lambda line: "__gin__" not in line)
    gin.clear_config()
    logging.disable(logging.ERROR)  # gin reports every folder that it does not find a file in, before it finds it
    for path in paths[1:]:
        gin.add_config_file_search_path(path)
    try:
        gin.parse_config_files_and_bindings(
            [find(name, paths) for name in gin_files], [*imports, *bindings], finalize_config=False
        )
    except (ValueError, SyntaxError, OSError, ImportError, AttributeError) as error:
        raise ConfigurationError(str(error)) from None
    finally:
        logging.disable(logging.NOTSET)


def _readable(binding: str) -> str:
    """Lets a bare word stand for a string: shells eat the quotes of ``--gin.MODEL_DIR='"runs/a"'``."""
    key, equals, value = binding.partition("=")
    value = value.strip()
    if not equals:
        raise ConfigurationError(f"a binding reads NAME=value; got {binding!r}")
    try:
        config_parser.ConfigParser(value, _Recorder()).parse_value()
    except (SyntaxError, ValueError):
        if re.fullmatch(r"[\w./:~+,-][\w./:~+,@ -]*", value):
            return f"{key.strip()} = {value!r}"
    return f"{key.strip()} = {value}"


def resolved() -> str:
    """The whole configuration as gin text: every binding, macros included, with no file left to read."""
    return gin.config_str(max_line_length=100)


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
            f"the configuration says nothing of {name}; the run file is missing (gin/runs/….gin)"
        ) from None


def mentions(function: Any) -> bool:
    """Whether the configuration says anything of ``function``."""
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
    """What a macro stands for, references called; None if there is no such macro."""
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
      where: what errors call it.

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
