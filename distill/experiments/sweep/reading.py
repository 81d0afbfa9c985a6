"""Sweep files: checked against their schema, and read into a :class:`~distill.experiments.sweep.runs.Sweep`."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from distill import validation
from distill.experiments.sweep import designs, documents, more
from distill.experiments.sweep.levels import RATES, SEED, Kind, Level, Range, SweepError, binding, number_of
from distill.experiments.sweep.runs import Budget, Search, Start, Sweep
from distill.experiments.sweep.schema import (
    AXIS,
    DESIGN,
    DESIGNS,
    FILE,
    LEVEL,
    SAMPLERS,
    SEARCH,
    START,
    Key,
    Schema,
    type_names,
)

# The demo's vocabulary with its pretraining, or alone.
DEMO_STARTS = {
    "demo": Start(("gin/recipes/demo_pretraining.gin",), demo=True),
    "demo_vocabulary": Start((), demo=True),
}
_SOURCES = ("values", "levels", "ratio", "budget", "low")


def _did_you_mean(name: Any, known: Iterable[str]) -> str:
    return validation.did_you_mean(str(name), known)


class _Place:
    """A value of the file and the way to it, for error messages."""

    def __init__(self, path: Path | str, lines: documents.Lines, value: Any, keys: tuple[str, ...] = ()):
        self.path, self.lines, self.value, self.keys = path, lines, value, keys
        self.line: int | None = None  # in errors; None: that of the keys
        self.number: int | None = None  # of an item of a list, from 1, whose position is the last key

    def __getitem__(self, key: str | int) -> "_Place":
        place = _Place(self.path, self.lines, self.value[key], (*self.keys, str(key)))
        place.number = key + 1 if isinstance(key, int) else None
        return place

    def __contains__(self, key: str) -> bool:
        return key in self.value

    def items(self) -> list[tuple[str, "_Place"]]:
        return [(key, self[key]) for key in self.value]

    def get(self, key: str, default: Any = None) -> Any:
        return self.value.get(key, default)

    def error(self, text: str) -> SweepError:
        """Returns an error that names the file, the line and the keys."""
        keys = self.keys
        while keys and keys not in self.lines:
            keys = keys[:-1]
        number = self.line if self.line is not None else self.lines.get(keys) if keys else None
        line = "" if number is None else f":{number}"
        where, named = "", self.keys if self.number is None else self.keys[:-1]
        if named[:1] == ("axes",) and len(named) > 1:
            where = f"axis {named[1]!r}"
            rest = list(named[2:])
            if rest:
                where += f", level {rest[0]!r}" if len(rest) > 0 and rest[0] not in AXIS else f", {rest[0]!r}"
                where += "".join(f", {key!r}" for key in rest[1:])
        elif named:
            where = ", ".join(repr(key) for key in named)
        where += "" if self.number is None else f", value number {self.number}"
        return SweepError(f"{self.path}{line}: {where}{' ' if where else ''}{text}")

    def check(self, schema: Schema, form: str) -> None:
        """Raises SweepError unless the value is an object with keys of the schema, and values of its types."""
        if not isinstance(self.value, dict):
            raise self.error(f"must be {form}; got {self.value!r}")
        unknown = sorted(set(self.value) - set(schema))
        if unknown:
            known = f"the keys are {', '.join(schema)}{_did_you_mean(unknown[0], schema)}"
            raise self[unknown[0]]._without_key().error(f"unknown key {unknown[0]!r}; {known}")
        for key, inner in self.items():
            inner.check_type(schema[key].types)

    def check_type(self, wanted: Any) -> None:
        """Raises SweepError unless the value has one of the types; a list must hold strings where gin files are named."""
        types = wanted if isinstance(wanted, tuple) else (wanted,)
        good = isinstance(self.value, types) and not (isinstance(self.value, bool) and bool not in types)
        strings = self.keys[-1] in ("gin_files", "cross", "budget")
        if good and isinstance(self.value, list) and strings:
            good = all(isinstance(item, str) for item in self.value)
        if not good:
            raise self._without_key().error(
                f"{self.keys[-1]!r} must be {type_names(types)}{' of strings' * strings}; got {self.value!r}"
            )

    def _without_key(self) -> "_Place":
        place = _Place(self.path, self.lines, self.value, self.keys[:-1])
        place.line = self.lines.get(self.keys)
        return place


def read(path: str | Path, directory: str | Path | None = None) -> Sweep:
    """Reads a sweep from its YAML or JSON file; docs/sweeps.md describes the file.

    Args:
      path: the file.
      directory: replaces the file's.

    Raises:
      SweepError: the file has another form; the message names the file, the line and the place.
      OSError: the file cannot be read.
    """
    value, lines = documents.read(Path(path))
    return from_document(value, lines, path, directory)


def from_document(value: Any, lines: documents.Lines, path: str | Path, directory: str | Path | None = None) -> Sweep:
    """Returns the sweep that the contents of a file describe; see :func:`read`."""
    path = Path(path)
    file = _Place(path, lines, value)
    file.check(FILE, "an object with 'axes', an object of at least one axis")
    if not value.get("axes"):
        place = file["axes"] if "axes" in value else file
        raise place.error("must hold an object with 'axes', an object of at least one axis")
    where = str(directory or value.get("directory") or "")
    if not where:
        raise SweepError(f"{path} names no 'directory'; give one there or with --directory")
    if "://" in where:
        raise (file if directory else file["directory"]).error(
            f"the directory must be on a file system, where files can be locked; got {where!r}; mount the bucket"
        )
    axes = {name: _axis(name, place) for name, place in file["axes"].items()}
    for name, axis in axes.items():
        _check_distinct(file["axes"][name], axis)
    kind, design = _design(file)
    for name, axis in axes.items():
        _check_axis(file["axes"][name], name, axis, axes, kind)
    levels = {name: axis.levels for name, axis in axes.items()}
    sweep = Sweep(
        Path(where),
        levels,
        tuple(value.get("gin_files", ())),
        _bindings(file),
        value.get("metric", "accuracy"),
        value.get("x"),
        bool(value.get("joint_seeds", False)),
        when={name: axis.when for name, axis in axes.items() if axis.when},
        budgets={name: axis.budget for name, axis in axes.items() if axis.budget},
        ranges={name: (axis.range, axis.kind) for name, axis in axes.items() if axis.range},
        search=design if isinstance(design, Search) else None,
        start=_start(file),
        log_axes=tuple(name for name, axis in axes.items() if axis.log),
        source=value,
    )
    if sweep.x is not None and sweep.x not in sweep.axes:
        known = f"must be one of the axes {', '.join(sweep.axes)}"
        raise file["x"].error(f"{known}; got {sweep.x!r}{_did_you_mean(sweep.x, sweep.axes)}")
    if isinstance(design, designs.Design):
        sweep = designs.sampled(sweep, design)
    if "more" not in file:
        return sweep
    kinds = {name: axis.kind for name, axis in axes.items() if axis.kind.macros}
    kinds |= {name: Kind((name,)) for name, value in value["axes"].items() if isinstance(value, list)}
    try:
        return more.added(sweep, value["more"], kinds)
    except more.PointError as error:
        raise file["more"].error(str(error)) from None


class _Axis:
    """An axis as read: its levels, or a range to draw from."""

    def __init__(self) -> None:
        self.levels: tuple[Level, ...] = ()
        self.range: Range | None = None
        self.kind = Kind(())
        self.when: dict[str, tuple[str, ...]] = {}
        self.budget: Budget | None = None
        self.log = False


def _axis(name: str, place: _Place) -> _Axis:
    axis, value = _Axis(), place.value
    if not isinstance(value, list | dict) or not value:
        remedy = "" if value is None or isinstance(value, list | dict) else f"; write [{value}]"
        raise place.error(f"must be a list of values or an object of levels, not empty; got {value!r}{remedy}")
    if isinstance(value, list):
        axis.levels = tuple(Kind((name,)).level(item) for item in value)
        return axis
    if not set(value) & set(_SOURCES) or all(
        isinstance(item, dict) and not set(item) - set(LEVEL) for item in value.values()
    ):
        axis.levels = _levels(place)
        return axis
    place.check(AXIS, "an object")
    given = [key for key in _SOURCES if key in value]
    if len(given) != 1:
        raise place.error(f"needs exactly one of {', '.join(map(repr, _SOURCES))}; got {given}")
    axis.when = {other: _names(inner) for other, inner in place["when"].items()} if "when" in place else {}
    axis.kind, axis.log = Kind((value.get("macro", name),)), bool(value.get("log", False))
    if "levels" in value:
        axis.levels = _levels(place["levels"])
    elif "budget" in value:
        axis.budget, axis.levels = _budget(place)
    elif "values" in value:
        axis.levels = _made(place["values"], axis.kind.level)
    elif "ratio" in value:
        axis.kind = Kind(RATES)
        if isinstance(value["ratio"], dict):
            place["ratio"].check({key: AXIS[key] for key in ("low", "high", "log", "points")}, "an object")
            axis.range = _range(place["ratio"])
            axis.log = axis.range.log
        else:
            axis.levels = _made(place["ratio"], axis.kind.level)
            axis.log = True
    else:
        axis.range = _range(place)
    if "levels" in value or "budget" in value:
        axis.kind = Kind(())  # its levels are known by name only
    return axis


def _check_distinct(place: _Place, axis: _Axis) -> None:
    """Raises SweepError, with the line of the second one, if two levels of an axis have one name, number or ratio."""

    def same(level: Level) -> str | float | None:
        if axis.kind.macros == RATES:
            return number_of(level.name)
        values = [text.partition(" = ")[2] for text in level.bindings]
        return level.number if level.number is not None and values == [level.name] else level.name

    names = [same(level) for level in axis.levels]
    second = next((number for number, name in enumerate(names) if name in names[:number]), None)
    if second is None:
        return
    first = names.index(names[second])
    key = (
        next((key for key in ("values", "ratio") if key in place.value), None) if isinstance(place.value, dict) else ""
    )
    values = place if key == "" else None if key is None else place[key]
    spelled = ""
    if values is not None and isinstance(values.value, list):
        place.line = place.lines.get((*values.keys, str(second)))
        if str(values.value[first]) != str(values.value[second]):
            spelled = f", as {values.value[first]!r} and {values.value[second]!r}"
    raise place.error(
        f"has the level {axis.levels[first].name!r} twice{spelled}; delete one, or give RANDOM_SEED more values to repeat "
        "a run"
    )


def _names(place: _Place) -> tuple[str, ...]:
    values = place.value if isinstance(place.value, list) else [place.value]
    if not values or any(isinstance(value, dict | list) for value in values):
        raise place.error(f"must be the name of a level or a list of names; got {place.value!r}")
    return tuple(str(value) for value in values)


def _made(place: _Place, make: Callable[[Any], Level]) -> tuple[Level, ...]:
    if not place.value:
        raise place.error("must not be empty")
    out = []
    for number, item in enumerate(place.value):
        try:
            out.append(make(item))
        except (TypeError, ValueError):
            raise place[number].error(f"must be a positive number, or 'A:B' of two; got {item!r}") from None
    return tuple(out)


def _levels(place: _Place) -> tuple[Level, ...]:
    out = []
    for name, inner in place.items():
        if not isinstance(inner.value, dict):
            expected = "must be an object of 'gin_files' and 'bindings'"
            raise inner.error(f"{expected}; got {inner.value!r}{_did_you_mean(name, AXIS)}")
        inner.check(LEVEL, "an object of 'gin_files' and 'bindings'")
        number = inner.get("number")
        number = number_of(name) if number is None else float(number)
        out.append(Level(name, tuple(inner.get("gin_files", ())), _bindings(inner), number))
    return tuple(out)


def _bindings(place: _Place) -> tuple[str, ...]:
    return tuple(binding(key, value) for key, value in place.get("bindings", {}).items())


def _range(place: _Place) -> Range:
    value = place.value
    if "low" not in value or "high" not in value:
        raise place.error(f"needs 'low' and 'high'; got {sorted(value)}")
    low, high, whole = value["low"], value["high"], bool(value.get("int", False))
    if not low < high:
        raise place.error(f"needs low < high; got {low} and {high}")
    if value.get("log") and low <= 0:
        raise place["low"].error(f"must be > 0 with 'log'; got {low}")
    if whole and (low != int(low) or high != int(high)):
        raise place.error(f"needs whole numbers with 'int'; got {low} and {high}")
    points = value.get("points")
    if points is not None and points < 2:
        raise place["points"].error(f"must be ≥ 2; got {points}")
    return Range(low, high, bool(value.get("log", False)), whole, points)


def _budget(place: _Place) -> tuple[Budget, tuple[Level, ...]]:
    names, reference = place.value["budget"], place.get("reference")
    if not names or set(names) - {"steps", "compute"}:
        raise place["budget"].error(f"must be a list of 'steps' and 'compute'; got {names!r}")
    if not reference:
        raise place.error("needs 'reference', an object AXIS: level of the configurations whose budget all others get")
    return Budget({axis: str(level) for axis, level in reference.items()}), tuple(Level(name) for name in names)


def _design(file: _Place) -> tuple[str, designs.Design | Search | None]:
    value = file.get("design", "grid")
    raw: dict[str, Any] = {"kind": value} if isinstance(value, str) else value
    place = _Place(file.path, file.lines, raw, ("design",))
    kind = raw.get("kind")
    if kind not in ("grid", "optuna", *DESIGNS):
        kinds = ("grid", *DESIGNS, "optuna")
        raise place.error(f"must be one of {', '.join(kinds)}; got {kind!r}{_did_you_mean(kind, kinds)}")
    if kind == "grid":
        place.check({"kind": Key(str, "")}, "an object")
        return kind, None
    place.check(SEARCH if kind == "optuna" else DESIGN, "an object")
    size = "trials" if kind == "optuna" else "points"
    if raw.get(size, 0) < 1:
        raise place.error(f"needs {size!r}, a whole number ≥ 1; got {raw.get(size)!r}")
    if kind == "optuna":
        sampler = raw.get("sampler", "tpe")
        if sampler not in SAMPLERS:
            near = _did_you_mean(sampler, SAMPLERS)
            raise place["sampler"].error(f"must be one of {', '.join(SAMPLERS)}; got {sampler!r}{near}")
        prune, startup = bool(raw.get("prune", True)), raw.get("startup", 5)
        return kind, Search(raw["trials"], sampler, raw.get("seed", 0), prune, startup)
    unknown = sorted(set(raw.get("cross", ())) - set(file.value["axes"]))
    if unknown:
        known = ", ".join(file.value["axes"])
        near = _did_you_mean(unknown[0], file.value["axes"])
        raise place["cross"].error(f"names no axis: {unknown[0]!r}; the axes are {known}{near}")
    if kind == "sobol" and raw["points"] & (raw["points"] - 1):
        raise place["points"].error(f"must be a power of 2 for a Sobol design; got {raw['points']}")
    return kind, designs.Design(kind, raw["points"], raw.get("seed", 0), tuple(raw.get("cross", ())))


def _check_axis(place: _Place, name: str, axis: _Axis, axes: Mapping[str, _Axis], design: str) -> None:
    """Checks an axis against the others and the design; makes the levels of a range in a grid."""
    if axis.range is not None and name == SEED:
        raise place.error("must be a list: each seed is a repetition, not a point of the design")
    if axis.range is not None and design == "grid":
        if axis.range.points is None:
            raise place.error("needs 'points' in a grid; other designs draw from the range")
        axis.levels = tuple(axis.kind.level(value) for value in axis.range.grid())
    if axis.budget is not None and design == "optuna":
        raise place.error("a budget axis needs a design whose points are known before; got 'optuna'")
    for key, needed in (("when", axis.when), ("reference", axis.budget.reference if axis.budget else {})):
        for other, names in needed.items():
            if other == name or other not in axes:
                known_axes = f"the axes are {', '.join(axes)}{_did_you_mean(other, axes)}"
                raise place[key].error(f"names {other!r}, which is not another axis; {known_axes}")
            known = [level.name for level in axes[other].levels]
            unknown = sorted(set([names] if isinstance(names, str) else names) - set(known))
            if unknown:
                near = _did_you_mean(unknown[0], known)
                raise place[key].error(
                    f"names the level {unknown[0]!r} of axis {other!r}; its levels are {', '.join(known)}{near}"
                )
    if _in_circle(name, axes):
        raise place["when"].error("depends on itself through other axes")


def _in_circle(name: str, axes: Mapping[str, _Axis]) -> bool:
    seen, open_axes = set(), list(axes[name].when)
    while open_axes:
        other = open_axes.pop()
        if other == name:
            return True
        if other in axes and other not in seen:
            seen.add(other)
            open_axes += axes[other].when
    return False


def _start(file: _Place) -> Start | None:
    value = file.get("start")
    if value is None:
        return None
    if isinstance(value, str):
        if value not in DEMO_STARTS:
            names = " or ".join(map(repr, DEMO_STARTS))
            near = _did_you_mean(value, DEMO_STARTS)
            raise file["start"].error(
                f"must be {names}, or an object of 'gin_files' and 'bindings'; got {value!r}{near}"
            )
        return DEMO_STARTS[value]
    place = file["start"]
    place.check(START, "an object of 'gin_files' and 'bindings'")
    return Start(tuple(value.get("gin_files", ())), _bindings(place))
