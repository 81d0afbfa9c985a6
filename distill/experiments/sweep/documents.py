"""YAML and JSON files as values, with the line of each value for error messages."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import yaml

from distill import yaml_loading
from distill.experiments.sweep.levels import SweepError

SUFFIXES = (".yaml", ".yml", ".json")
"""The suffixes of sweep files."""
Lines = Mapping[tuple[str, ...], int]


class _Loader(yaml_loading.Loader):
    """YAML 1.2's numbers and truth values: ``1e-3`` is a number, ``3:1``, ``no`` and ``2020-01-01`` are texts."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}


for _tag, _pattern, _first in (
    ("bool", r"true|false", "tf"),
    ("null", r"null|~|", ["n", "~", ""]),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan", "-+.0123456789"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first))


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = str(loader.construct_object(key_node, deep=True))
        if key in found:
            raise yaml.MarkedYAMLError(problem=f"{key!r} is given twice", problem_mark=key_node.start_mark)
        found[key] = loader.construct_object(value_node, deep=True)
    return found


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)
_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(str(loader.construct_scalar(node))))
_Loader.add_constructor(
    "tag:yaml.org,2002:float",
    lambda loader, node: float(re.sub(r"\.(inf|nan)$", r"\1", str(loader.construct_scalar(node)))),
)


def read(path: Path) -> tuple[Any, Lines]:
    """Reads a file, JSON by its suffix ``.json`` and YAML otherwise.

    Returns:
      The value, keys as strings, and the line of each value: the path of keys and positions to it → line, from 1.

    Raises:
      SweepError: it is not JSON or YAML, names a key twice, is nested too deeply, has an alias of a list or mapping, or an
        integer of more than 64 bits.
      OSError: it cannot be read.
    """
    kind = "JSON" if path.suffix == ".json" else "YAML"
    lines: dict[tuple[str, ...], int] = {}
    try:
        text = path.read_text(encoding="utf-8")
        if kind == "JSON":
            value, node = json.loads(text, object_pairs_hook=_once), _composed(text.expandtabs(1))
        else:
            loader = _Loader(text)
            node = loader.get_single_node()
            value = None if node is None else loader.construct_document(node)
        _note(node, (), lines)
        check_integers(value, str(path), lines)
    except SweepError:
        raise
    except RecursionError:
        raise SweepError(f"{path} is not {kind} that can be read: it is nested too deeply") from None
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise SweepError(f"{path} is not {kind}: {error}") from None
    except yaml.YAMLError as error:
        raise SweepError(_unreadable(path, error)) from None
    return value, lines


def check_integers(value: Any, place: str, lines: Mapping[tuple[str, ...], int] = {}, at: tuple[str, ...] = ()) -> None:
    """Refuses an integer that neither a seed nor a float holds.

    Args:
      value: the value of a document, or a part of it.
      place: the file or flag, for the message.
      lines: see :func:`read`.
      at: the path of keys and positions to ``value``.

    Raises:
      SweepError: an integer has more than 64 bits.
    """
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        line = f":{lines[at]}" if at in lines else ""
        raise SweepError(f"{place}{line}: integers must fit into 64 bits; got one of {len(str(abs(value)))} digits")
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        check_integers(item, place, lines, (*at, str(key)))


def _unreadable(path: Path, error: yaml.YAMLError) -> str:
    """The message for a file that is not YAML: the line of the mistake, and of what it belongs to."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return f"{path} is not YAML: {' '.join(str(error).split())}"
    line = error.problem_mark.line + 1
    belongs = ""
    if error.context and error.context_mark is not None:
        belongs = f" {error.context} that begins in line {error.context_mark.line + 1}"
    other = "" if path.suffix in SUFFIXES else f"; expected a sweep file ({', '.join(SUFFIXES)})"
    what = "" if isinstance(error, yaml_loading.AliasError) else " is not YAML"
    return f"{path}:{line}{what}: {error.problem}{belongs}{other}"


def _composed(text: str) -> yaml.Node | None:
    """The nodes of JSON, for their lines; None for JSON that YAML does not read."""
    try:
        return yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError:
        return None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is given twice")
    return found


def _note(node: yaml.Node | None, at: tuple[str, ...], lines: dict[tuple[str, ...], int]) -> None:
    if node is None:
        return
    lines.setdefault(at, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            lines[(*at, str(key.value))] = key.start_mark.line + 1
            _note(value, (*at, str(key.value)), lines)
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            _note(value, (*at, str(number)), lines)
