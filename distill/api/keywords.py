"""Misspelt keywords and mistyped arguments of the Python interface: found before any work is done, with the remedy."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

from distill.api import signatures
from distill.api.gin_files import close, did_you_mean

P = ParamSpec("P")
R = TypeVar("R")


def checked(
    *further: tuple[str, str], macros: Mapping[str, str] = {}, others: str = ""
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Makes a function refuse keywords that neither it nor the functions that it passes them to have.

    Args:
      *further: module and name of the functions that get the keywords that this one does not name. Their arguments are
        read from the source; nothing is imported.
      macros: macro → argument, for callers who give a macro's name.
      others: the argument that takes other macros, such as ``settings``.

    >>> @checked()
    ... def double(number): return 2 * number
    >>> double(numbr=1)
    Traceback (most recent call last):
    TypeError: double() has no argument 'numbr'; did you mean 'number'?
    """

    def decorated(function: Callable[P, R]) -> Callable[P, R]:
        kinds = inspect.signature(function).parameters.values()
        own = [one.name for one in kinds if one.kind in (one.KEYWORD_ONLY, one.POSITIONAL_OR_KEYWORD)]

        @functools.wraps(function)
        def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
            unknown = [name for name in kwargs if name not in own]
            if unknown:
                known = [*own, *(name for where in further for name in signatures.arguments_of(*where) or ())]
                for name in unknown:
                    if name not in known:
                        hint = _hint(name, [one for one in known if one != "self"], macros, others)
                        raise TypeError(f"{function.__qualname__}() has no argument {name!r}{hint}")
            return function(*args, **kwargs)

        return wrapped

    return decorated


def check_mapping(argument: str, value: Any, example: str) -> None:
    """Raises TypeError unless ``value`` is a mapping or None.

    >>> check_mapping("lengths", 64, "{'inputs': 512, 'targets': 256}")
    Traceback (most recent call last):
    TypeError: lengths must be a dict such as {'inputs': 512, 'targets': 256}; got 64 (int)
    """
    if value is not None and not isinstance(value, Mapping):
        raise TypeError(f"{argument} must be a dict such as {example}; got {value!r:.200} ({type(value).__name__})")


def _hint(name: str, known: list[str], macros: Mapping[str, str], others: str) -> str:
    if name in macros:
        return f"; give {macros[name]}=…"
    if others and name.isupper():
        return f"; give macros as {others}={{{name!r}: …}}"
    return did_you_mean(close(name, known)) or f"; it has {', '.join(known)}"
