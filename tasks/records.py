"""The row that every source yields, and the report of the rows that no source will yield."""

import array
import collections
import dataclasses
import inspect
import types
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

from distill.counting import counted
from distill.validation import quoted


class SourceError(ValueError):
    """A file that cannot be used. The message names the file, the place, the found and the expected content."""


class RowError(ValueError):
    """One row breaks the contract; sources catch it, count the row as rejected, and continue.

    Attributes:
      text: the row as it was read, for a row that is no object.
    """

    text = ""


MAX_WEIGHT = 3.4e38
"""The largest weight; larger numbers are infinite in float32."""

_SHOWN = 60  # characters of a value in a reason


def shown(value: Any) -> str:
    """``repr(value)``, shortened for the reason why a row is rejected."""
    return quoted(value, _SHOWN)


def is_blank(text: str) -> bool:
    """Whether ``text`` has no visible character: only white space, control and formatting characters.

    >>> is_blank(" \\u200b\\n"), is_blank("0")
    (True, False)
    """
    return not any(unicodedata.category(sign) not in ("Cc", "Cf") and not sign.isspace() for sign in text)


def check_text(text: str, name: str) -> str:
    """``text`` itself.

    Raises:
      RowError: it cannot be encoded, because it holds half of a surrogate pair, as ``"\\ud83d"`` in JSON.
    """
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise RowError(f"{name} holds half of a surrogate pair, which is no character") from error
    return text


