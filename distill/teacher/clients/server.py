"""A teacher behind any OpenAI-compatible server: vLLM, TGI, llama.cpp, Ollama, hosted APIs."""

import asyncio
import dataclasses
import json
import logging
import os
import random
import re
import time
from collections.abc import Mapping
from typing import Any, Literal

from distill.teacher.clients import completion, cost, redaction
from distill.teacher.clients.completion import Dialect, Endpoint
from distill.teacher.clients.cost import Prices
from distill.teacher.clients.gate import Gate
from distill.teacher.clients.replies import (
    END,
    SCHEMA,
    Choice,
    Failure,
    Message,
    Reply,
    Request,
    RequestFailedError,
    Sampling,
    TeacherError,
    TeacherSettingsError,
    TeacherStoppedError,
    Usage,
)
from distill.teacher.clients.store import ReplyStore

Structured = Literal["off", "auto", "json_schema", "json_object"]
STRUCTURED: tuple[Structured, ...] = ("off", "auto", "json_schema", "json_object")

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class ServerConfig:
    """Which server and model, and how hard to press it. Holds no secrets, only the names of variables that do.

    Attributes:
      model: the model's name at the server.
      name: what this job calls the teacher; the model's name by default.
      base_url: where the server is (``http://localhost:8000/v1``); None: the ``OPENAI_BASE_URL`` variable, else the
        hosted API.
      api_key_env: the environment variable with the API key. Servers at a ``base_url`` may do without.
      headers_env: further headers, each from an environment variable: ``{"api-key": "MY_GATEWAY_KEY"}``.
      headers: further headers that are no secrets: ``{"X-Title": "distill"}``.
      query: appended to every address: ``{"api-version": "2024-10-21"}`` for Azure. No secrets.
      endpoint: ``chat`` (messages) or ``completions`` (one text to go on from).
      structured: ask for JSON with a rationale and a label. ``json_schema``, ``json_object`` as the server has it;
        ``auto``: try once and take JSON schema if the server obeys it; ``off``: free text, read by the data set's
        parser.
      sampling: temperature and the like.
      samples_at_once: ask for all samples of an input in one request (``n``) where the server can: its prompt is paid
        once.
      concurrency: the most requests under way.
      requests_per_minute, tokens_per_minute: limits of the account; None: none.
      attempt_s: the longest one attempt may take.
      attempts: attempts per request at refused, failing, silent or lost connections, with growing pauses. Refusals ("too
        many requests") do not count.
      bad_replies: how often a reply that is broken or of the wrong shape is asked for again; also an empty one, where
        the temperature is not 0.
      patience_s: how long to put up with failed attempts while none succeeds, whatever the failures are, before stopping;
        an attempt under way may take ``attempt_s`` more.
      give_up_after: stop when so many requests in a row came to nothing.
      largest_bytes: longer reply bodies are refused.
      max_tokens_field, send_stop: see :class:`~distill.teacher.clients.completion.Dialect`.
      extra: further fields of the body, for instance ``{"reasoning_effort": "low"}``.
      prices: per million tokens, for the cost so far and the cost cap.
      prefix: task prefix of this teacher's rationales where each teacher has its own.
      batch: send everything through the server's batch API (cheaper and slower) instead of request by request.
      batch_poll_s: how often to ask whether a batch is done.
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

    def __post_init__(self):
        if not self.model:
            raise ValueError("ServerConfig.model: which model? (for instance 'meta-llama/Llama-3.1-70B-Instruct')")
        for field, allowed in (("endpoint", completion.ENDPOINTS), ("structured", STRUCTURED)):
            if getattr(self, field) not in allowed:
                raise ValueError(
                    f"ServerConfig.{field} must be one of {', '.join(allowed)}; got {getattr(self, field)!r}"
                )
        if self.structured != "off" and self.endpoint != "chat":
            raise ValueError(
                f"ServerConfig.structured={self.structured!r} needs endpoint='chat'; got {self.endpoint!r}"
            )
        for field in ("concurrency", "attempts", "give_up_after", "attempt_s", "patience_s", "largest_bytes"):
            if getattr(self, field) <= 0:
                raise ValueError(f"ServerConfig.{field} must be positive; got {getattr(self, field)}")
        if self.base_url is not None:
            _check_url(self.base_url)
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
        """What stands for the model in the keys of its requests."""
        return self.model

    def open(self) -> "ServerTeacher":
        """Connects (lazily: the first request opens the first connection).

        Raises:
          TeacherStoppedError: a key is wanted and not in the environment.
        """
        return ServerTeacher(self)


class ServerTeacher:
    """Asks an OpenAI-compatible server. Make it and use it in one event loop; see :class:`ServerConfig`."""

    def __init__(self, config: ServerConfig):
        try:
            import openai

            from distill.teacher.clients import transport
        except ImportError as error:
            raise TeacherStoppedError(
                f"teachers behind a server need the openai package: pip install 'distill-step-by-step[teacher]' ({error})"
            ) from None

        self.config = config
        self.model = config.model_key()
        self.name = config.called
        self.parallel = config.concurrency + min(16, config.concurrency)  # some wait at the gate, ready to go
        self.give_up_after: int | None = config.give_up_after
        self.gate = Gate(
            config.concurrency,
            requests_per_minute=config.requests_per_minute,
            tokens_per_minute=config.tokens_per_minute,
        )
        base_url = config.base_url or os.environ.get("OPENAI_BASE_URL") or None
        if base_url is not None:
            _check_url(base_url)
        key = redaction.secret_from_environment(config.api_key_env)
        if key is None and base_url is None:
            raise TeacherStoppedError(
                f"teacher {self.name!r}: the environment variable {config.api_key_env} holds no API key, and without a "
                "base_url the hosted API would be asked, which wants one"
            )
        headers = dict(config.headers)
        secrets = []
        for header, variable in config.headers_env.items():
            value = redaction.secret_from_environment(variable)
            if value is None:
                raise TeacherStoppedError(
                    f"teacher {self.name!r}: header {header} wants the environment variable {variable}, which is not set"
                )
            headers[header] = value
            secrets.append(value)
        self.redact = redaction.Redactor([*([key] if key else []), *secrets])
        self.url = redaction.public_url(base_url or "https://api.openai.com/v1")
        self.dialect = Dialect(
            endpoint=config.endpoint,
            max_tokens_field=config.max_tokens_field,
            send_stop=config.send_stop,
            json_object=config.structured == "json_object",
        )
        self._openai = openai
        self._transport = transport
        self._trouble_since: float | None = None
        self._adapted: set[str] = set()
        self.client = openai.AsyncOpenAI(
            api_key=key or "none",
            base_url=base_url,
            max_retries=0,  # see ask: the client's own retries know neither the budget nor our patience
            default_headers=headers,
            default_query=dict(config.query),
            http_client=transport.gated_client(
                self.gate,
                attempt_s=config.attempt_s,
                connections=config.concurrency,
                largest_bytes=config.largest_bytes,
            ),
        )

    def __repr__(self) -> str:
        return f"ServerTeacher({self.name!r}, {self.url})"

    @property
    def grace_s(self) -> float:
        """How long requests under way may still take when the job stops."""
        return self.config.attempt_s

    def halt(self) -> None:
        """Sends nothing more; requests under way may finish."""
        self.gate.close()

    async def close(self) -> None:
        """Closes all connections."""
        await self.client.close()

    async def wants_json(self, store: ReplyStore) -> bool:
        """Whether replies are to be asked for as JSON.

        With ``structured='auto'`` costs one tiny request, once: the store remembers, so that all runs ask alike.
        """
        if self.config.structured != "auto":
            return self.config.structured != "off"
        note = f"structured output {self.url} {self.model}"
        for name, value in store.notes(note):
            if name == note:
                return value == "on"
        probe = Request(
            record_id="",
            teacher=self.name,
            model=self.model,
            messages=(Message("user", 'Answer with the JSON object {"rationale": "test", "label": "test"}.'),),
            sampling=dataclasses.replace(self.config.sampling, max_tokens=64),
            schema=SCHEMA,
            extra=self.config.extra,
        )
        try:
            reply = await self._once(probe)
            value = json.loads(reply.choices[0].text)
            takes = isinstance(value, dict) and set(value) == {"rationale", "label"}
        except (RequestFailedError, ValueError):
            takes = False
        except TeacherStoppedError as error:
            if "structured" not in str(error):
                raise
            takes = False
        _log.info(
            "teacher %s: structured output %s", self.name, "on" if takes else "off, the server does not obey a schema"
        )
        store.note(note, "on" if takes else "off")
        return takes

    async def ask(self, request: Request) -> Reply:
        """Answers one request, however often that must be tried.

        Raises:
          RequestFailedError: it came to nothing: ``timeout``, ``no connection``, ``server error``, ``bad request``,
            ``broken JSON``, ``not UTF-8``, ``wrong schema``, ``reply too large``.
          TeacherStoppedError: the key, the model, the money or the server's patience is at fault.
        """
        estimate = request.characters / 4 + request.sampling.max_tokens * request.samples
        self._transport.request_tokens.set(estimate)
        bad = failed = 0
        while True:
            try:
                reply = await self._once(request)
            except RequestFailedError as error:
                reason = error.failure.reason
                if reason == "too many requests":  # the gate makes everybody wait
                    self._check_patience(error.failure, self.gate.pause)
                    continue
                if reason in _SERVER_FAULTS:
                    failed += 1
                    pause = min(_LONGEST_PAUSE_S, _SHORTEST_PAUSE_S * 2.0 ** (failed - 1)) * random.uniform(0.75, 1.0)
                    last = failed >= self.config.attempts
                    self._check_patience(error.failure, 0.0 if last else pause)
                    if last:
                        raise
                    await asyncio.sleep(pause)
                    continue
                if not (reason in _WORTH_ANOTHER_TRY and bad < self.config.bad_replies):
                    raise
            else:
                if reply.usage is not None:
                    self.gate.correct_tokens(reply.usage.total - estimate)
                if bad >= self.config.bad_replies or not _may_end_otherwise(request, reply):
                    return reply
                self._discard(reply.usage)
            bad += 1
            await asyncio.sleep(0.1 * 2**bad)

    def _discard(self, usage: Usage | None) -> None:
        reserved = cost.reservation.get()
        if reserved is not None:
            reserved.failed(usage)

    def _check_patience(self, failure: Failure, pause: float) -> None:
        """Raises TeacherStoppedError if nothing but failed attempts has come for too long, or will have after a pause."""
        now = time.monotonic()
        if self._trouble_since is None or self.gate.last_success > self._trouble_since:
            self._trouble_since = now
        waited = now - self._trouble_since
        if waited + pause > self.config.patience_s:
            refused = failure.reason == "too many requests"
            what = "has refused every request" if refused else f"has answered no request ({failure.reason})"
            remedy = "run again later, or set requests_per_minute" if refused else "run again later"
            raise TeacherStoppedError(
                f"teacher {self.name!r} {what} for {waited:.0f} s, of patience_s={self.config.patience_s:g} "
                f"({failure.detail}); {remedy}"
            )

    async def _once(self, request: Request) -> Reply:
        """One attempt. When it fails, its possible cost has been booked with the reservation."""
        openai, dialect = self._openai, self.dialect
        started = time.monotonic()
        try:
            content = await self._post(request, dialect)
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            raise self._stopped(f"does not accept the key in {self.config.api_key_env}", error) from None
        except openai.NotFoundError as error:
            what = f"has no model {self.model!r}, or no such endpoint"
            raise self._stopped(what, error, TeacherSettingsError) from None
        except openai.RateLimitError as error:
            if _no_money(error):
                raise self._stopped("says that the quota is used up", error) from None
            self._check_wait(error)
            raise RequestFailedError("too many requests", self._words(error)) from None
        except openai.InternalServerError as error:
            raise RequestFailedError("server error", self._words(error)) from None
        except openai.APIStatusError as error:
            words = self._words(error)
            if error.status_code == 402:
                raise self._stopped("wants to be paid", error) from None
            if error.status_code in (408, 409, 425):
                raise RequestFailedError("server error", words) from None
            if _is_filtered(error, words):
                raise RequestFailedError("refused", words) from None
            if _WRONG_MODEL.search(words):
                raise self._stopped(f"has no model {self.model!r}", error, TeacherSettingsError) from None
            if request.schema is not None and any(
                word in words for word in ("response_format", "json_schema", "schema")
            ):
                what = "does not take structured output: set structured='off'"
                raise self._stopped(what, error, TeacherSettingsError) from None
            field = unsupported_field(error.param, words, completion.body(request, dialect))
            if field is None:
                raise RequestFailedError("bad request", words) from None
            self._adapt(dialect, field, error)
            return await self._once(request)
        except openai.APITimeoutError as error:
            if self._transport.never_connected(error):
                raise RequestFailedError("no connection", self._cause(error)) from None
            detail = f"no reply within {self.config.attempt_s:g} s, in {self.config.attempts} attempts"
            raise RequestFailedError("timeout", detail) from None
        except openai.APIConnectionError as error:
            raise RequestFailedError("no connection", self._cause(error)) from None
        except self._transport.NotSentError as error:
            raise RequestFailedError("not asked", str(error)) from None
        except self._transport.ReplyTooLargeError as error:
            raise RequestFailedError("reply too large", str(error)) from None
        try:
            reply = completion.read(
                completion.decode(content),
                key=request.key,
                model=request.model,
                samples=request.samples,
                seconds=time.monotonic() - started,
            )
        except RequestFailedError as error:
            failure = error.failure
            self._discard(error.usage)
            raise RequestFailedError(failure.reason, self.redact(failure.detail), self.redact(failure.raw)) from None
        return self._clean(reply)

    def _clean(self, reply: Reply) -> Reply:
        choices = tuple(
            Choice(self.redact(choice.text), self.redact(choice.finish), self.redact(choice.note))
            for choice in reply.choices
        )
        return dataclasses.replace(reply, choices=choices, model=self.redact(reply.model))

    def _adapt(self, used: Dialect, field: str, error: Any) -> None:
        """Leaves out a field that the server rejects, from now on, where the request stays the same; else stops the job.

        Raises:
          TeacherSettingsError: the field changes the replies, so the user must decide to leave it out.
        """
        if field in _LENGTH_FIELDS:
            other = next(name for name in _LENGTH_FIELDS if name != used.max_tokens_field)
            adapted, what = dataclasses.replace(used, max_tokens_field=other), f"{other} is sent instead of {field}"
        elif field == "stop":
            adapted, what = dataclasses.replace(used, send_stop=False), "no stop strings are sent; replies are cut here"
        else:
            flag = _WITHOUT.get(field, f"leave out {field!r}")
            raise self._stopped(f"does not take the field {field!r}: {flag}", error, TeacherSettingsError)
        if self.dialect == used:  # else another request has found out meanwhile
            if (kind := "length" if field in _LENGTH_FIELDS else field) in self._adapted:
                raise self._stopped(f"takes none of {', '.join(_LENGTH_FIELDS)}", error, TeacherSettingsError)
            self._adapted.add(kind)
            self.dialect = adapted
            _log.warning("teacher %s: the server does not take %s: %s", self.name, field, what)

    async def _post(self, request: Request, dialect: Dialect) -> bytes:
        # By the client's general ``post``: its typed methods check every message, which takes 60 % of the CPU time.
        response = await self.client.post(
            "/chat/completions" if self.config.endpoint == "chat" else "/completions",
            cast_to=self._transport.Response,
            body=completion.body(request, dialect),
            # The same key after a restart: a gateway that honours it charges once even for a reply that never arrived.
            options={"headers": {"Idempotency-Key": request.key}},
        )
        return response.content

    def _words(self, error: Any) -> str:
        words = str(error.message).removeprefix(f"Error code: {error.status_code} - ")
        return self.redact(f"HTTP {error.status_code}: {words}"[:500])

    def _cause(self, error: Any) -> str:
        cause = error.__cause__
        return self.redact(f"{type(cause).__name__}: {cause}" if cause is not None else str(error))

    def _stopped(self, what: str, error: Any, kind: type[TeacherError] = TeacherStoppedError) -> TeacherError:
        return kind(f"teacher {self.name!r} at {self.url} {what} ({self._words(error)})")

    def _check_wait(self, error: Any) -> None:
        wait = self._transport.retry_after(error.response.headers)
        if wait is not None and wait > self.config.patience_s:
            raise self._stopped(f"asks to wait {wait:.0f} s, longer than patience_s={self.config.patience_s:g}", error)


_SERVER_FAULTS = ("server error", "timeout", "no connection")
_WORTH_ANOTHER_TRY = ("broken JSON", "not UTF-8", "wrong schema")
_SHORTEST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 8.0
_SECRET_NAME = re.compile(r"key|token|secret|passw|authorization|cookie|signature|\bsig\b", re.IGNORECASE)
_LENGTH_FIELDS = ("max_tokens", "max_completion_tokens")
_WITHOUT = {
    "temperature": "give --temperature=none (Sampling(temperature=None))",
    "seed": "set Sampling(seed=None)",
    "top_p": "set Sampling(top_p=None)",
    "n": "set samples_at_once=False",
}
_WRONG_MODEL = re.compile(
    r"(?:model|deployment)\b[^.\n]{0,120}?\b(?:not found|does not exist|doesn't exist|not a valid model)"
    r"|(?:invalid|unknown) model\b|not a valid model",
    re.IGNORECASE,
)
_NOT_TAKEN = re.compile(
    r"unsupported|not supported|does not support|doesn't support|unrecognized|unknown|extra inputs|extra_forbidden"
    r"|not permitted|not allowed|unexpected",
    re.IGNORECASE,
)


def unsupported_field(named: Any, words: str, body: Mapping[str, Any]) -> str | None:
    """The field of a request's body that a server rejects as unsupported, or None.

    Args:
      named: the error's ``param``.
      words: the error's text; a field in quotes counts.
      body: what was sent.

    >>> unsupported_field(None, "Unsupported parameter: 'stop' is not supported.", {"stop": ["x"]})
    'stop'
    """
    if not _NOT_TAKEN.search(words):
        return None
    fields = [name for name in body if name not in ("model", "messages", "prompt")]
    if isinstance(named, str) and named in fields:
        return named
    places = {name: re.search(rf"['\"`]{re.escape(name)}['\"`]", words) for name in fields}
    found = {name: place.start() for name, place in places.items() if place is not None}
    return min(found, key=lambda name: found[name]) if found else None


def _is_filtered(error: Any, words: str) -> bool:
    """Whether a request was refused for its content."""
    return error.code == "content_filter" or "content management policy" in words or "ResponsibleAI" in words


def _may_end_otherwise(request: Request, reply: Reply) -> bool:
    """Whether the same request may get a better reply: this one is empty for no reason, and the teacher draws at random."""
    empty = all(choice.finish == END and not choice.text.strip() and not choice.note for choice in reply.choices)
    return empty and request.sampling.temperature != 0


def _check_url(url: str) -> None:
    """Refuses what the client cannot use or what would end up in configuration files; never shows the offending part."""
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"base_url must begin with http:// or https://; got {redaction.public_url(url)!r}")
    if redaction.public_url(url) != url:
        raise ValueError(
            f"base_url ({redaction.public_url(url)}) must not hold a user, password or query: it is written to reports. "
            "Secrets go into environment variables that api_key_env and headers_env name; anything else of the query into "
            "query (--query=NAME=VALUE)"
        )


def _no_money(error: Any) -> bool:
    return "insufficient_quota" in (error.code, error.type) or "billing" in str(error.code)
