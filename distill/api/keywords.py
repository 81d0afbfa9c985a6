"""Misspelt keywords and mistyped arguments of the Python interface: found before any work is done, with the remedy."""

import contextlib
import functools
import inspect
import os
import typing
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

from distill import terminal
from distill.api import signatures, value_types
from distill.api.gin_files import close
from distill.validation import quoted, suggested

P = ParamSpec("P")
R = TypeVar("R")


def checked(
    *further: tuple[str, str], macros: Mapping[str, str] = {}, others: str = "", explains: tuple[str, ...] = ()
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Makes a function refuse values of wrong types, and keywords that neither it nor the functions it passes them to have.

    Its log is printed as that of commands, see :func:`distill.terminal.shown_log`.

    Types are those of the annotations. Collections are left to the function, which gives an example.

    Args:
      *further: module and name of the functions that get the keywords that this one does not name. Their arguments are
        read from the source; nothing is imported.
      macros: macro → argument, for callers who give a macro's name.
      others: the argument that takes other macros, such as ``settings``.
      explains: arguments whose type the function checks itself.

    >>> @checked()
    ... def double(number): return 2 * number
    >>> double(numbr=1)
    Traceback (most recent call last):
    TypeError: double() has no argument 'numbr'; did you mean 'number'?
    >>> @checked()
    ... def halve(number: float): return number / 2
    >>> halve("3")
    Traceback (most recent call last):
    TypeError: number must be float; got '3' (str); remove the quotes
    """

    def decorated(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)
        kinds = signature.parameters.values()
        own = [one.name for one in kinds if one.kind in (one.KEYWORD_ONLY, one.POSITIONAL_OR_KEYWORD)]

        types = functools.cache(lambda: _types(function, explains))

        @functools.wraps(function)
        def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
            unknown = [name for name in kwargs if name not in own]
            if unknown:
                given_on = (name for where in further for name in signatures.arguments_of(*where) or ())
                known = list(dict.fromkeys((*own, *given_on)))
                for name in unknown:
                    if name not in known:
                        hint = _hint(name, [one for one in known if one != "self"], macros, others)
                        raise TypeError(f"{function.__qualname__}() has no argument {name!r}{hint}")
            given: Mapping[str, Any] = {}
            with contextlib.suppress(TypeError):  # the call itself says best which argument is missing
                given = signature.bind(*args, **kwargs).arguments
            check_types(types(), given)
            with terminal.shown_log(quiet=kwargs.get("quiet") is True):
                return function(*args, **kwargs)

        return wrapped

    return decorated


def _types(function: Callable[..., Any], explains: tuple[str, ...]) -> dict[str, Any]:
    """Argument → annotation, of the arguments that take no collection."""
    hints = value_types.annotations(function)
    return {
        name: hint for name, hint in hints.items() if name not in (*explains, "return") and value_types.is_plain(hint)
    }


def check_types(types: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Raises TypeError for the first argument whose value is not of its type, ValueError for a number that is not finite.

    NumPy's numbers are numbers.
    """
    for name, hint in types.items():
        if name in given:
            value = value_types.plain_number(given[name])
            problem = value_types.mismatch(value, hint)
            if isinstance(given[name], str) and not given[name] and _takes_path(hint):
                problem = "a path; got ''"
            if problem is not None:
                kind = TypeError if value_types.out_of_range(value, hint) is None else ValueError
                raise kind(f"{name} must be {problem.removeprefix('expected ')}")


def _takes_path(hint: Any) -> bool:
    return os.PathLike in typing.get_args(hint)


def check_mapping(argument: str, value: Any, example: str) -> None:
    """Raises TypeError unless ``value`` is a mapping or None.

    >>> check_mapping("lengths", 64, "{'inputs': 512, 'targets': 256}")
    Traceback (most recent call last):
    TypeError: lengths must be a dict such as {'inputs': 512, 'targets': 256}; got 64 (int)
    """
    if value is not None and not isinstance(value, Mapping):
        raise TypeError(
            f"{argument} must be a dict such as {example}; got {quoted(value, 200)} ({type(value).__name__})"
        )


def _hint(name: str, known: list[str], macros: Mapping[str, str], others: str) -> str:
    if name in macros:
        return f"; give {macros[name]}=…"
    if others and name.isupper():
        return f"; give macros as {others}={{{name!r}: …}}"
    return suggested(close(name, known)) or f"; it has {', '.join(known)}"
