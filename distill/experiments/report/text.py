"""Text of runs and rows, made safe to show: bounded, without control characters; and numbers in a fixed form."""

import math
import re

LIMIT = 600
_HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]")


def shown(value: object, limit: int = LIMIT) -> str:
    """Returns the text of ``value`` with at most ``limit`` characters and their total number, if it was cut.

    Control characters, marks that change the direction of text, and lone surrogates are shown as the code point that
    they have. Line ends and tabs are kept.

    >>> shown("a\\x00b")
    'a⟨0000⟩b'
    >>> shown("x" * 5000, limit=4)
    'xxxx… (5,000 characters)'
    """
    text = str(value)
    cut = _HIDDEN.sub(lambda match: f"⟨{ord(match[0]):04X}⟩", text[:limit])
    return cut if len(text) <= limit else f"{cut}… ({len(text):,} characters)"


def one_line(value: object, limit: int = 160) -> str:
    """Returns :func:`shown` with white space collapsed."""
    return shown(" ".join(str(value).split()), limit)


def spreadsheet_cell(text: str) -> str:
    """Returns a text as one line that no spreadsheet takes for a formula.

    >>> spreadsheet_cell("=1+1"), spreadsheet_cell("-0.5"), spreadsheet_cell("standard")
    ("'=1+1", '-0.5', 'standard')
    """
    text = one_line(text, 500)
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") and not _is_number(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def number(value: float | None, digits: int = 3) -> str:
    """Returns a number with ``digits`` significant digits, and a dash for None or nan.

    >>> [number(value) for value in (0.012345, 1234567.0, 2.0, float("nan"))]
    ['0.0123', '1,230,000', '2', '–']
    """
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == 0:
        return "0"
    if 1e-4 <= abs(value) < 1e9:
        places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
        text = f"{round(value, digits - 1 - math.floor(math.log10(abs(value)))):,.{places}f}"
        text = text.rstrip("0").rstrip(".") if "." in text else text
    else:
        text = f"{value:.{digits - 1}e}"
    return text.replace("-", "−")


def large(value: float | None) -> str:
    """Returns a count with the prefixes of the SI.

    >>> [large(value) for value in (950, 1000, 60_500_000, 3.2e15)]
    ['950', '1,000', '60.5M', '3.2P']
    """
    if value is None or math.isnan(value):
        return "–"
    power = min(6, int(math.log10(abs(value)) // 3)) if abs(value) >= 10_000 else 0
    return number(value / 1000**power) + ("", "k", "M", "G", "T", "P", "E")[power]


def signed(value: float, digits: int = 1) -> str:
    """Returns a number with its sign.

    >>> signed(2.345), signed(-0.04, 2)
    ('+2.3', '−0.04')
    """
    return f"{value:+.{digits}f}".replace("-", "−")


def p_value(p: float) -> str:
    """Returns a p-value.

    >>> [p_value(p) for p in (0.5, 0.0312, 1e-9)]
    ['0.50', '0.031', '< 0.0001']
    """
    if math.isnan(p):
        return "–"
    return "< 0.0001" if p < 1e-4 else f"{p:.2f}" if p >= 0.1 else f"{p:.3f}" if p >= 0.001 else f"{p:.4f}"
