"""``distill extract`` and ``distill inspect`` as plain functions: one argument a flag, an exit code back.

For jobs that flags cannot say (several teachers, selection rules), use :func:`distill.teacher.extract` and
:class:`~distill.teacher.ExtractConfig` from Python.
"""

import sys
from collections.abc import Sequence

from distill.inspect import InspectConfig, inspect
from distill.inspect.statistics import Plan
from distill.teacher.completion import Endpoint
from distill.teacher.cost import Prices
from distill.teacher.dry_run import estimate
from distill.teacher.extraction import extract
from distill.teacher.job import Combine, ExtractConfig, ExtractionStoppedError, Rationalise, TeacherConfig
from distill.teacher.local import LocalConfig
from distill.teacher.recorded import RecordedConfig, record
from distill.teacher.replies import Sampling, TeacherStoppedError
from distill.teacher.selection import Leakage, OnDisagreement, Rules
from distill.teacher.server import ServerConfig, Structured
from distill.teacher.store import ReplyStore

EXIT_STOPPED = 75
"""EX_TEMPFAIL: ended early, everything answered so far is kept; run the same command again to go on."""


DESCRIBED = (ExtractConfig, ServerConfig, Rules, Sampling)
"""Where the arguments of :func:`run_extract` are described that its own documentation leaves out."""


def _fields(pairs: Sequence[str]) -> dict[str, str]:
    fields = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name or not value:
            raise ValueError(f"--field wants NAME=FIELD, for instance input=question; got {pair!r}")
        fields[name] = value
    return fields


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
    temperature: float | None = None,
    max_tokens: int = 256,
    rationalise: Rationalise = "off",
    combine: Combine = "merge",
    on_disagreement: OnDisagreement = "keep",
    least_share: float = 0.0,
    leakage: Leakage = "count",
    concurrency: int = 64,
    requests_per_minute: float | None = None,
    tokens_per_minute: float | None = None,
    price_prompt: float | None = None,
    price_completion: float | None = None,
    cost_cap: float | None = None,
    store: str = "",
    record_to: str = "",
    dry_run: bool = False,
) -> int:
    """Asks teachers about the rows of a JSON-lines file.

    Args:
      inputs: JSON lines to ask about.
      output: JSON lines to write.
      prompt: a prompt that comes along, or a YAML file.
      model: a model at the server ``base_url``; several are several teachers; may repeat.
      local: a folder or hub name of a `transformers` model, run here; may repeat.
      recorded: a file of recorded replies; may repeat.
      model_of_recording: the model that gave the recorded replies, for recordings by key.
      field: NAME=FIELD, where the rows do not call things as records do, such as input=question; may repeat.
      rationalise: ask again with the gold label given: where the vote is wrong, or for all rows.
      combine: with several teachers, merge their votes, or keep a rationale from each.
      on_disagreement: what happens where the vote is not the gold label.
      leakage: what to do with rationales that give the answer away instead of explaining it.
      temperature: of the sampling; by default 0 for one sample per row and 0.7 for several.
      max_tokens: the most tokens of a reply.
      requests_per_minute, tokens_per_minute: the most to send; by default as the server's headers allow.
      price_prompt, price_completion: price per million tokens, for the cost so far and the cost cap.
      record_to: also write all replies to this file, to be replayed later with ``recorded``.
      dry_run: only say what the job would take.

    The others are as in :class:`ExtractConfig`, :class:`ServerConfig` and :class:`Rules`.

    Returns:
      0, or :data:`EXIT_STOPPED`.

    Raises:
      ValueError: wrong arguments or files.
    """
    if (price_prompt is None) != (price_completion is None):
        raise ValueError("--price_prompt and --price_completion go together")
    prices = (
        Prices(price_prompt, price_completion) if price_prompt is not None and price_completion is not None else None
    )
    if temperature is None:
        temperature = 0.7 if samples > 1 else 0.0
    sampling = Sampling(temperature=temperature, max_tokens=max_tokens)
    teachers: list[TeacherConfig] = [
        ServerConfig(
            model=name,
            base_url=base_url,
            api_key_env=api_key_env,
            endpoint=endpoint,
            structured=structured,
            batch=batch,
            sampling=sampling,
            concurrency=concurrency,
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
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
        raise ValueError("who is the teacher? Give --model (at --base_url), --local or --recorded")
    config = ExtractConfig(
        output=output,
        prompt=prompt,
        teachers=tuple(teachers),
        inputs=inputs,
        fields=_fields(field),
        limit=limit,
        samples=samples,
        rationalise=rationalise,
        combine=combine,
        rules=Rules(on_disagreement=on_disagreement, least_share=least_share, leakage=leakage),
        store=store,
        cost_cap=cost_cap,
    )
    if dry_run:
        print(estimate(config))
        return 0
    try:
        report = extract(config)
    except (ExtractionStoppedError, TeacherStoppedError) as stopped:
        print(f"distill extract: {stopped}", file=sys.stderr)
        return EXIT_STOPPED
    print(report)
    for what, path in report.outputs.items():
        print(f"{what}: {path}")
    if record_to:
        with ReplyStore(config.store_path) as replies:
            print(f"{record(replies, record_to):,} replies recorded: {record_to}")
    return 0


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
) -> int:
    """Writes an HTML report of a JSON-lines file of records.

    Args:
      inputs: JSON lines of records.
      output: the HTML file.
      field: NAME=FIELD, where the rows do not call things as records do, such as input=question; may repeat.
      failures: JSON lines of failures; by default those that ``extract`` wrote beside ``inputs``.
      vocabulary: a SentencePiece model, ``t5``, ``mt5`` or ``bytes``; without, words are counted.
      input_length, target_length: planned sequence length in tokens.
      lam, label_rate, rationale_rate, batch_size: for the effective λ.
      title: heading of the report.

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
        output, inputs=inputs, fields=_fields(field), failures=failures, vocabulary=vocabulary, plan=plan, title=title
    )
    print(inspect(config))
    return 0
