"""A value that must be one of a few, and names of files that foreign data gives."""

import difflib
from collections.abc import Collection, Iterable


def check(name: str, value: object, choices: Collection[str]) -> None:
    """Raises ValueError, with the nearest choice, unless ``value`` is one of ``choices``."""
    if value not in choices:
        hint = did_you_mean(str(value), choices)
        raise ValueError(f"{name} must be one of {tuple(choices)}; got {value!r}{hint}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of an error that suggests the name that ``name`` is closest to; empty if none is close.

    >>> did_you_mean("lable", ["label", "rationale"]), did_you_mean("x", ["label"])
    ("; did you mean 'label'?", '')
    """
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def is_plain_name(name: object, most: int = 255) -> bool:
    """Whether ``name`` can name a file or folder in a given folder, and be shown in one line of a message.

    It is a text of 1 to ``most`` bytes in UTF-8 (255 is the limit of common file systems), without separators, control
    characters and surrogates, and neither ``.`` nor ``..``.
    """
    return (
        isinstance(name, str)
        and name.isprintable()  # surrogates are not
        and 0 < len(name.encode()) <= most
        and not set(name) & set("/\\")
        and name not in (".", "..")
    )
