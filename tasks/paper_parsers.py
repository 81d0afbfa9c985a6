"""The published code's parsing of a teacher's reply, string for string: the reference for the improved parsers.

Each function returns ``(rationale, label, failure)``. The two strings are exactly what the published loaders put into their
columns, blanks included: where a loader fails, it trains on a single space (or, for NLI, on nothing). ``failure`` gives
the reason, or is None; here such rows are not trained on.
"""

import re

_BLANK = " "
_OPTION = re.compile(r"\(.\)")
_BRACKETS = re.compile(r"\(.*\)")
_NO_MARKER = "no answer marker, or more than one"


def _until_question(reply: str, teacher: str) -> str:
    answer = reply.partition("Q:")[0].rstrip()
    return answer.lstrip() if teacher == "gpt" else answer


def _halves(text: str, marker: str) -> tuple[str, str] | None:
    pieces = text.split(marker)
    return (pieces[0], pieces[1]) if len(pieces) == 2 else None


def cqa(reply: str, teacher: str) -> tuple[str, str, str | None]:
    """CommonsenseQA: the text between the first and the second ``(x)``, less one final period."""
    halves = _halves(_until_question(reply, teacher), "So the answer is")
    if halves is None:
        # PaLM's loader would stop with an error here; GPT-NeoX's continues with blanks.
        return _BLANK, _BLANK, _NO_MARKER
    options = _OPTION.split(halves[1])
    label = options[1].strip() if len(options) > 1 else ""
    if not label:
        return halves[0].rstrip(), _BLANK, "no option letter after the marker"
    return halves[0].rstrip(), label.removesuffix("."), None


def equation(reply: str, teacher: str) -> tuple[str, str, str | None]:
    """SVAMP and ASDiv: from the first ``(`` to the last ``)`` of a line after the marker."""
    halves = _halves(_until_question(reply, teacher), "The answer is")
    if halves is None:
        return _BLANK, _BLANK, _NO_MARKER
    found = _BRACKETS.search(halves[1])
    if found is None:
        return halves[0].rstrip(), _BLANK, "nothing in brackets after the marker"
    return halves[0].rstrip(), found.group(), None


def esnli(reply: str, teacher: str) -> tuple[str, str, str | None]:
    """e-SNLI: before and after ``Answer:``, up to the next invented premise."""
    rationale = reply.partition("Answer:")[0].rstrip()
    if teacher == "gpt":
        rationale = rationale.lstrip()
    pieces = reply.split("Answer: ")
    if len(pieces) == 1:
        return rationale, _BLANK, "no answer marker"
    return rationale, pieces[1].partition("Premise")[0].rstrip(), None


def anli(reply: str, teacher: str) -> tuple[str, str, str | None]:
    """ANLI: the text after the marker without its last character."""
    text = reply.partition("Premise:")[0].rstrip()
    markers = ["So the answer is"]
    if teacher == "gpt":
        text = text.lstrip()
        markers.append("The answer is")
    for marker in markers:
        halves = _halves(text, marker)
        if halves is not None:
            return halves[0].rstrip(), halves[1].lstrip()[:-1], None
    return "", "", _NO_MARKER
