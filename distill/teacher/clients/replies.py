"""Requests, replies, failures, and the interface of teachers. Requests are hashed; replies are stored as JSON."""

import abc
import dataclasses
import functools
import hashlib
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from distill.teacher.clients.store import ReplyStore

Purpose = Literal["explain", "rationalise"]

END, LENGTH, FILTERED, REFUSED = "stop", "length", "content_filter", "refusal"
"""Finish reasons: finished, token limit reached, withheld by the provider, or a refusal in a separate field."""

THOUGHT, TOOL_CALL = "thoughts: ", "tool call: "
"""Prefixes of :attr:`Candidate.note`."""


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Sampling settings. A value of None is not sent, and the server's default applies.

    Attributes:
      temperature: 0 is greedy; several samples per input need more than 0.
      top_p: nucleus sampling.
      max_tokens: maximum length of a reply, in the teacher's tokens.
      seed: sent as ``seed + sample``, so that samples differ and can be repeated (servers do not guarantee it).
    """

    temperature: float | None = 0.0
    top_p: float | None = None
    max_tokens: int = 256
    seed: int | None = None

    def __post_init__(self) -> None:
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
      record_id: the row. Not part of the key: rows with the same input share a reply.
      teacher: the teacher's name in this job. Not part of the key.
      model: the model.
      messages: the conversation (chat endpoint), or none.
      prompt: the text to continue (completion endpoint), or "".
      sampling: see :class:`Sampling`.
      stop: stop strings.
      sample: index of the first requested sample.
      samples: number of replies requested at once (``n``).
      schema: JSON schema of the reply, or None for free text.
      extra: further fields of the request's body.
      purpose: ``explain``: answer and explain. ``rationalise``: explain a given answer.
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

    def __post_init__(self) -> None:
        if bool(self.messages) == bool(self.prompt):
            raise ValueError("a Request has either messages or a prompt; got both or neither")

    @functools.cached_property
    def key(self) -> str:
        """SHA-256, in hexadecimal, of everything that determines the reply: prompt, model, settings, sample."""
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
        """Number of characters in the prompt."""
        return len(self.prompt) + sum(len(message.content) for message in self.messages)


def digest(value: Any) -> str:
    """SHA-256, in hexadecimal, of a JSON value; independent of the order of keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class Usage:
    """Prompt and completion tokens, as counted by the server."""

    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
        )

    @property
    def total(self) -> int:
        """Their sum."""
        return self.prompt_tokens + self.completion_tokens


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One generated text (a "choice" in OpenAI's protocol) with its finish reason (``stop``, ``length`` …).

    Attributes:
      text: the answer; thoughts from a separate field are excluded.
      finish: the finish reason.
      note: thoughts or a tool call, if the text is blank; otherwise "".
    """

    text: str
    finish: str = END
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Reply:
    """The reply to one request, complete and charged by the server.

    Attributes:
      key: the request's key.
      candidates: ``request.samples`` texts.
      model: the answering model, under the server's name.
      usage: tokens, or None if the server does not report them.
      date: time of arrival, ISO 8601, UTC.
      seconds: duration of the request without waiting for admission.
    """

    key: str
    candidates: tuple[Candidate, ...]
    model: str = ""
    usage: Usage | None = None
    date: str = ""
    seconds: float = 0.0

    def to_json(self) -> str:
        """One line of JSON."""
        value = {
            "choices": [  # OpenAI's name, kept on disk
                [each.text, each.finish, *([each.note] if each.note else [])] for each in self.candidates
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
            candidates=tuple(Candidate(*pair) for pair in value["choices"]),
            model=value["model"],
            usage=None if value["usage"] is None else Usage(*value["usage"]),
            date=value["date"],
            seconds=value["seconds"],
        )


@dataclasses.dataclass(frozen=True)
class Failure:
    """A failed request, or a reply that could not be read.

    Attributes:
      reason: short, and equal for equal causes, so that it can be counted.
      detail: details, such as the status or the server's message.
      raw: the raw reply, truncated.
    """

    reason: str
    detail: str = ""
    raw: str = ""


class TeacherError(Exception):
    """Base class of all errors in obtaining replies."""


class RequestFailedError(TeacherError):
    """This request failed; others may still succeed.

    Attributes:
      failure: the reason.
      perhaps_paid: whether the server may have charged for it.
      usage: the tokens charged, if an unusable reply reports them.
    """

    def __init__(
        self, reason: str, detail: str = "", raw: str = "", *, perhaps_paid: bool = False, usage: Usage | None = None
    ):
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.failure = Failure(reason, detail, raw)
        self.perhaps_paid = perhaps_paid
        self.usage = usage


class TeacherStoppedError(TeacherError):
    """No request can succeed now (quota used up, no server); finished replies are kept."""


class TeacherSettingsError(TeacherStoppedError):
    """No request can succeed before the user corrects something: key, model, package, or a field that is not supported."""


class Teacher(Protocol):
    """A model that answers requests; see :class:`BatchTeacherBase` for one that receives them all at once."""

    @property
    def name(self) -> str:
        """The teacher's name in the job."""
        ...

    @property
    def model(self) -> str:
        """The model's name in request keys: another model gives other keys."""
        ...

    @property
    def parallel(self) -> int:
        """The number of requests that :meth:`ask` should receive concurrently."""
        ...

    @property
    def running(self) -> int | None:
        """The number of requests that were sent and have no reply yet; None: all that :meth:`ask` works on."""
        ...

    @property
    def give_up_after(self) -> int | None:
        """The number of consecutive failed requests after which the job stops; None: no limit."""
        ...

    @property
    def grace_s(self) -> float:
        """Seconds that running requests may still take after the job was stopped."""
        ...

    async def wants_json(self, store: "ReplyStore") -> bool:
        """Whether requests need :data:`SCHEMA`, so that replies are JSON objects.

        Args:
          store: remembers the answer if it costs a request to find out.
        """
        ...

    async def ask(self, request: Request) -> Reply:
        """Answers one request.

        Raises:
          RequestFailedError: this request failed.
          TeacherStoppedError: neither this nor any other request can succeed.
        """
        ...

    def halt(self) -> None:
        """Starts no further request; running requests may finish."""
        ...

    async def close(self) -> None:
        """Frees connections and memory."""
        ...


class BatchTeacherBase(abc.ABC):
    """Base class of teachers that receive all requests at once, through :meth:`ask_batch` instead of ``ask``."""

    @abc.abstractmethod
    def ask_batch(
        self, requests: Sequence[Request], store: "ReplyStore"
    ) -> "AsyncGenerator[tuple[str, Reply | RequestFailedError]]":
        """Yields ``(key, outcome)`` for every request, in the order in which the outcomes arrive.

        Args:
          requests: the requests, with distinct keys.
          store: remembers the batches in progress. The caller stores each reply before it requests the next outcome.

        Raises:
          TeacherStoppedError: the service rejects the batch.
        """


SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "rationale": {"type": "string", "description": "the reasoning, step by step"},
        "label": {"type": "string", "description": "the answer alone"},
    },
    "required": ["rationale", "label"],
    "additionalProperties": False,
}
"""JSON schema of a structured reply: the rationale comes first, so that the answer follows from it."""
