"""What an extraction is told and what it reports."""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from distill import validation
from distill.tasks import metrics
from distill.tasks.dataset import Dataset
from distill.tasks.records import Record
from distill.teacher.assembly import rows
from distill.teacher.assembly.selection import Rules
from distill.teacher.clients.local import LocalConfig
from distill.teacher.clients.recorded import RecordedConfig
from distill.teacher.clients.replies import TeacherError, Usage
from distill.teacher.clients.server_config import ServerConfig

TeacherConfig = ServerConfig | RecordedConfig | LocalConfig
Rationalise = Literal["off", "wrong", "all"]
Combine = Literal["merge", "separate"]


class ExtractionStoppedError(TeacherError):
    """The job ended early. What was finished is in the store; the same command goes on from there.

    Attributes:
      report: what was done.
      hopeless: whether the same command would end the same way: its settings are at fault.
    """

    def __init__(self, message: str, report: "ExtractReport", hopeless: bool = False):
        super().__init__(message)
        self.report = report
        self.hopeless = hopeless


@dataclasses.dataclass(frozen=True)
class ExtractConfig:
    """What to ask whom, and what to keep.

    Attributes:
      output: JSON lines, as :mod:`distill.tasks.jsonl` reads them.
      prompt: a prompt that comes with the package (``templates.names()``), or a file; see
        :mod:`distill.teacher.prompts.templates`.
      teachers: one or several.
      dataset: the rows, or
      inputs: a JSON-lines file with the rows, or
      records: the rows themselves. Exactly one of the three.
      split: of the dataset.
      fields: of ``inputs``: what a record needs → what the rows call it; see :class:`distill.tasks.jsonl.JsonLines`.
      limit: only the first so many rows.
      answer: how answers are compared: ``text``, ``choice`` or ``equation``; by default as the dataset or the prompt's
        parser does.
      labels: the labels there are, for prompts without a parser; another label is counted as undecided. By default those of
        the data set; else the gold labels and the worked examples', where the rows have few.
      samples: replies per row and teacher (Li et al. 2023, arXiv 2306.14050, "SCoTD"; the vote is by
        self-consistency).
      rationalise: ask again, with the gold label given, where the vote is ``wrong`` (or there is none), or for ``all``
        rows, and take the rationale for it instead (Zelikman et al. 2022, arXiv 2203.14465).
      combine: with several teachers (Tian et al. 2024, arXiv 2402.04616, "TinyLLM"), ``merge``: they vote together,
        one file.
        ``separate``: one file each, ``out.<teacher>.jsonl``, for a rationale task of its own with its own prefix.
      rules: which rationales stay.
      store: the reply store; by default beside the output.
      cost_cap: the most that all replies of this job may cost, those of earlier runs included.
      accept_partial: write the output even if the job stopped early.
      keep_replies: put every raw reply into its row's provenance.
    """

    output: str
    prompt: str
    teachers: tuple[TeacherConfig, ...]
    dataset: Dataset | None = None
    inputs: str = ""
    records: Sequence[Record] | None = None
    split: str = "train"
    fields: Mapping[str, str] = dataclasses.field(default_factory=dict)
    limit: int | None = None
    answer: metrics.AnswerKind | None = None
    labels: Sequence[str] = ()
    samples: int = 1
    rationalise: Rationalise = "off"
    combine: Combine = "merge"
    rules: Rules = Rules()
    store: str = ""
    cost_cap: float | None = None
    accept_partial: bool = False
    keep_replies: bool = False

    def __post_init__(self):
        given = [name for name in ("dataset", "inputs", "records") if getattr(self, name) not in (None, "")]
        if len(given) != 1:
            raise ValueError(
                f"ExtractConfig wants exactly one of dataset, inputs and records; got {' and '.join(given) or 'none'}"
            )
        if not self.output:
            raise ValueError("ExtractConfig.output: which file to write?")
        if not self.teachers:
            raise ValueError("ExtractConfig.teachers: at least one teacher, for instance (ServerConfig(model=…),)")
        object.__setattr__(self, "teachers", tuple(self.teachers))
        names = collections.Counter(teacher.called for teacher in self.teachers)
        twice = [name for name, number in names.items() if number > 1]
        if twice:
            raise ValueError(f"ExtractConfig.teachers: two teachers are called {twice[0]!r}; give them different names")
        for field, allowed in (("rationalise", ("off", "wrong", "all")), ("combine", ("merge", "separate"))):
            validation.check(f"ExtractConfig.{field}", getattr(self, field), allowed)
        if self.answer is not None:
            validation.check("ExtractConfig.answer", self.answer, metrics.ANSWER_KINDS)
        if self.samples < 1:
            raise ValueError(f"ExtractConfig.samples must be ≥ 1; got {self.samples}")
        for teacher in self.teachers:
            greedy = teacher.sampling.temperature == 0 and not isinstance(teacher, RecordedConfig)
            if self.samples > 1 and greedy:
                raise ValueError(
                    f"ExtractConfig.samples={self.samples}, but teacher {teacher.called!r} has temperature 0: all samples "
                    "would be the same; set sampling=Sampling(temperature=0.7)"
                )
            if self.cost_cap is not None and teacher.prices is None and isinstance(teacher, ServerConfig):
                raise ValueError(f"ExtractConfig.cost_cap needs prices; teacher {teacher.called!r} has none")

    @property
    def store_path(self) -> str:
        """Where the replies are kept."""
        return self.store or str(rows.beside(self.output, "replies.sqlite"))


