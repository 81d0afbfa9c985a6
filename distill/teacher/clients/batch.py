"""The batch API of OpenAI-compatible services: all requests in one file, all replies in another, cheaper and later."""

import asyncio
import io
import json
import logging
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any

from distill.teacher.clients import completion
from distill.teacher.clients.replies import Failure, Reply, Request, RequestFailedError, TeacherStoppedError, digest
from distill.teacher.clients.server import ServerTeacher
from distill.teacher.clients.store import ReplyStore

_MOST_REQUESTS = 50_000  # the hosted API's limits for one batch
_MOST_BYTES = 190 * 2**20
_OPEN = "open batch "  # the store's notes of batches whose replies are not in yet
_METADATA = "distill_requests"
_ENDED = ("completed", "failed", "expired", "cancelled")

_log = logging.getLogger(__name__)


class BatchTeacher(ServerTeacher):
    """As :class:`ServerTeacher`, but through files. A job that was killed goes on with the batches it had sent."""

    async def ask_batch(
        self, requests: Sequence[Request], store: ReplyStore
    ) -> AsyncIterator[tuple[str, Reply | Failure]]:
        """Yields ``(key, outcome)`` for every request, in the order in which they come back.

        Args:
          requests: what to ask, with distinct keys.
          store: also remembers which batches are on their way. A reply is expected to be in the store when the next
            one is asked for.

        Raises:
          TeacherStoppedError: the service refuses the batch.
        """
        wanted = {request.key: request for request in requests}
        note = f"{_OPEN}{self.url} "
        for name, batch_id in store.notes(note):
            _log.info("teacher %s: going on with batch %s", self.name, batch_id)
            async for key, outcome in self._outcomes(batch_id, wanted):
                if not isinstance(outcome, Reply):
                    continue  # asked again below
                if key in wanted:
                    del wanted[key]
                    yield key, outcome
                else:  # paid for by a job with other rows
                    await store.put(outcome, record="", teacher=self.name)
            store.note(name, None)
        for part in _parts(list(wanted.values()), self._line):
            by_key = {request.key: request for request in part}
            batch_id = await self._send(part)
            store.note(note + batch_id, batch_id)
            async for key, outcome in self._outcomes(batch_id, by_key):
                if by_key.pop(key, None) is not None:
                    yield key, outcome
            for key in by_key:
                yield key, Failure("not answered", f"batch {batch_id} ended without it")
            store.note(note + batch_id, None)

    def _line(self, request: Request) -> bytes:
        chat = self.config.endpoint == "chat"
        row = {
            "custom_id": request.key,
            "method": "POST",
            "url": "/v1/chat/completions" if chat else "/v1/completions",
            "body": completion.body(request, self.dialect),
        }
        return json.dumps(row).encode() + b"\n"

    async def _send(self, part: Sequence[Request]) -> str:
        lines = b"".join(self._line(request) for request in part)
        mark = digest(sorted(request.key for request in part))
        try:
            # The process may have died between sending a batch and taking note of it.
            async for batch in self.client.batches.list(limit=100):
                if (batch.metadata or {}).get(_METADATA) == mark and batch.status not in (
                    "failed",
                    "cancelled",
                    "expired",
                ):
                    return str(batch.id)
            file = await self.client.files.create(file=("requests.jsonl", io.BytesIO(lines)), purpose="batch")
            batch = await self.client.batches.create(
                input_file_id=file.id,
                endpoint="/v1/chat/completions" if self.config.endpoint == "chat" else "/v1/completions",
                completion_window="24h",
                metadata={_METADATA: mark},
            )
        except self._openai.OpenAIError as error:
            raise TeacherStoppedError(
                f"teacher {self.name!r} at {self.url} does not take a batch: {self.redact(str(error))[:500]}"
            ) from None
        _log.info("teacher %s: batch %s with %d requests", self.name, batch.id, len(part))
        return str(batch.id)

    async def _outcomes(
        self, batch_id: str, known: Mapping[str, Request]
    ) -> AsyncIterator[tuple[str, Reply | Failure]]:
        try:
            batch = await self.client.batches.retrieve(batch_id)
            while batch.status not in _ENDED:
                await asyncio.sleep(self.config.batch_poll_s)
                batch = await self.client.batches.retrieve(batch_id)
            files = [file for file in (batch.output_file_id, batch.error_file_id) if file]
            if batch.status == "failed" and not files:
                words = "; ".join(error.message or "" for error in (batch.errors.data if batch.errors else None) or [])
                raise TeacherStoppedError(f"teacher {self.name!r}: batch {batch_id} failed: {self.redact(words)[:500]}")
            contents = [(await self.client.files.content(file)).content for file in files]
        except self._openai.NotFoundError:
            _log.warning("teacher %s: batch %s is gone; asking again", self.name, batch_id)
            return
        except self._openai.OpenAIError as error:
            raise TeacherStoppedError(
                f"teacher {self.name!r}: batch {batch_id} cannot be fetched now, run again later: "
                f"{self.redact(str(error))[:500]}"
            ) from None
        for content in contents:
            for line in content.splitlines():
                try:
                    row = json.loads(line)
                    key = row["custom_id"]
                except (ValueError, KeyError, TypeError):
                    continue  # its request counts as not answered
                yield key, self._outcome(key, known.get(key), row)

    def _outcome(self, key: str, request: Request | None, row: Mapping[str, Any]) -> Reply | Failure:
        response = row.get("response") or {}
        if row.get("error") or response.get("status_code") != 200:
            words = self.redact(json.dumps(row.get("error") or response.get("body")))[:500]
            return Failure("bad request" if response.get("status_code") == 400 else "server error", words)
        try:
            samples = request.samples if request is not None else None
            return self._clean(completion.read(response.get("body"), key=key, model=self.model, samples=samples))
        except RequestFailedError as error:
            return Failure(error.failure.reason, self.redact(error.failure.detail), self.redact(error.failure.raw))


def _parts(requests: Sequence[Request], line: Any) -> Iterator[list[Request]]:
    """Cuts requests into batches that a service takes."""
    part: list[Request] = []
    size = 0
    for request in requests:
        length = len(line(request))
        if part and (len(part) == _MOST_REQUESTS or size + length > _MOST_BYTES):
            yield part
            part, size = [], 0
        part.append(request)
        size += length
    if part:
        yield part
