"""The values of flags: whole numbers, parts of a whole, addresses, and files."""

import argparse
import json
import re
from typing import Any

from distill.validation import quoted


def positive(text: str) -> int:
    """A flag's whole number of at least 1."""
    if not (text.isascii() and text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"must be a whole number ≥ 1; got {text!r}")
    return int(text)


def not_negative(text: str) -> int:
    """A flag's whole number of at least 0."""
    if not (text.isascii() and text.isdecimal()):
        raise argparse.ArgumentTypeError(f"must be a whole number ≥ 0; got {text!r}")
    return int(text)


def host_and_port(text: str) -> str:
    """A flag's address of a machine, such as ``10.0.0.1:8476``."""
    match = re.fullmatch(r"(?:[^\s:/]+|\[[0-9A-Fa-f:.%\w]+\]):([0-9]{1,5})", text)
    if match is None or not 1 <= int(match[1]) <= 65535:
        expected = "HOST:PORT with a port from 1 to 65535, such as 10.0.0.1:8476 or [fd00::1]:8476"
        raise argparse.ArgumentTypeError(f"must be {expected}; got {quoted(text)}")
    return text


def shard(text: str) -> tuple[int, int]:
    """A flag's part of a whole, such as ``2/4``."""
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise argparse.ArgumentTypeError(f"must be I/N with 1 ≤ I ≤ N, such as 2/4; got {quoted(text)}")
    return int(match[1]), int(match[2])


def point(text: str) -> dict[str, Any]:
    """A flag's point of a sweep: a JSON object of axes and values.

    >>> point('{"LAMBDA": [1, 3]}')
    {'LAMBDA': [1, 3]}
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not found:
        expected = (
            """a JSON object of axes and values, such as '{"LAMBDA": 3}', or stand without a value after the file"""
        )
        raise argparse.ArgumentTypeError(f"must be {expected}; got {quoted(text)}")
    return found


def choices(text: str) -> str | list[str]:
    """A flag's choices: a JSON list of texts, such as ``["yes", "no"]``, or else the name of a field.

    Numbers are read as texts, as those in rows are.

    >>> choices('["yes", "no"]'), choices("[1, 2.5]"), choices("options")
    (['yes', 'no'], ['1', '2.5'], 'options')
    """
    from distill.tasks import row_fields
    from distill.tasks.records import RowError

    expected = """a field, or a list of two or more different texts, such as '["yes", "no"]'"""
    if not text.strip() or text.lstrip().startswith(("{", '"')):
        raise argparse.ArgumentTypeError(f"must be {expected}; got {quoted(text)}")
    if not text.lstrip().startswith("["):
        return text
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise argparse.ArgumentTypeError(f"must be {expected}; got {quoted(text)}: {_no_json(error, text)}") from None
    try:
        return list(row_fields.choices_of_all(found))
    except RowError as error:
        raise argparse.ArgumentTypeError(f"must be {expected}; got {quoted(text)}: {error}") from None


def _no_json(error: Exception, text: str) -> str:
    """Why a text is not JSON, and where it breaks."""
    if not isinstance(error, json.JSONDecodeError):
        return "this is no list of texts and numbers"
    place = "at its end" if error.pos >= len(text.rstrip()) else f"at character {error.pos + 1}"
    return f"this is not valid JSON, {place}: {error.msg}"


def input_file(text: str) -> str:
    """The path of a file to read; of standard input for ``-``."""
    return "/dev/stdin" if text == "-" else text
