"""What is asked about a row, and what came of all requests: plain values between asking and assembling."""

import dataclasses

from distill.tasks.records import Record
from distill.teacher.clients.replies import Failure, Reply, Request


@dataclasses.dataclass
class PromptedRow:
    """A row and its requests.

    Attributes:
      record: the row.
      requests: in which the teacher is to answer.
      told: in which the teacher is told the answer.
      misfit: why there are no requests, or "".
    """

    record: Record
    requests: list[Request] = dataclasses.field(default_factory=list)
    told: list[Request] = dataclasses.field(default_factory=list)
    misfit: str = ""


@dataclasses.dataclass
class Collected:
    """What came of the requests, by key.

    Attributes:
      replies: finished requests.
      failures: requests that came to nothing; the next run asks them again.
      stopped: why the job ended early, or "".
      hopeless: whether the same job would end the same way again: its settings are at fault.
    """

    replies: dict[str, Reply] = dataclasses.field(default_factory=dict)
    failures: dict[str, Failure] = dataclasses.field(default_factory=dict)
    stopped: str = ""
    hopeless: bool = False

    def update(self, other: "Collected") -> None:
        """Adds another collection."""
        self.replies.update(other.replies)
        self.failures.update(other.failures)
        self.stopped = self.stopped or other.stopped
        self.hopeless = self.hopeless or other.hopeless
