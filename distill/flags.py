"""A command's flags, read off the signature of the function behind it."""

import argparse
import collections.abc
import inspect
import types
import typing
from collections.abc import Callable
from typing import Any


def add(command: argparse.ArgumentParser, function: Callable[..., Any]) -> None:
    """Adds one flag for every argument of ``function``: bools are switches, sequences may be repeated.

    Arguments without a default are required. The function's own documentation is shown below the flags.
    """
    hints = typing.get_type_hints(function)
    for name, parameter in inspect.signature(function).parameters.items():
        hint, flag = _without_none(hints[name]), f"--{name}"
        default = None if parameter.default is parameter.empty else parameter.default
        required = parameter.default is parameter.empty
        shown = "" if required or default in (None, "", (), False) else f"default: {default}"
        if hint is bool:
            command.add_argument(flag, action="store_true")
        elif typing.get_origin(hint) is collections.abc.Sequence:
            command.add_argument(flag, action="append", default=[], help="may repeat")
        elif typing.get_origin(hint) is typing.Literal:
            command.add_argument(flag, choices=typing.get_args(hint), default=default, required=required, help=shown)
        else:
            command.add_argument(flag, type=hint, default=default, required=required, help=shown)
    command.formatter_class = argparse.RawDescriptionHelpFormatter
    command.epilog = inspect.cleandoc(function.__doc__ or "").split("\n\nReturns:")[0]


def call(function: Callable[..., Any], options: argparse.Namespace) -> Any:
    """Calls ``function`` with the flags that :func:`add` made for it."""
    return function(**{name: getattr(options, name) for name in inspect.signature(function).parameters})


def _without_none(hint: Any) -> Any:
    """``X`` for ``X | None``."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        inner = [part for part in typing.get_args(hint) if part is not type(None)]
        if len(inner) == 1:
            return inner[0]
    return hint
