"""The settings that determine a task's contents, as flat, JSON-ready names and values that two machines can compare.

Paths of files are not included: the same data set may be in another folder on another machine.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import seqio
from etils import epath

PLAIN = (str, int, float, bool, type(None))
_DEPTH = 16  # objects nested deeper than this refer to themselves, most likely


def describe(value: Any, name: str = "") -> dict[str, Any]:
    """``value`` as dotted names and plain values; values that cannot be compared (paths, open files) are left out.

    Args:
      value: plain values, mappings, sequences, dataclasses, functions (by name, with their bound arguments) and objects
        of other classes (by class and plain attributes).
      name: prefix of the names.

    >>> describe({"teacher": "palm", "splits": ("train", "test")}, "source")
    {'source.teacher': 'palm', 'source.splits': ['train', 'test']}
    """
    if isinstance(value, PLAIN):
        return {name: value}
    if isinstance(value, (PurePath, epath.Path)) or name.count(".") > _DEPTH:
        return {}
    if isinstance(value, (list, tuple)) and all(isinstance(item, PLAIN) for item in value):
        return {name: list(value)}
    if isinstance(value, Mapping):
        return _joined(value, name)
    if isinstance(value, (list, tuple)):
        return _joined({str(number): item for number, item in enumerate(value)}, name)
    if isinstance(value, functools.partial):
        return describe(value.func, name) | _joined(value.keywords, name) | describe(value.args, f"{name}.args")
    if callable(value) and hasattr(value, "__qualname__"):
        variables = getattr(getattr(value, "__code__", None), "co_freevars", ())
        cells = zip(variables, getattr(value, "__closure__", None) or ())
        bound = {variable: cell.cell_contents for variable, cell in cells}
        plain = {variable: held for variable, held in bound.items() if isinstance(held, (*PLAIN, list, tuple))}
        return {name: f"{value.__module__}.{value.__qualname__}"} | _joined(plain, name)
    if dataclasses.is_dataclass(value):
        attributes = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    elif type(value).__module__.split(".")[0] in ("seqio", "tensorflow", "numpy", "builtins"):
        return {}
    else:
        attributes = {attribute.lstrip("_"): held for attribute, held in vars(value).items()}
    return {f"{name}.class": f"{type(value).__module__}.{type(value).__qualname__}"} | _joined(attributes, name)


def _joined(attributes: Mapping[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in attributes.items():
        found |= describe(value, f"{name}.{key}" if name else str(key))
    return found


def of_vocabulary(vocabulary: seqio.Vocabulary) -> dict[str, Any]:
    """The settings by which two vocabularies encode alike; reads the vocabulary's file."""
    found: dict[str, Any] = {"vocabulary": type(vocabulary).__name__, "vocabulary.size": vocabulary.vocab_size}
    if isinstance(vocabulary, seqio.SentencePieceVocabulary):
        found["vocabulary.sha256"] = hashlib.sha256(vocabulary.sp_model).hexdigest()
    return found


def differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """The settings that differ: (name, theirs, ours); None marks a setting that one side lacks."""
    names = dict.fromkeys([*theirs, *ours])
    return [(name, theirs.get(name), ours.get(name)) for name in names if theirs.get(name) != ours.get(name)]
