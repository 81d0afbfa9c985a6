"""Conversion between requests and replies and the JSON bodies of the OpenAI protocol."""

import dataclasses
import datetime
import json
from collections.abc import Mapping
from typing import Any, Literal

from distill.teacher.clients.replies import (
    END,
    FILTERED,
    LENGTH,
    REFUSED,
    THOUGHT,
    TOOL_CALL,
    Candidate,
    Reply,
    Request,
    RequestFailedError,
    Usage,
)
from distill.validation import quoted

Endpoint = Literal["chat", "completions"]
ENDPOINTS: tuple[Endpoint, ...] = ("chat", "completions")
_RAW = 2000  # characters of an unreadable body to keep
_MOST_STOPS = 4  # the hosted API's limit


@dataclasses.dataclass(frozen=True)
class Dialect:
    """Differences between OpenAI-compatible servers.

    Attributes:
      endpoint: ``chat`` or ``completions``.
      max_tokens_field: ``max_tokens``, or ``max_completion_tokens`` for hosted reasoning models.
      send_stop: whether to send stop strings.
      json_object: request a JSON object without a schema, for servers that do not support schemas.
    """

    endpoint: Endpoint = "chat"
    max_tokens_field: str = "max_tokens"
    send_stop: bool = True
    json_object: bool = False


def body(request: Request, dialect: Dialect) -> dict[str, Any]:
    """The JSON to send for ``request``."""
    sampling = request.sampling
    fields: dict[str, Any] = {"model": request.model}
    if dialect.endpoint == "chat":
        fields["messages"] = [{"role": message.role, "content": message.content} for message in request.messages]
    else:
        fields["prompt"] = request.prompt
    fields[dialect.max_tokens_field] = sampling.max_tokens
    for name, value in (("temperature", sampling.temperature), ("top_p", sampling.top_p), ("seed", request.seed)):
        if value is not None:
            fields[name] = value
    if request.samples > 1:
        fields["n"] = request.samples
    if request.stop and dialect.send_stop:
        fields["stop"] = list(request.stop[:_MOST_STOPS])
    if request.schema is not None:
        schema = {"name": "explained_answer", "strict": True, "schema": dict(request.schema)}
        fields["response_format"] = (
            {"type": "json_object"} if dialect.json_object else {"type": "json_schema", "json_schema": schema}
        )
    return fields | dict(request.extra)


def printable(text: str) -> str:
    """``text`` as valid UTF-8: unpaired surrogates become U+FFFD, and NUL is removed."""
    return text.encode("utf-8", "replace").decode().replace("\0", "") if not text.isascii() or "\0" in text else text


