"""Configuration and report of an extraction."""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from distill import validation
from distill.counting import counted
from distill.tasks import metrics
from distill.tasks.dataset import Dataset
from distill.tasks.records import Record
from distill.teacher.assembly import rows
from distill.teacher.assembly.assemble import MISFIT
from distill.teacher.assembly.selection import Rules
from distill.teacher.clients.cost import amount
from distill.teacher.clients.local import LocalConfig
from distill.teacher.clients.recorded import RecordedConfig
from distill.teacher.clients.replies import TeacherError, Usage
from distill.teacher.clients.server_config import ServerConfig

TeacherConfig = ServerConfig | RecordedConfig | LocalConfig
Rationalise = Literal["off", "wrong", "all"]
Combine = Literal["merge", "separate"]


class ExtractionStoppedError(TeacherError):
    """The job ended early. Finished replies are in the store; the same command continues from them.

    Attributes:
      report: counts up to the end.
      hopeless: whether the user must correct something first, such as the key, so that the same command would fail again.
    """

    def __init__(self, message: str, report: "ExtractReport", hopeless: bool = False):
        super().__init__(message)
        self.report = report
        self.hopeless = hopeless


@dataclasses.dataclass(frozen=True)
class ExtractConfig:
    """Configuration of an extraction.

    Attributes:
      output: JSON lines, as :mod:`distill.tasks.jsonl` reads them.
      prompt: name of a shipped prompt (``templates.names()``), or a file; see
        :mod:`distill.teacher.prompts.templates`.
      teachers: one or several.
      dataset: the rows, or
      inputs: a JSON-lines file with the rows, or
      records: the rows themselves. Exactly one of the three.
      split: of the dataset.
      fields: of ``inputs``: record field → row field; see :class:`distill.tasks.jsonl.JsonLines`.
      limit: number of rows to read, at least 1; None: all.
      answer: how answers are compared: ``text``, ``choice`` or ``equation``; by default as the data set or the prompt's
        parser compares them.
      labels: the possible labels, for prompts without a parser; any other label counts as undecided. By default those of
        the data set, or else the gold labels and those of the worked examples, if they are few.
      samples: replies per row and teacher (Li et al. 2023, arXiv 2306.14050, "SCoTD"; the vote is by
        self-consistency).
      rationalise: send a second request that gives the gold label, for rows whose vote is ``wrong`` (or missing) or for
        ``all`` rows, and use its rationale (Zelikman et al. 2022, arXiv 2203.14465).
      combine: with several teachers (Tian et al. 2024, arXiv 2402.04616, "TinyLLM"), ``merge``: they vote together,
        one file.
        ``separate``: one file each, ``out.<teacher>.jsonl``, for a separate rationale task with a separate prefix.
      rules: which rationales are kept.
      store: path of the reply store; by default in the folder of the output.
      record_to: also write all replies of the store to this file, to be replayed with
        :class:`~distill.teacher.clients.recorded.RecordedConfig`; a job that stops early writes it, too.
      overwrite: replace files in the place of the output, the failures, the report and the recording that no extraction
        wrote. Those of an earlier one are replaced in any case, and an input never is.
      cost_cap: highest total cost of this job, earlier runs included.
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
    record_to: str = ""
    overwrite: bool = False
    cost_cap: float | None = None
    accept_partial: bool = False
    keep_replies: bool = False

    def __post_init__(self) -> None:
        given = [name for name in ("dataset", "inputs", "records") if getattr(self, name) not in (None, "")]
        if len(given) != 1:
            raise ValueError(
                f"ExtractConfig needs exactly one of dataset, inputs and records; got {' and '.join(given) or 'none'}"
            )
        if not self.output:
            raise ValueError("ExtractConfig.output must name the file to write; got ''")
        if not self.teachers:
            raise ValueError(
                "ExtractConfig.teachers must hold at least one teacher, for instance (ServerConfig(model=…),)"
            )
        object.__setattr__(self, "teachers", tuple(self.teachers))
        names = collections.Counter(teacher.called for teacher in self.teachers)
        twice = [name for name, number in names.items() if number > 1]
        if twice:
            raise ValueError(f"ExtractConfig.teachers: two teachers have the name {twice[0]!r}; set different names")
        for field, allowed in (("rationalise", ("off", "wrong", "all")), ("combine", ("merge", "separate"))):
            validation.check(f"ExtractConfig.{field}", getattr(self, field), allowed)
        if self.combine == "separate":
            self._check_files_differ()
        if self.answer is not None:
            validation.check("ExtractConfig.answer", self.answer, metrics.ANSWER_KINDS)
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"ExtractConfig.limit must be ≥ 1, or None for all rows; got {self.limit}")
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

    def _check_files_differ(self) -> None:
        """Raises ValueError if two teachers would write one file: some file systems ignore the case of letters."""
        found: dict[str, str] = {}
        for name in (teacher.called for teacher in self.teachers):
            file = rows.of_teacher(self.output, name)
            if (other := found.setdefault(str(file).casefold(), name)) != name:
                raise ValueError(
                    f"ExtractConfig.combine='separate' writes one file per teacher, and teachers {other!r} and {name!r} "
                    f"have the same, {file}: one would replace the other. Give each a name that differs in letters or "
                    "digits (of --recorded, another file name), or extract them one after the other with two outputs"
                )

    @property
    def store_path(self) -> str:
        """Path of the reply store."""
        return self.store or str(rows.beside(self.output, "replies.sqlite"))


@dataclasses.dataclass
class ExtractReport:
    """Counts of an extraction.

    Attributes:
      read: rows read, invalid ones included. ``rejected``: of these, the invalid ones, by reason.
      written: rows written. ``explained``: of these, with a rationale. ``labelled``: of these, with a teacher's label.
      misfits: rows without a request, because their input does not fit the prompt.
      requests, cached, finished, failed: requests of this job (rows with the same input share one); of these, answered in
        earlier runs, answered in this run, and failed in this run. The others are ``unfinished``.
      failures: the failed requests, by reason.
      repeated: attempts of this run that failed and were made again, by reason; those of requests that failed are included.
      unreadable: replies without a usable answer or rationale among the answered requests, by reason.
      examples: details of the first failure of each reason, such as the server's message, or else the beginning of the
        reply; none if there is neither. Of a rejected row, its file and line.
      dropped: rationales and rows left out, by reason.
      noticed: observations without consequences, by reason.
      compared, agreed: rows with a gold label and a teacher's, and those where they agree.
      rationalised: rows with a rationale for a given answer.
      usage: tokens by teacher, of all attempts of known usage, earlier runs included.
      cost: of the same attempts; None without prices.
      unknown_usage: attempts that may have been charged and whose usage the server did not report (timeouts, lost
        connections, server errors, replies without usage), earlier runs included.
      perhaps_cost: their highest possible cost, which ``cost`` does not include; None without prices.
      stopped: the reason for an early end, or "".
      prompt, prompt_hash: name and hash of the prompt.
      outputs: written files, by content.
    """

    read: int = 0
    rejected: dict[str, int] = dataclasses.field(default_factory=dict)
    misfits: int = 0
    written: int = 0
    explained: int = 0
    labelled: int = 0
    requests: int = 0
    cached: int = 0
    finished: int = 0
    failed: int = 0
    failures: dict[str, int] = dataclasses.field(default_factory=dict)
    repeated: dict[str, int] = dataclasses.field(default_factory=dict)
    unreadable: dict[str, int] = dataclasses.field(default_factory=dict)
    examples: dict[str, str] = dataclasses.field(default_factory=dict)
    dropped: dict[str, int] = dataclasses.field(default_factory=dict)
    noticed: dict[str, int] = dataclasses.field(default_factory=dict)
    compared: int = 0
    agreed: int = 0
    rationalised: int = 0
    usage: dict[str, Usage] = dataclasses.field(default_factory=dict)
    cost: float | None = None
    unknown_usage: int = 0
    perhaps_cost: float | None = None
    stopped: str = ""
    prompt: str = ""
    prompt_hash: str = ""
    outputs: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def unfinished(self) -> int:
        """Requests that were not sent, or not finished, when the job stopped."""
        return self.requests - self.cached - self.finished - self.failed

    @property
    def complete(self) -> bool:
        """Whether the job did not stop early."""
        return not self.stopped

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values, ``complete`` first."""
        return {"complete": self.complete, **dataclasses.asdict(self)}

    def __str__(self) -> str:
        tokens = sum(self.usage.values(), Usage())
        written = f"{counted(self.read, 'row')}, none written"
        if any(name.startswith("records") for name in self.outputs):
            written = f"{self.written:,} of {counted(self.read, 'row')} written, {self.explained:,} with a rationale, "
            written += f"{self.labelled:,} with a teacher's label"
        lines = [
            written,
            f"{counted(self.requests, 'request')}: {self.finished:,} answered now, {self.cached:,} before, "
            f"{self.failed:,} failed, {self.unfinished:,} not finished",
            f"all attempts, earlier runs included: {tokens.prompt_tokens:,} tokens read, "
            f"{tokens.completion_tokens:,} written" + (f", cost {amount(self.cost)}" if self.cost is not None else ""),
        ]
        if self.unknown_usage:
            may = f", and may have cost up to {amount(self.perhaps_cost)} more" if self.perhaps_cost is not None else ""
            lines[-1] += f"; {counted(self.unknown_usage, 'further attempt')} had an unknown usage{may}"
        if self.misfits:
            lines.append(f"rows without a request: {self.misfits:,} × {MISFIT}")
        if self.compared:
            share = self.agreed / self.compared
            lines.append(
                f"teacher and gold agree on {self.agreed:,} of {counted(self.compared, 'row')} with both ({share:.1%})"
            )
        if self.rationalised:
            lines.append(f"{counted(self.rationalised, 'row')} with a rationale written for the given answer")
        if self.rejected:
            places = {f"{reason} (first: {self.examples.get(reason, '')})": n for reason, n in self.rejected.items()}
            lines.append(f"rejected by the source: {listed(places)}")
        for head, counts in (
            ("attempts made again", self.repeated),
            ("failed requests", self.failures),
            ("replies that could not be read", self.unreadable),
            ("dropped", self.dropped),
            ("noticed", self.noticed),
        ):
            if counts:
                lines.append(f"{head}: {listed(counts)}")
        if self.stopped:
            lines.append(f"stopped early: {self.stopped}")
        return "\n".join(lines)


def listed(counts: Mapping[str, int]) -> str:
    """Counts by reason, in words: ``5 × timeout; 2 × server error``."""
    return "; ".join(f"{number:,} × {reason}" for reason, number in counts.items())
