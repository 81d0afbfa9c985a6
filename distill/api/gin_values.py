"""Values of Python as gin text: what ``distill.from_gin`` and ``distill.train`` bind."""

import os
import tokenize
from typing import Any

import gin

from distill.api import value_types
from distill.api.gin_files import ConfigurationError
from distill.validation import quoted


def written(name: str, value: Any) -> str:
    """A Python value as gin text; a text that starts with ``@`` or ``%`` stays a reference."""
    if isinstance(value, str) and value.startswith(("@", "%")):
        return value
    value = _plain(value)
    text = repr(value)
    try:
        same = gin.config_parser.ConfigParser(text, _Literal()).parse_value() == value  # type: ignore[attr-defined]
    except (SyntaxError, ValueError, tokenize.TokenError):
        same = False
    if not same:
        raise ConfigurationError(
            f"--gin.{name} must be a finite number, a text, or a list, tuple or dict of them; got {quoted(value)}; "
            "train(…) takes other objects as further arguments"
        )
    return text


def _plain(value: Any) -> Any:
    """A value with texts in place of paths, and Python's numbers in place of NumPy's, inside of collections too."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(_plain, value))
    return value_types.plain_number(value)


class _Literal(gin.config_parser.ParserDelegate):  # type: ignore[attr-defined,misc]
    """Refuses references: only literals are accepted."""

    def configurable_reference(self, scoped_configurable_name: str, evaluate: bool) -> Any:
        raise ValueError("a reference")

    def macro(self, macro_name: str) -> Any:
        raise ValueError("a macro")
