"""A command's flags, derived from the signature and the docstring of the function that it calls."""

import argparse
import collections.abc
import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Callable
from typing import Any


def add(command: argparse.ArgumentParser, function: Callable[..., Any], *described: Any) -> None:
    """Adds one flag for every argument of ``function``: bools are switches, sequences may be repeated.

    Arguments without a default are required. Help texts come from :func:`documented` for ``function``, else for the
    classes ``described``. The paragraphs of the function's documentation before its sections are shown below the flags.
    """
    hints = typing.get_type_hints(function)
    texts = {name: text for found in (*described[::-1], function) for name, text in documented(found).items()}
    for name, parameter in inspect.signature(function).parameters.items():
        add_one(command, name, hints[name], parameter.default, texts.get(name, ""))
    paragraphs = re.split(r"\n\n(?=\w+:\n)", inspect.cleandoc(function.__doc__ or ""))[0].split("\n\n")
    command.epilog = "\n\n".join(plain(paragraph) for paragraph in paragraphs)


def add_one(
    command: argparse.ArgumentParser, name: str, hint: Any, default: Any = inspect.Parameter.empty, text: str = ""
) -> None:
    """Adds the flag ``--name`` for an argument annotated with ``hint``; without a default it is required."""
    hint, flag, required = _without_none(hint), f"--{name}", default is inspect.Parameter.empty
    default = None if required else default
    shown = "" if required or default in (None, "", (), False) else f"default: {default}"
    text = "; ".join(part for part in (text, "" if "default" in text else shown) if part)
    text = text.replace("%", "%%")
    if hint is bool:
        command.add_argument(flag, action="store_true", help=text)
    elif typing.get_origin(hint) is collections.abc.Sequence:
        repeated = text if "may repeat" in text else "; ".join(part for part in (text, "may repeat") if part)
        command.add_argument(flag, action="append", default=[], help=repeated)
    elif typing.get_origin(hint) is typing.Literal:
        command.add_argument(flag, choices=typing.get_args(hint), default=default, required=required, help=text)
    else:
        command.add_argument(flag, type=hint, default=default, required=required, help=text)


def call(function: Callable[..., Any], options: argparse.Namespace) -> Any:
    """Calls ``function`` with the values of the flags that :func:`add` added for it."""
    return function(**{name: getattr(options, name) for name in inspect.signature(function).parameters})


def documented(function: Any) -> dict[str, str]:
    """Argument → its description: a dataclass field's ``metadata["help"]``, or its entry under "Args:" or "Attributes:".

    An entry is ``name: text``, or ``name, other: text`` for several, with further lines indented deeper.
    """
    found: dict[str, str] = {}
    names: list[str] = []
    inside = False
    for line in inspect.cleandoc(getattr(function, "__doc__", None) or "").splitlines():
        if not line.startswith(" ") and line:
            inside = line in ("Args:", "Attributes:")
            continue
        entry = re.match(r"^  (?! )(\w+(?:, \w+)*): (.*)$", line)
        if inside and entry:
            names = entry[1].split(", ")
            found.update(dict.fromkeys(names, entry[2]))
        elif inside and line.strip():
            found.update({name: f"{found[name]} {line.strip()}" for name in names})
    for field in dataclasses.fields(function) if dataclasses.is_dataclass(function) else ():
        if "help" in field.metadata:
            found[field.name] = field.metadata["help"]
    return {name: plain(text).removesuffix(".") for name, text in found.items()}


def plain(text: str) -> str:
    """A docstring's text for a terminal: without backquotes, and with only the last name of each reference."""
    text = re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"\1", text)
    return re.sub(r"`+([^`]*)`+", r"\1", text)


def _without_none(hint: Any) -> Any:
    """``X`` for ``X | None``."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        inner = [part for part in typing.get_args(hint) if part is not type(None)]
        if len(inner) == 1:
            return inner[0]
    return hint
