"""``distill extract`` and ``distill inspect`` as plain functions: one argument per flag, returning an exit code.

For settings without a flag (different teachers, selection rules), use :func:`distill.teacher.extract` and
:class:`~distill.teacher.ExtractConfig` from Python.
"""

import argparse
import collections
import dataclasses
import json
import sys
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from distill import exit_codes, outputs, terminal
from distill.cli import flags
from distill.teacher.assembly import rows
from distill.teacher.assembly.assemble import MISFIT
from distill.teacher.assembly.selection import Leakage, OnDisagreement, Rules
from distill.teacher.clients.completion import Endpoint
from distill.teacher.clients.cost import Prices
from distill.teacher.clients.local import LocalConfig
from distill.teacher.clients.recorded import RecordedConfig
from distill.teacher.clients.replies import Sampling, TeacherSettingsError, TeacherStoppedError
from distill.teacher.clients.server_config import ServerConfig, Structured
from distill.teacher.inspect import InspectConfig, inspect
from distill.teacher.inspect.statistics import Plan
from distill.teacher.job import files, wrong
from distill.teacher.job.config import (
    Combine,
    ExtractConfig,
    ExtractionStoppedError,
    ExtractReport,
    Rationalise,
    TeacherConfig,
)
from distill.teacher.job.dry_run import estimate
from distill.teacher.job.extraction import extract

_PASSING = ("no connection", "timeout", "server error", "too many requests", "out of memory", "generation failed")


DESCRIBED = (ExtractConfig, ServerConfig, Rules, Sampling)
"""Classes that describe the arguments missing from the docstring of :func:`run_extract`."""


def _pairs(flag: str, pairs: Sequence[str], example: str, form: str = "NAME=VALUE") -> dict[str, str]:
    """``NAME=VALUE`` texts as a mapping."""
    values = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name or not value:
            got = repr(pair) if "header" not in flag else repr(name)  # a value may be a secret
            raise ValueError(f"{flag} needs {form}, for instance {example}; got {got}")
        values[name] = value
    return values


def _fields(pairs: Sequence[str]) -> dict[str, str]:
    return _pairs("--field", pairs, "input=question", "NAME=FIELD")


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _temperature(given: str | float | None, samples: int) -> float | None:
    if given is None:
        return 0.7 if samples > 1 else 0.0
    if str(given).lower() == "none":
        return None
    try:
        return float(given)
    except ValueError:
        raise ValueError(f"--temperature needs a number, or none to leave it to the server; got {given!r}") from None


def _split_url(url: str | None) -> tuple[str | None, dict[str, str]]:
    """An address as Azure's portal shows it, without its ``api-version``; any other query is kept, and rejected later."""
    parts = urlsplit(url or "")
    query = dict(parse_qsl(parts.query))
    if url is None or set(query) != {"api-version"}:
        return url, {}
    return urlunsplit((parts.scheme, parts.netloc, parts.path, "", parts.fragment)), query


