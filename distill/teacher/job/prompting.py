"""Requests for rows."""

from collections.abc import Iterable, Mapping, Sequence

from distill.counting import counted
from distill.tasks import jsonl
from distill.tasks.records import Problem, Record, Report
from distill.teacher.assembly.asked import PromptedRow
from distill.teacher.clients.completion import printable
from distill.teacher.clients.replies import SCHEMA, Message, Request
from distill.teacher.job.config import ExtractConfig
from distill.teacher.prompts.prompt import InputShapeError, Prompt, PromptError
from distill.teacher.prompts.templates import load


def load_prompt(config: ExtractConfig) -> Prompt:
    """The job's prompt.

    Raises:
      PromptError: the prompt is invalid, or does not fit the job.
    """
    prompt = load(config.prompt)
    if config.labels and prompt.parser:
        raise PromptError(
            f"{prompt.name}: labels (--label) apply to prompts without a parser; "
            f"the parser {prompt.parser!r} defines its answers. Remove one of the two"
        )
    if config.rationalise != "off" and not prompt.rationalise:
        raise PromptError(
            f"{prompt.name}: rationalise={config.rationalise!r} needs the entry 'rationalise', a question that "
            "gives the answer"
        )
    return prompt


def read_records(config: ExtractConfig) -> tuple[list[Record], list[Problem]]:
    """The job's rows, and the rows up to the last of them that are rejected.

    Raises:
      SourceError: a file cannot be used, or no row has a field that ``fields`` names; with a limit, the rows after it are
        read for that, too.
    """
    read_report = Report()
    source: Iterable[Record]
    if config.dataset is not None:
        source = config.dataset.records(config.split, read_report)
    elif config.inputs:
        source = jsonl.JsonLines({"all": config.inputs}, config.fields)("all", read_report)
    else:
        source = config.records or ()
    records: list[Record] = []
    rejected: list[Problem] | None = None
    for record in source:
        if config.limit is None or len(records) < config.limit:
            records.append(record)
            if len(records) == config.limit:
                rejected = read_report.rejected
        elif not config.fields:
            break
    return records, read_report.rejected if rejected is None else rejected


def unseen_choices(prompt: Prompt, records: Sequence[Record]) -> str:
    """A warning of choices that no request shows; empty if all are in the question or the input."""
    if "{choices}" in prompt.question:
        return ""
    with_choices = [record for record in records if record.choices]
    unseen = sum(any(choice not in record.input for choice in record.choices) for record in with_choices)
    if not unseen:
        return ""
    return (
        f"the teacher does not see the choices of {unseen:,} of {counted(len(with_choices), 'row')} that have some: they "
        f"are not in the input, and 'question' of the prompt {prompt.name} has no {{choices}}; add it, or put them into "
        "the input, such as --field=input='{question} {choices}'"
    )


def requests_of(
    config: ExtractConfig,
    prompt: Prompt,
    record: Record,
    models: Mapping[str, str],
    as_json: Mapping[str, bool],
    label: str | None = None,
    samples: int = 1,
) -> list[Request]:
    """The requests for one row, to all teachers.

    Args:
      config: the job.
      prompt: its prompt.
      record: the row.
      models: teacher → its model's identifier in keys.
      as_json: teacher → whether its replies are JSON.
      label: the answer, if the request gives it.
      samples: replies per teacher.

    Raises:
      InputShapeError: the input does not fit the prompt.
    """
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
                    extra=each.extra,
                    purpose="explain" if label is None else "rationalise",
                    template=prompt.hash,
                )
            )
    return requests


def prompted(
    config: ExtractConfig,
    prompt: Prompt,
    record: Record,
    models: Mapping[str, str],
    as_json: Mapping[str, bool],
) -> PromptedRow:
    """A row with its requests, or with the reason for their absence. Arguments as in :func:`requests_of`."""
    try:
        requests = requests_of(config, prompt, record, models, as_json, samples=config.samples)
    except InputShapeError as error:
        return PromptedRow(record, misfit=str(error))
    return PromptedRow(record, requests)
