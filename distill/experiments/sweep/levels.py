"""Levels of an axis: the gin files and bindings that a level adds to a run, and the number that it has on the axis."""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

SEED = "RANDOM_SEED"
FEW_SEEDS = 3
"""Fewer seeds than this per setting give a warning, in a sweep and in a report; a report proposes at least as many."""
DIGITS = 4  # significant digits of a sampled value, so that its name, its binding and its number agree


class SweepError(ValueError):
    """A sweep file or a sweep directory that cannot be used."""


@dataclasses.dataclass(frozen=True)
class Level:
    """A value of an axis.

    Attributes:
      name: unique on its axis.
      gin_files: added to a run's files.
      bindings: added to a run's bindings.
      number: the position on a numeric axis; None for a level without one.
    """

    name: str
    gin_files: tuple[str, ...] = ()
    bindings: tuple[str, ...] = ()
    number: float | None = None


@dataclasses.dataclass(frozen=True)
class Range:
    """The numbers between two ends, both included.

    Attributes:
      low, high: the ends.
      log: whether equal ratios, not equal differences, are equally likely.
      whole: whole numbers only.
      points: the number of levels in a grid; None where a design draws the values.
    """

    low: float
    high: float
    log: bool = False
    whole: bool = False
    points: int | None = None

    def at(self, share: float) -> float | int:
        """Returns the number at ``share`` ∈ [0, 1] of the range, rounded to ``DIGITS`` significant digits.

        ``low + share · (high - low)``; with ``log``, ``low · (high / low) ** share``. Whole numbers have equal shares.
        """
        low, high = (self.low, self.high + 1) if self.whole else (self.low, self.high)
        value = low * (high / low) ** share if self.log else low + share * (high - low)
        if self.whole:
            return int(min(self.high, max(self.low, value // 1)))
        return min(self.high, max(self.low, rounded(value)))

    def grid(self) -> list[float | int]:
        """Returns ``points`` numbers at equal distances (with ``log``: equal ratios), the ends included."""
        count = self.points or 2
        shares = [number / (count - 1) for number in range(count)] if count > 1 else [0.0]
        if not self.whole:
            return [self.at(share) for share in shares]
        span = self.high / self.low if self.log else self.high - self.low
        exact = [self.low * span**share if self.log else self.low + share * span for share in shares]
        return list(dict.fromkeys(round(value) for value in exact))


@dataclasses.dataclass(frozen=True)
class Kind:
    """How a number becomes a level.

    Attributes:
      macros: one macro, which is set to the number; or two, whose ratio is the number.
    """

    macros: tuple[str, ...]

    def level(self, value: Any) -> Level:
        """Returns the level of a value: of a macro, any JSON value; of a ratio, a number or ``"A:B"``."""
        if len(self.macros) == 1:
            number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
            return Level(str(value), bindings=(binding(self.macros[0], value),), number=number)
        first, second = parts(value)
        bindings = (binding(self.macros[0], first), binding(self.macros[1], second))
        return Level(f"{first:g}:{second:g}", bindings=bindings, number=rounded(first / second))


RATES = ("LABEL_RATE", "RATIONALE_RATE")


def parts(value: Any) -> tuple[float, float]:
    """Returns the two sides of a ratio, the smaller one 1 where a number is given: ``0.25`` is ``1:4``.

    Raises:
      ValueError: no positive number and no ``"A:B"`` of positive numbers.
    """
    if isinstance(value, str):
        first, _, second = value.partition(":")
        sides = float(first), float(second)
    elif isinstance(value, bool):
        raise ValueError(f"a ratio must be a number; got {value!r}")
    else:
        number = float(value)
        inverse = rounded(1 / number) if number > 0 else 0.0
        sides = (number, 1.0) if number >= 1 else (1.0, inverse)
    if not (0 < sides[0] < float("inf") and 0 < sides[1] < float("inf")):
        raise ValueError(f"a ratio must be positive; got {value!r}")
    return sides


def rounded(value: float) -> float:
    """Returns the number with ``DIGITS`` significant digits."""
    return float(f"{value:.{DIGITS}g}")


def binding(name: str, value: Any) -> str:
    """Returns ``NAME = value``; a string that begins with ``@`` or ``%`` is a gin reference."""
    if isinstance(value, str) and value[:1] in ("@", "%"):
        return f"{name} = {value}"
    return f"{name} = {value!r}"


def is_active(axis: str, when: Mapping[str, Mapping[str, tuple[str, ...]]], point: Mapping[str, Level]) -> bool:
    """Returns whether an axis exists at a point: all axes that it depends on exist and have one of the named levels."""
    return all(
        other in point and point[other].name in names and is_active(other, when, point)
        for other, names in when.get(axis, {}).items()
    )


_RATIO = re.compile(r"^\s*([0-9.]+)\s*:\s*([0-9.]+)\s*$")


def number_of(text: str) -> float | None:
    """Returns the finite number that a level's name spells, a ratio such as ``1:4`` included; None for other names.

    >>> number_of("1:4"), number_of("1e-3"), number_of("standard")
    (0.25, 0.001, None)
    """
    ratio = _RATIO.match(text)
    try:
        value = float(ratio[1]) / float(ratio[2]) if ratio else float(text)
    except (ValueError, ZeroDivisionError):
        return None
    return value if math.isfinite(value) else None


def is_ratio(text: str) -> bool:
    """Returns whether a level's name is a ratio, such as ``1:4``."""
    return _RATIO.match(text) is not None