def run_extract(
    *,
    inputs: str,
    output: str,
    prompt: str,
    model: Sequence[str] = (),
    base_url: str | None = None,
    api_key_env: str = "OPENAI_API_KEY",
    endpoint: Endpoint = "chat",
    structured: Structured = "off",
    batch: bool = False,
    local: Sequence[str] = (),
    recorded: Sequence[str] = (),
    model_of_recording: str = "",
    field: Sequence[str] = (),
    limit: int | None = None,
    samples: int = 1,
    temperature: str | None = None,
    max_tokens: int = 256,
    max_tokens_field: str = "max_tokens",
    no_stop: bool = False,
    extra: Sequence[str] = (),
    header: Sequence[str] = (),
    header_env: Sequence[str] = (),
    query: Sequence[str] = (),
    label: Sequence[str] = (),
    rationalise: Rationalise = "off",
    combine: Combine = "merge",
    on_disagreement: OnDisagreement = "keep",
    least_share: float = 0.0,
    leakage: Leakage = "count",
    concurrency: int = 64,
    requests_per_minute: float | None = None,
    tokens_per_minute: float | None = None,
    attempt_s: float = 120.0,
    patience_s: float = 900.0,
    price_prompt: float | None = None,
    price_completion: float | None = None,
    cost_cap: float | None = None,
    store: str = "",
    record_to: str = "",
    overwrite: bool = False,
    only_wrong: str = "",
    dry_run: bool = False,
) -> int:
    """Adds teachers' labels and rationales to the rows of a JSON-lines file.

    Args:
      inputs: JSON lines with the rows.
      output: JSON lines to write.
      prompt: a shipped prompt, or a YAML file.
      model: name of a model on the server ``base_url``; each is a separate teacher; may repeat.
      local: a folder or hub name of a `transformers` model, run here; may repeat.
      recorded: a file of recorded replies; may repeat.
      model_of_recording: the model that gave the recorded replies, for recordings by key.
      field: NAME=FIELD, if the field names of the rows differ, such as input=question; may repeat.
      rationalise: send a second request that gives the gold label: where the vote is wrong, or for all rows.
      combine: with several teachers, merge their votes, or keep a rationale from each.
      on_disagreement: action if the vote is not the gold label.
      leakage: action for rationales that give the answer instead of explaining it.
      temperature: sampling temperature; default: 0 for one sample per row and 0.7 for several; none: not sent, the
        server's own applies.
      max_tokens: maximum number of tokens of a reply.
      max_tokens_field: name of that field in the request; max_completion_tokens for hosted reasoning models.
      no_stop: send no stop strings.
      extra: NAME=VALUE field of the request's body; the value is JSON, else text: reasoning_effort=low; may repeat.
      header: NAME=VALUE header without a secret; may repeat.
      header_env: NAME=VARIABLE header read from the environment, for secrets: api-key=AZURE_OPENAI_API_KEY; may repeat.
      query: NAME=VALUE pair for the address: api-version=2024-10-21; may repeat.
      label: one of the possible labels; an answer outside them is undecided; may repeat.
      attempt_s: maximum duration of one attempt, in seconds.
      patience_s: how long to continue while every attempt fails, in seconds.
      requests_per_minute, tokens_per_minute: maximum per minute, as the account allows; default: no limit.
      price_prompt, price_completion: price per million tokens, for the cost so far and the cost cap.
      record_to: also write all replies to this file, to be replayed later with ``recorded`` and ``model_of_recording``.
      overwrite: replace files in the place of the outputs that no ``extract`` wrote; an input is never replaced.
      only_wrong: send only the rows that a student answers wrongly on validation: its model directory, or a file of its
        predictions; their ids are written beside the output.
      dry_run: only print the estimated requests, tokens and cost.

    The others are as in :class:`ExtractConfig`, :class:`ServerConfig` and :class:`Rules`.

    Returns:
      An exit code: 0; ``STOPPED``; or ``MISTAKE`` if no reply can be used or the server rejects the settings.

    Raises:
      ValueError: wrong arguments or files.
    """
    if (price_prompt is None) != (price_completion is None):
        raise ValueError("--price_prompt and --price_completion go together")
    prices = (
        Prices(price_prompt, price_completion) if price_prompt is not None and price_completion is not None else None
    )
    sampling = Sampling(temperature=_temperature(temperature, samples), max_tokens=max_tokens)
    address, version = _split_url(base_url)
    more = _pairs("--extra", extra, "reasoning_effort=low")
    teachers: list[TeacherConfig] = [
        ServerConfig(
            model=name,
            base_url=address,
            api_key_env=api_key_env,
            endpoint=endpoint,
            structured=structured,
            batch=batch,
            sampling=sampling,
            concurrency=concurrency,
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
            attempt_s=attempt_s,
            patience_s=patience_s,
            max_tokens_field=max_tokens_field,
            send_stop=not no_stop,
            extra={name: _json_or_text(value) for name, value in more.items()},
            headers=_pairs("--header", header, "X-Title=distill"),
            headers_env=_pairs("--header_env", header_env, "api-key=AZURE_OPENAI_API_KEY", "NAME=VARIABLE"),
            query=version | _pairs("--query", query, "api-version=2024-10-21"),
            prices=prices,
        )
        for name in model
    ]
    teachers += [LocalConfig(name, sampling=sampling) for name in local]
    teachers += [
        RecordedConfig(
            path,
            name=path if len(recorded) > 1 else "recorded",
            model=model_of_recording,
            endpoint=endpoint,
            sampling=sampling,
            prices=prices,
        )
        for path in recorded
    ]
    if not teachers:
        raise ValueError("no teacher given; use --model (with --base_url), --local or --recorded")
    config = ExtractConfig(
        output=output,
        prompt=prompt,
        teachers=tuple(teachers),
        inputs=inputs,
        fields=_fields(field),
        limit=limit,
        labels=tuple(label),
        samples=samples,
        rationalise=rationalise,
        combine=combine,
        rules=Rules(on_disagreement=on_disagreement, least_share=least_share, leakage=leakage),
        store=store,
        record_to=record_to,
        overwrite=overwrite,
        cost_cap=cost_cap,
    )
    if only_wrong:
        config, selected = wrong.narrowed(config, only_wrong)
        print(selected)
        if not selected.records:
            return 0
    if dry_run:
        print(estimate(config))
        return 0
    if only_wrong:
        ids = rows.beside(output, "wrong.json")
        rows.check_place(output)
        files.check(config, selected.records, [selected.file])
        if not overwrite:
            outputs.check_own("the file of ids", ids, wrong.is_ids, "distill extract")
        wrong.write_ids(selected, ids)
        print(f"ids: {ids}")
    try:
        report = extract(config)
    except ExtractionStoppedError as stopped:
        report = dataclasses.replace(stopped.report, stopped="")  # the message includes it
        where = f"failures: {report.outputs['failures']}\n" if report.failures else ""
        where += "".join(f"{what}: {path}\n" for what, path in report.outputs.items() if what != "failures")
        print(f"{report}\n{where}", end="", file=sys.stderr)
        terminal.error(f"distill extract: {stopped}")
        return exit_codes.MISTAKE if stopped.hopeless else exit_codes.STOPPED
    except TeacherStoppedError as stopped:
        terminal.error(f"distill extract: {stopped}")
        return exit_codes.MISTAKE if isinstance(stopped, TeacherSettingsError) else exit_codes.STOPPED
    print(report)
    for what, path in report.outputs.items():
        print(f"{what}: {path}")
    status, why = _outcome(report)
    if status:
        terminal.error(f"distill extract: {why}; see {rows.beside(output, 'failures.jsonl')}")
    return status


