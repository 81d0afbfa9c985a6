"""A teacher that answers from recorded replies: for replaying a job, and for tests."""

import dataclasses
import datetime
import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any, ClassVar

from distill.tasks import sources
from distill.tasks.records import RowError, SourceError
from distill.teacher.clients.completion import finish_of, printable
from distill.teacher.clients.cost import Prices
from distill.teacher.clients.replies import Candidate, Reply, Request, RequestFailedError, Sampling, Usage
from distill.teacher.clients.store import ReplyStore
from distill.validation import quoted


@dataclasses.dataclass(frozen=True)
class RecordedConfig:
    """Configuration of a recorded teacher.

    Attributes:
      path: JSON lines. A row is found by its ``key`` (of the request), or else by its ``id`` (of the record),
        ``sample`` (default 0) and ``purpose`` (default ``explain``); it holds the ``reply`` or ``replies`` (samples 0,
        1, …), and perhaps ``finish``, ``notes`` (of replies without text, as
        :attr:`~distill.teacher.clients.replies.Candidate.note`), ``model`` and ``usage`` (``[prompt tokens, completion
        tokens]``).
      name: the teacher's name in this job.
      model: of the recorded teacher; needed for rows found by key, which is of the request to that model. By default
        derived from the file's content, so that another recording gives other request keys.
      sampling, structured, prices, prefix: those of the recorded teacher.
      endpoint: form of the request; affects only rows found by key.
    """

    path: str
    name: str = "recorded"
    model: str = ""
    sampling: Sampling = Sampling()
    structured: str = "off"
    endpoint: str = "chat"
    prices: Prices | None = None
    prefix: str = ""
    samples_at_once: bool = False
    extra: ClassVar[Mapping[str, Any]] = {}
    batch: ClassVar[bool] = False
    requests_per_minute: ClassVar[float | None] = None
    tokens_per_minute: ClassVar[float | None] = None

    @property
    def called(self) -> str:
        """The teacher's name."""
        return self.name

    def model_key(self) -> str:
        """The model's identifier in request keys."""
        return self.open().model

    def open(self) -> "RecordedTeacher":
        """Reads the file.

        Raises:
          SourceError: it is missing, or a line is not a recorded reply.
        """
        return RecordedTeacher(self)