@dataclasses.dataclass
class ExtractReport:
    """What an extraction did.

    Attributes:
      read: rows read. ``rejected``: rows of the source that are none, by reason.
      written: rows written. ``explained``: of these, with a rationale. ``labelled``: of these, with a teacher's label.
      requests, cached, finished, failed: requests of this job; of these, answered in earlier runs, answered in this one,
        come to nothing in this one. Any others were not asked.
      discarded: attempts of this run that may have been charged and gave no reply.
      failures: replies that could not be read and requests that came to nothing, by reason.
      examples: for each reason of a failure, the first one's details: the server's own words.
      dropped: rationales and rows left out, by reason.
      noticed: what was seen and not acted on, by reason.
      compared, agreed: rows with a gold label and a teacher's, and those where they agree.
      rationalised: rows with a rationale for a given answer.
      usage: tokens by teacher. ``cost``: of all replies of the job; None without prices.
      stopped: why the job ended early, or "".
      prompt, prompt_hash: which prompt.
      outputs: files written, by what is in them.
    """

    read: int = 0
    rejected: dict[str, int] = dataclasses.field(default_factory=dict)
    written: int = 0
    explained: int = 0
    labelled: int = 0
    requests: int = 0
    cached: int = 0
    finished: int = 0
    failed: int = 0
    discarded: int = 0
    failures: dict[str, int] = dataclasses.field(default_factory=dict)
    examples: dict[str, str] = dataclasses.field(default_factory=dict)
    dropped: dict[str, int] = dataclasses.field(default_factory=dict)
    noticed: dict[str, int] = dataclasses.field(default_factory=dict)
    compared: int = 0
    agreed: int = 0
    rationalised: int = 0
    usage: dict[str, Usage] = dataclasses.field(default_factory=dict)
    cost: float | None = None
    stopped: str = ""
    prompt: str = ""
    prompt_hash: str = ""
    outputs: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def skipped(self) -> int:
        """Requests that were not asked."""
        return self.requests - self.cached - self.finished - self.failed

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        def listed(counts: Mapping[str, int]) -> str:
            return "; ".join(f"{number:,} × {reason}" for reason, number in counts.items())

        tokens = sum(self.usage.values(), Usage())
        written = (
            f"{self.written:,} of {self.read:,} rows written" if self.outputs else f"{self.read:,} rows, none written"
        )
        lines = [
            f"{written}, {self.explained:,} with a rationale, {self.labelled:,} with a teacher's label",
            f"{self.requests:,} requests: {self.finished:,} answered now, {self.cached:,} before, {self.failed:,} failed, "
            f"{self.skipped:,} not asked; {tokens.prompt_tokens:,} tokens read, {tokens.completion_tokens:,} written"
            + (f", cost {self.cost:,.4f}" if self.cost is not None else ""),
        ]
        if self.discarded:
            lines.append(
                f"attempts without a usable reply, counted because they may have been charged: {self.discarded:,}"
            )
        if self.compared:
            share = self.agreed / self.compared
            lines.append(
                f"teacher and gold agree on {self.agreed:,} of {self.compared:,} rows that have both ({share:.1%})"
            )
        if self.rationalised:
            lines.append(f"{self.rationalised:,} rows have a rationale written for the given answer")
        for head, counts in (
            ("rejected by the source", self.rejected),
            ("failures", self.failures),
            ("dropped", self.dropped),
            ("noticed", self.noticed),
        ):
            if counts:
                lines.append(f"{head}: {listed(counts)}")
        if self.stopped:
            lines.append(f"stopped early: {self.stopped}")
        return "\n".join(lines)
