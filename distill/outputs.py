"""Checks before a file is written: it is no input of the command, and no file that the command did not write."""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, BinaryIO

Path = str | os.PathLike[str]
_LONGEST = 2**24  # bytes of a line


def check(outputs: Mapping[str, Path], inputs: Iterable[Path]) -> None:
    """Checks that files to be written are different files, and none of them is read.

    Args:
      outputs: what a file holds, as a message names it → its path.
      inputs: the files that are read.

    Raises:
      ValueError: an output is an input, or two outputs are one file.
    """
    read = [*inputs]
    seen: dict[str, str] = {}
    for what, path in outputs.items():
        for source in read:
            if os.path.exists(path) and os.path.exists(source) and os.path.samefile(path, source):
                raise ValueError(
                    f"{what} {os.fspath(path)} is the input {os.fspath(source)}: the command would replace what it reads. "
                    "Name another file"
                )
        place = os.path.realpath(path)
        if place in seen:
            raise ValueError(
                f"{what} and {seen[place]} are one file, {os.fspath(path)}: one would replace the other. Name another file"
            )
        seen[place] = what


def check_own(
    what: str, path: Path, is_own: Callable[[BinaryIO], bool], command: str, *, remedy: str = "give --overwrite"
) -> None:
    """Raises ValueError if ``path`` holds something that ``command`` did not write; an empty file holds nothing.

    Args:
      what: the file in the message.
      path: the file to be written.
      is_own: whether the content of an existing file, which is not empty, is that of an earlier output.
      command: the command in the message, such as ``distill inspect``.
      remedy: the alternative to another name.
    """
    if not os.path.exists(path):
        return
    if os.path.isfile(path):
        with open(path, "rb") as file:
            if os.path.getsize(path) == 0 or is_own(file):
                return
    raise ValueError(
        f"{what} {os.fspath(path)} exists, and was not written by `{command}`: it would be lost. Move it away, name "
        f"another file, or {remedy}"
    )


def first_object(file: BinaryIO) -> dict[str, Any]:
    """The JSON object in the first line of a file; empty if there is none."""
    try:
        found = json.loads(file.readline(_LONGEST))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