class RecordedTeacher:
    """Answers from a file; see :class:`RecordedConfig`."""

    def __init__(self, config: RecordedConfig):
        self.config = config
        self.name = config.name
        self.parallel = 64
        self.running: int | None = None
        self.give_up_after: int | None = None
        self.grace_s = 10.0
        self._by_key: dict[str, dict[str, Any]] = {}
        self._by_row: dict[tuple[str, int, str], dict[str, Any]] = {}
        hashed = hashlib.sha256()
        for line, row in sources.read_rows(config.path, "recorded replies"):
            if isinstance(row, RowError):
                raise SourceError(f"{config.path}:{line}: {row}; expected an object with id or key, and reply")
            hashed.update(json.dumps(row, sort_keys=True).encode())
            self._add(row, line)
        self.model = config.model or f"recorded:{hashed.hexdigest()[:16]}"

    def _add(self, row: dict[str, Any], line: int) -> None:
        replies = row.get("replies", [row["reply"]] if "reply" in row else None)
        if not isinstance(replies, list) or not all(isinstance(reply, str) for reply in replies):
            raise SourceError(
                f"{self.config.path}:{line}: expected 'reply' (text) or 'replies' (a list of texts); got {quoted(row, 200)}"
            )
        notes = row.get("notes", [""] * len(replies))
        if (
            not isinstance(notes, list)
            or len(notes) != len(replies)
            or not all(isinstance(note, str) for note in notes)
        ):
            raise SourceError(
                f"{self.config.path}:{line}: 'notes' must be a list of texts, one per reply; got {quoted(notes)}"
            )
        sample, usage = row.get("sample", 0), row.get("usage")
        if type(sample) is not int or sample < 0:
            raise SourceError(f"{self.config.path}:{line}: 'sample' must be a whole number ≥ 0; got {quoted(sample)}")
        counts = isinstance(usage, list) and len(usage) == 2 and all(type(n) is int and n >= 0 for n in usage)
        if usage is not None and not counts:
            raise SourceError(
                f"{self.config.path}:{line}: 'usage' must be [prompt tokens, completion tokens]; got {quoted(usage)}"
            )
        if isinstance(row.get("key"), str):
            self._by_key[row["key"]] = row | {"replies": replies, "notes": notes}
        elif row.get("id") is not None:
            for offset, reply in enumerate(replies):
                where = (str(row["id"]), sample + offset, str(row.get("purpose", "explain")))
                self._by_row[where] = row | {"replies": [reply], "notes": [notes[offset]]}
        else:
            raise SourceError(
                f"{self.config.path}:{line}: expected 'id' or 'key'; got the fields {', '.join(map(str, row)):.200}"
            )

    async def wants_json(self, store: ReplyStore) -> bool:
        """Whether the recorded replies are JSON objects."""
        return self.config.structured != "off"

    async def ask(self, request: Request) -> Reply:
        """The recorded reply.

        Raises:
          RequestFailedError: ``not recorded``.
        """
        found = self._by_key.get(request.key)
        rows = [found] if found else []
        if not found:
            wanted = range(request.sample, request.sample + request.samples)
            rows = [
                self._by_row[where]
                for s in wanted
                if (where := (request.record_id, s, request.purpose)) in self._by_row
            ]
        texts = [pair for row in rows for pair in zip(row["replies"], row["notes"], strict=True)]
        if len(texts) < request.samples:
            what = f"{request.purpose} {request.record_id!r}, sample {request.sample}"
            raise RequestFailedError("not recorded", what + self._hint())
        usages = [Usage(*row["usage"]) for row in rows if row.get("usage")]
        finish = finish_of(rows[0].get("finish"))
        candidates = [Candidate(printable(text), finish, printable(note)) for text, note in texts[: request.samples]]
        return Reply(
            key=request.key,
            candidates=tuple(candidates),
            model=str(rows[0].get("model", self.model)),
            usage=sum(usages[1:], usages[0]) if usages else None,
            date=str(rows[0].get("date") or datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")),
        )

    def _hint(self) -> str:
        """What may be wrong where replies are found by key and no key fits."""
        if not self._by_key:
            return ""
        if not self.config.model:
            return (
                f"; {self.config.path} holds replies by the key of their request, which includes the model: give "
                "--model_of_recording, the --model that was recorded"
            )
        return (
            f"; {self.config.path} holds replies by the key of their request: the model ({self.config.model}), the prompt, "
            "the rows and the sampling settings must be those of the recording"
        )

    def halt(self) -> None:
        """Does nothing: every reply is available at once."""

    async def close(self) -> None:
        """Does nothing."""


def record(store: ReplyStore, path: str | pathlib.Path) -> int:
    """Writes all replies of a store as a recording, keyed by request; returns how many.

    A job over the same rows with the same prompt, ``model`` and settings can be replayed from it, without server and
    store.
    """
    number = 0
    with pathlib.Path(path).open("w", encoding="utf-8") as file:
        for record_id, teacher, sample, reply in store:
            row = {
                "key": reply.key,
                "id": record_id,
                "teacher": teacher,
                "sample": sample,
                "replies": [candidate.text for candidate in reply.candidates],
                "notes": [candidate.note for candidate in reply.candidates],
                "finish": reply.candidates[0].finish,
                "model": reply.model,
                "date": reply.date,
                "usage": None if reply.usage is None else [reply.usage.prompt_tokens, reply.usage.completion_tokens],
            }
            file.write(json.dumps(row) + "\n")
            number += 1
    return number