def _outcome(report: ExtractReport) -> tuple[int, str]:
    """The exit code of a job that ran to its end, and why it is not 0."""
    reason = next(iter(report.failures), "")
    words = f"{reason}: {report.examples.get(reason, '')}".rstrip(": ")
    if report.failed and not report.finished and (reason in _PASSING or not report.cached):
        again = reason in _PASSING
        why = f"none of {report.failed:,} requests was answered, for instance {words}"
        return (exit_codes.STOPPED, f"{why}; run the same command again later") if again else (exit_codes.MISTAKE, why)
    if report.read and not (report.explained or report.labelled):
        found = collections.Counter(report.unreadable) + collections.Counter(report.failures)
        found[MISFIT] += report.misfits
        ((reason, number),) = found.most_common(1)
        why = f"no reply could be used: {number:,} × {reason}: {report.examples.get(reason, '')}"
        return exit_codes.MISTAKE, why.rstrip(": ")
    return 0, ""


def run_inspect(
    *,
    inputs: str,
    output: str,
    field: Sequence[str] = (),
    failures: str = "",
    vocabulary: str | None = None,
    input_length: int | None = None,
    target_length: int | None = None,
    lam: float = 1.0,
    label_rate: float = 1.0,
    rationale_rate: float = 1.0,
    batch_size: int = 64,
    title: str = "",
    overwrite: bool = False,
) -> int:
    """Writes an HTML report of a JSON-lines file of records.

    Args:
      inputs: JSON lines of records.
      output: the HTML file.
      field: NAME=FIELD, if the field names of the rows differ, such as input=question; may repeat.
      failures: JSON lines of failures; by default those that ``extract`` wrote beside ``inputs``.
      vocabulary: a SentencePiece model, ``t5``, ``mt5`` or ``bytes``; without, words are counted.
      input_length, target_length: planned sequence length in tokens.
      lam, label_rate, rationale_rate, batch_size: setting of the planned run, for its effective λ.
      title: heading of the report.
      overwrite: replace a file in the place of the output that is no report; an input is never replaced.

    Returns:
      0.

    Raises:
      ValueError, FileNotFoundError: wrong arguments or files.
    """
    plan = Plan(
        inputs=input_length,
        targets=target_length,
        lam=lam,
        label_rate=label_rate,
        rationale_rate=rationale_rate,
        batch_size=batch_size,
    )
    config = InspectConfig(
        output,
        inputs=inputs,
        fields=_fields(field),
        failures=failures,
        vocabulary=vocabulary,
        plan=plan,
        title=title,
        overwrite=overwrite,
    )
    print(inspect(config))
    return 0


def extract_command(options: argparse.Namespace) -> int:
    """``distill extract``."""
    return flags.call(run_extract, options)


def inspect_command(options: argparse.Namespace) -> int:
    """``distill inspect``."""
    return flags.call(run_inspect, options)
