"""Parses a teacher's raw reply into a rationale and a label, with one parser per data set.

A teacher prompted with a few worked examples continues after its answer and invents the next question. A parser stops
there, splits at the marker of the examples ("So the answer is"), and reads the text after it. ``strict``
reads as the published code does (see :mod:`distill.tasks.paper_parsers`); otherwise:

- All: thinking tags, tokens of chat templates, markdown, quotes and a colon around the answer are removed first
  (:mod:`distill.tasks.reply_text`). "Therefore, the answer is" and "Final answer:" are markers if that of the examples is
  missing.
- CommonsenseQA: the option *letter* directly after the marker is the answer, spelled as the row spells that choice;
  without a letter, the choice's own text. The published code takes the text after the letter, and so gets "aquarium or",
  "Australia" and "washington d.c". Letters of several options without their texts, "(b) or (d)", are no answer.
- A reply that names another answer at a further marker, or corrects itself ("(a) oak... no, (b) otter"), is undecided.
- Equations: the whole expression is the answer, not only its bracketed part ("(67 * 66) / 6"), without units and thousands
  separators; of ``e = value`` the left side, if both agree. The answer may follow "####", as in GSM8K.
  Unknowns, pairs and words have no value and are not equations.
- NLI: the label is one of the three, in any case and punctuation.

A reply without a readable answer is *failed*: its row has neither rationale nor teacher label. A reply that
reasons but commits to no single answer ("either (b) or (d)", "(25 + x)") is *undecided*: its row keeps the rationale only.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from distill import validation
from distill.tasks import arithmetic, metrics, paper_parsers, reply_text
from distill.tasks.equation_text import clean_equation, expression_of
from distill.tasks.records import REPLY, UNDECIDED

Mode = Literal["improved", "strict"]
Teacher = Literal["palm", "gpt"]

NLI_LABELS = ("entailment", "neutral", "contradiction")


@dataclasses.dataclass(frozen=True)
class Parsed:
    """The parsed content of a reply.

    Attributes:
      rationale: the reasoning. In strict mode possibly blank, as in the published code.
      label: the answer; None where none can be read (in strict mode: blank).
      failed: why the reply cannot be used, or None.
      undecided: why it has no label although it has a rationale, or None.
    """

    rationale: str
    label: str | None
    failed: str | None = None
    undecided: str | None = None

    @property
    def rationales(self) -> tuple[str, ...]:
        """The rationales to train on: one text, or none."""
        return () if self.failed or not self.rationale.strip() else (self.rationale,)

    @property
    def llm_label(self) -> str | None:
        """The teacher's answer, or None if it cannot be used for training."""
        return None if self.failed or not (self.label or "").strip() else self.label

    def problem(self, reply: str) -> tuple[str, str, str] | None:
        """Kind, reason and text of the problem that a report counts; None for a reply with rationale and label."""
        if self.failed:
            return REPLY, self.failed, reply
        if not self.undecided:
            return None
        _, found, answer = reply.partition(self.rationale)
        return UNDECIDED, self.undecided, answer.strip() if found else reply


Reader = Callable[[str, Sequence[str]], Parsed]
"""``read(reply, choices)`` returns the parsed reply."""

# White space is matched within a line only, so that a reply of nothing but line ends is read in linear time.
_NEXT_QUESTION = re.compile(r"(?:^|\n)[^\S\n]*Q(?::|\s*$)|\n[^\S\n]*\n[^\S\n]*(?:Q|Question)\b")
_NEXT_PREMISE = re.compile(r"(?:^|\n)[^\S\n]*Premise\b|Premise:")

_NO_MARKER = "no answer marker"
_NO_RATIONALE = "no rationale before the marker"
_BREAKS_OFF = "the reply breaks off within its answer"


def _cut(reply: str, markers: Sequence[str], stop: re.Pattern[str]) -> tuple[str, str] | None:
    """The text before and after the answer marker, up to the next invented question; None without a marker."""
    found = stop.search(reply)
    if found:
        reply = reply[: found.start()]
    return reply_text.split_at_marker(reply, markers)


