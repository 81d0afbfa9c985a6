"""Phase 1: a record set goes in without reasons and comes out with a teacher's.

    report = extract(ExtractConfig(output="out.jsonl", prompt="cqa", inputs="rows.jsonl", teachers=(ServerConfig(model="…"),)))

Beside the output ``out.jsonl`` it writes ``out.failures.jsonl`` (every reply that could not be read, every request that came to
nothing), ``out.report.json``, and the store ``out.replies.sqlite``.
"""

import asyncio
import collections
import dataclasses
import logging
import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from distill.teacher import cost, rows, templates
from distill.teacher.assembly import Assembly, PromptedRow
from distill.teacher.collect import Collected, Collector
from distill.teacher.completion import printable
from distill.teacher.cost import Budget, Estimate, Tokenizing
from distill.teacher.local import LocalConfig
from distill.teacher.progress import Progress, automatic
from distill.teacher.recorded import RecordedConfig
from distill.teacher.replies import Message, Request, Teacher, TeacherError, Usage
from distill.teacher.selection import Rules
from distill.teacher.server import SCHEMA, ServerConfig
from distill.teacher.store import ReplyStore
from distill.teacher.templates import InputShapeError, Prompt
from tasks import jsonl, metrics
from tasks.dataset import Dataset
from tasks.records import Record, Report

TeacherConfig = ServerConfig | RecordedConfig | LocalConfig
Rationalise = Literal["off", "wrong", "all"]
Combine = Literal["merge", "separate"]

_ANSWER_KINDS: Mapping[str, metrics.AnswerKind] = {"cqa": "choice", "svamp": "equation", "asdiv": "equation"}

_log = logging.getLogger(__name__)


class ExtractionStoppedError(TeacherError):
    """The job ended early. What was finished is in the store; the same command goes on from there.

    Attributes:
      report: what was done.
    """

    def __init__(self, message: str, report: "ExtractReport"):
        super().__init__(message)
        self.report = report


@dataclasses.dataclass(frozen=True)
class ExtractConfig:
    """What to ask whom, and what to keep.

    Attributes:
      output: JSON lines, as :mod:`tasks.jsonl` reads them.
      prompt: a prompt that comes with the package (``templates.names()``), or a file; see :mod:`distill.teacher.templates`.
      teachers: one or several.
      dataset: the rows, or
      inputs: a JSON-lines file with the rows, or
      records: the rows themselves. Exactly one of the three.
      split: of the dataset.
      fields: of ``inputs``: what a record needs → what the rows call it; see :class:`tasks.jsonl.JsonLines`.
      limit: only the first so many rows.
      answer: how answers are compared: ``text``, ``choice`` or ``equation``; by default as the dataset or the prompt's parser does.
      samples: replies per row and teacher (Li et al. 2023, arXiv 2306.14050, "SCoTD"; the vote is by self-consistency).
      rationalise: ask again, with the gold label given, where the vote is ``wrong`` (or there is none), or for ``all`` rows, and take
        the rationale for it instead (Zelikman et al. 2022, arXiv 2203.14465).
      combine: with several teachers (Tian et al. 2024, arXiv 2402.04616, "TinyLLM"), ``merge``: they vote together, one file.
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
            if getattr(self, field) not in allowed:
                raise ValueError(
                    f"ExtractConfig.{field} must be one of {', '.join(allowed)}; got {getattr(self, field)!r}"
                )
        if self.answer is not None and self.answer not in metrics.ANSWER_KINDS:
            raise ValueError(
                f"ExtractConfig.answer must be one of {', '.join(metrics.ANSWER_KINDS)}; got {self.answer!r}"
            )
        if self.samples < 1:
            raise ValueError(f"ExtractConfig.samples must be ≥ 1; got {self.samples}")
        for teacher in self.teachers:
            greedy = teacher.sampling.temperature == 0 and not isinstance(teacher, RecordedConfig)
            if self.samples > 1 and greedy:
                raise ValueError(
                    f"ExtractConfig.samples={self.samples}, but teacher {teacher.called!r} has temperature 0: all samples would "
                    "be the same; set sampling=Sampling(temperature=0.7)"
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
      requests, cached, finished: requests of this job, answered in earlier runs, answered in this one.
      failures: replies that could not be read and requests that came to nothing, by reason.
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
    failures: dict[str, int] = dataclasses.field(default_factory=dict)
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

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        def listed(counts: Mapping[str, int]) -> str:
            return "; ".join(f"{number:,} × {reason}" for reason, number in counts.items())

        tokens = sum(self.usage.values(), Usage())
        lines = [
            f"{self.written:,} of {self.read:,} rows written, {self.explained:,} with a rationale, {self.labelled:,} with a teacher's label",
            f"{self.requests:,} requests: {self.finished:,} answered now, {self.cached:,} before; "
            f"{tokens.prompt_tokens:,} tokens read, {tokens.completion_tokens:,} written"
            + (f", cost {self.cost:,.4f}" if self.cost is not None else ""),
        ]
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


def extract(config: ExtractConfig, *, progress: Progress | None = None) -> ExtractReport:
    """Asks the teachers about every row, and writes what they say.

    Args:
      config: see :class:`ExtractConfig`.
      progress: is told how far it is; by default a bar on the terminal or lines in the log.

    Raises:
      ExtractionStoppedError: the job ended early (wrong key, no server, cost cap, interrupt) and ``accept_partial`` is off.
      PromptError, SourceError, StoreError: a file cannot be used.
    """
    return _run(extract_async(config, progress=progress))


def _run(coroutine: Any) -> Any:
    """Runs a coroutine, also where an event loop is running already (notebooks)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    outcome: dict[str, Any] = {}

    def work() -> None:
        try:
            outcome["value"] = asyncio.run(coroutine)
        except BaseException as error:
            outcome["error"] = error

    thread = threading.Thread(target=work, name="extract")
    thread.start()
    thread.join()
    if "error" in outcome:
        raise outcome["error"]
    return outcome["value"]


