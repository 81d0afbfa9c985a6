"""A few-shot prompt: checked templates and their rendering. Files are read by :mod:`distill.teacher.prompts.templates`."""

import dataclasses
import difflib
import functools
import re
import string
from collections.abc import Mapping, Sequence

from distill import validation
from distill.tasks import parsers
from distill.tasks.row_fields import lettered
from distill.teacher.clients.replies import Message, digest

SEPARATOR = "\n\n"


class PromptError(ValueError):
    """An invalid prompt file; the message names the file, the place and the error."""


class InputShapeError(ValueError):
    """An input without the parts that the prompt needs."""


@dataclasses.dataclass(frozen=True)
class Example:
    """A worked example: an input-rationale-label triplet. ``choices`` only if the template has a placeholder for them."""

    input: str
    rationale: str
    label: str
    choices: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Parts:
    """The separator and the names of the parts of an input."""

    separator: str
    names: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A checked prompt.

    Attributes:
      name: for messages and provenance; the file's name.
      question, answer, rationalise: the templates; ``rationalise`` is "" where the file has none.
      examples: worked examples, in order.
      instructions: text at the beginning.
      parser: name of the parser of replies, or "" to parse by the template.
      hint_words: words by which a rationale reveals that it was given the answer.
      parts: see :class:`Parts`; None: the input is shown whole.

    Raises:
      PromptError: a missing or unknown placeholder, an example without its parts, or a worked example that the
        parser does not read back.
    """

    name: str
    question: str
    answer: str
    examples: tuple[Example, ...]
    instructions: str = ""
    rationalise: str = ""
    parser: str = ""
    hint_words: tuple[str, ...] = ()
    parts: Parts | None = None

    def __post_init__(self) -> None:
        inputs = self.parts.names if self.parts else ("input",)
        self._check_holes("question", self.question, required=inputs, allowed=(*inputs, "choices"))
        self._check_holes("answer", self.answer, required=("rationale", "label"), allowed=("rationale", "label"))
        if self.rationalise:
            self._check_holes(
                "rationalise", self.rationalise, required=(*inputs, "label"), allowed=(*inputs, "choices", "label")
            )
        order = [placeholder for _, placeholder, _, _ in string.Formatter().parse(self.answer) if placeholder]
        if order != ["rationale", "label"]:
            raise PromptError(f"{self.name}: answer: the rationale comes before the label, each once; got {order}")
        if self.parser and self.parser not in parsers.NAMES:
            hint = validation.did_you_mean(self.parser, parsers.NAMES)
            raise PromptError(
                f"{self.name}: no parser named {self.parser!r}{hint} (there are: {', '.join(parsers.NAMES)}; "
                "leave it out to read replies by the answer template)"
            )
        if not self.marker.strip():
            raise PromptError(
                f"{self.name}: answer: no text between {{rationale}} and {{label}}; "
                "expected words such as 'So the answer is'"
            )
        if not self._lead(self.question).strip():
            raise PromptError(
                f"{self.name}: question: it must begin with a word such as 'Q:' before the first placeholder; the stop "
                "string is derived from it"
            )

    def _check_holes(self, key: str, template: str, *, required: Sequence[str], allowed: Sequence[str]) -> None:
        try:
            pieces = list(string.Formatter().parse(template))
        except ValueError as error:
            raise PromptError(f"{self.name}: {key}: {error} (write {{{{ and }}}} for braces)") from None
        placeholders = []
        for _, placeholder, form, conversion in pieces:
            if placeholder is None:
                continue
            if form or conversion or not placeholder.isidentifier():
                raise PromptError(
                    f"{self.name}: {key}: placeholders are plain names such as {{input}}; got {{{placeholder}}}"
                )
            if placeholder not in allowed:
                near = difflib.get_close_matches(placeholder, allowed, n=1)
                hint = f"; did you mean {{{near[0]}}}?" if near else ""
                raise PromptError(
                    f"{self.name}: {key}: no placeholder {{{placeholder}}}{hint} "
                    f"(there are: {', '.join(f'{{{name}}}' for name in allowed)})"
                )
            placeholders.append(placeholder)
        missing = [f"{{{placeholder}}}" for placeholder in required if placeholder not in placeholders]
        if missing:
            raise PromptError(f"{self.name}: {key}: {', '.join(missing)} is missing")

    @staticmethod
    def _lead(template: str) -> str:
        """The template's text before its first placeholder."""
        text = ""
        for literal, placeholder, _, _ in string.Formatter().parse(template):
            text += literal
            if placeholder is not None:
                break
        return text

    @functools.cached_property
    def marker(self) -> str:
        """The text between rationale and label, without surrounding blanks: "So the answer is"."""
        return list(string.Formatter().parse(self.answer))[1][0].strip()

    @functools.cached_property
    def tail(self) -> str:
        """The text after the label: "."."""
        pieces = list(string.Formatter().parse(self.answer))
        return "".join(literal for literal, _, _, _ in pieces[2:]).strip()

    @functools.cached_property
    def openings(self) -> tuple[str, ...]:
        """The words with which the templates' lines begin: "Q:", "A:". A row's lines must not begin with them."""
        lines = []
        for template in filter(None, (self.question, self.rationalise, self.answer)):
            text = "".join(
                literal + ("\0" if placeholder is not None else "")
                for literal, placeholder, _, _ in string.Formatter().parse(template)
            )
            for line in text.split("\n"):
                word = line.split("\0")[0].strip()
                if word:
                    lines.append(word if "\0" in line or len(word) <= 20 else word[:20])
        return tuple(dict.fromkeys(lines))

    @functools.cached_property
    def cue(self) -> str:
        """The question's last words, which precede the answer: "A:"."""
        return list(string.Formatter().parse(self.question))[-1][0].rpartition("\n")[2].strip()

    @functools.cached_property
    def stop(self) -> tuple[str, ...]:
        """Stop strings: a line break and the first words of the question, with which the next block would begin."""
        leads = [self._lead(template).strip() for template in (self.question, self.rationalise) if template]
        return tuple(dict.fromkeys("\n" + lead.split("\n")[0] for lead in leads if lead))

    @functools.cached_property
    def hash(self) -> str:
        """SHA-256 of everything in the prompt but its name."""
        return digest(dataclasses.asdict(self) | {"name": ""})

    def _values(self, input: str, choices: Sequence[str], label: str | None) -> dict[str, str]:
        values = {"choices": lettered(map(self.tame, choices))}
        if label is not None:
            values["label"] = self.tame(label)
        if self.parts is None:
            return values | {"input": self.tame(input)}
        pieces = input.split(self.parts.separator)
        if len(pieces) != len(self.parts.names):
            raise InputShapeError(
                f"the input has {len(pieces)} parts between {self.parts.separator!r}; "
                f"expected {', '.join(self.parts.names)}"
            )
        return values | {name: self.tame(piece.strip()) for name, piece in zip(self.parts.names, pieces)}

    @functools.cached_property
    def _opening_line(self) -> re.Pattern[str]:
        words = "|".join(re.escape(word) for word in sorted(self.openings, key=len, reverse=True))
        return re.compile(rf"(\A|\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029])(?=[ \t]*(?:{words}))", re.IGNORECASE)

    def tame(self, text: str) -> str:
        """``text`` with a space before every line that begins like a line of the template."""
        return self._opening_line.sub(lambda match: match[1] + " ", text)

    def imitates_template(self, text: str) -> bool:
        """Whether ``text`` has a line, other than its first, that begins like a line of the template."""
        return any(match[1] for match in self._opening_line.finditer(text))

    def fill_question(self, input: str, choices: Sequence[str] = (), label: str | None = None) -> str:
        """The block of one row; with a ``label``, the block that gives the answer.

        Raises:
          InputShapeError: the input lacks the parts that the prompt needs.
        """
        template = self.question if label is None else self.rationalise
        return _fill(template, self._values(input, choices, label))

    def fill_answer(self, rationale: str, label: str) -> str:
        """An answer, rendered by the template."""
        return _fill(self.answer, {"rationale": rationale, "label": label}).strip()

    def messages(self, input: str, choices: Sequence[str] = (), label: str | None = None) -> tuple[Message, ...]:
        """The prompt as a conversation: instructions, worked examples as earlier turns, and the row."""
        turns = [Message("system", self.instructions.strip())] if self.instructions.strip() else []
        for question, answer in self._worked[label is not None]:
            turns += [Message("user", question), Message("assistant", answer)]
        return (*turns, Message("user", self.fill_question(input, choices, label)))

    def text(self, input: str, choices: Sequence[str] = (), label: str | None = None) -> str:
        """The prompt as one text to continue."""
        head = [self.instructions.strip()] if self.instructions.strip() else []
        worked = [
            question + ("" if question[-1:].isspace() else " ") + answer
            for question, answer in self._worked[label is not None]
        ]
        return SEPARATOR.join([*head, *worked, self.fill_question(input, choices, label)])

    @functools.cached_property
    def _worked(self) -> dict[bool, list[tuple[str, str]]]:
        """Questions and answers of the worked examples, keyed by whether the question gives the answer."""
        return {
            given: [
                (
                    self.fill_question(example.input, example.choices, example.label if given else None),
                    self.fill_answer(example.rationale, example.label),
                )
                for example in self.examples
            ]
            for given in ((False, True) if self.rationalise else (False,))
        }


def _fill(template: str, values: Mapping[str, str]) -> str:
    """Fills a template in one pass: inserted text is not searched for placeholders."""
    return "".join(
        literal + (values[placeholder] if placeholder is not None else "")
        for literal, placeholder, _, _ in string.Formatter().parse(template)
    )