_LETTERED = re.compile(r"[(（]\s*([A-Za-z])\s*[)）]")
# An option's letter as models write it: "b)", "[b]", "B.", "b:", "b - harbour", "B" alone. "a harbour" has an article.
_LETTER = re.compile(
    r"(?:(?:the\s+)?(?:correct\s+|right\s+)?(?:option|choice|letter|answer)\s*:?\s*)?"
    r"(?:[(（]\s*(?P<round>[A-Za-z])\s*[)）]|\[\s*(?P<square>[A-Za-z])\s*\]|(?P<plain>[A-Za-z])(?=\s*(?:[).:,\]]|[-–—]\s|\n|\Z)))",
    re.IGNORECASE,
)
# A second option directly after a letter: "or (d)", "/d", ", (d)", "(d)"; after a comma or in the same line, in brackets.
_ALSO = re.compile(
    r"[\s)）,.;\]]*(?:\b(?:and/or|and|or)\b|[&/|])\s*"
    r"(?:(?:the|either|maybe|perhaps|possibly|option|choice|letter)\s+)*[(（\[]?\s*(?P<joined>[A-Za-z])\b"
    r"|[^\S\n]*[)）,.;\]]*[^\S\n]*[(（\[][^\S\n]*(?P<beside>[A-Za-z])[^\S\n]*[)）\]]"
    r"|[)）.\]]?[^\S\n]*,[^\S\n]*(?P<listed>[A-Za-z])[^\S\n]*(?:[)）.,\]]|\Z)",
    re.IGNORECASE,
)
_ARTICLE = re.compile(r"\A(?:the|an?|option|choice)\s+", re.IGNORECASE)


def read_choice(reply: str, choices: Sequence[str]) -> Parsed:
    r"""Multiple choice: the option after "So the answer is", by its letter or by its text.

    All of these name the same option: ``(b) harbour``, ``: **(b)**``, ``b) harbour``, ``B.``, ``option (b)``,
    ``$\boxed{b}$``, ``harbour.``, ``probably (b)``. Without a marker, "Thus, (b) harbour is the answer" names it, too.
    """
    halves = _cut(reply, _CHOICE_MARKERS, _NEXT_QUESTION) or reply_text.split_at_box(reply)
    if halves is None:
        return _read_inverted(reply, choices)
    rationale, answer = halves
    if not rationale:
        return Parsed("", None, failed=_NO_RATIONALE)
    parsed = _read_option(rationale, answer, choices)
    later = [_read_option(rationale, text, choices).label for text in reply_text.later_answers(answer, _CHOICE_MARKERS)]
    return unless_another(parsed, later, metrics.same_text)


_CHOICE_MARKERS = ("So the answer is",)
_ANOTHER = "another answer at a further marker, or a correction"
_INVERTED = re.compile(
    r"\b(?:so|thus|hence|therefore|consequently),?\s+([^.\n]{1,200}?)\s+(?:is|must\s+be|would\s+be|should\s+be)\s+the\s+"
    r"(?:(?:correct|right|best|final|most\s+likely)\s+)?(?:answer|choice|option)\b",
    re.IGNORECASE,
)


def unless_another(parsed: Parsed, later: Sequence[str | None], same: Callable[[str, str], bool]) -> Parsed:
    """``parsed``, undecided if one of the ``later`` labels is another answer; None among them is no answer."""
    label = parsed.label
    if label is None or all(one is None or same(one, label) for one in later):
        return parsed
    return Parsed(parsed.rationale, None, undecided=_ANOTHER)


def _read_inverted(reply: str, choices: Sequence[str]) -> Parsed:
    """Reads the last "Thus, (b) harbour is the answer" of a reply without a marker."""
    found = _NEXT_QUESTION.search(reply)
    reply = reply[: found.start()] if found else reply
    last = next(iter([*_INVERTED.finditer(reply)][-1:]), None)
    rationale = "" if last is None else reply_text.without_rule(reply[: last.start()])
    parsed = _read_option(rationale, last[1], choices) if last is not None and rationale else None
    return Parsed("", None, failed=_NO_MARKER) if parsed is None or parsed.label is None else parsed


def _read_option(rationale: str, answer: str, choices: Sequence[str]) -> Parsed:
    """The option that the text after a marker names."""
    answer = reply_text.without_adverb(answer)
    if not re.search(r"\w", answer):
        return Parsed(rationale, None, failed=_BREAKS_OFF)
    leading = _LETTERED.match(answer)
    line = next(line for line in answer.split("\n") if re.search(r"\w", line))
    plain = reply_text.undecorated(line, tuple(choice.casefold() for choice in choices))
    letter = leading[1] if leading is not None else _letter(plain, choices)
    if leading is not None and _also_other(leading[1], answer[leading.end() :], choices):
        return Parsed(rationale, None, undecided=_LETTERS)
    if letter is None:
        named = _named(plain, choices)
        if named is not None:
            return Parsed(rationale, named)
        several = len(_LETTERED.findall(answer)) > 1
        return Parsed(rationale, None, undecided=_SEVERAL if several else "no single option after the marker")
    index = ord(letter.lower()) - ord("a")
    if choices and index >= len(choices):
        return Parsed(rationale, None, undecided=f"option ({letter}) does not exist")
    if choices:
        return Parsed(rationale, choices[index])
    if leading is not None:
        text = _LETTERED.split(answer)[2].strip().removesuffix(".")
    else:
        text = reply_text.undecorated(_LETTER.sub("", plain, count=1).lstrip(_AROUND)).removesuffix(".")
    return Parsed(rationale, text or None, undecided=None if text else "the option has no text")


