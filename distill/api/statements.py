"""The statements of gin files and bindings, read without importing, calling or binding anything."""

import dataclasses
import json
import re
import shlex
import tokenize
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gin import config_parser

from distill.api import trusted
from distill.api.gin_files import ConfigurationError, find
from distill.validation import quoted

COMMAND_LINE = "the command line"
_REPEATED = 60  # characters of a value that a remedy repeats
# What gin's parser raises on a text that is no gin; TypeError for a dict whose key is a list.
_UNREADABLE = (SyntaxError, ValueError, TypeError, tokenize.TokenError, RecursionError)


class Use(NamedTuple):
    """A name in a file: with arguments bound (``train.LoopConfig``), or as a value (``@optimizers.adamw()``)."""

    selector: str
    called: bool
    imports: trusted.Imports
    place: str


class Given(NamedTuple):
    """A value that an argument is bound to: a literal, or a macro's name."""

    use: Use
    argument: str
    value: Any
    macro: str | None


class Literal(NamedTuple):
    """A value without references, and where it is set."""

    value: Any
    place: str


@dataclasses.dataclass
class Scan:
    """The statements of the files, without importing or binding anything.

    Attributes:
      defined: macro → where it is set.
      referenced: macro → where it is used.
      required: macro → where it is set to ``%gin.REQUIRED``.
      imports: import statements and their places.
      uses: names of functions and classes.
      bound: "function.argument" → where it is bound.
      arguments: every function or class with an argument that is bound, and the argument.
      given: (scope, function or class, argument) → the literal or the macro that it was bound to last.
      values: macro → its value where it was set last, if that refers to nothing.
      refers: (scope, function or class or macro, argument or "") → the functions and macros its last value refers to.
      texts: file's name as given or included → its text, which is what gin parses afterwards.
      place: where the bindings were given that are in no file, in words.
    """

    defined: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    referenced: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    required: dict[str, str] = dataclasses.field(default_factory=dict)
    imports: list[tuple[config_parser.ImportStatement, str]] = dataclasses.field(default_factory=list)
    uses: list[Use] = dataclasses.field(default_factory=list)
    bound: dict[str, str] = dataclasses.field(default_factory=dict)
    arguments: list[tuple[Use, str]] = dataclasses.field(default_factory=list)
    given: dict[tuple[str, str, str], Given] = dataclasses.field(default_factory=dict)
    values: dict[str, Any] = dataclasses.field(default_factory=dict)
    refers: dict[tuple[str, str, str], list[str]] = dataclasses.field(default_factory=dict)
    texts: dict[str, str] = dataclasses.field(default_factory=dict)
    place: str = COMMAND_LINE

    def literal(self, given: Given) -> "Literal | None":
        """A bound literal, or a macro's, and where it is set; None for a macro without a literal."""
        if given.macro is None:
            return Literal(given.value, given.use.place)
        if given.macro not in self.values:
            return None
        return Literal(self.values[given.macro], self.defined[given.macro][-1])

    def called(self) -> set[str]:
        """The functions and classes that a run calls: commands' own, and those that values in effect refer to.

        A value in effect is one that no later statement replaces, of an argument of a function that is called.
        """
        referred = {use.selector for use in self.uses if use.called}
        found = {selector for _, selector, argument in self.refers if argument and selector not in referred}
        new = set(found)
        while new:
            names = {name for (_, owner, _), refers in self.refers.items() if owner in new for name in refers}
            new = names - found
            found |= new
        return found

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


class _Reference(str):
    """The name of a function or class that a value refers to."""


class _Macro(_Reference):
    """The name of a macro that a value refers to."""


def _references(value: Any) -> list[str]:
    """The references in a value, or in the lists, tuples and dicts that it consists of."""
    if isinstance(value, dict):
        value = [item for pair in value.items() for item in pair]
    if isinstance(value, list | tuple):
        return [name for item in value for name in _references(item)]
    return [value] if isinstance(value, _Reference) else []


class Recorder(config_parser.ParserDelegate):
    """Notes each macro and each configurable that a value refers to."""

    def __init__(self) -> None:
        self.macros: list[str] = []
        self.selectors: list[str] = []

    def configurable_reference(self, scoped_configurable_name: str, evaluate: bool) -> str:
        del evaluate
        self.selectors.append(scoped_configurable_name.rsplit("/", 1)[-1])
        return _Reference(scoped_configurable_name)

    def macro(self, macro_name: str) -> str:
        self.macros.append(macro_name)
        return _Macro(macro_name)


