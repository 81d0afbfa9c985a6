"""The batch API of OpenAI-compatible services: requests and replies travel as files, cheaper and slower."""

import asyncio
import io
import json
import logging
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from typing import Any

from distill.teacher.clients import completion
from distill.teacher.clients.replies import (
    BatchTeacherBase,
    Reply,
    Request,
    RequestFailedError,
    TeacherStoppedError,
    digest,
)
from distill.teacher.clients.server import ServerTeacher
from distill.teacher.clients.store import ReplyStore

_MOST_REQUESTS = 50_000  # the hosted API's limits for one batch
_MOST_BYTES = 190 * 2**20
_OPEN = "open batch "  # prefix of the store's notes on unfinished batches
_METADATA = "distill_requests"
_ENDED = ("completed", "failed", "expired", "cancelled")

_log = logging.getLogger(__name__)


class BatchTeacher(ServerTeacher, BatchTeacherBase):
    """A :class:`ServerTeacher` that uses the batch API. A restarted job continues with the batches it had sent."""

    _unreadable = 0  # lines without a request key in the batch that was read last

    async def ask_batch(
        self, requests: Sequence[Request], store: ReplyStore
    ) -> AsyncGenerator[tuple[str, Reply | RequestFailedError]]:
        """Yields ``(key, outcome)``; see :meth:`~distill.teacher.clients.replies.BatchTeacherBase.ask_batch`."""
        wanted = {request.key: request for request in requests}
        note = f"{_OPEN}{self.url} "
        for name, batch_id in store.notes(note):
            _log.info("teacher %s: continuing with batch %s", self.name, batch_id)
            async for key, outcome in self._outcomes(batch_id, wanted):
                if isinstance(outcome, RequestFailedError) and not outcome.perhaps_paid:
                    continue  # sent again below
                if key in wanted:
                    del wanted[key]
                    yield key, outcome
                elif isinstance(outcome, Reply):  # a reply to a job with other rows
                    await store.put(outcome, record="", teacher=self.name)
            store.note(name, None)
        for part in _parts(list(wanted.values()), self._line):
            by_key = {request.key: request for request in part}
            batch_id = await self._send(part)
            store.note(note + batch_id, batch_id)
            async for key, outcome in self._outcomes(batch_id, by_key):
                if by_key.pop(key, None) is not None:
                    yield key, outcome
            unreadable = self._unreadable
            for number, key in enumerate(by_key):
                detail = f"batch {batch_id} ended without it"
                paid = number < unreadable
                if paid:
                    detail += f"; {unreadable} of its lines could not be read, and may hold this reply"
                yield key, RequestFailedError("not answered", detail, perhaps_paid=paid)
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
            # The process may have been killed after it sent a batch and before it stored the note.
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
                f"teacher {self.name!r} at {self.url} rejects the batch: {self.redact(str(error))[:500]}"
            ) from None
        _log.info("teacher %s: batch %s with %d requests", self.name, batch.id, len(part))
        return str(batch.id)

    async def _outcomes(
        self, batch_id: str, known: Mapping[str, Request]
    ) -> AsyncGenerator[tuple[str, Reply | RequestFailedError]]:
        try:
            batch = await self.client.batches.retrieve(batch_id)
            while batch.status not in _ENDED:
                await asyncio.sleep(self.config.batch_poll_s)
                batch = await self.client.batches.retrieve(batch_id)
            files = [file for file in (batch.output_file_id, batch.error_file_id) if file]
            if batch.status == "failed" and not files:
                words = "; ".join(error.message or "" for error in (batch.errors.data if batch.errors else None) or [])
                raise TeacherStoppedError(f"teacher {self.name!r}: batch {batch_id} failed: {self.redact(words)[:500]}")
            contents = [(file, (await self.client.files.content(file)).content) for file in files]
        except self._openai.NotFoundError:
            _log.warning("teacher %s: batch %s no longer exists; sending its requests again", self.name, batch_id)
            return
        except self._openai.OpenAIError as error:
            raise TeacherStoppedError(
                f"teacher {self.name!r}: batch {batch_id} cannot be fetched now; run the command again later: "
                f"{self.redact(str(error))[:500]}"
            ) from None
        self._unreadable = 0
        for file, content in contents:
            for line in content.splitlines():
                try:
                    row = json.loads(line)
                    key = row["custom_id"]
                except (ValueError, KeyError, TypeError):
                    self._unreadable += file == batch.output_file_id  # reported as "not answered"
                    continue
                yield key, self._outcome(key, known.get(key), row)

    def _outcome(self, key: str, request: Request | None, row: Mapping[str, Any]) -> Reply | RequestFailedError:
        response = row.get("response") or {}
        if row.get("error") or response.get("status_code") != 200:
            words = self.redact(json.dumps(row.get("error") or response.get("body")))[:500]
            return RequestFailedError("bad request" if response.get("status_code") == 400 else "server error", words)
        try:
            samples = request.samples if request is not None else None
            return self._clean(completion.read(response.get("body"), key=key, model=self.model, samples=samples))
        except RequestFailedError as error:
            failure = error.failure
            return RequestFailedError(
                failure.reason,
                self.redact(failure.detail),
                self.redact(failure.raw),
                perhaps_paid=error.perhaps_paid,
                usage=error.usage,
            )


def _parts(requests: Sequence[Request], line: Any) -> Iterator[list[Request]]:
    """Splits requests into batches within the service's limits."""
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