async def extract_async(config: ExtractConfig, *, progress: Progress | None = None) -> ExtractReport:
    """:func:`extract` for those who have an event loop."""
    prompt = templates.load(config.prompt)
    _check_rationalise(config, prompt)
    progress = progress or automatic()
    report = ExtractReport(prompt=prompt.name, prompt_hash=prompt.hash)
    records = _read(config, report)
    teachers: dict[str, Teacher] = {}
    try:
        with ReplyStore(config.store_path) as store:
            for each in config.teachers:
                teachers[each.called] = each.open()
            prices = {each.called: each.prices for each in config.teachers if each.prices is not None}
            collector = Collector(teachers, store, prices=prices, budget=Budget(config.cost_cap), progress=progress)
            as_json = {name: await teacher.wants_json() for name, teacher in teachers.items()}  # type: ignore[attr-defined]
            models = {name: teacher.model for name, teacher in teachers.items()}
            asked = [_prompted(config, prompt, record, models, as_json) for record in records]
            collected = await collector.collect(request for row in asked for request in row.requests)
            assembly = Assembly(
                prompt=prompt,
                rules=config.rules,
                answer=_answer_kind(config, prompt),
                as_json=as_json,
                keep_replies=config.keep_replies,
            )
            groups = _groups(config)
            if config.rationalise != "off" and not collected.stopped:
                again = _to_rationalise(config, prompt, asked, assembly, collected, models, as_json)
                collected.update(await collector.collect(request for row in again for request in row.told))
            _finish(config, report, asked, assembly, collected, groups, collector)
    finally:
        progress.close()
        for teacher in teachers.values():
            await teacher.close()
    if report.stopped and not config.accept_partial:
        missing = report.requests - report.cached - report.finished
        raise ExtractionStoppedError(
            f"{report.stopped}\n{report.cached + report.finished:,} of {report.requests:,} requests are answered and kept in "
            f"{config.store_path}; run the same again to ask the other {missing:,}",
            report,
        )
    return report


def _check_rationalise(config: ExtractConfig, prompt: Prompt) -> None:
    if config.rationalise != "off" and not prompt.rationalise:
        raise templates.PromptError(
            f"{prompt.name}: rationalise={config.rationalise!r} wants the entry 'rationalise', a question that gives the answer away"
        )