def decode(content: bytes) -> Any:
    """The JSON in a body.

    Raises:
      RequestFailedError: ``not UTF-8`` or ``broken JSON``.
    """
    try:
        return json.loads(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raw = content[:_RAW].decode("utf-8", "backslashreplace")
        raise RequestFailedError("not UTF-8", str(error), raw, perhaps_paid=True) from None
    except (ValueError, RecursionError) as error:
        raw = content[:_RAW].decode("utf-8", "replace")
        raise RequestFailedError("broken JSON", str(error), raw, perhaps_paid=True) from None


def read(value: Any, *, key: str, model: str = "", samples: int | None = 1, seconds: float = 0.0) -> Reply:
    """The reply in a decoded response body.

    Args:
      value: the JSON of a chat completion or a completion.
      key: the request's key.
      model: the model in the request, used if the body names none.
      samples: number of texts requested; None: accept any number.
      seconds: duration of the request.

    Raises:
      RequestFailedError: ``wrong schema``; ``server error`` if the body reports an error under a success status.
    """
    usage = _usage(value.get("usage")) if isinstance(value, Mapping) else None

    def wrong(what: str, reason: str = "wrong schema") -> RequestFailedError:
        return RequestFailedError(reason, what, json.dumps(value)[:_RAW], perhaps_paid=True, usage=usage)

    if not isinstance(value, Mapping):
        raise wrong(f"expected a JSON object; got {type(value).__name__}")
    choices = value.get("choices")
    if not choices and value.get("error"):
        raise wrong(error_words(value), "server error")
    if not isinstance(choices, list) or not choices:
        raise wrong(f"expected a list of choices; got {quoted(str(choices))}")
    if samples is not None and len(choices) < samples:
        raise wrong(f"expected {samples} choices; got {len(choices)}")
    texts = []
    for choice in choices[:samples]:
        try:
            texts.append(_candidate(choice))
        except _CandidateError as error:
            raise wrong(str(error), "server error") from None
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise wrong(f"a choice has no text ({error})") from None
    answered_by = value.get("model")
    return Reply(
        key=key,
        candidates=tuple(texts),
        model=printable(answered_by) if isinstance(answered_by, str) else model,
        usage=usage,
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        seconds=seconds,
    )


def error_words(value: Any) -> str:
    """The error message in a JSON error body, in OpenAI's form or that of another server."""
    if isinstance(value, list) and value:  # Gemini
        value = value[0]
    error = value.get("error", value) if isinstance(value, Mapping) else value
    if isinstance(error, Mapping):
        words = error.get("message") or error.get("detail") or error.get("code")
        return printable(words if isinstance(words, str) else json.dumps(error)[:500])
    return printable(str(error))


class _CandidateError(Exception):
    """A choice in a response body that holds a server error instead of a reply."""


# Other servers' names of the finish reasons; names not listed are kept.
_FINISHES: Mapping[str, str] = {
    "stop": END,
    "eos": END,
    "eos_token": END,
    "end_turn": END,
    "stop_sequence": END,
    "length": LENGTH,
    "max_tokens": LENGTH,
    "max_output_tokens": LENGTH,
    "model_length": LENGTH,
    "model_context_window_exceeded": LENGTH,
    "content_filter": FILTERED,
    "content_filtered": FILTERED,
    "safety": FILTERED,
    "recitation": FILTERED,
    "prohibited_content": FILTERED,
    "blocklist": FILTERED,
    "spii": FILTERED,
    "refusal": REFUSED,
}


def finish_of(value: Any) -> str:
    """The finish reason under OpenAI's name; END if the server gives none.

    >>> finish_of("MAX_TOKENS"), finish_of("eos_token"), finish_of(None)
    ('length', 'stop', 'stop')
    """
    if not value:
        return END
    return _FINISHES.get(str(value).lower(), printable(str(value)))


def _candidate(choice: Mapping[str, Any]) -> Candidate:
    finish = finish_of(choice.get("finish_reason"))
    message = choice.get("message")
    if message is None and "text" in choice:  # the completions endpoint
        message = {"content": choice["text"]}
    if not isinstance(message, Mapping):
        raise ValueError(f"expected a message; got {type(message).__name__}")
    if finish == "error" or (choice.get("error") and not message.get("content")):
        raise _CandidateError(error_words(choice) if choice.get("error") else "the reply ended with an error")
    text, thoughts, refusal = _parts(message.get("content"))
    refused = message.get("refusal")
    if isinstance(refused, str) and refused.strip() and not text.strip():
        refusal = refused
    if refusal and not text.strip():
        return Candidate(printable(refusal), REFUSED)
    note = ""
    if not text.strip():
        thoughts = thoughts or next(filter(None, (_parts(message.get(name))[0] for name in _THOUGHT_FIELDS)), "")
        note = _tool_call(message) or (THOUGHT + thoughts[:_RAW] if thoughts.strip() else "")
    return Candidate(printable(text), finish, printable(note))


_THOUGHT_FIELDS = ("reasoning_content", "reasoning", "thinking")
_TEXT_PARTS = ("text", "output_text", None)
_THOUGHT_PARTS = ("thinking", "reasoning", "reasoning_text", "redacted_thinking", "summary_text")


def _parts(content: Any) -> tuple[str, str, str]:
    """Text, thoughts and refusal in a message's content, which is a string, null, or a list of typed parts.

    Raises:
      ValueError: the content has another type.
    """
    if content is None:
        return "", "", ""
    if isinstance(content, str):
        return content, "", ""
    if isinstance(content, Mapping):
        content = [content]
    if not isinstance(content, list):
        raise ValueError(f"expected a string or a list of parts; got {type(content).__name__}")
    text, thoughts, refusal = [], [], []
    for part in content:
        if isinstance(part, str):
            text.append(part)
            continue
        if not isinstance(part, Mapping):
            raise ValueError(f"expected a part of a message; got {type(part).__name__}")
        kind = part.get("type")
        if kind in _TEXT_PARTS and not part.get("thought"):
            if isinstance(part.get("text"), str):
                text.append(part["text"])
        elif kind in _THOUGHT_PARTS or part.get("thought"):
            thoughts.append("".join(str(value) for name, value in part.items() if name not in ("type", "signature")))
        elif kind == "refusal":
            refusal.append(str(part.get("refusal", "")))
    return "".join(text), "".join(thoughts), "".join(refusal)


def _tool_call(message: Mapping[str, Any]) -> str:
    """The first tool call of a message, for the failures file, or ""."""
    calls = message.get("tool_calls") or ([{"function": call}] if (call := message.get("function_call")) else [])
    if not isinstance(calls, list) or not calls or not isinstance(calls[0], Mapping):
        return ""
    function = calls[0].get("function")
    function = function if isinstance(function, Mapping) else {}
    return f"{TOOL_CALL}{function.get('name', '?')}({str(function.get('arguments', ''))[:_RAW]})"


def _usage(value: Any) -> Usage | None:
    """Prompt and completion tokens, under OpenAI's or Anthropic's names."""
    if not isinstance(value, Mapping):
        return None
    read = value.get("prompt_tokens", value.get("input_tokens"))
    written = value.get("completion_tokens", value.get("output_tokens"))
    if isinstance(read, int) and isinstance(written, int) and min(read, written) >= 0:
        total = value.get("total_tokens")
        if isinstance(total, int) and total > read + written:
            written = total - read  # Gemini omits thoughts from completion_tokens but charges them as output
        return Usage(read, written)
    return None