def parse_choice(answer: str, choices: Sequence[str]) -> str | None:
    """The choice that an answer names by its letter or its own text, with any decoration; None if none or several."""
    return read_choice(f"x So the answer is {answer}", choices).label


_AROUND = " )）.:,]-–—"  # between an option's letter and its text
_SEVERAL = "several options, none of them first"
_LETTERS = "several option letters without their texts"


def _also_other(letter: str, rest: str, choices: Sequence[str]) -> bool:
    """Whether the text after an option letter, unless it is that choice's, goes on with another letter: neither answers."""
    index = ord(letter.lower()) - ord("a")
    own = choices[index].strip(_AROUND).casefold() if index < len(choices) else ""
    if own and re.match(rf"{re.escape(own)}(?!\w)", rest.strip(_AROUND).casefold()):  # a choice may be "or b"
        return False
    also = _ALSO.match(rest)
    return also is not None and also[also.lastgroup or 0].lower() != letter.lower()


def _letter(text: str, choices: Sequence[str]) -> str | None:
    """The option letter at the beginning of ``text``; None for no letter, or several."""
    if metrics.match_choice(text, choices) is not None and len(text.strip(" .")) > 1:
        return None  # the choice's own text may look like a letter: "d. h. lawrence"
    found = _LETTER.match(text)
    if found is None:
        return None
    letter = found["round"] or found["square"] or found["plain"]
    rest = text[found.end() :]
    others = {other.lower() for other in _LETTERED.findall(rest)} - {letter.lower()}
    if others or _also_other(letter, rest, choices):
        return None
    if found["plain"] and not choices and letter not in "ABCDEFGHabcdefgh":
        return None
    return letter


def _named(text: str, choices: Sequence[str]) -> str | None:
    """The choice that ``text`` spells out, with or without an article; None if none or several."""
    for form in (text, _ARTICLE.sub("", text)):
        named = metrics.match_choice(form, choices) or reply_text.first_of(form, choices)
        if named is not None:
            return named
    return None


_HASHES = "####"
_EQUATION_MARKERS = ("The answer is",)


def _at_hashes(reply: str) -> tuple[str, str] | None:
    """The text before and after the last ``####``, as in GSM8K, up to the next invented question; None without one."""
    found = _NEXT_QUESTION.search(reply)
    why, marker, answer = (reply[: found.start()] if found else reply).rpartition(_HASHES)
    return (reply_text.without_rule(why), answer.strip()) if marker else None


def _overrules(last: str, earlier: str) -> bool:
    """Whether ``last`` is one line with a value, and ``earlier`` has another value or none."""
    value, before = expression_of(last)[0], expression_of(earlier)[0]
    if value is None or "\n" in last:
        return False
    return before is None or not arithmetic.same_value(value, before)


def read_equation(reply: str, choices: Sequence[str] = ()) -> Parsed:
    r"""Word problems: the whole expression after "The answer is", which must have a value.

    All of these are the same expression: ``(40 + 15) / 5``, ``: **(40 + 15) / 5**``, ``(40 + 15) / 5 = 11``,
    ``$\frac{40 + 15}{5}$``. A number alone and the content of ``\boxed{}`` are expressions, too.

    The text after the last ``####`` is the answer where no words precede one, and where it is a last line with another
    value than theirs. GSM8K's marks for a calculator, ``<<6*8=48>>``, are removed.
    """
    reply = reply_text.without_calculations(reply)
    halves = _cut(reply, _EQUATION_MARKERS, _NEXT_QUESTION) or reply_text.split_at_box(reply)
    hashes = _at_hashes(reply)
    if hashes is not None and (halves is None or _overrules(hashes[1], halves[1])):
        halves = hashes
    if halves is None:
        return Parsed("", None, failed=_NO_MARKER)
    rationale, answer = halves
    if not rationale:
        return Parsed("", None, failed=_NO_RATIONALE)
    equation, trouble = expression_of(answer)
    if equation is not None:
        later = [] if halves is hashes else reply_text.later_answers(answer, _EQUATION_MARKERS)
        return unless_another(
            Parsed(rationale, equation), [expression_of(text)[0] for text in later], arithmetic.same_value
        )
    cleaned = clean_equation(answer)
    # An answer that begins on the next line is complete; one without any digit or word is not.
    if not re.search(r"\w", answer) or cleaned.count("(") > cleaned.count(")"):
        return Parsed(rationale, None, failed=_BREAKS_OFF)
    return Parsed(rationale, None, undecided=trouble)


