"""From a teacher's raw reply to a rationale and a label, one way per data set.

A teacher prompted with a few worked examples goes on after its answer and invents the next question. A parser stops
there, cuts at the marker that the examples taught ("So the answer is"), and reads what is stated behind it. ``strict``
reads as the published code does (see :mod:`tasks.paper_parsers`); otherwise:

- CommonsenseQA: the option *letter* directly behind the marker is the answer, spelled as the row spells that choice. The
  published code takes the text behind the letter, and so gets "aquarium or", "Australia" and "washington d.c".
- Equations: the whole expression is the answer, not only its bracketed part ("(67 * 66) / 6"), without units and thousands
  separators. What has no value — unknowns, pairs, words — is not an equation.
- NLI: the label is one of the three, in any case and punctuation.

A reply out of which no answer can be read is *failed*: its row has neither rationale nor teacher label. A reply that
reasons but commits to no single answer ("either (b) or (d)", "(25 + x)") is *undecided*: its row keeps the rationale only.
"""

import dataclasses
import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from tasks import arithmetic, paper_parsers

Mode = Literal["improved", "strict"]
Teacher = Literal["palm", "gpt"]

NLI_LABELS = ("entailment", "neutral", "contradiction")


@dataclasses.dataclass(frozen=True)
class Parsed:
    """What a reply says.

    Attributes:
      rationale: the reasoning. In strict mode possibly blank, as in the published code.
      label: the answer; None where none can be read (in strict mode: blank).
      failed: why the reply is of no use, or None.
      undecided: why it has no label although it has a rationale, or None.
    """

    rationale: str
    label: str | None
    failed: str | None = None
    undecided: str | None = None

    @property
    def rationales(self) -> tuple[str, ...]:
        """What to train on: one text, or none."""
        return () if self.failed or not self.rationale.strip() else (self.rationale,)

    @property
    def llm_label(self) -> str | None:
        """The teacher's answer if there is one to train on."""
        return None if self.failed or not (self.label or "").strip() else self.label


Reader = Callable[[str, Sequence[str]], Parsed]
"""``read(reply, choices)`` → what it says."""

# White space is matched within a line only, so that a reply of nothing but line ends is read in linear time.
_NEXT_QUESTION = re.compile(r"(?:^|\n)[^\S\n]*Q(?::|\s*$)|\n[^\S\n]*\n[^\S\n]*(?:Q|Question)\b")
_NEXT_PREMISE = re.compile(r"(?:^|\n)[^\S\n]*Premise\b|Premise:")


def _cut(reply: str, markers: Sequence[str], stop: re.Pattern[str]) -> tuple[str, str] | None:
    """The text before and behind the first marker, up to the next invented question; None without a marker."""
    found = stop.search(reply)
    if found:
        reply = reply[: found.start()]
    places = [(reply.find(marker), marker) for marker in markers if marker in reply]
    if not places:
        return None
    at, marker = min(places)
    return reply[:at].strip(), reply[at + len(marker) :].strip()


_LETTERED = re.compile(r"\(\s*([A-Za-z])\s*\)")


def read_choice(reply: str, choices: Sequence[str]) -> Parsed:
    """Multiple choice: the option letter directly behind "So the answer is"."""
    halves = _cut(reply, ("So the answer is",), _NEXT_QUESTION)
    if halves is None:
        return Parsed("", None, failed="no answer marker")
    rationale, answer = halves
    if not rationale:
        return Parsed("", None, failed="no rationale before the marker")
    leading = _LETTERED.match(answer)
    letters = _LETTERED.findall(answer)
    if leading is None and len(letters) > 1:
        return Parsed(rationale, None, undecided="several options, none of them first")
    if leading is None and len(letters) == 1:
        return Parsed(rationale, None, undecided="no option letter directly behind the marker")
    if leading is None:
        return Parsed(rationale, None, failed="no option letter after the marker")
    index = ord(leading[1].lower()) - ord("a")
    if choices and index >= len(choices):
        return Parsed(rationale, None, undecided=f"option ({leading[1]}) does not exist")
    if choices:
        return Parsed(rationale, choices[index])
    text = _LETTERED.split(answer)[2].strip().removesuffix(".")
    return Parsed(rationale, text or None, undecided=None if text else "the option has no text")


_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_UNITS = re.compile(r"(?<=\d)\s+(?!and\b|or\b|x\b)[A-Za-z]+(?:\s+(?!and\b|or\b)[A-Za-z]+)*")
_SIGNS = str.maketrans({"×": "*", "÷": "/", "−": "-", "–": "-", "[": "(", "]": ")", "$": " "})


def clean_equation(text: str) -> str:
    """An expression in plain operators: one line, no units, no thousands separators, no currency, no final period.

    >>> clean_equation("((8 figures + 10 cabinets) * 4 shelves).")
    '((8 + 10) * 4)'
    """
    text = text.strip().split("\n")[0].strip()
    text = _THOUSANDS.sub("", text.translate(_SIGNS).rstrip(". "))
    return _UNITS.sub("", text).strip()


def read_equation(reply: str, choices: Sequence[str] = ()) -> Parsed:
    """Word problems: the whole expression behind "The answer is", which must have a value."""
    halves = _cut(reply, ("The answer is",), _NEXT_QUESTION)
    if halves is None:
        return Parsed("", None, failed="no answer marker")
    rationale, answer = halves
    if not rationale:
        return Parsed("", None, failed="no rationale before the marker")
    equation = clean_equation(answer)
    if not equation or equation.count("(") > equation.count(")"):
        return Parsed(rationale, None, failed="the reply breaks off within its answer")
    if arithmetic.evaluate(equation) is None:
        return Parsed(rationale, None, undecided="the answer is not arithmetic")
    return Parsed(rationale, equation)


