"""Paths as users write them."""

import os
import re
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


def expand_home(value: T) -> T:
    """``value`` with the home folder for ``~/…`` and ``~user/…``; the same for every text in lists, tuples and dicts.

    A shell does not expand ``~`` inside ``--model_dir=~/runs``, and no shell reads gin files.

    Raises:
      ValueError: there is no user of that name.
    """
    if isinstance(value, str):
        if not re.match(r"~[\w.-]*/", value):
            return value
        expanded = os.path.expanduser(value)
        if expanded == value:
            raise ValueError(f"path {value!r}: there is no user {value[1:].partition('/')[0]!r} on this machine")
        return expanded  # type: ignore[return-value]
    if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
        return type(value)(expand_home(item) for item in value)  # type: ignore[return-value]
    if isinstance(value, dict):
        return {key: expand_home(item) for key, item in value.items()}  # type: ignore[return-value]
    return value


def vocabulary_of(initial: Any) -> str | None:
    """The SentencePiece file of a Hugging Face folder on this machine that initial parameters come from, if it has one."""
    if not isinstance(initial, str | os.PathLike):
        return None
    files = (Path(expand_home(os.fspath(initial))) / name for name in ("tokenizer.model", "spiece.model"))
    return next((str(file) for file in files if file.is_file()), None)