_NLI_WORD = re.compile(r"\b(entailment|neutral|contradiction)\b", re.IGNORECASE)
# "No, it is neutral" answers; "no contradiction" and "non-entailment" deny.
_NEGATION = re.compile(r"\b(?:not|cannot|never|no(?!,)|non|without|neither|nor|or)\b|n['’]t\b", re.IGNORECASE)


def _read_nli(halves: tuple[str, str] | None, markers: Sequence[str]) -> Parsed:
    if halves is None:
        return Parsed("", None, failed=_NO_MARKER)
    rationale, answer = halves
    if not rationale:
        return Parsed("", None, failed=_NO_RATIONALE)
    later = reply_text.later_answers(answer, markers)
    named = [reply_text.first_of(reply_text.undecorated(text), NLI_LABELS) for text in later]
    return unless_another(_read_nli_label(rationale, answer), named, metrics.same_text)


def _read_nli_label(rationale: str, answer: str) -> Parsed:
    if not re.search(r"\w", answer):
        return Parsed(rationale, None, failed=_BREAKS_OFF)
    line = next(line for line in answer.split("\n") if re.search(r"\w", line))
    first = line.strip(" .!\"'()").lower()
    if first in NLI_LABELS:
        return Parsed(rationale, first)
    sentence = re.split(r"[.!;](?:\s|\Z)", reply_text.undecorated(line), maxsplit=1)[0]
    named = reply_text.first_of(sentence, NLI_LABELS)
    words = {word.lower() for word in _NLI_WORD.findall(sentence)}
    if named is None and len(words) == 1 and not _NEGATION.search(sentence):
        named = words.pop()
    if named is None:
        return Parsed(rationale, None, undecided="the answer is none of the three labels")
    return Parsed(rationale, named)


_ESNLI_MARKERS = ("Answer:",)
_ANLI_MARKERS = ("So the answer is", "The answer is")


def read_esnli(reply: str, choices: Sequence[str] = ()) -> Parsed:
    """e-SNLI: rationale before "Answer:", label after it."""
    return _read_nli(_cut(reply, _ESNLI_MARKERS, _NEXT_PREMISE), _ESNLI_MARKERS)


def read_anli(reply: str, choices: Sequence[str] = ()) -> Parsed:
    """ANLI: rationale before "So the answer is" (or "The answer is"), label after it."""
    return _read_nli(_cut(reply, _ANLI_MARKERS, _NEXT_PREMISE), _ANLI_MARKERS)


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
        hint = validation.did_you_mean(name, NAMES)
        raise ValueError(f"no parser named {name!r}{hint} (known parsers: {', '.join(NAMES)})")
    return name


def parse(
    name: str, reply: str, choices: Sequence[str] = (), *, mode: Mode = "improved", teacher: Teacher = "palm"
) -> Parsed:
    """Reads a teacher's reply.

    Args:
      name: data set whose prompt the teacher was given: one of :data:`NAMES`.
      reply: the whole reply.
      choices: the row's options, in the order in which the teacher saw them.
      mode: ``improved`` or ``strict``.
      teacher: ``palm`` or ``gpt``; the published code reads their replies a little differently. Used by ``strict`` only.

    Raises:
      ValueError: unknown name, mode or teacher.
    """
    if mode not in ("improved", "strict"):
        raise ValueError(f"mode must be 'improved' or 'strict'; got {mode!r}")
    if teacher not in ("palm", "gpt"):
        raise ValueError(f"teacher must be 'palm' or 'gpt'; got {teacher!r}")
    if mode == "improved":
        opened = reply_text.open_reply(reply)
        if not opened.text.strip() and opened.trouble:
            return Parsed("", None, failed=opened.trouble)
        parsed = _READERS[_known(name)](opened.text, choices)
        return dataclasses.replace(parsed, failed=opened.trouble) if parsed.failed and opened.trouble else parsed
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
        return "text after the label" if goes_on else "upper and lower case, spaces or punctuation"
    if new.startswith(old) or old in new:
        return "the expression continues after its brackets"
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
