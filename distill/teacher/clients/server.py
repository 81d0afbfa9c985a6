"""A teacher on any OpenAI-compatible server: vLLM, TGI, llama.cpp, Ollama, hosted APIs."""

import asyncio
import dataclasses
import json
import logging
import os
import random
import time

from distill.counting import counted
from distill.teacher.clients import completion, cost, redaction
from distill.teacher.clients.completion import Dialect
from distill.teacher.clients.gate import Gate
from distill.teacher.clients.replies import (
    END,
    SCHEMA,
    Candidate,
    Failure,
    Message,
    Reply,
    Request,
    RequestFailedError,
    TeacherSettingsError,
    TeacherStoppedError,
    Usage,
)
from distill.teacher.clients.server_config import ServerConfig, check_url
from distill.teacher.clients.server_errors import (
    LENGTH_FIELDS,
    NO_SCHEMA,
    WITHOUT,
    ErrorTranslator,
    UnsupportedFieldError,
    without_field,
)
from distill.teacher.clients.store import ReplyStore

_log = logging.getLogger(__name__)
_SERVER_FAULTS = ("server error", "timeout", "no connection")
_WORTH_ANOTHER_TRY = ("broken JSON", "not UTF-8", "wrong schema")
_SHORTEST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 8.0


class ServerTeacher:
    """Sends requests to an OpenAI-compatible server; see :class:`ServerConfig`. Use it within one event loop.

    Raises:
      TeacherSettingsError: a required key is not in the environment, or the openai package is missing.
    """

    def __init__(self, config: ServerConfig):
        try:
            import openai

            from distill.teacher.clients import transport
        except ImportError as error:
            raise TeacherSettingsError(
                f"a teacher on a server needs the openai package: pip install 'distill-step-by-step[teacher]' ({error})"
            ) from None

        self.config = config
        self.model = config.model_key()
        self.name = config.called
        self.parallel = config.concurrency + min(16, config.concurrency)  # some requests wait at the gate
        self.give_up_after: int | None = config.give_up_after
        self.gate = Gate(
            config.concurrency,
            requests_per_minute=config.requests_per_minute,
            tokens_per_minute=config.tokens_per_minute,
            patience_s=config.patience_s,
        )
        base_url = config.base_url or os.environ.get("OPENAI_BASE_URL") or None
        if base_url is not None:
            check_url(base_url)
        key = redaction.secret_from_environment(config.api_key_env)
        if key is None and base_url is None:
            raise TeacherSettingsError(
                f"teacher {self.name!r}: the environment variable {config.api_key_env} holds no API key; set it, or set "
                "base_url if the server needs no key"
            )
        headers = dict(config.headers)
        secrets = []
        for header, variable in config.headers_env.items():
            value = redaction.secret_from_environment(variable)
            if value is None:
                raise TeacherSettingsError(
                    f"teacher {self.name!r}: header {header} needs the environment variable {variable}, which is not set"
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
        self._errors = ErrorTranslator(config, self.url, self.redact)
        self._transport = transport
        self._adapted: set[str] = set()
        self.client = openai.AsyncOpenAI(
            api_key=key or "none",
            base_url=base_url,
            max_retries=0,  # ask() retries: the client's retries would ignore budget and patience_s
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
        """Seconds that running requests may still take after the job was stopped."""
        return min(self.config.attempt_s, self.config.patience_s)

    def halt(self) -> None:
        """Starts no further request; running requests may finish."""
        self.gate.close()

    async def close(self) -> None:
        """Closes all connections."""
        await self.client.close()

    @property
    def running(self) -> int | None:
        """The requests on their way; others wait at the gate, or for their next attempt."""
        return self.gate.active

    async def wants_json(self, store: ReplyStore) -> bool:
        """Whether replies are requested as JSON.

        ``structured='auto'`` costs one small request, once: the store remembers the result for later runs. A request that
        fails for another reason than its schema tells nothing about the server.

        Raises:
          TeacherStoppedError: as :meth:`ask`; also if the request failed, after the retries.
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
            takes = _is_object((await self.ask(probe)).candidates[0].text)
        except RequestFailedError as error:
            if error.failure.reason != "bad request":
                raise TeacherStoppedError(
                    f"teacher {self.name!r} could not be tested for structured output ({error}); run the same command "
                    "again later, or set structured='off' or 'json_schema'"
                ) from None
            takes = False
        except TeacherSettingsError as error:
            if NO_SCHEMA not in str(error):
                raise
            takes = False
        _log.info(
            "teacher %s: structured output %s", self.name, "on" if takes else "off, the server does not obey a schema"
        )
        store.note(note, "on" if takes else "off")
        return takes

    async def ask(self, request: Request) -> Reply:
        """Answers one request, with retries.

        Raises:
          RequestFailedError: it failed: ``timeout``, ``no connection``, ``server error``, ``bad request``,
            ``broken JSON``, ``not UTF-8``, ``wrong schema``, ``reply too large``.
          TeacherSettingsError: wrong key or model, or an unsupported field.
          TeacherStoppedError: quota used up, or no success for ``patience_s``.
        """
        estimate = request.characters / 4 + request.sampling.max_tokens * request.samples
        self._transport.request_tokens.set(estimate)
        bad = failed = 0
        while True:
            try:
                reply = await self._once(request)
            except RequestFailedError as error:
                reason = error.failure.reason
                if reason == "too many requests":  # the gate delays all requests
                    self._check_patience(error.failure, self.gate.pause)
                    self._repeated(reason)
                    continue
                if reason in _SERVER_FAULTS:
                    failed += 1
                    pause = min(_LONGEST_PAUSE_S, _SHORTEST_PAUSE_S * 2.0 ** (failed - 1)) * random.uniform(0.75, 1.0)
                    last = failed >= self.config.attempts
                    # Other requests may be answered during the pause, so the rest of the patience is waited for.
                    wait = 0.0 if last else min(pause, max(0.0, self.gate.patience))
                    await asyncio.sleep(wait)
                    self._check_patience(error.failure, 0.0 if last else pause - wait)
                    if last:
                        detail = f"{error.failure.detail}, in {counted(failed, 'attempt')}"
                        raise RequestFailedError(reason, detail, error.failure.raw) from None
                    self._repeated(reason)
                    continue
                if reason in _WORTH_ANOTHER_TRY:
                    self._check_patience(error.failure, 0.0)
                if not (reason in _WORTH_ANOTHER_TRY and bad < self.config.bad_replies):
                    raise
                self._repeated(reason)
            else:
                if reply.usage is not None:
                    self.gate.correct_tokens(reply.usage.total - estimate)
                if bad >= self.config.bad_replies or not _may_end_otherwise(request, reply):
                    return reply
                self._discard(reply.usage)
                self._repeated("empty reply")
            bad += 1
            await asyncio.sleep(0.1 * 2**bad)

    def _discard(self, usage: Usage | None) -> None:
        reserved = cost.reservation.get()
        if reserved is not None:
            reserved.failed(usage)

    def _repeated(self, reason: str) -> None:
        reserved = cost.reservation.get()
        if reserved is not None:
            reserved.repeated(reason)

    def _check_patience(self, failure: Failure, pause: float) -> None:
        """Raises TeacherStoppedError if the coming pause would exceed the gate's patience."""
        if pause >= self.gate.patience:
            waited = self.gate.troubled
            refused = failure.reason == "too many requests"
            what = "has refused every request" if refused else f"has answered no request ({failure.reason})"
            longer = f", and its next pause of {pause:.0f} s is longer than the rest" if refused and pause else ""
            remedy = "run again later, or set requests_per_minute" if refused else "run again later"
            raise TeacherStoppedError(
                f"teacher {self.name!r} {what} for {waited:.0f} s, of patience_s={self.config.patience_s:g}{longer} "
                f"({failure.detail}); {remedy}"
            )

    async def _once(self, request: Request) -> Reply:
        """One attempt. The possible cost of a failure is charged to the reservation."""
        dialect = self.dialect
        started = time.monotonic()
        try:
            content = await self._post(request, dialect)
        except self._openai.OpenAIError as error:
            translated = self._errors.translate(error, request, completion.body(request, dialect))
            if not isinstance(translated, UnsupportedFieldError):
                raise translated from None
            self._adapt(dialect, translated.field, error)
            return await self._once(request)
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
            if failure.reason in _WORTH_ANOTHER_TRY:
                self.gate.failed(self._transport.admitted.get())
            self._discard(error.usage)
            raise RequestFailedError(failure.reason, self.redact(failure.detail), self.redact(failure.raw)) from None
        self.gate.replied()
        return self._clean(reply)

    def _clean(self, reply: Reply) -> Reply:
        candidates = tuple(
            Candidate(self.redact(each.text), self.redact(each.finish), self.redact(each.note))
            for each in reply.candidates
        )
        return dataclasses.replace(reply, candidates=candidates, model=self.redact(reply.model))

    def _adapt(self, used: Dialect, field: str, error: Exception) -> None:
        """Stops sending a field that the server rejects if the replies stay the same; otherwise stops the job.

        Raises:
          TeacherSettingsError: leaving out the field changes the replies, so the user must decide.
        """
        found = without_field(used, field)
        if found is None:
            flag = WITHOUT.get(field, f"leave out {field!r}")
            raise self._errors.stopped(f"does not support the field {field!r}: {flag}", error, TeacherSettingsError)
        if self.dialect == used:  # otherwise a concurrent request has adapted it
            if (kind := "length" if field in LENGTH_FIELDS else field) in self._adapted:
                what = f"supports none of {', '.join(LENGTH_FIELDS)}"
                raise self._errors.stopped(what, error, TeacherSettingsError)
            self._adapted.add(kind)
            self.dialect, what = found
            _log.warning("teacher %s: the server does not support %s: %s", self.name, field, what)

    async def _post(self, request: Request, dialect: Dialect) -> bytes:
        # The client's typed methods validate every message, which takes 60 % of the CPU time; ``post`` does not.
        response = await self.client.post(
            "/chat/completions" if self.config.endpoint == "chat" else "/completions",
            cast_to=self._transport.Response,
            body=completion.body(request, dialect),
            # The key is the same after a restart: a gateway that honours it charges once even if the reply was lost.
            options={"headers": {"Idempotency-Key": request.key}},
        )
        return response.content


def _is_object(text: str) -> bool:
    """Whether a reply is the JSON object that the schema describes."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and set(value) == {"rationale", "label"}


def _may_end_otherwise(request: Request, reply: Reply) -> bool:
    """Whether a retry may give a better reply: this one is empty without a reason, and sampling is random."""
    empty = all(each.finish == END and not each.text.strip() and not each.note for each in reply.candidates)
    return empty and request.sampling.temperature != 0
