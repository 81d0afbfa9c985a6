"""Checks the values of a configuration against the annotations of the functions that take them."""

import collections.abc
import inspect
import json
import logging
import math
import numbers
import re
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any

import typeguard

from distill import validation
from distill.validation import quoted


class Unknown:
    """Represents a value that does not exist yet: the result of a function that the configuration calls.

    Attributes:
      type: its class, where the function's annotation names one; else None.
    """

    def __init__(self, function: Any):
        if not inspect.isclass(function):
            function = annotations(function).get("return")
        self.type: type | None = function if inspect.isclass(function) else None


def annotations(function: Any) -> dict[str, Any]:
    """Argument → type, and "return" → type, as far as a function or class is annotated."""
    is_dataclass = inspect.isclass(function) and hasattr(function, "__dataclass_fields__")
    owner = function.__init__ if inspect.isclass(function) and not is_dataclass else function
    try:
        return typing.get_type_hints(owner)
    except (NameError, TypeError, AttributeError) as error:  # annotations that only a type checker can import
        logging.debug("no annotations of %r: %s", function, error)
        return {}


def mismatch(value: Any, hint: Any, setting: Callable[[str], str] = str) -> str | None:
    """The mistake in ``value`` as a ``hint``: "expected …; got …; remedy", or None.

    An int is also a ``float``; True and False are not numbers, and a str is not a sequence of str.

    Args:
      value: what is given.
      hint: what is expected.
      setting: how a value is given, for examples; see :func:`distill.api.statements.setting`.
    """
    options = _options(hint)
    if Any in options:
        return None
    if isinstance(value, Unknown):
        known = all(inspect.isclass(option) for option in options) and value.type is not None
        if not known or any(issubclass(value.type, option) for option in options):  # type: ignore[arg-type]
            return None
        return f"expected {shown(hint)}; got {_name(value.type)}"
    if contains_unknown(value):
        return None
    if problem := out_of_range(value, hint):
        return problem
    fits = True
    if isinstance(value, bool) and not any(option in (bool, object, collections.abc.Hashable) for option in options):
        fits = any(
            typing.get_origin(option) is typing.Literal and value in typing.get_args(option) for option in options
        )
    elif isinstance(value, str) and not _takes_text(options):
        fits = False
    else:
        try:
            typeguard.check_type(
                value,
                hint,
                forward_ref_policy=typeguard.ForwardRefPolicy.IGNORE,
                collection_check_strategy=typeguard.CollectionCheckStrategy.ALL_ITEMS,
            )
        except typeguard.TypeCheckError:
            fits = False
    if fits:
        return None
    hints = _nearest(value, options) or _remedy(value, options, setting)
    return f"expected {shown(hint)}; got {_shown_value(value)}{hints}"


def _shown_value(value: Any) -> str:
    """A value in a message: a class and a function by name, an object without a text by its class.

    >>> _shown_value(3), _shown_value(Unknown), _shown_value(is_plain), _shown_value(Unknown(None))
    ('3 (int)', 'the class Unknown', 'the function is_plain', 'an instance of Unknown')
    """
    if inspect.isclass(value) or inspect.isfunction(value):
        return f"the {'class' if inspect.isclass(value) else 'function'} {value.__name__}"
    if type(value).__repr__ is object.__repr__:
        return f"an instance of {type(value).__name__}"
    return f"{quoted(value, 200)} ({type(value).__name__})"


def out_of_range(value: Any, hint: Any) -> str | None:
    """The mistake in a number that is not finite, or that no integer of 64 bits can hold; None for others."""
    options = _options(hint)
    if isinstance(value, int) and {int, float} & {*options} and value.bit_length() > 63:
        return f"expected a number of at most 64 bits; got one of {value.bit_length():,} bits"
    if isinstance(value, float) and not math.isfinite(value) and {int, float} & {*options}:
        return f"expected a finite number; got {value}"
    return None


def is_plain(hint: Any) -> bool:
    """Whether a type consists of classes none of which is a collection; a text is no collection.

    >>> is_plain(int | None), is_plain(str | list[int]), is_plain(Sequence[str])
    (True, False, False)
    """
    return all(
        inspect.isclass(option)
        and not typing.get_args(option)
        and (option is str or not issubclass(option, collections.abc.Iterable))
        for option in _options(hint)
    )


def plain_number(value: Any) -> Any:
    """Python's number in place of a NumPy number; other values as they are."""
    return value.item() if isinstance(value, numbers.Number) and hasattr(value, "item") else value