def scan_text(
    text: str, where: str, paths: Sequence[str], scan: Scan, seen: set[str], imports: trusted.Imports | None = None
) -> str:
    """Adds the statements of ``text`` to ``scan``; returns the text with public modules imported by their full names."""
    lines = text.split("\n")
    recorder = Recorder()
    parser = None
    imports = trusted.Imports() if imports is None else imports
    while True:
        try:
            parser = parser or config_parser.ConfigParser(text, recorder)  # reads the first token
            statement = next(parser)
        except StopIteration:
            return "\n".join(lines)
        except _UNREADABLE as error:
            raise ConfigurationError(unreadable(error, where, text, numbered=where != scan.place)) from None
        line = getattr(getattr(statement, "location", None), "line_num", 0)
        place = f"{where}:{line}" if where != scan.place else where
        for macro in recorder.macros:
            scan.referenced.setdefault(macro, []).append(place)
        scan.uses.extend(Use(selector, True, imports, place) for selector in recorder.selectors)
        if isinstance(statement, config_parser.BindingStatement):
            target = (statement.scope or "", statement.selector, statement.arg_name or "")
            scan.refers[target] = [name.rsplit("/", 1)[-1] for name in _references(statement.value)]
        required = recorder.macros == ["gin.REQUIRED"]
        recorder.macros, recorder.selectors = [], []
        if isinstance(statement, config_parser.BindingStatement) and not statement.arg_name:
            name = f"{statement.scope}/{statement.selector}" if statement.scope else statement.selector
            scan.defined.setdefault(name, []).append(place)
            scan.values.pop(name, None)
            if not _references(statement.value):
                scan.values[name] = statement.value
            if required:
                scan.required[name] = place
            else:
                scan.required.pop(name, None)
        elif isinstance(statement, (config_parser.BindingStatement, config_parser.BlockDeclaration)):
            scan.uses.append(Use(statement.selector, False, imports, place))
            if isinstance(statement, config_parser.BindingStatement):
                scan.arguments.append((scan.uses[-1], statement.arg_name))
                key = (statement.scope, statement.selector, statement.arg_name)
                scan.given.pop(key, None)
                whole = str(statement.value) if isinstance(statement.value, _Macro) else None
                if whole is not None or not _references(statement.value):
                    scan.given[key] = Given(scan.uses[-1], statement.arg_name, statement.value, whole)
                scan.bound[f"{statement.selector}.{statement.arg_name}"] = place
        elif isinstance(statement, config_parser.ImportStatement):
            real = trusted.real_import(statement)
            if real != statement:
                given = re.fullmatch(r"\s*(?:from|import)\s[^#\\]*?(\s*(?:#.*)?)", lines[line - 1])
                if given is None:
                    raise ConfigurationError(f"{place}: an import must be on one line; write: {real.format()}")
                lines[line - 1] = f"{real.format()}{given[1]}"
            imports = imports.with_statement(real)
            scan.imports.append((real, place))
        elif isinstance(statement, config_parser.IncludeStatement):
            scan_file(statement.filename, paths, scan, seen)


def unreadable(error: Exception, where: str, text: str, *, numbered: bool = True) -> str:
    """The message for a statement that cannot be read: its place, its text, why, and the remedy."""
    lines, found = text.split("\n"), _unbalanced(text)
    number = found[0] if found else error.lineno if isinstance(error, SyntaxError) else None
    number = 1 if len(lines) == 1 else number
    if number is None or not 0 < number <= len(lines):
        return f"{where}: {_first_line(error)}"
    line = lines[number - 1].strip()
    what = "has no gin value" if "=" in line else "is no gin statement"
    name, _, value = (part.strip() for part in line.partition("="))
    why = found[1] if found else _why(error, value, setting(name, where))
    shell = f"; a shell needs quotes around the value: --gin.{name}='…'" if where == COMMAND_LINE and found else ""
    return f"{where}{f':{number}' if numbered else ''}: {shown_binding(line, where)} {what}: {why}{shell}"


def shown_binding(text: str, where: str) -> str:
    """A binding in messages, shortened; one of the command line as the flag that gave it.

    >>> shown_binding("LAMBDA = @a", COMMAND_LINE), shown_binding("LAMBDA = @a", "runs/a.gin")
    ("'--gin.LAMBDA=@a'", "'LAMBDA = @a'")
    """
    name, equals, value = text.partition("=")
    return quoted(f"--gin.{name.strip()}{equals}{value.strip()}" if where == COMMAND_LINE else text, 200)


def setting(name: str, place: str, given_in: str = COMMAND_LINE) -> Callable[[str], str]:
    """How a macro or argument is set to a value in gin, for examples in messages.

    Args:
      name: of the macro or argument.
      place: where it is set: a file with its line, or ``given_in``.
      given_in: where bindings are given that are in no file; other than on the command line, the value alone is shown.

    >>> setting("STEPS", COMMAND_LINE)("10"), setting("STEPS", "a.gin:3")("10"), setting("STEPS", "here", "here")("10")
    ('--gin.STEPS=10', 'STEPS = 10', '10')
    """
    if place == COMMAND_LINE:
        return lambda value: f"--gin.{name}={shlex.quote(value)}"
    return str if place == given_in else lambda value: f"{name} = {value}"


