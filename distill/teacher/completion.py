"""The OpenAI-style request body of a request, and the reply in a response body; one place for every way of sending."""

import dataclasses
import datetime
import json
from collections.abc import Mapping
from typing import Any, Literal

from distill.teacher.replies import END, FILTERED, Choice, Reply, Request, RequestFailedError, Usage

Endpoint = Literal["chat", "completions"]
ENDPOINTS: tuple[Endpoint, ...] = ("chat", "completions")
REFUSED = "refusal"
_RAW = 2000  # characters of a broken body that are kept
_MOST_STOPS = 4  # what the hosted API takes


@dataclasses.dataclass(frozen=True)
class Dialect:
    """In what servers of this kind differ.

    Attributes:
      endpoint: ``chat`` or ``completions``.
      max_tokens_field: ``max_tokens``, or ``max_completion_tokens`` for hosted reasoning models.
      send_stop: whether the server takes stop strings.
      json_object: ask for a JSON object without a schema, where the server knows that much only.
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
    """``text`` that can be encoded: halves of surrogate pairs become U+FFFD, and NUL goes."""
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
      model: the model that was asked.
      samples: how many texts were asked for; None: take all there are.
      seconds: how long it took.

    Raises:
      RequestFailedError: ``wrong schema``.
    """

    def wrong(what: str) -> RequestFailedError:
        return RequestFailedError("wrong schema", what, json.dumps(value)[:_RAW], perhaps_paid=True)

    if not isinstance(value, Mapping):
        raise wrong(f"expected a JSON object; got {type(value).__name__}")
    choices = value.get("choices")
    if not isinstance(choices, list) or not choices:
        raise wrong(f"expected a list of choices; got {str(choices)[:80]!r}")
    if samples is not None and len(choices) < samples:
        raise wrong(f"asked for {samples} choices; got {len(choices)}")
    texts = []
    for choice in choices[:samples]:
        try:
            texts.append(_choice(choice))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise wrong(f"a choice without text ({error})") from None
    answered_by = value.get("model")
    return Reply(
        key=key,
        choices=tuple(texts),
        model=printable(answered_by) if isinstance(answered_by, str) else model,
        usage=_usage(value.get("usage")),
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        seconds=seconds,
    )


def _choice(choice: Mapping[str, Any]) -> Choice:
    finish = choice.get("finish_reason") or END
    message = choice.get("message")
    text = choice["text"] if message is None else message.get("content")
    if message is not None and text is None and isinstance(message.get("refusal"), str):
        text, finish = message["refusal"], REFUSED
    if text is None and finish == FILTERED:
        text = ""
    if not isinstance(text, str):
        raise ValueError(f"expected a string; got {type(text).__name__}")
    return Choice(printable(text), str(finish))


def _usage(value: Any) -> Usage | None:
    if not isinstance(value, Mapping):
        return None
    read, written = value.get("prompt_tokens"), value.get("completion_tokens")
    if isinstance(read, int) and isinstance(written, int) and min(read, written) >= 0:
        return Usage(read, written)
    return None