def _answer_kind(config: ExtractConfig, prompt: Prompt) -> metrics.AnswerKind:
    if config.answer is not None:
        return config.answer
    return config.dataset.answer if config.dataset is not None else _ANSWER_KINDS.get(prompt.parser, "text")


def _read(config: ExtractConfig, report: ExtractReport) -> list[Record]:
    told = Report()
    source: Iterable[Record]
    if config.dataset is not None:
        source = config.dataset.records(config.split, told)
    elif config.inputs:
        source = jsonl.JsonLines({"all": config.inputs}, config.fields)("all", told)
    else:
        source = config.records or ()
    records = []
    for record in source:
        if config.limit is not None and len(records) >= config.limit:
            break
        records.append(record)
    report.read = len(records)
    report.rejected = dict(collections.Counter(problem.reason for problem in told.rejected))
    ids = collections.Counter(record.id for record in records)
    if len(ids) < len(records):
        report.noticed["two rows with the same id"] = len(records) - len(ids)
    return records


def _groups(config: ExtractConfig) -> dict[str, tuple[str, ...]]:
    """Files to write → the teachers whose answers go into each."""
    names = tuple(each.called for each in config.teachers)
    if config.combine == "merge" or len(names) == 1:
        return {config.output: names}
    return {str(rows.beside(config.output, f"{rows.slug(name)}.jsonl")): (name,) for name in names}


def _requests(
    config: ExtractConfig,
    prompt: Prompt,
    record: Record,
    models: Mapping[str, str],
    as_json: Mapping[str, bool],
    label: str | None = None,
    samples: int = 1,
) -> list[Request]:
    messages: tuple[Message, ...] = ()
    text = ""
    requests = []
    given = [printable(part) for part in (record.input, *record.choices)]
    for each in config.teachers:
        name = each.called
        chat = each.endpoint == "chat"
        if chat and not messages:
            messages = prompt.messages(given[0], given[1:], label)
        if not chat and not text:
            text = prompt.text(given[0], given[1:], label)
        at_once = samples if each.samples_at_once else 1
        for sample in range(0, samples, at_once):
            requests.append(
                Request(
                    record_id=record.id,
                    teacher=name,
                    model=models[name],
                    messages=messages if chat else (),
                    prompt="" if chat else text,
                    sampling=each.sampling,
                    stop=() if as_json[name] else prompt.stop,
                    sample=sample,
                    samples=at_once,
                    schema=SCHEMA if as_json[name] else None,
                    extra=getattr(each, "extra", {}),
                    purpose="explain" if label is None else "rationalise",
                    template=prompt.hash,
                )
            )
    return requests


def _prompted(
    config: ExtractConfig,
    prompt: Prompt,
    record: Record,
    models: Mapping[str, str],
    as_json: Mapping[str, bool],
) -> PromptedRow:
    try:
        requests = _requests(config, prompt, record, models, as_json, samples=config.samples)
    except InputShapeError as error:
        return PromptedRow(record, misfit=str(error))
    return PromptedRow(record, requests)


def _to_rationalise(
    config: ExtractConfig,
    prompt: Prompt,
    asked: Sequence[PromptedRow],
    assembly: Assembly,
    collected: Collected,
    models: Mapping[str, str],
    as_json: Mapping[str, bool],
) -> list[PromptedRow]:
    """Gives the rows that want it a second round of requests, with the answer given; returns these rows."""
    again = []
    for row in asked:
        if row.record.label is None or row.misfit:
            continue
        if config.rationalise == "wrong" and assembly.is_right(row, collected, tuple(models)):
            continue
        row.told = _requests(config, prompt, row.record, models, as_json, label=row.record.label)
        again.append(row)
    return again


