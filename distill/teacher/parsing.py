"""From a teacher's reply to a rationale and a label, or to the reason why there is none.

Replies to the data sets' own prompts are read by :mod:`tasks.parsers`, which also reads the replies that came with the
paper. Replies to a prompt without a parser are read by the prompt's own answer template.
"""

import dataclasses
import json
import re
from collections.abc import Sequence

from distill.teacher.completion import REFUSED
from distill.teacher.replies import FILTERED, LENGTH, Choice, Failure
from distill.teacher.templates import Prompt
from tasks import metrics, parsers
from tasks.parsers import Parsed
from tasks.records import Record

LONGEST = 20_000
"""Characters; a longer reply is a teacher that went astray."""
_RAW = 4_000  # characters of an unread reply that are kept

_REFUSAL = re.compile(
    r"\s*(?:i['’]?m (?:really |very )?sorry|i am sorry|sorry\b|i must decline|as an ai\b|i['’]m (?:not able|unable) to"
    r"|i (?:cannot|can['’]t|won['’]t|am unable to) (?:help|assist|answer|provide|comply|discuss|engage|continue|do))",
    re.IGNORECASE,
)
_BLANK_LINES = re.compile(r"(?:[ \t]*\n){4,}")
_FENCE = re.compile(r"\A\s*```(?:json)?\s*(.*?)\s*```\s*\Z", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Said:
    """What one reply says.

    Attributes:
      rationale: the reasoning, or None.
      label: the answer, or None.
      failure: why there is no rationale, or no answer although there is a rationale; None if there are both.
    """

    rationale: str | None = None
    label: str | None = None
    failure: Failure | None = None


def read_choice(prompt: Prompt, choice: Choice, record: Record, *, as_json: bool = False) -> Said:
    """Reads one text that a teacher wrote.

    Args:
      prompt: what it was asked with.
      choice: the text, and why it stopped.
      record: the row.
      as_json: it was asked for a JSON object with a rationale and a label.
    """
    text = choice.text
    if choice.finish in (REFUSED, FILTERED):
        return _failed("refused", choice.finish, text)
    if not text.strip():
        return _failed("empty reply", choice.finish, text)
    if len(text) > LONGEST:
        return _failed("reply too long", f"{len(text):,} characters", text)
    trouble = ""
    if as_json:
        read = _read_json(prompt, text, record.choices)
        if isinstance(read, str):
            trouble, parsed = read, Parsed("", None, failed="no JSON object with rationale and label")
        else:
            parsed = read
    else:
        parsed = read_text(prompt, text, record.choices)
    if parsed.failed:
        if choice.finish == LENGTH:
            return _failed("cut off", f"max_tokens reached; {parsed.failed}", text)
        if _REFUSAL.match(text):
            return _failed("refused", parsed.failed, text)
        return _failed(parsed.failed, trouble, text)
    undecided = Failure(parsed.undecided, "", text[:_RAW]) if parsed.undecided else None
    return Said(parsed.rationale if parsed.rationales else None, parsed.llm_label, undecided)


def _failed(reason: str, detail: str, raw: str) -> Said:
    return Said(failure=Failure(reason, detail, raw if len(raw) <= _RAW else raw[:_RAW] + "…"))


def read_text(prompt: Prompt, text: str, choices: Sequence[str] = ()) -> Parsed:
    """Reads a reply in free text, by the prompt's parser or its template."""
    # Teachers that fall into a loop write thousands of line ends; no parser should have to walk them again and again.
    text = _BLANK_LINES.sub("\n\n\n", text)
    if prompt.cue and text.lstrip().startswith(prompt.cue):
        text = text.lstrip().removeprefix(prompt.cue)
    if prompt.parser:
        return parsers.parse(prompt.parser, text, choices)
    return _read_by_template(prompt, text, choices)


def _read_by_template(prompt: Prompt, text: str, choices: Sequence[str]) -> Parsed:
    for stop in prompt.stop:
        text = text.split(stop)[0]
    before, marker, behind = text.partition(prompt.marker)
    rationale = before.strip()
    if not marker:
        return Parsed("", None, failed="no answer marker")
    if not rationale:
        return Parsed("", None, failed="no rationale before the marker")
    answer = behind.strip().split("\n")[0].strip()
    label = answer.removesuffix(prompt.tail).strip() if prompt.tail else answer
    if not label:
        return Parsed(rationale, None, failed="the reply breaks off within its answer")
    if not choices:
        return Parsed(rationale, label)
    named = metrics.match_choice(label, choices)
    return Parsed(rationale, named, undecided=None if named else "the answer is none of the choices")


def _read_json(prompt: Prompt, text: str, choices: Sequence[str]) -> Parsed | str:
    """What a structured reply says, or what is wrong with it; its fields pass through the same parser as free text."""
    fenced = _FENCE.match(text)
    try:
        value = json.loads(fenced[1] if fenced else text)
    except (ValueError, RecursionError) as error:
        return str(error)
    if not isinstance(value, dict) or not isinstance(value.get("rationale"), str):
        return "no text in 'rationale'"
    label = value.get("label")
    if isinstance(label, bool) or not isinstance(label, str | int | float):
        return "no text in 'label'"
    label = str(label).strip()
    named = metrics.match_choice(label, choices) if choices else None
    if named is not None:
        label = f"({chr(ord('a') + list(choices).index(named))}) {named}"
    # The marker inside the reasoning would cut it short.
    rationale = " ".join(value["rationale"].replace(prompt.marker, prompt.marker.lower()).split())
    return read_text(prompt, prompt.fill_answer(rationale, label), choices)
