"""Points beside a sweep's design: more seeds, or more levels, of some of its settings.

A point is an object of axes and values; a list of values gives one point per value, several lists their product. It names
every axis that applies there, and may leave out the seed, which then has all values of the sweep. An axis that the design
does not have is a macro, which only these points set.
"""

import dataclasses
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from distill import validation
from distill.experiments.sweep.levels import SEED, Kind, Level, is_active, number_of
from distill.experiments.sweep.runs import Point, Sweep

_MACRO = re.compile("[A-Z][A-Z0-9_]*")


class PointError(ValueError):
    """A point that the sweep cannot have; the message names the point, and the axis or value."""


def added(sweep: Sweep, described: Sequence[Any], kinds: Mapping[str, Kind]) -> Sweep:
    """Returns the sweep with more points.

    Args:
      sweep: a sweep whose design is known; a search has none.
      described: the points, as in a sweep file.
      kinds: axis → how a value becomes a level; axes without one have the levels of the design only.

    Raises:
      PointError: no object, an unknown axis or level, a missing axis, or an axis that does not apply at this point.
    """
    if sweep.search is not None:
        raise PointError("a search chooses its points; increase 'trials' of its design instead")
    points = [point for each in described for point in _points(sweep, each, kinds)]
    return dataclasses.replace(sweep, more=tuple(points))


def without(described: Sequence[Any], values: Mapping[str, Any]) -> list[Any]:
    """Returns the points without those that have the given values.

    Args:
      described: the points, as in a sweep file. One with lists of values of which some are dropped becomes several.
      values: axis → a value, or a list of values, any of which a dropped point has.
    """
    out: list[Any] = []
    for each in described:
        single = _single(each)
        kept = [point for point in single if not all(_has(point, axis, given) for axis, given in values.items())]
        out += [each] if len(kept) == len(single) else kept
    return out


def point_of(described: Sequence[Any], values: Mapping[str, str]) -> dict[str, Any] | None:
    """Returns the point, with one value of each axis, at which a run with the levels ``values`` is; None for no point."""
    points = (point for each in described for point in _single(each))
    return next((point for point in points if all(_has(values, axis, given) for axis, given in point.items())), None)


def _single(described: Any) -> list[dict[str, Any]]:
    """The points, with one value of each axis, of a point as in a sweep file."""
    if not isinstance(described, dict):
        return []
    values = [given if isinstance(given, list) else [given] for given in described.values()]
    return [dict(zip(described, each)) for each in itertools.product(*values)]


def _has(point: Mapping[str, Any], axis: str, given: Any) -> bool:
    def spelled(value: Any) -> str | float:
        number = number_of(str(value))
        return str(value) if number is None else number

    wanted = given if isinstance(given, list) else [given]
    return axis in point and spelled(point[axis]) in map(spelled, wanted)


def _points(sweep: Sweep, described: Any, kinds: Mapping[str, Kind]) -> list[Point]:
    if not isinstance(described, dict) or not described:
        raise PointError(f"must hold objects AXIS: value, or a list of values; got {described!r}")
    values = {axis: given if isinstance(given, list) else [given] for axis, given in described.items()}
    found = {axis: [_level(sweep, axis, value, kinds, described) for value in each] for axis, each in values.items()}
    if SEED not in found and sweep.seeds():
        found[SEED] = list(sweep.seeds())
    order = sorted(found, key=lambda axis: (axis == SEED, list(sweep.axes).index(axis) if axis in sweep.axes else 99))
    return [
        _checked(sweep, dict(zip(order, levels)), described)
        for levels in itertools.product(*(found[axis] for axis in order))
    ]


def _level(sweep: Sweep, axis: str, value: Any, kinds: Mapping[str, Kind], described: Any) -> Level:
    known = sweep.axes.get(axis, ())
    if axis not in sweep.axes and not _MACRO.fullmatch(axis):
        hint = validation.did_you_mean(axis, sweep.axes)
        raise PointError(f"{described}: {axis!r} is neither an axis of {sorted(sweep.axes)} nor a macro{hint}")
    number = number_of(str(value))
    for level in known:
        equal = number is not None and number in (level.number, number_of(level.name)) and axis in kinds
        if level.name == str(value) or equal:
            return level
    kind = kinds.get(axis) if axis in sweep.axes else Kind((axis,))
    if kind is None:
        raise PointError(f"{described}: axis {axis!r} has no level {value!r}; its levels are {[k.name for k in known]}")
    try:
        return kind.level(value)
    except (TypeError, ValueError):
        raise PointError(
            f"{described}: axis {axis!r} needs a positive number, or 'A:B' of two; got {value!r}"
        ) from None


def _checked(sweep: Sweep, point: dict[str, Level], described: Any) -> Point:
    for axis in sweep.axes:
        applies = is_active(axis, sweep.when, {**point, axis: point.get(axis, Level(""))})
        if applies and axis not in point:
            raise PointError(f"{described}: axis {axis!r} is missing; a point names all axes that apply to it")
        if not applies and axis in point:
            raise PointError(f"{described}: axis {axis!r} does not apply at this point")
    return point
