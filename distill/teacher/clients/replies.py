"""What is sent to a teacher and what comes back: plain values, hashed, written to disk and read again."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal, Protocol

Purpose = Literal["explain", "rationalise"]

END, LENGTH, FILTERED, REFUSED = "stop", "length", "content_filter", "refusal"
"""Why a teacher stopped writing: done, out of tokens, the rest withheld by the provider, or a refusal in its own field."""

THOUGHT, TOOL_CALL = "thoughts: ", "tool call: "
"""How :attr:`Choice.note` begins."""


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How a teacher chooses its words. A value of None is not sent, and the server's own default applies.

    Attributes:
      temperature: 0 is greedy. Several samples of one input need more than 0.
      top_p: nucleus sampling.
      max_tokens: the longest reply, in the teacher's tokens.
      seed: sent as ``seed + sample`` where given, so that samples differ and can be repeated (servers promise little).
    """

    temperature: float | None = 0.0
    top_p: float | None = None
    max_tokens: int = 256
    seed: int | None = None

    def __post_init__(self):
        if self.temperature is not None and not 0 <= self.temperature <= 2:
            raise ValueError(f"Sampling.temperature must be in [0, 2] or None; got {self.temperature}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"Sampling.top_p must be in (0, 1] or None; got {self.top_p}")
        if self.max_tokens < 1:
            raise ValueError(f"Sampling.max_tokens must be ≥ 1; got {self.max_tokens}")


@dataclasses.dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclasses.dataclass(frozen=True)
class Request:
    """One question to one teacher.

    Attributes:
      record_id: the row that it is about. Not part of the key: rows with the same input share a reply.
      teacher: the teacher's name in this job. Not part of the key either.
      model: the model asked.
      messages: the conversation (chat endpoint), or none.
      prompt: the text to go on from (completion endpoint), or "".
      sampling: see :class:`Sampling`.
      stop: strings at which the teacher should stop.
      sample: number of the first sample asked for.
      samples: how many replies to ask for at once (``n``).
      schema: JSON schema of the reply, or None for free text.
      extra: further fields of the request's body.
      purpose: ``explain``: answer and say why. ``rationalise``: say why the given answer is right.
      template: hash of the prompt file, for the record's provenance.
    """

    record_id: str
    teacher: str
    model: str
    messages: tuple[Message, ...] = ()
    prompt: str = ""
    sampling: Sampling = Sampling()
    stop: tuple[str, ...] = ()
    sample: int = 0
    samples: int = 1
    schema: Mapping[str, Any] | None = None
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    purpose: Purpose = "explain"
    template: str = ""

    def __post_init__(self):
        if bool(self.messages) == bool(self.prompt):
            raise ValueError("a Request has either messages or a prompt; got both or neither")

    @functools.cached_property
    def key(self) -> str:
        """SHA-256, in hexadecimal, of everything that decides what the teacher says: prompt, model, settings, sample."""
        return digest(
            {
                "model": self.model,
                "messages": [[message.role, message.content] for message in self.messages],
                "prompt": self.prompt,
                "sampling": dataclasses.asdict(self.sampling),
                "stop": list(self.stop),
                "sample": self.sample,
                "samples": self.samples,
                "schema": self.schema,
                "extra": dict(self.extra),
            }
        )

    @property
    def seed(self) -> int | None:
        """The seed to send."""
        return None if self.sampling.seed is None else self.sampling.seed + self.sample

    @property
    def characters(self) -> int:
        """Length of everything the teacher must read."""
        return len(self.prompt) + sum(len(message.content) for message in self.messages)


def digest(value: Any) -> str:
    """SHA-256, in hexadecimal, of a JSON value; equal values have equal digests, whatever the order of their keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class Usage:
    """Tokens read and written, as the server counts them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
        )

    @property
    def total(self) -> int:
        """Both together."""
        return self.prompt_tokens + self.completion_tokens


@dataclasses.dataclass(frozen=True)
class Choice:
    """One text that the teacher wrote, and why it stopped (``stop``, ``length``, ``content_filter`` …).

    Attributes:
      text: the answer; thoughts that came in a field of their own are left out.
      finish: why it stopped.
      note: what came where the text is blank: thoughts, or a tool call; else "".
    """

    text: str
    finish: str = END
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Reply:
    """What came back for one request, finished and (by the server's count) paid.

    Attributes:
      key: the request's key.
      choices: ``request.samples`` texts.
      model: the model that answered, as the server names it.
      usage: tokens, or None where the server does not say.
      date: when it came, ISO 8601, UTC.
      seconds: how long it took, waiting for a turn not counted.
    """

    key: str
    choices: tuple[Choice, ...]
    model: str = ""
    usage: Usage | None = None
    date: str = ""
    seconds: float = 0.0

    def to_json(self) -> str:
        """One line of JSON."""
        value = {
            "choices": [
                [choice.text, choice.finish, *([choice.note] if choice.note else [])] for choice in self.choices
            ],
            "model": self.model,
            "usage": None if self.usage is None else [self.usage.prompt_tokens, self.usage.completion_tokens],
            "date": self.date,
            "seconds": round(self.seconds, 4),
        }
        return json.dumps(value, ensure_ascii=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, key: str, text: str) -> "Reply":
        """The inverse of :meth:`to_json`."""
        value = json.loads(text)
        return cls(
            key=key,
            choices=tuple(Choice(*pair) for pair in value["choices"]),
            model=value["model"],
            usage=None if value["usage"] is None else Usage(*value["usage"]),
            date=value["date"],
            seconds=value["seconds"],
        )


@dataclasses.dataclass(frozen=True)
class Failure:
    """A request that came to nothing, or a reply out of which nothing can be read.

    Attributes:
      reason: short and the same for the same trouble, so that it can be counted.
      detail: what exactly, with the status or the server's words.
      raw: the reply as it came, shortened.
    """

    reason: str
    detail: str = ""
    raw: str = ""


class TeacherError(Exception):
    """Anything that goes wrong on the way to a reply."""


class RequestFailedError(TeacherError):
    """This request came to nothing; others may still succeed.

    Attributes:
      failure: what happened.
      perhaps_paid: whether the server may have charged for it all the same.
      usage: the tokens charged, where a useless reply reports them.
    """

    def __init__(
        self, reason: str, detail: str = "", raw: str = "", *, perhaps_paid: bool = False, usage: Usage | None = None
    ):
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.failure = Failure(reason, detail, raw)
        self.perhaps_paid = perhaps_paid
        self.usage = usage


class TeacherStoppedError(TeacherError):
    """No request can succeed now (wrong key, no money, no server); what was finished is kept."""


class TeacherSettingsError(TeacherStoppedError):
    """No request can ever succeed with these settings: no such model, or a field that the server does not take."""


class Teacher(Protocol):
    """Whoever answers.

    Attributes:
      name: what the job calls it.
      model: goes into the keys; another model is another question.
    """

    name: str
    model: str

    async def ask(self, request: Request) -> Reply:
        """Answers one request.

        Raises:
          RequestFailedError: it came to nothing.
          TeacherStoppedError: neither this nor any other request can succeed.
        """
        ...

    async def close(self) -> None:
        """Frees connections and memory."""
        ...


SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "rationale": {"type": "string", "description": "the reasoning, step by step"},
        "label": {"type": "string", "description": "the answer alone"},
    },
    "required": ["rationale", "label"],
    "additionalProperties": False,
}
"""What a structured reply looks like: reasons first, so that the answer follows from them."""