def _read_nli(halves: tuple[str, str] | None) -> Parsed:
    if halves is None:
        return Parsed("", None, failed="no answer marker")
    rationale, answer = halves
    if not rationale:
        return Parsed("", None, failed="no rationale before the marker")
    first = answer.split("\n")[0].strip(" .!\"'()").lower()
    if not first:
        return Parsed(rationale, None, failed="the reply breaks off within its answer")
    if first not in NLI_LABELS:
        return Parsed(rationale, None, undecided="the answer is none of the three labels")
    return Parsed(rationale, first)


def read_esnli(reply: str, choices: Sequence[str] = ()) -> Parsed:
    """e-SNLI: rationale before "Answer:", label behind it."""
    return _read_nli(_cut(reply, ("Answer:",), _NEXT_PREMISE))


def read_anli(reply: str, choices: Sequence[str] = ()) -> Parsed:
    """ANLI: rationale before "So the answer is" (or "The answer is"), label behind it."""
    return _read_nli(_cut(reply, ("So the answer is", "The answer is"), _NEXT_PREMISE))


_READERS: Mapping[str, Reader] = {
    "cqa": read_choice,
    "svamp": read_equation,
    "asdiv": read_equation,
    "esnli": read_esnli,
    "anli1": read_anli,
}
_STRICT: Mapping[str, Callable[[str, str], tuple[str, str, str | None]]] = {
    "cqa": paper_parsers.cqa,
    "svamp": paper_parsers.equation,
    "asdiv": paper_parsers.equation,
    "esnli": paper_parsers.esnli,
    "anli1": paper_parsers.anli,
}

NAMES = tuple(_READERS)


def _known(name: str) -> str:
    if name not in _READERS:
        near = difflib.get_close_matches(name, NAMES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"no parser named {name!r}{hint} (there are: {', '.join(NAMES)})")
    return name


def parse(
    name: str, reply: str, choices: Sequence[str] = (), *, mode: Mode = "improved", teacher: Teacher = "palm"
) -> Parsed:
    """Reads a teacher's reply.

    Args:
      name: data set whose prompt the teacher was given: one of :data:`NAMES`.
      reply: what it wrote, unabridged.
      choices: the row's options, in the order in which the teacher saw them.
      mode: ``improved`` or ``strict``.
      teacher: ``palm`` or ``gpt``; the published code reads their replies a little differently. Only ``strict`` cares.

    Raises:
      ValueError: unknown name, mode or teacher.
    """
    if mode not in ("improved", "strict"):
        raise ValueError(f"mode must be 'improved' or 'strict'; got {mode!r}")
    if teacher not in ("palm", "gpt"):
        raise ValueError(f"teacher must be 'palm' or 'gpt'; got {teacher!r}")
    if mode == "improved":
        return _READERS[_known(name)](reply, choices)
    rationale, label, failure = _STRICT[_known(name)](reply, teacher)
    return Parsed(rationale, label, failed=failure)


@dataclasses.dataclass(frozen=True)
class Difference:
    """A reply that the two modes read differently, and why."""

    strict: Parsed
    improved: Parsed
    reasons: tuple[str, ...]


def _label_reason(strict: Parsed, improved: Parsed, choices: Sequence[str]) -> str:
    old, new = strict.label or "", improved.label
    if strict.failed and not improved.failed:
        return f"strict fails ({strict.failed})"
    if improved.failed:
        return improved.failed
    if new is None:
        return improved.undecided or "no label"
    if choices:
        if old.strip().endswith((" or", " and", ",")):
            return "several options: the first is taken, without the conjunction"
        if old.casefold() == new.casefold():
            return "upper and lower case"
        if old.casefold() + "." == new.casefold():
            return "the final period belongs to the choice"
        if old in choices:
            return "letter and text disagree: the letter is taken"
        return "the text is not the choice's text: the letter is taken"
    if new in NLI_LABELS:
        goes_on = old.strip().casefold().startswith(new) and old.strip(" .!\"'()\n").casefold() != new
        return "text behind the label" if goes_on else "upper and lower case, spaces or punctuation"
    if new.startswith(old) or old in new:
        return "the expression goes on behind its brackets"
    if arithmetic.evaluate(old) is None:
        return "units, currency or thousands separators"
    return "upper and lower case, spaces or punctuation"


def difference(name: str, reply: str, choices: Sequence[str] = (), *, teacher: Teacher = "palm") -> Difference | None:
    """How and why strict and improved mode read a reply differently; None if they do not."""
    strict = parse(name, reply, choices, mode="strict", teacher=teacher)
    improved = parse(name, reply, choices, teacher=teacher)
    reasons = []
    if strict.llm_label != improved.llm_label:
        reasons.append(_label_reason(strict, improved, choices))
    if strict.rationales != improved.rationales:
        if strict.rationales and improved.rationales:
            same = strict.rationale.strip() == improved.rationale
            reasons.append("white space around the rationale" if same else "the rationale ends elsewhere")
        else:
            kept = strict if strict.rationales else improved
            other = improved if kept is strict else strict
            reasons.append(other.failed or "no rationale")
    return Difference(strict, improved, tuple(dict.fromkeys(reasons))) if reasons else None