@dataclasses.dataclass(frozen=True)
class Record:
    """One example: an input, its answers, and why.

    Attributes:
      id: unique within its split.
      input: what the student reads, without any task prefix.
      label: the gold answer, or None. A label without a visible character is None.
      llm_label: the teacher's answer, or None (no teacher, or its answer could not be read).
      rationales: the teacher's reasoning; none, one, or several of which one is drawn each epoch. Blank ones are dropped.
      rationale_teachers: the teacher of each rationale, as many as rationales; empty if they are not known.
      label_votes: the teacher's distribution over labels, as (label, share); the shares sum to 1. Given as counts,
        shares or probabilities ≥ 0. Empty if it is not known.
      key_phrases: the words of the rationales that matter most, for :mod:`distill.tasks.key_tokens`.
      choices: the possible answers where the row lists them (multiple choice).
      weight: multiplies the row's loss.
      provenance: where it came from: ``file``, ``line``, ``teacher``, the raw ``reply`` …

    Raises:
      RowError: the input is missing, a text is not a string, the weight is negative or not finite in float32, teachers
        and rationales differ in number, or votes are negative or all 0.
    """

    id: str
    input: str
    label: str | None = None
    llm_label: str | None = None
    rationales: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    weight: float = 1.0
    rationale_teachers: tuple[str, ...] = ()
    label_votes: tuple[tuple[str, float], ...] = ()
    key_phrases: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=lambda: types.MappingProxyType({}), compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.input, str) or not self.input.strip():
            raise RowError(f"the row has no input; got {shown(self.input)}")
        if isinstance(self.rationales, str) or not all(isinstance(text, str) for text in self.rationales):
            raise RowError(f"rationales must be a tuple of strings; got {shown(self.rationales)}")
        for name in ("label", "llm_label"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise RowError(f"{name} must be text or None; got {shown(value)}")
            if value is not None and is_blank(value):
                object.__setattr__(self, name, None)
        if self.rationale_teachers:
            if len(self.rationale_teachers) != len(self.rationales):
                raise RowError(
                    f"rationale_teachers must name one teacher per rationale; got {len(self.rationale_teachers)} for "
                    f"{len(self.rationales)} rationales"
                )
            pairs = zip(self.rationale_teachers, self.rationales)
            teachers = tuple(teacher for teacher, text in pairs if not is_blank(text))
            object.__setattr__(self, "rationale_teachers", teachers)
        object.__setattr__(self, "rationales", tuple(text for text in self.rationales if not is_blank(text)))
        if self.label_votes:
            object.__setattr__(self, "label_votes", _shares(self.label_votes))
        object.__setattr__(self, "key_phrases", tuple(text for text in self.key_phrases if not is_blank(text)))
        object.__setattr__(self, "choices", tuple(self.choices))
        if not 0 <= self.weight <= MAX_WEIGHT:
            raise RowError(f"weight must be a finite number ≥ 0; got {shown(self.weight)}")
        object.__setattr__(self, "weight", float(self.weight))

    @property
    def named(self) -> str:
        """The row in messages: ``row 'a7' (rows.jsonl:12)``, without the place where it is not known."""
        file, line = self.provenance.get("file"), self.provenance.get("line")
        place = "" if file is None else f" ({file})" if line is None else f" ({file}:{line})"
        return f"row {self.id!r}{place}"

    def check_texts(self) -> None:
        """Raises RowError if a text cannot be encoded; see :func:`check_text`."""
        for name in ("id", "input", "label", "llm_label"):
            check_text(getattr(self, name) or "", name)
        for text in self.rationales:
            check_text(text, "a rationale")
        for text in self.choices:
            check_text(text, "a choice")
        for text, _ in self.label_votes:
            check_text(text, "a label of label_votes")
        for text in self.key_phrases:
            check_text(text, "a key phrase")


def _shares(votes: Iterable[tuple[str, float]]) -> tuple[tuple[str, float], ...]:
    """Votes as shares of their sum: those of one label added, labels without votes left out."""
    sums: dict[str, float] = {}
    for label, number in votes:
        if not isinstance(label, str) or not 0 <= number <= MAX_WEIGHT:
            raise RowError(f"label_votes must map labels to finite numbers ≥ 0; got {shown(label)}: {shown(number)}")
        if not is_blank(label):
            sums[label] = sums.get(label, 0.0) + float(number)
    total = sum(sums.values())
    if not 0 < total < float("inf"):
        raise RowError(f"label_votes must have a finite sum > 0; got {shown(dict(votes))}")
    return tuple((label, number / total) for label, number in sums.items() if number > 0)


ROW, REPLY, UNDECIDED = "row", "reply", "undecided"


@dataclasses.dataclass(frozen=True)
class Problem:
    """Something that a source found wrong with one row.

    Attributes:
      kind: ``row``: not yielded at all. ``reply``: yielded without rationale and teacher label, because the teacher's reply
        could not be parsed. ``undecided``: yielded with its rationale, but the teacher's reply names no single answer.
      reason: short, and equal for equal causes, so that it can be counted.
      file, line: where; ``line`` counts from 1 (in a JSON array: the element).
      id: the record's id, where it has one.
      text: the offending text, shortened.
    """

    kind: str
    reason: str
    file: str = ""
    line: int | None = None
    id: str = ""
    text: str = ""

    def place(self, before: str = "") -> str:
        """``file:line`` after ``before``; empty if the file is not known."""
        if not self.file:
            return ""
        return before + self.file + (f":{self.line}" if self.line is not None else "")

    def __str__(self) -> str:
        where = self.place()
        text = f" — {self.text}" if self.text else ""
        return f"{where or self.id}: {self.reason}{text}"


class HeldOut:
    """Counts of the training rows from which validation rows are taken.

    Attributes:
      rows: the rows held out for validation.
      of_rows: all rows.
    """

    def __init__(self) -> None:
        self.rows = self.of_rows = 0
        self._inputs = {False: array.array("q"), True: array.array("q")}  # hashes; side → those of its rows

    def add(self, record: Record, held_out: bool) -> None:
        """Counts a row."""
        self.of_rows += 1
        self.rows += held_out
        self._inputs[held_out].append(hash(record.input))

    def inputs(self) -> tuple[int, int]:
        """How many different inputs the rows held out have, and how many all rows have."""
        held_out, trained = (len(set(self._inputs[side])) for side in (True, False))
        return held_out, held_out + trained  # no input is on both sides


class Report:
    """Counts the rows that a source yielded, and records the problems.

    Attributes:
      rows: rows yielded.
      problems: all problems, in reading order.
      held_out: of a split that is cut from the training rows, the counts of both parts; None for other splits.
    """

    def __init__(self) -> None:
        self.rows = 0
        self.problems: list[Problem] = []
        self.held_out: HeldOut | None = None

    def add(
        self, kind: str, reason: str, *, file: Any = "", line: int | None = None, id: str = "", text: str = ""
    ) -> None:
        """Records one problem; ``text`` is truncated to 200 characters, with those that cannot be encoded escaped."""
        text = text if len(text) <= 200 else text[:197] + "…"
        reason, id, text = (part.encode("utf-8", "backslashreplace").decode() for part in (reason, id, text))
        self.problems.append(Problem(kind, reason, str(file), line, id, text))

    def of(self, kind: str) -> list[Problem]:
        """The problems of one kind."""
        return [problem for problem in self.problems if problem.kind == kind]

    @property
    def rejected(self) -> list[Problem]:
        """Rows not yielded."""
        return self.of(ROW)

    @property
    def failed(self) -> list[Problem]:
        """Rows yielded without their rationale, because the reply could not be parsed."""
        return self.of(REPLY)

    @property
    def undecided(self) -> list[Problem]:
        """Rows yielded with a rationale but without a teacher label."""
        return self.of(UNDECIDED)

    def counts(self) -> dict[str, int]:
        """How often each reason occurred, most frequent first."""
        return dict(collections.Counter(problem.reason for problem in self.problems).most_common())

    def __str__(self) -> str:
        kinds = {
            "rejected": self.rejected,
            "with a reply that failed": self.failed,
            "with a reply that names no single answer": self.undecided,
        }
        parts = ", ".join(f"{len(found):,} {what}" for what, found in kinds.items() if found)
        head = f"{counted(self.rows, 'row')} used{'; ' * bool(parts)}{parts}"
        first = {problem.reason: problem for problem in reversed(self.problems)}
        reasons = "; ".join(
            f"{number} × {reason}{first[reason].place(', first: ')}" for reason, number in self.counts().items()
        )
        return f"{head} ({reasons})" if reasons else head


@runtime_checkable
class Source(Protocol):
    """The source of the rows. Any callable ``split -> Iterator[Record]`` with ``splits`` is one too.

    A source may also have ``may_download`` (whether reading may download the data), and ``input_field`` and ``row_format``
    as :class:`distill.tasks.jsonl.JsonLines` has them.

    Attributes:
      splits: names of the splits it can read; ``train`` among them.
    """

    splits: tuple[str, ...]

    def __call__(self, split: str, report: Report | None = None) -> Iterator[Record]:
        """Yields the split's records lazily; adds the problems of invalid rows to ``report``."""
        ...


DEFAULT_SPLITS = ("train", "test")


class Wrapper:
    """A source over other sources, which has what these may have beside their splits; see :class:`Source`."""

    def _sources(self) -> Iterable[Callable[..., Iterator[Record]]]:
        """The sources that it reads; the first determines the format of rows."""
        raise NotImplementedError

    @property
    def may_download(self) -> bool:
        """Whether reading may download the data of any source."""
        return any(getattr(source, "may_download", False) for source in self._sources())

    @property
    def input_field(self) -> str:
        """The field of a row that holds the input."""
        return getattr(next(iter(self._sources())), "input_field", "input")

    @property
    def row_format(self) -> Mapping[str, Any] | None:
        """How other rows are read in the same way; None if they are not of JSON lines."""
        return getattr(next(iter(self._sources())), "row_format", None)


class PlainSource(Wrapper):
    """Gives a bare function ``split -> Iterator[Record]`` the shape of a :class:`Source`.

    Args:
      read: yields the records of a split.
      splits: the splits it knows; by default the function's own ``splits`` attribute, else train and test.
    """

    def __init__(self, read: Callable[[str], Iterator[Record]], splits: tuple[str, ...] | None = None):
        self.splits: tuple[str, ...] = tuple(splits or getattr(read, "splits", None) or DEFAULT_SPLITS)
        self._read = read

    def _sources(self) -> Iterable[Callable[..., Iterator[Record]]]:
        return [self._read]

    def __call__(self, split: str, report: Report | None = None) -> Iterator[Record]:
        """Yields the split's records; the function handles rows that it cannot build."""
        for record in self._read(split):
            if report is not None:
                report.rows += 1
            yield record


def as_source(source: Any, splits: tuple[str, ...] | None = None) -> Source:
    """``source`` itself if it takes a report, else wrapped by :class:`PlainSource`.

    Raises:
      TypeError: it is not callable.
    """
    if not callable(source):
        raise TypeError(f"a source must be callable as source(split) and yield Records; got {source!r}")
    takes_report = "report" in inspect.signature(source).parameters
    if takes_report and hasattr(source, "splits") and splits is None:
        return source
    return PlainSource(source, splits)
