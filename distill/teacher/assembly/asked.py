"""The requests of a row, and the outcomes of all requests: data passed from collection to assembly."""

import dataclasses

from distill.tasks.records import Record
from distill.teacher.clients.replies import Failure, Request
from distill.teacher.clients.store import StoredReplies


@dataclasses.dataclass
class PromptedRow:
    """A row and its requests.

    Attributes:
      record: the row.
      requests: requests for an answer.
      told: requests that give the answer.
      misfit: the reason for missing requests, or "".
    """

    record: Record
    requests: list[Request] = dataclasses.field(default_factory=list)
    told: list[Request] = dataclasses.field(default_factory=list)
    misfit: str = ""


@dataclasses.dataclass
class Collected:
    """Outcomes of requests, by key.

    Attributes:
      replies: of finished requests; read from the store.
      failures: failed requests; the next run sends them again, and those without a reply or failure.
      stopped: the reason for an early end, or "".
      hopeless: whether the user must correct something first, so that the same job would fail again.
    """

    replies: StoredReplies
    failures: dict[str, Failure] = dataclasses.field(default_factory=dict)
    stopped: str = ""
    hopeless: bool = False

    def update(self, other: "Collected") -> None:
        """Adds another collection of the same store."""
        self.failures.update(other.failures)
        self.stopped = self.stopped or other.stopped
        self.hopeless = self.hopeless or other.hopeless
