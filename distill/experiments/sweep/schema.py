"""The keys of a sweep file, their types and their meaning, for the reader and for ``distill sweep --help``."""

from collections.abc import Mapping
from typing import Any, NamedTuple

DESIGNS = ("random", "sobol", "latin_hypercube")
SAMPLERS = ("tpe", "gp", "random")


class Key(NamedTuple):
    """A key of a sweep file.

    Attributes:
      types: one type, or several, that JSON values have in Python.
      text: what the key means, in a few words.
    """

    types: Any
    text: str


Schema = Mapping[str, Key]

FILE: Schema = {
    "gin_files": Key(list, "gin files of every run, in order"),
    "bindings": Key(dict, "macro or module.function.argument: value, of every run"),
    "axes": Key(dict, "name: axis; required"),
    "design": Key((str, dict), "grid (default), or an object"),
    "more": Key(list, "points beside the design, as --more adds them: axis: value, or a list of values"),
    "start": Key((str, dict), "a run that is trained first: gin_files and bindings"),
    "metric": Key(str, "test metric of the table and the plot; default: accuracy"),
    "x": Key((str, type(None)), "the axis that the plot is drawn over"),
    "joint_seeds": Key(bool, "train runs that differ only in RANDOM_SEED together"),
    "directory": Key(str, "folder of the runs; --directory overrides it"),
}
LEVEL: Schema = {
    "gin_files": Key(list, "more gin files"),
    "bindings": Key(dict, "more bindings"),
    "number": Key((int, float), "position on a numeric axis; default: the level's name"),
}
AXIS: Schema = {
    "values": Key(list, "values of the macro that the axis is named after"),
    "levels": Key(dict, "name: level"),
    "ratio": Key((list, dict), "LABEL_RATE:RATIONALE_RATE as numbers or 'A:B', or a range"),
    "budget": Key(list, "steps, compute: equal steps and equal compute"),
    "reference": Key(dict, "of a budget: axis: level whose budget all runs get"),
    "macro": Key(str, "the macro, where the axis has another name"),
    "low": Key((int, float), "lower end of a range"),
    "high": Key((int, float), "upper end of a range"),
    "log": Key(bool, "equal ratios, not equal differences"),
    "int": Key(bool, "whole numbers only"),
    "points": Key(int, "number of values of a range in a grid"),
    "when": Key(dict, "other axis: levels at which this axis applies"),
}
DESIGN: Schema = {
    "kind": Key(str, ", ".join(DESIGNS)),
    "points": Key(int, "number of points"),
    "seed": Key(int, "of the points; default: 0"),
    "cross": Key(list, "axes of which every point gets all levels"),
}
SEARCH: Schema = {
    "kind": Key(str, "optuna"),
    "trials": Key(int, "number of trials"),
    "sampler": Key(str, f"{', '.join(SAMPLERS)}; default: tpe"),
    "seed": Key(int, "of the sampler; default: 0"),
    "prune": Key(bool, "end trials early that validate badly; default: true"),
    "startup": Key(int, "random trials at first, none of them pruned; default: 5"),
}
START: Schema = {
    "gin_files": Key(list, "its gin files"),
    "bindings": Key(dict, "its bindings"),
}
NAMES = {
    list: "a list",
    dict: "an object",
    str: "a string",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    type(None): "null",
}
"""Types as errors and the help name them."""
_PARTS = (
    ("Keys of a sweep file, YAML or JSON (docs/sweeps.md)", FILE),
    (
        "An axis is a list of values, an object NAME: level, or an object with values, levels, ratio, budget or low",
        AXIS,
    ),
    ("A level", LEVEL),
    ("A design", DESIGN),
    ("A search", SEARCH),
)


def type_names(types: Any) -> str:
    """The types of a key in words.

    >>> type_names((int, float)), type_names((str, type(None)))
    ('a number', 'a string or null')
    """
    kinds = types if isinstance(types, tuple) else (types,)
    return " or ".join(NAMES[kind] for kind in kinds if not (kind is int and float in kinds))


def described() -> str:
    """Every key, its type and its meaning, for a terminal."""
    lines = []
    for title, schema in _PARTS:
        lines.append(f"{title}:")
        lines += [f"  {name:11} {key.text} ({type_names(key.types)})" for name, key in schema.items()]
        lines.append("")
    return "\n".join(lines[:-1])
