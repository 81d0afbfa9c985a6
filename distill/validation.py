"""A value that must be one of a few."""

import difflib
from collections.abc import Collection


def check(name: str, value: object, choices: Collection[str]) -> None:
    """Raises ValueError, with the nearest choice, unless ``value`` is one of ``choices``."""
    if value not in choices:
        near = difflib.get_close_matches(str(value), choices, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{name} must be one of {tuple(choices)}; got {value!r}{hint}")
