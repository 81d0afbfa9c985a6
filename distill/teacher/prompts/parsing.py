"""Parses a teacher's reply into a rationale and a label, or a failure.

Replies to the data sets' prompts are parsed by :mod:`distill.tasks.parsers`, which also parses the replies published
with the paper. Replies to a prompt without a parser are parsed by the prompt's answer template.
"""

import dataclasses
import json
import re
from collections.abc import Sequence
from typing import Any

from distill.tasks import metrics, parsers, reply_text
from distill.tasks.parsers import Parsed
from distill.tasks.records import Record
from distill.teacher.clients.replies import FILTERED, LENGTH, REFUSED, THOUGHT, TOOL_CALL, Candidate, Failure
from distill.teacher.prompts.prompt import Prompt
from distill.validation import quoted

LONGEST = 20_000
"""Maximum number of characters of a reply."""
_RAW = 4_000  # characters of an unreadable reply to keep

_REFUSAL = re.compile(
    r"\s*(?:i['’]?m (?:really |very )?sorry|i am sorry|sorry\b|i must decline|as an ai\b|i['’]m (?:not able|unable) to"
    r"|i (?:cannot|can['’]t|won['’]t|am unable to) (?:help|assist|answer|provide|comply|discuss|engage|continue|do))",
    re.IGNORECASE,
)
_BLANK_LINES = re.compile(r"(?:[ \t]*\n){4,}")
_FENCE = re.compile(r"```(?:json|JSON)?\s*\n?(.*?)```", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Said:
    """The parsed content of one reply.

    Attributes:
      rationale: the reasoning, or None.
      label: the answer, or None.
      failure: why the rationale or the label is missing; None if both are present.
    """

    rationale: str | None = None
    label: str | None = None
    failure: Failure | None = None


def read_candidate(
    prompt: Prompt, candidate: Candidate, record: Record, *, as_json: bool = False, labels: Sequence[str] = ()
) -> Said:
    """Parses one generated text.

    Args:
      prompt: the prompt of the request.
      candidate: the text with its finish reason.
      record: the row.
      as_json: whether a JSON object with a rationale and a label was requested.
      labels: the possible labels, for prompts without a parser; any other label is undecided. Empty: any text is a
        label.
    """
    text = candidate.text
    if candidate.finish in (REFUSED, FILTERED):
        return _failed("refused", candidate.finish, text)
    opened = reply_text.open_reply(text)
    if not opened.text.strip():
        return _without_text(candidate, opened.trouble)
    if len(opened.text) > LONGEST:
        return _failed("reply too long", f"{len(opened.text):,} characters", text)
    trouble = ""
    if as_json:
        read = _read_json(prompt, opened.text, record.choices, labels)
        if isinstance(read, str):
            trouble, parsed = read, Parsed("", None, failed="no JSON object with rationale and label")
        else:
            parsed = read
    else:
        parsed = read_text(prompt, opened.text, record.choices, labels)
    if parsed.failed:
        if candidate.finish == LENGTH:
            return _failed("cut off", f"max_tokens reached; {_THINKING if opened.trouble else parsed.failed}", text)
        if _REFUSAL.match(opened.text):
            return _failed("refused", parsed.failed, text)
        return _failed(opened.trouble or parsed.failed, trouble, text)
    undecided = Failure(parsed.undecided, _outside(parsed, labels), text[:_RAW]) if parsed.undecided else None
    label = None if parsed.undecided else parsed.llm_label
    return Said(parsed.rationale if parsed.rationales else None, label, undecided)


def _without_text(candidate: Candidate, trouble: str) -> Said:
    """The failure of a reply without text: only thoughts, a tool call, or nothing."""
    thinking = bool(trouble) or candidate.note.startswith(THOUGHT)
    raw = candidate.text or candidate.note
    if candidate.finish == LENGTH:
        return _failed("cut off", f"max_tokens reached; {_THINKING if thinking else 'nothing was written'}", raw)
    if candidate.note.startswith(TOOL_CALL):
        return _failed("tool call", "the model called a tool instead of answering", raw)
    return _failed(trouble or "empty reply", candidate.note[:200] or candidate.finish, raw)


_THINKING = "the model was still thinking"


def _outside(parsed: Parsed, labels: Sequence[str]) -> str:
    """For an unknown label: the label and the known ones."""
    if parsed.undecided != OUTSIDE:
        return ""
    return f"got {quoted(parsed.label or '')}; the labels are {', '.join(labels)}"


def _failed(reason: str, detail: str, raw: str) -> Said:
    return Said(failure=Failure(reason, detail, raw if len(raw) <= _RAW else raw[:_RAW] + "…"))


OUTSIDE = "the answer is none of the labels"


def read_text(prompt: Prompt, text: str, choices: Sequence[str] = (), labels: Sequence[str] = ()) -> Parsed:
    """Parses a reply in free text, with the prompt's parser or its template.

    Args:
      prompt: the prompt of the request.
      text: the reply; may include thoughts and template tokens.
      choices: the row's options.
      labels: see :func:`read_candidate`.
    """
    opened = reply_text.open_reply(text)
    # A teacher in a loop writes thousands of line ends, which would slow down the parsers.
    text = _BLANK_LINES.sub("\n\n\n", opened.text)
    if prompt.cue and text.lstrip().startswith(prompt.cue):
        text = text.lstrip().removeprefix(prompt.cue)
    if prompt.parser:
        return parsers.parse(prompt.parser, text, choices)
    return _read_by_template(prompt, text, choices, labels)


def _read_by_template(prompt: Prompt, text: str, choices: Sequence[str], labels: Sequence[str]) -> Parsed:
    for stop in prompt.stop:
        text = text.split(stop)[0]
    # Another marker ("Therefore, the answer is") is accepted if the marker has the word "answer" or labels are known.
    halves = reply_text.split_at_marker(
        text, (prompt.marker,), others="answer" in prompt.marker.lower() or bool(labels)
    )
    if halves is None:
        return Parsed("", None, failed="no answer marker")
    rationale, answer = halves
    if not rationale:
        return Parsed("", None, failed="no rationale before the marker")
    parsed = _read_answer(prompt, rationale, answer, choices, labels)
    if parsed.undecided or parsed.failed:
        return parsed
    later = reply_text.later_answers(answer, (prompt.marker,), others=bool(choices or labels))
    read = [_read_answer(prompt, rationale, one, choices, labels) for one in later]
    return parsers.unless_another(parsed, [None if one.undecided else one.label for one in read], metrics.same_text)


def _read_answer(prompt: Prompt, rationale: str, answer: str, choices: Sequence[str], labels: Sequence[str]) -> Parsed:
    """The label in the text after a marker."""
    if choices:
        label = reply_text.label_text(answer, prompt.tail, choices)
        named = metrics.match_choice(label, choices) or parsers.parse_choice(answer, choices)
        if named is None and not label:
            return Parsed(rationale, None, failed="the reply breaks off within its answer")
        return Parsed(rationale, named, undecided=None if named else "the answer is none of the choices")
    label = reply_text.label_text(answer, prompt.tail, labels)
    if not label:
        return Parsed(rationale, None, failed="the reply breaks off within its answer")
    if not labels or label in labels:
        return Parsed(rationale, label)
    same = [known for known in labels if metrics.same_text(known, label)]
    return Parsed(rationale, same[0]) if same else Parsed(rationale, label, undecided=OUTSIDE)


_MOST_STARTS = 200  # number of opening braces to try


def _json_object(text: str) -> dict[str, Any] | str:
    """The JSON object with a label or a rationale in a text, or an error message.

    Tried in this order: the whole text; the content of code fences; the first object that begins at a brace.
    """
    trouble = ""
    for candidate in (text, *(found[1] for found in _FENCE.finditer(text))):
        try:
            value = json.loads(candidate)
            if isinstance(value, str):  # JSON within JSON
                value = json.loads(value)
        except (ValueError, RecursionError) as error:
            trouble = trouble or str(error)
            continue
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if isinstance(value, dict):
            return value
        trouble = f"expected an object; got {type(value).__name__}"
    decoder, at, tries = json.JSONDecoder(strict=False), text.find("{"), 0
    while at >= 0 and tries < _MOST_STARTS:
        try:
            value, ends = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            ends = at + 1
        else:
            if "label" in value or "rationale" in value:
                return dict(value)
        at, tries = text.find("{", ends), tries + 1
    return trouble


def _reasons(value: Any) -> str | None:
    """The rationale in a JSON value: a text, or a list of steps."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(isinstance(step, str) for step in value):
        return " ".join(step.strip() for step in value)
    return None


def _read_json(prompt: Prompt, text: str, choices: Sequence[str], labels: Sequence[str]) -> Parsed | str:
    """The parsed JSON reply, or an error message. The fields pass through the same parser as free text."""
    value = _json_object(text)
    if isinstance(value, str):
        return value
    reasons = _reasons(value.get("rationale"))
    if reasons is None:
        return "no text in 'rationale'"
    label = value.get("label")
    if isinstance(label, list) and len(label) == 1:
        label = label[0]
    if isinstance(label, bool) or not isinstance(label, str | int | float):
        return "no text in 'label'"
    label = str(label).strip()
    named = metrics.match_choice(label, choices) if choices else None
    if named is not None:
        label = f"({chr(ord('a') + list(choices).index(named))}) {named}"
    # A marker inside the rationale would truncate it.
    rationale = " ".join(reasons.replace(prompt.marker, prompt.marker.lower()).split())
    return read_text(prompt, prompt.fill_answer(rationale, label), choices, labels)