def _finish(
    config: ExtractConfig,
    report: ExtractReport,
    asked: Sequence[PromptedRow],
    assembly: Assembly,
    collected: Collected,
    groups: Mapping[str, tuple[str, ...]],
    collector: Collector,
) -> None:
    state = collector.state
    report.requests, report.cached, report.finished = state.total, state.cached, state.finished
    report.usage, report.cost, report.stopped = dict(collector.usage), state.cost, collected.stopped
    prefixes = {each.called: each.prefix for each in config.teachers}
    write = not report.stopped or config.accept_partial
    for path, names in groups.items():
        values = assembly.rows(asked, collected, names, prefix=prefixes[names[0]] if len(groups) > 1 else "")
        if write:
            rows.write(path, values)
            report.outputs["records" if len(groups) == 1 else f"records of {names[0]}"] = path
        report.written += len(values)
        report.explained += sum(bool(row["rationales"]) for row in values)
        report.labelled += sum("llm_label" in row for row in values)
    counts = assembly.counts()
    report.failures, report.dropped = counts["failures"], counts["dropped"]
    report.noticed |= counts["noticed"]
    report.compared, report.agreed, report.rationalised = assembly.compared, assembly.agreed, assembly.rationalised
    if write:
        failures = rows.beside(config.output, "failures.jsonl")
        rows.write(failures, assembly.failures)
        report.outputs["failures"] = str(failures)
        path = rows.beside(config.output, "report.json")
        report.outputs["report"] = str(path)
        rows.write_json(path, report.to_json())


def estimate(config: ExtractConfig) -> Estimate:
    """A dry run: renders every prompt, asks nobody, and says what the job would take.

    A second round of rationalisation is priced as if every row that may need it did. With ``structured='auto'`` the free-text
    form is priced.

    Raises:
      PromptError, SourceError, StoreError: a file cannot be used.
    """
    prompt = templates.load(config.prompt)
    _check_rationalise(config, prompt)
    records = _read(config, ExtractReport())
    models = {each.called: each.model_key() for each in config.teachers}
    as_json = {each.called: getattr(each, "structured", "off") not in ("off", "auto") for each in config.teachers}
    requests: dict[str, Request] = {}
    for record in records:
        row = _prompted(config, prompt, record, models, as_json)
        told = []
        if config.rationalise != "off" and record.label is not None and not row.misfit:
            told = _requests(config, prompt, record, models, as_json, label=record.label)
        for request in (*row.requests, *told):
            requests.setdefault(request.key, request)
    found: dict[str, Any] = {}
    if os.path.exists(config.store_path):
        with ReplyStore(config.store_path) as store:
            found = store.find(requests)
    parts = [_estimate_one(each, prompt, list(requests.values()), found) for each in config.teachers]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _estimate_one(
    each: TeacherConfig, prompt: Prompt, requests: Sequence[Request], found: Mapping[str, Any]
) -> Estimate:
    tokenizing, written = Tokenizing(), []
    mine = [request for request in requests if request.teacher == each.called]
    for request in mine:
        reply = found.get(request.key)
        if reply is not None and reply.usage is not None:
            tokenizing.learn(request, reply.usage)
            written.append(reply.usage.completion_tokens / request.samples)
    todo = [request for request in mine if request.key not in found]
    read = sum(tokenizing.tokens(request.characters) for request in todo)
    if written:
        length = sum(written) / len(written)
    else:
        answers = [len(prompt.fill_answer(example.rationale, example.label)) for example in prompt.examples]
        length = tokenizing.tokens(sum(answers) / len(answers))
    texts = sum(request.samples for request in todo)
    likely = int(texts * min(length, each.sampling.max_tokens))
    most = sum((cost.most(request, tokenizing) for request in todo), Usage())
    batch = bool(getattr(each, "batch", False))
    money = each.prices.of(Usage(read, likely), batch=batch) if each.prices else None
    most_money = each.prices.of(most, batch=batch) if each.prices else None
    minutes = []
    per_minute = getattr(each, "requests_per_minute", None)
    if per_minute:
        minutes.append(len(todo) / per_minute)
    tokens_per_minute = getattr(each, "tokens_per_minute", None)
    if tokens_per_minute:
        minutes.append((read + likely) / tokens_per_minute)
    return Estimate(
        requests=len(todo),
        cached=len(mine) - len(todo),
        prompt_tokens=read,
        completion_tokens=likely,
        most_completion_tokens=most.completion_tokens,
        cost=money,
        most_cost=most_money,
        at_least_minutes=max(minutes) if minutes and not batch else None,
        measured=tokenizing.learned,
    )
