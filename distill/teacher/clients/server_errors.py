"""Classification of server errors: a failed request, the end of the job, or an unsupported request field."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

from distill.teacher.clients.completion import Dialect
from distill.teacher.clients.replies import (
    Request,
    RequestFailedError,
    TeacherError,
    TeacherSettingsError,
    TeacherStoppedError,
)
from distill.teacher.clients.server_config import ServerConfig

LENGTH_FIELDS = ("max_tokens", "max_completion_tokens")
NO_SCHEMA = "does not support structured output: set structured='off'"
WITHOUT = {
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
      words: the error's text, searched for quoted field names.
      body: the JSON body that was sent.

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


class UnsupportedFieldError(Exception):
    """The server rejects a field of the request.

    Attributes:
      field: name of the field.
      cause: the client's exception.
    """

    def __init__(self, field: str, cause: Any):
        super().__init__(field)
        self.field, self.cause = field, cause


def without_field(dialect: Dialect, field: str) -> tuple[Dialect, str] | None:
    """The dialect that avoids an unsupported field without changing the replies, and a sentence for the log.

    Args:
      dialect: the dialect of the rejected request.
      field: the field that the server rejects.

    Returns:
      None if leaving out the field changes the replies, so that the user must decide.

    >>> without_field(Dialect(), "stop")[1]
    'stop strings are not sent; replies are truncated locally'
    >>> without_field(Dialect(), "seed") is None
    True
    """
    if field in LENGTH_FIELDS:
        other = next(name for name in LENGTH_FIELDS if name != dialect.max_tokens_field)
        return dataclasses.replace(dialect, max_tokens_field=other), f"{other} is sent instead of {field}"
    if field == "stop":
        return dataclasses.replace(dialect, send_stop=False), "stop strings are not sent; replies are truncated locally"
    return None


class ErrorTranslator:
    """Translates exceptions of the OpenAI client into the exceptions of :mod:`distill.teacher.clients.replies`.

    Args:
      config: the server's configuration.
      url: the server's address, without secrets.
      redact: removes secrets from a text.
    """

    def __init__(self, config: ServerConfig, url: str, redact: Callable[[str], str]):
        import openai

        from distill.teacher.clients import transport

        self._openai, self._transport = openai, transport
        self._config, self._url, self._redact = config, url, redact

    def translate(self, error: Exception, request: Request, body: Mapping[str, Any]) -> Exception:
        """The exception to raise instead of ``error``.

        Args:
          error: the exception that the client raised.
          request: the request that failed.
          body: the JSON body that was sent.

        Returns:
          A RequestFailedError, TeacherStoppedError or TeacherSettingsError; an UnsupportedFieldError if the request
          can be repeated without a field; ``error`` itself if its meaning is not known.
        """
        openai, transport = self._openai, self._transport
        if isinstance(error, openai.APIStatusError):
            return self._of_status(error, request, body)
        if isinstance(error, openai.APITimeoutError) and not transport.never_connected(error):
            seconds = min(self._config.attempt_s, self._config.patience_s)
            return RequestFailedError("timeout", f"no reply within {seconds:g} s")
        if isinstance(error, openai.APIConnectionError):
            cause = error.__cause__
            words = f"{type(cause).__name__}: {cause}" if cause is not None else str(error)
            return RequestFailedError("no connection", self._redact(words))
        if isinstance(error, transport.NotSentError):
            return RequestFailedError("not sent", str(error))
        if isinstance(error, transport.ReplyTooLargeError):
            return RequestFailedError("reply too large", str(error))
        return error

    def stopped(self, what: str, error: Any, kind: type[TeacherError] = TeacherStoppedError) -> TeacherError:
        """An exception that stops the job: ``what`` is the predicate of the sentence about the server."""
        return kind(f"teacher {self._config.called!r} at {self._url} {what} ({self._words(error)})")

    def _of_status(self, error: Any, request: Request, body: Mapping[str, Any]) -> Exception:
        openai, words = self._openai, self._words(error)
        model = self._config.model
        if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
            return self.stopped(f"does not accept the key in {self._config.api_key_env}", error, TeacherSettingsError)
        if isinstance(error, openai.NotFoundError):
            return self.stopped(f"has no model {model!r}, or no such endpoint", error, TeacherSettingsError)
        if isinstance(error, openai.RateLimitError):
            return self._of_rate_limit(error)
        if isinstance(error, openai.InternalServerError) or error.status_code in (408, 409, 425):
            return RequestFailedError("server error", words)
        if error.status_code == 402:
            return self.stopped("requires payment", error)
        if error.code == "content_filter" or "content management policy" in words or "ResponsibleAI" in words:
            return RequestFailedError("refused", words)
        if _WRONG_MODEL.search(words):
            return self.stopped(f"has no model {model!r}", error, TeacherSettingsError)
        if request.schema is not None and any(word in words for word in ("response_format", "json_schema", "schema")):
            return self.stopped(NO_SCHEMA, error, TeacherSettingsError)
        field = unsupported_field(error.param, words, body)
        return RequestFailedError("bad request", words) if field is None else UnsupportedFieldError(field, error)

    def _of_rate_limit(self, error: Any) -> Exception:
        if "insufficient_quota" in (error.code, error.type) or "billing" in str(error.code):
            return self.stopped("reports that the quota is used up", error)
        wait, patience_s = self._transport.retry_after(error.response.headers), self._config.patience_s
        if wait is not None and wait > patience_s:
            return self.stopped(f"requests a pause of {wait:.0f} s, longer than patience_s={patience_s:g}", error)
        return RequestFailedError("too many requests", self._words(error))

    def _words(self, error: Any) -> str:
        words = str(error.message).removeprefix(f"Error code: {error.status_code} - ")
        return self._redact(f"HTTP {error.status_code}: {words}"[:500])
