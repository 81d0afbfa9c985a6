"""A value that must be one of a few or in a range, values in messages, and names of files that others choose."""

import difflib
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence

_RANGE = re.compile(
    r"(?P<kind>an integer |a finite number |)"
    r"(?:(?P<sign>[≥>]) (?P<least>\S+)|in (?P<open>[\[(])(?P<low>\S+), (?P<high>\w[\w.]*)(?P<close>[\])]))"
    r"(?: or (?P<other>None|-\d+))?"
)


def check(name: str, value: object, choices: Collection[str]) -> None:
    """Raises ValueError, with the nearest choice, unless ``value`` is one of ``choices``."""
    if value not in choices:
        hint = did_you_mean(str(value), choices)
        raise ValueError(f"{name} must be one of {tuple(choices)}; got {value!r}{hint}")


def check_range(name: str, value: object, expected: str, **bounds: object) -> None:
    """Raises ValueError unless ``value`` is in a range. A function, such as a schedule of values, is not checked.

    The early check of configurations reads these calls from the source (:mod:`distill.api.source_rules`).

    Args:
      name: the value's name in the message.
      value: a number, or None where the range admits it.
      expected: the range as the message states it: ``≥ 1``, ``> 0`` or ``in [0, 1)``; ``an integer`` or ``a finite number``
        may precede it, ``or None`` or ``or -1`` follow it.
      **bounds: values of the names in the range.

    >>> check_range("warmup_steps", 50, "in [0, steps)", steps=20)
    Traceback (most recent call last):
    ValueError: warmup_steps must be in [0, steps=20); got 50
    """
    if not callable(value) and not _in_range(value, expected, bounds):
        shown = re.sub(r"[A-Za-z_]\w*(?=[,)\]])", lambda word: _with_value(word[0], bounds), expected)
        raise ValueError(f"{name} must be {shown}; got {value!r}")


def check_local(what: str, path: object) -> None:
    """Raises ValueError if ``path`` is remote, as ``gs://…``, where ``what`` cannot be written.

    >>> check_local("a page", "gs://bucket/page.html")
    Traceback (most recent call last):
    ValueError: a page is written to a local path; got 'gs://bucket/page.html': name a local path and copy the result
    """
    if "://" in str(path):
        raise ValueError(f"{what} is written to a local path; got {str(path)!r}: name a local path and copy the result")


def check_items(name: str, value: Mapping[str, object], keys: Sequence[str], expected: str) -> None:
    """Raises ValueError unless a mapping has exactly the given keys, and values in the range ``expected``."""
    if set(value) != set(keys):
        raise ValueError(f"{name} must name exactly {' and '.join(map(repr, keys))}; got {sorted(value)}")
    for key, one in value.items():
        check_range(f"{name}[{key!r}]", one, expected)


def _with_value(name: str, bounds: Mapping[str, object]) -> str:
    return f"{name}={bounds[name]}" if name in bounds else name


def _in_range(value: object, expected: str, bounds: Mapping[str, object]) -> bool:
    found = _RANGE.fullmatch(expected)
    if found is None:
        raise TypeError(f"no range: {expected!r}")
    if value is None or isinstance(value, str):
        return value is None and found["other"] == "None"
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return False
    if found["kind"].startswith("an integer") and (isinstance(value, bool | float) or not number.is_integer()):
        return False
    if found["kind"].startswith("a finite") and not math.isfinite(number):
        return False
    if found["other"] not in (None, "None") and number == float(found["other"]):
        return True

    def bound(text: str) -> float:
        return float(bounds.get(text, text))  # type: ignore[arg-type]

    if found["sign"]:
        return number > bound(found["least"]) or (found["sign"] == "≥" and number == bound(found["least"]))
    low, high = bound(found["low"]), bound(found["high"])
    above = number > low or (found["open"] == "[" and number == low)
    return above and (number < high or (found["close"] == "]" and number == high))


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of an error that suggests the name that ``name`` is closest to; empty if none is close.

    >>> did_you_mean("lable", ["label", "rationale"]), did_you_mean("x", ["label"])
    ("; did you mean 'label'?", '')
    """
    return suggested(difflib.get_close_matches(name, list(known), n=1))


def suggested(names: Sequence[str]) -> str:
    """The end of an error that suggests ``names``; empty if there are none.

    >>> suggested(["rates", "ratio"])
    "; did you mean 'rates' or 'ratio'?"
    """
    return f"; did you mean {' or '.join(map(repr, names))}?" if names else ""


def quoted(value: object, most: int = 80) -> str:
    """``repr(value)`` for a message; of a longer value its beginning, with … for what is left out.

    A text is shortened before it is quoted, so it keeps both quotes.

    Args:
      value: anything.
      most: characters to show.

    >>> quoted("a long text", 9), quoted([1, 2, 3, 4], 9), quoted("short")
    ("'a long…'", '[1, 2, 3…', "'short'")
    """
    if isinstance(value, str):
        return repr(value if len(value) + 2 <= most else f"{value[: max(0, most - 3)]}…")
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a whole number of thousands of digits, or nesting as deep
        text = type(value).__name__
    return text if len(text) <= most else f"{text[: most - 1]}…"


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
