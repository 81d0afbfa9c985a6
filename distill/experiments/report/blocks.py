"""The contents of a report, independent of its form: sections of paragraphs, tables, charts and examples."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

from distill.experiments.report.examples import Changes

Mark = Literal["", "good", "bad", "best", "soft"]


@dataclasses.dataclass(frozen=True)
class Cell:
    """A table's cell: its text, and how it is marked."""

    text: str
    mark: Mark = ""


@dataclasses.dataclass(frozen=True)
class Text:
    """A paragraph, whose lines stay apart: ``finding``, ``warning``, ``note``, ``beside`` (next to a chart) or plain.

    ``code`` is text to copy, shown unchanged.
    """

    text: str
    kind: Literal["plain", "finding", "warning", "note", "beside", "code"] = "plain"


@dataclasses.dataclass(frozen=True)
class Tiles:
    """Large numbers: (value, what it is, a remark)."""

    tiles: tuple[tuple[str, str, str], ...]


@dataclasses.dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
      headers: names of columns.
      rows: as many cells each.
      title: above it.
      note: below it.
      numbers: indices of columns with numbers, which are aligned to the right.
      wide: whether it scrolls sideways on narrow screens; else each row becomes a list there.
    """

    headers: tuple[str, ...]
    rows: tuple[tuple[Cell | str, ...], ...]
    title: str = ""
    note: str = ""
    numbers: tuple[int, ...] = ()
    wide: bool = False


@dataclasses.dataclass(frozen=True)
class Point:
    """A point of a chart: its mean, the interval (equal to the mean without one), and the single runs.

    ``bare``: it should have an interval, which its seeds do not give. ``left`` and ``right`` are the interval of ``x``; nan
    without one.
    """

    x: float
    y: float
    low: float
    high: float
    runs: tuple[float, ...] = ()
    name: str = ""
    left: float = math.nan
    right: float = math.nan
    bare: bool = False


@dataclasses.dataclass(frozen=True)
class Series:
    """Points of a chart that belong together; ``line`` connects them. ``colour`` is a place in the palette."""

    name: str
    points: tuple[Point, ...]
    line: bool = True
    colour: int = 0


@dataclasses.dataclass(frozen=True)
class Curve:
    """A smooth curve, such as a fit."""

    points: tuple[tuple[float, float], ...]
    colour: int = 0


@dataclasses.dataclass(frozen=True)
class Chart:
    """A chart.

    Attributes:
      title: its heading.
      x, y: names of the axes.
      series: the points.
      log: whether the horizontal axis is logarithmic.
      levels: horizontal lines: (name, value).
      curves: smooth curves.
      band: an interval on the horizontal axis: (low, value, high).
      note: below it.
    """

    title: str
    x: str
    y: str
    series: tuple[Series, ...]
    log: bool = False
    levels: tuple[tuple[str, float], ...] = ()
    curves: tuple[Curve, ...] = ()
    band: tuple[float, float, float] | None = None
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Examples:
    """Rows that change most between two settings; ``key`` distinguishes several on a page."""

    changes: Changes
    key: str


Block = Text | Tiles | Table | Chart | Examples


@dataclasses.dataclass(frozen=True)
class Section:
    """A heading and its blocks; ``key`` is the anchor."""

    key: str
    title: str
    blocks: tuple[Block, ...]


@dataclasses.dataclass(frozen=True)
class Document:
    """A report: title, a line below it, sections, and a line on runs that the charts lack."""

    title: str
    subtitle: str
    sections: tuple[Section, ...]
    missing: str = ""

    @property
    def charts(self) -> Sequence[Chart]:
        """All charts, in order."""
        return [block for section in self.sections for block in section.blocks if isinstance(block, Chart)]
