"""Phase 1: adds a teacher's labels and rationales to records.

    config = ExtractConfig(output="out.jsonl", prompt="cqa", inputs="rows.jsonl", teachers=(ServerConfig(model="…"),))
    report = extract(config)

It writes the output ``out.jsonl``, ``out.failures.jsonl`` (unreadable replies and failed requests), ``out.report.json``,
and the store ``out.replies.sqlite``. A job that stops early writes the store, its failed requests and the report so far.
"""

import asyncio
import collections
import logging
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from distill.counting import counted
from distill.tasks import metrics
from distill.tasks.records import Problem, Record
from distill.teacher.assembly import rows
from distill.teacher.assembly.asked import Collected, PromptedRow
from distill.teacher.assembly.assemble import Assembly, failed_requests
from distill.teacher.clients.batch import BatchTeacher
from distill.teacher.clients.cost import Budget
from distill.teacher.clients.recorded import record
from distill.teacher.clients.replies import Teacher
from distill.teacher.clients.server import ServerTeacher
from distill.teacher.clients.server_config import ServerConfig
from distill.teacher.clients.store import ReplyStore
from distill.teacher.job import files
from distill.teacher.job.collect import CAP_REACHED, Collector
from distill.teacher.job.config import ExtractConfig, ExtractionStoppedError, ExtractReport, TeacherConfig, listed
from distill.teacher.job.progress import Progress, State, automatic
from distill.teacher.job.prompting import load_prompt, prompted, read_records, requests_of, unseen_choices
from distill.teacher.prompts.labels import known_labels
from distill.teacher.prompts.prompt import Prompt
from distill.validation import quoted

_log = logging.getLogger(__name__)
_EXAMPLE = 200  # characters of a reply in a report
_ANSWER_KINDS: Mapping[str, metrics.AnswerKind] = {"cqa": "choice", "svamp": "equation", "asdiv": "equation"}


def extract(config: ExtractConfig, *, progress: Progress | None = None) -> ExtractReport:
    """Sends every row to the teachers, and writes rows with labels and rationales.

    Args:
      config: see :class:`ExtractConfig`.
      progress: called with the state after every change; by default a progress bar on a terminal, or else lines on stderr.

    Raises:
      ExtractionStoppedError: the job ended early (wrong key, no server, cost cap, interrupt) and ``accept_partial`` is
        off.
      PromptError, SourceError, StoreError: a file cannot be used.
    """
    return _run(extract_async(config, progress=progress))


def _run(coroutine: Any) -> Any:
    """Runs a coroutine, also inside a running event loop (notebooks)."""
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


def open_teacher(config: TeacherConfig) -> Teacher:
    """Opens a teacher; with ``batch``, the server's batch API.

    Raises:
      TeacherSettingsError: a required key is not in the environment, or a package or model is missing.
      SourceError: a file of recorded replies cannot be used.
    """
    if isinstance(config, ServerConfig):
        return BatchTeacher(config) if config.batch else ServerTeacher(config)
    return config.open()


async def extract_async(config: ExtractConfig, *, progress: Progress | None = None) -> ExtractReport:
    """:func:`extract` as a coroutine."""
    prompt = load_prompt(config)
    rows.check_place(config.output)
    progress = progress or automatic()
    report = ExtractReport(prompt=prompt.name, prompt_hash=prompt.hash)
    progress(State())
    records, rejected = read_records(config)
    report.rejected = dict(collections.Counter(problem.reason for problem in rejected).most_common())
    report.read = len(records) + len(rejected)
    for problem in rejected:
        _add_example(report, problem.reason, problem.place(), problem.text)
    if warning := unseen_choices(prompt, records):
        _log.warning("%s", warning)
    files.check(config, records)
    twice = len(records) - len({record.id for record in records})
    if twice:
        report.noticed["two rows with the same id"] = twice
    teachers: dict[str, Teacher] = {}
    try:
        with ReplyStore(config.store_path) as store:
            for each in config.teachers:
                teachers[each.called] = open_teacher(each)
            prices = {each.called: each.prices for each in config.teachers if each.prices is not None}
            collector = Collector(teachers, store, prices=prices, budget=Budget(config.cost_cap), progress=progress)
            as_json = {name: await collector.wants_json(teacher) for name, teacher in teachers.items()}
            models = {name: teacher.model for name, teacher in teachers.items()}
            asked = [prompted(config, prompt, record, models, as_json) for record in records]
            collected = await collector.collect(request for row in asked for request in row.requests)
            assembly = Assembly(
                prompt=prompt,
                rules=config.rules,
                answer=answer_kind(config, prompt),
                as_json=as_json,
                labels=labels_of(config, prompt, records),
                keep_replies=config.keep_replies,
            )
            if config.rationalise != "off" and not collected.stopped:
                again = _to_rationalise(config, prompt, asked, assembly, collected, models, as_json)
                collected.update(await collector.collect(request for row in again for request in row.told))
            _finish(config, report, asked, assembly, collected, collector, rejected)
            if config.record_to:
                record(store, config.record_to)
                report.outputs["recording"] = config.record_to
    finally:
        progress.close()
        for teacher in teachers.values():
            await teacher.close()
    if report.stopped and not config.accept_partial:
        missing = report.requests - report.cached - report.finished
        raise ExtractionStoppedError(
            f"{report.stopped}\n{report.cached + report.finished:,} of {report.requests:,} requests are answered and "
            f"stored in {config.store_path}; "
            + ("correct that, and run the command again" if collected.hopeless else "run the same command again")
            + (" with a larger cap (--cost_cap)" if report.stopped.startswith(CAP_REACHED) else "")
            + f" to send the other {missing:,}",
            report,
            collected.hopeless,
        )
    return report


