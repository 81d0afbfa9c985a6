"""The configuration of a teacher on an OpenAI-compatible server."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, Literal

from distill import validation
from distill.teacher.clients import completion, redaction
from distill.teacher.clients.completion import Endpoint
from distill.teacher.clients.cost import Prices
from distill.teacher.clients.replies import Sampling

Structured = Literal["off", "auto", "json_schema", "json_object"]
STRUCTURED: tuple[Structured, ...] = ("off", "auto", "json_schema", "json_object")
_SECRET_NAME = re.compile(r"key|token|secret|passw|authorization|cookie|signature|\bsig\b", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class ServerConfig:
    """Configuration of a teacher on a server. Holds names of environment variables with secrets, never the secrets.

    Attributes:
      model: the model's name on the server.
      name: the teacher's name in this job; by default the model's name.
      base_url: address of the server (``http://localhost:8000/v1``); None: ``OPENAI_BASE_URL``, or else the hosted API.
      api_key_env: the environment variable with the API key. Optional with a ``base_url``.
      headers_env: further headers, each from an environment variable: ``{"api-key": "MY_GATEWAY_KEY"}``.
      headers: further headers without secrets: ``{"X-Title": "distill"}``.
      query: appended to every address: ``{"api-version": "2024-10-21"}`` for Azure. No secrets.
      endpoint: ``chat`` (messages) or ``completions`` (one text to continue).
      structured: request JSON with a rationale and a label. ``json_schema`` or ``json_object``, as the server
        supports; ``auto``: test once, and use the schema if the server obeys it; ``off``: free text, read by the data
        set's parser.
      sampling: temperature and the like.
      samples_at_once: request all samples of an input at once (``n``), so that the prompt is charged once.
      concurrency: maximum number of running requests.
      requests_per_minute, tokens_per_minute: maximum per minute, as the account allows; None: no limit.
      attempt_s: maximum duration of one attempt in seconds.
      attempts: attempts per request after server errors, timeouts and lost connections, with growing pauses. Status 429
        ("too many requests") does not count.
      bad_replies: retries after a reply that is broken or has the wrong shape, or is empty at a temperature above 0.
      patience_s: the job stops when no usable reply has arrived for this many seconds since the first failed attempt
        began, whatever the server does; running attempts end then, too. No attempt takes longer.
      give_up_after: number of consecutive failed requests after which the job stops.
      largest_bytes: maximum size of a response body.
      max_tokens_field, send_stop: see :class:`~distill.teacher.clients.completion.Dialect`.
      extra: further fields of the body, for instance ``{"reasoning_effort": "low"}``.
      prices: per million tokens, for the cost and the cost cap.
      prefix: task prefix of this teacher's rationales, if each teacher has a separate one.
      batch: use the server's batch API (cheaper and slower) instead of single requests.
      batch_poll_s: seconds between two queries for the state of a batch.
    """

    model: str
    name: str = ""
    base_url: str | None = None
    api_key_env: str = "OPENAI_API_KEY"
    headers_env: Mapping[str, str] = dataclasses.field(default_factory=dict)
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    query: Mapping[str, str] = dataclasses.field(default_factory=dict)
    endpoint: Endpoint = "chat"
    structured: Structured = "off"
    sampling: Sampling = Sampling()
    samples_at_once: bool = False
    concurrency: int = 64
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    attempt_s: float = 120.0
    attempts: int = 6
    bad_replies: int = 2
    patience_s: float = 900.0
    give_up_after: int = 25
    largest_bytes: int = 16 * 2**20
    max_tokens_field: str = "max_tokens"
    send_stop: bool = True
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    prices: Prices | None = None
    prefix: str = ""
    batch: bool = False
    batch_poll_s: float = 30.0

    def __post_init__(self) -> None:
        if not self.model:
            raise ValueError(
                "ServerConfig.model must name a model, for instance 'meta-llama/Llama-3.1-70B-Instruct'; got ''"
            )
        validation.check("ServerConfig.endpoint", self.endpoint, completion.ENDPOINTS)
        validation.check("ServerConfig.structured", self.structured, STRUCTURED)
        if self.structured != "off" and self.endpoint != "chat":
            raise ValueError(
                f"ServerConfig.structured={self.structured!r} needs endpoint='chat'; got {self.endpoint!r}"
            )
        for field in ("concurrency", "attempts", "give_up_after", "attempt_s", "patience_s", "largest_bytes"):
            if getattr(self, field) <= 0:
                raise ValueError(f"ServerConfig.{field} must be positive; got {getattr(self, field)}")
        if self.base_url is not None:
            check_url(self.base_url)
        for field, remedy in (
            ("headers", "name an environment variable with headers_env (--header_env=NAME=VARIABLE)"),
            ("query", "send it as a header with headers_env (--header_env=NAME=VARIABLE)"),
        ):
            for name in getattr(self, field):
                if _SECRET_NAME.search(name):
                    raise ValueError(f"ServerConfig.{field}: {name!r} looks like a secret; {remedy}")
        if self.bad_replies < 0:
            raise ValueError(f"ServerConfig.bad_replies must be ≥ 0; got {self.bad_replies}")

    @property
    def called(self) -> str:
        """The teacher's name."""
        return self.name or self.model

    def model_key(self) -> str:
        """The model's identifier in request keys."""
        return self.model


def check_url(url: str) -> None:
    """Raises ValueError for an unusable address or one with secrets, without repeating the secret part."""
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"base_url must begin with http:// or https://; got {redaction.public_url(url)!r}")
    if redaction.public_url(url) != url:
        raise ValueError(
            f"base_url ({redaction.public_url(url)}) must not hold a user, password or query: it is written to reports. "
            "Secrets go into environment variables that api_key_env and headers_env name; anything else of the query into "
            "query (--query=NAME=VALUE)"
        )