def contains_unknown(value: Any) -> bool:
    """Whether there is an :class:`Unknown` in a value or in the lists, tuples and dicts that it consists of."""
    if isinstance(value, dict):
        return any(contains_unknown(item) for pair in value.items() for item in pair)
    if isinstance(value, (list, tuple)):
        return any(contains_unknown(item) for item in value)
    return isinstance(value, Unknown)


def shown(hint: Any) -> str:
    """A type as a user reads it: without modules, None for NoneType, and "function" for any callable."""
    options = _options(hint)
    if len(options) > 1:
        return " or ".join(dict.fromkeys(shown(option) for option in options))
    if typing.get_origin(hint) is typing.Literal:
        return f"one of {', '.join(map(repr, typing.get_args(hint)))}"
    if hint is type(None):
        return "None"
    if (typing.get_origin(hint) or hint) is collections.abc.Callable:
        return "function"
    text = hint.__name__ if inspect.isclass(hint) and not typing.get_args(hint) else str(hint)
    text = re.sub(r"\b(?:[A-Za-z_]\w*\.)+(?=[A-Za-z_])", "", text).replace("NoneType", "None")
    return re.sub(r"\bUnion\[([^\[\]]*)\]", lambda union: union[1].replace(", ", " or "), text).replace(" | ", " or ")


def _name(kind: type | None) -> str:
    return getattr(kind, "__name__", str(kind))


def _options(hint: Any) -> Sequence[Any]:
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def _takes_text(options: Sequence[Any]) -> bool:
    """Whether a text may be given; a sequence of texts takes none, although Python's texts are such sequences."""
    return not all(_is_other_class(typing.get_origin(option) or option) for option in options)


def _is_other_class(origin: Any) -> bool:
    """Whether a text given for the class ``origin`` is a mistake: not text, not any object, not a Literal or the like."""
    return inspect.isclass(origin) and (origin in (Sequence, collections.abc.Iterable) or not issubclass(str, origin))


def _nearest(value: Any, options: Sequence[Any]) -> str:
    """The choice of a ``Literal`` that a text is close to, as the end of a message."""
    choices = [
        one for option in options if typing.get_origin(option) is typing.Literal for one in typing.get_args(option)
    ]
    texts = [one for one in choices if isinstance(one, str)]
    return validation.did_you_mean(value, texts) if isinstance(value, str) else ""


def _remedy(value: Any, options: Sequence[Any], setting: Callable[[str], str]) -> str:
    words = {"none": (None, type(None)), "true": (True, bool), "on": (True, bool), "false": (False, bool)}
    words["off"] = (False, bool)
    meant = words.get(value.lower()) if isinstance(value, str) else None
    if meant is not None and meant[1] in options:
        return f"; write {meant[0]}"
    if isinstance(value, float) and value.is_integer() and int in options:
        return f"; write {int(value)}"
    if {int, float} & {*options}:
        kind = float if float in options else int
        if isinstance(value, str) and _is_number(value, kind):
            return "; remove the quotes" if math.isfinite(kind(value)) else "; give a finite number"
        number = "a number" if kind is float else "a whole number"
        return f"; give {number}, as in {setting('0.1' if kind is float else '100')}"
    if str in options and isinstance(value, bool | int | float):
        return f"; a text needs quotes: {setting(json.dumps(str(value)))}"
    if bool in options:
        return f"; give {setting('True')} or {setting('False')}"
    origins = [typing.get_origin(option) or option for option in options]
    if any(origin in (dict, collections.abc.Mapping) for origin in origins) and not isinstance(value, dict):
        return "; give a dict, as in " + setting('{"NAME": VALUE}')
    listed = [option for option, origin in zip(options, origins) if origin in (list, tuple, Sequence)]
    return _list_of(listed, setting) if listed and not isinstance(value, list | tuple) else ""


def _list_of(options: Sequence[Any], setting: Callable[[str], str]) -> str:
    """The remedy for a value that must be a list or tuple."""
    is_tuple = all((typing.get_origin(option) or option) is tuple for option in options)
    items = {inner for option in options for item in typing.get_args(option) for inner in _options(item)}
    examples = {str: '"a", "b"', int: "1, 2", float: "0.1, 0.2"}
    example = next((text for kind, text in examples.items() if kind in items), None)
    shown_as = "" if example is None else ", as in " + setting(f"({example})" if is_tuple else f"[{example}]")
    return f"; give a {'tuple' if is_tuple else 'list'}{shown_as}"


def _is_number(text: str, kind: type[int] | type[float]) -> bool:
    try:
        kind(text)
    except ValueError:
        return False
    return True