def answer_kind(config: ExtractConfig, prompt: Prompt) -> metrics.AnswerKind:
    """How the job compares answers: as configured, as its data set or as its prompt's parser."""
    if config.answer is not None:
        return config.answer
    return config.dataset.answer if config.dataset is not None else _ANSWER_KINDS.get(prompt.parser, "text")


def labels_of(config: ExtractConfig, prompt: Prompt, records: Sequence[Record]) -> tuple[str, ...]:
    """The possible labels of the job, if they are few; empty if its prompt has a parser."""
    if prompt.parser:  # the parser determines the labels
        return ()
    declared = config.labels or (config.dataset.labels if config.dataset is not None else None) or ()
    return known_labels(records, declared=declared, worked=[example.label for example in prompt.examples])


def _to_rationalise(
    config: ExtractConfig,
    prompt: Prompt,
    asked: Sequence[PromptedRow],
    assembly: Assembly,
    collected: Collected,
    models: Mapping[str, str],
    as_json: Mapping[str, bool],
) -> list[PromptedRow]:
    """Adds second-round requests, which give the answer, to the rows that need them; returns these rows."""
    again = []
    for row in asked:
        if row.record.label is None or row.misfit:
            continue
        if config.rationalise == "wrong" and assembly.is_right(row, collected, tuple(models)):
            continue
        row.told = requests_of(config, prompt, row.record, models, as_json, label=row.record.label)
        again.append(row)
    return again


def _finish(
    config: ExtractConfig,
    report: ExtractReport,
    asked: Sequence[PromptedRow],
    assembly: Assembly,
    collected: Collected,
    collector: Collector,
    rejected: Sequence[Problem],
) -> None:
    groups, invalid = files.groups(config), [_rejected(problem) for problem in rejected]
    state = collector.state
    report.requests, report.cached, report.finished = state.total, state.cached, state.finished
    report.failed, report.stopped = state.failed, collected.stopped
    report.usage, report.cost = dict(collector.usage), state.cost
    report.unknown_usage, report.perhaps_cost = state.unknown_usage, state.perhaps_cost
    report.misfits = sum(bool(row.misfit) for row in asked)
    reasons = collections.Counter(each.reason for each in collected.failures.values())
    report.failures = dict(reasons.most_common())
    report.repeated = dict(state.repeated.most_common())
    for each in collected.failures.values():
        _add_example(report, each.reason, each.detail, each.raw)
    prefixes = {each.called: each.prefix for each in config.teachers}
    failures, written = (rows.beside(config.output, name) for name in ("failures.jsonl", "report.json"))
    report.outputs = {"failures": str(failures), "report": str(written)}
    if report.stopped and not config.accept_partial:
        # No rows are written. A process that got a signal has seconds left, so no stored reply is read and parsed.
        failed = [each for row in asked for each in failed_requests(row, collected, tuple(prefixes))]
        rows.write(failures, invalid + failed)
        rows.write_json(written, report.to_json())
        return
    records: dict[str, str] = {}
    for path, names in groups.items():
        values = assembly.rows(asked, collected, names, prefix=prefixes[names[0]] if len(groups) > 1 else "")
        rows.write(path, values)
        records["records" if len(groups) == 1 else f"records of {names[0]}"] = path
        report.written += len(values)
        report.explained += sum(bool(row["rationales"]) for row in values)
        report.labelled += sum("llm_label" in row for row in values)
    counts = assembly.counts()
    report.unreadable, report.dropped = counts["unreadable"], counts["dropped"]
    for failure in assembly.failures:
        _add_example(report, failure["reason"], failure["detail"], failure["raw"])
    report.noticed |= counts["noticed"]
    report.compared, report.agreed, report.rationalised = assembly.compared, assembly.agreed, assembly.rationalised
    rows.write(failures, invalid + assembly.failures)
    report.outputs = {**records, **report.outputs}
    rows.write_json(written, report.to_json())
    if report.labelled and not report.explained:
        _log.warning(
            "%s written, none with a rationale%s: such rows train the label task only; keep more with Rules (--leakage, "
            "--on_disagreement, --least_share), or change the prompt",
            counted(report.written, "row"),
            f" (dropped: {listed(report.dropped)})" if report.dropped else "",
        )


def _rejected(problem: Problem) -> dict[str, Any]:
    """A rejected row as a line of the file of failures."""
    where = {"kind": problem.kind, "file": problem.file, "line": problem.line}
    return {"id": problem.id, **where, "reason": problem.reason, "detail": problem.place(), "raw": problem.text}


def _add_example(report: ExtractReport, reason: str, detail: str, raw: str) -> None:
    """Notes the details of a failure, or else the beginning of its reply, unless the reason has an example."""
    if reason not in report.examples and (example := detail or (quoted(raw, _EXAMPLE) if raw.strip() else "")):
        report.examples[reason] = example