def _first_line(error: Exception) -> str:
    text = str(error.args[0]) if error.args else ""
    return (text.splitlines() or [""])[0].strip() or type(error).__name__


def _why(error: Exception, value: str, example: Callable[[str], str]) -> str:
    """gin's reason in the words of a user, and the remedy.

    Args:
      error: gin's.
      value: what gin could not read.
      example: see :func:`setting`.
    """
    text = str(error.args[0]) if error.args else ""
    if word := re.search(r"Failed to parse token '(.*)'", text):
        is_whole = value.startswith(word[1]) and len(value) <= _REPEATED
        bare = re.search(rf"(?<![\w'\"]){re.escape(word[1])}[\w./:~*-]*", value)
        part = word[1] if bare is None else bare[0]
        quotes = example(json.dumps(value, ensure_ascii=False)) if is_whole else quoted(part)
        return f"{word[1]} is no number and no name that gin knows; a text needs quotes: {quotes}"
    if text.startswith("Unable to parse value"):
        return "expected a number, a text in quotes, a list, a dict, %MACRO or @function"
    if text.startswith("Expected newline"):
        digits = value.replace(",", "")
        number = f"a plain number, {example(digits)}" if re.fullmatch(r"-?\d{1,20}", digits) else "a plain number"
        return f"something follows the value; expected one value: {number}, a text in quotes or a list in brackets"
    if text.startswith("Expected ',' or "):
        return f"{_first_line(error).rstrip('.')}: commas separate items, and texts need quotes"
    if text.startswith("Expected ':'"):
        return f"{_first_line(error).rstrip('.')}: a dict is written {{'NAME': VALUE}}"
    if isinstance(error, TypeError):
        return f"{_first_line(error)}; a key of a dict must be a text or a number"
    return _first_line(error)


_CLOSING = {"(": ")", "[": "]", "{": "}"}
# Texts, comments, and what remains: brackets, quotes that no other one closes, ends of lines.
_MARKS = re.compile(
    r'"""(?:\\.|[^\\])*?"""'
    r"|'''(?:\\.|[^\\])*?'''"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'(?:\\.|[^'\\\n])*'"
    r"|#[^\n]*|[\"'\[\](){}\n]",
    re.DOTALL,
)


def _unbalanced(text: str) -> tuple[int, str] | None:
    """The line, from 1, of a bracket or quote without its partner, and what is wrong with it; None if all have one.

    >>> _unbalanced("A = '[' # ("), _unbalanced("A = [1,")
    (None, (1, "the bracket '[' is not closed"))
    """
    brackets: list[tuple[str, int]] = []
    line = 1
    for mark in (found[0] for found in _MARKS.finditer(text)):
        if mark in ('"', "'"):
            return line, f"the quote {mark} is not closed"
        if mark in _CLOSING:
            brackets.append((mark, line))
        elif mark in _CLOSING.values():
            if not brackets:
                return line, f"the bracket {mark!r} closes nothing"
            opened, at = brackets.pop()
            if _CLOSING[opened] != mark:
                return at, f"the bracket {opened!r} is closed by {mark!r}"
        line += mark.count("\n")
    return (brackets[0][1], f"the bracket {brackets[0][0]!r} is not closed") if brackets else None


def scan_file(name: str, paths: Sequence[str], scan: Scan, seen: set[str]) -> None:
    path = find(name, paths)
    if path in seen:
        raise ConfigurationError(f"{name} includes itself")
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path} is not UTF-8: {error}") from None
    scan.texts[name] = scan_text(text, name, paths, scan, seen | {path})


def bindings_of_files(gin_files: Sequence[str], paths: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The bindings of files and of those that they include: file, as it is given or included → name → value.

    Raises:
      ConfigurationError: a file does not exist or cannot be read.
    """
    scan = Scan()
    for name in gin_files:
        scan_file(name, paths, scan, set())
    return {name: bindings_of(text, name) for name, text in scan.texts.items()}


def readable(binding: str) -> str:
    """Reads a bare word as a string: shells remove the quotes of ``--gin.MODEL_DIR='"runs/a"'``."""
    key, equals, value = binding.partition("=")
    value = value.strip()
    if not equals:
        raise ConfigurationError(f"a binding reads NAME=value; got {quoted(binding, 200)}")
    try:
        config_parser.ConfigParser(value, Recorder()).parse_value()
    except _UNREADABLE:
        if re.fullmatch(r"[\w./:~+,-][\w./:~+,@ -]*", value):
            return f"{key.strip()} = {value!r}"
    return f"{key.strip()} = {value}"


def bindings_of(text: str, where: str = "the configuration") -> dict[str, Any]:
    """The bindings of a resolved configuration by name, macros included; nothing is imported, called or bound.

    Args:
      text: as :func:`distill.api.configuration.resolved` returns it.
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
    except _UNREADABLE as error:
        raise ConfigurationError(unreadable(error, where, text)) from None
    return found
