"""The dry run: an estimate of requests, tokens, cost and time without sending a request."""

import dataclasses
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

from distill.teacher.clients import cost
from distill.teacher.clients.cost import Estimate, Tokenizing
from distill.teacher.clients.replies import Request, Usage
from distill.teacher.clients.store import ReplyStore
from distill.teacher.job import files
from distill.teacher.job.config import ExtractConfig, TeacherConfig
from distill.teacher.job.prompting import load_prompt, prompted, read_records, requests_of, unseen_choices
from distill.teacher.prompts.prompt import Prompt

_log = logging.getLogger(__name__)


def estimate(config: ExtractConfig) -> Estimate:
    """Renders every prompt and estimates the job, without sending a request.

    The second round of rationalisation is counted for every row that may need it. ``structured='auto'`` is counted as
    free text.

    Raises:
      PromptError, SourceError, StoreError: a file cannot be used.
      ValueError: a file to be written is an input, or of another program.
    """
    prompt = load_prompt(config)
    records, _ = read_records(config)
    files.check(config, records)
    if warning := unseen_choices(prompt, records):
        _log.warning("%s", warning)
    models = {each.called: each.model_key() for each in config.teachers}
    as_json = {each.called: each.structured not in ("off", "auto") for each in config.teachers}
    requests: dict[str, Request] = {}
    for record in records:
        row = prompted(config, prompt, record, models, as_json)
        with_answer = []
        if config.rationalise != "off" and record.label is not None and not row.misfit:
            with_answer = requests_of(config, prompt, record, models, as_json, label=record.label)
        for request in (*row.requests, *with_answer):
            requests.setdefault(request.key, request)
    found: dict[str, Any] = {}
    if os.path.exists(config.store_path):
        with ReplyStore(config.store_path) as store:
            found = store.find(requests)
    parts = [_estimate_one(each, prompt, list(requests.values()), found) for each in config.teachers]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    first = next(iter(requests.values()), None)
    return total if first is None else dataclasses.replace(total, first=_shown(first))


def _shown(request: Request) -> str:
    """The texts of a request as they are sent; those of a chat with their roles."""
    if request.prompt:
        return request.prompt
    return "\n".join(f"[{message.role}] {message.content}" for message in request.messages)


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
    batch = each.batch
    money = each.prices.of(Usage(read, likely), batch=batch) if each.prices else None
    most_money = each.prices.of(most, batch=batch) if each.prices else None
    minutes = []
    if each.requests_per_minute:
        minutes.append(len(todo) / each.requests_per_minute)
    if each.tokens_per_minute:
        minutes.append((read + likely) / each.tokens_per_minute)
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
