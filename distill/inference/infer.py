"""Answers for rows of JSON: one line out for every line in, in order, and restartable."""

import dataclasses
import functools
import itertools
import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax
from etils import epath
from flax import linen as nn

from distill import locking, outputs
from distill.checkpoints import digests
from distill.checkpoints.manager import BEST, LATEST, restore_student
from distill.counting import counted
from distill.inference import answering, answers, choosing, input_rows, model_directory, own_files, shards
from distill.inference import student as students
from distill.inference.answering import Answering
from distill.inference.decoder import DecodeConfig
from distill.inference.input_rows import Row
from distill.inference.student import Student
from distill.model import int8
from distill.model.parameters import in_compute_dtype, param_count
from distill.sharding import partitioning
from distill.tasks.plain_vocabularies import Plain
from distill.tasks.records import SourceError


@dataclasses.dataclass(frozen=True)
class InferReport:
    """The outcome of :func:`infer`.

    Attributes:
      answered: rows answered now.
      found: lines that the output held already.
      failed: rows that could not be answered now.
      reasons: counts of the reasons why rows could not be answered, including rows of earlier calls.
      first: reason → the first row with it, ``file:line``; of earlier calls, only rows whose input could not be read.
      fit: how the inputs of this call fit the student: those that were truncated, longer than the inputs of the training,
        or of unknown tokens.
      cut: answers of this call that reached the maximum number of tokens, and may be incomplete.
      empty: answers of this call without a visible character.
      readable: rows of this call whose input could be read.
      others_readable: whether the input has such rows outside the block, if none of the block is one.
    """

    answered: int
    found: int
    failed: int
    reasons: Mapping[str, int]
    first: Mapping[str, str] = dataclasses.field(default_factory=dict)
    fit: answering.Fit = answering.Fit()
    cut: int = 0
    empty: int = 0
    readable: int = 0
    others_readable: bool = False


class Progress(Protocol):
    """Receives the progress."""

    def note(self, text: str) -> None:
        """A line to print."""
        ...

    def rows(self, done: int, failed: int) -> None:
        """Called with the number of rows done, and the number of those that could not be answered."""
        ...


class Silent:
    """Prints nothing."""

    def note(self, text: str) -> None:
        """Nothing."""

    def rows(self, done: int, failed: int) -> None:
        """Nothing."""


def infer(
    input_path: str | os.PathLike[str],
    output_path: str | os.PathLike[str],
    *,
    model_dir: str | os.PathLike[str],
    student: Student | None = None,
    input_field: str | None = None,
    choices: str | Sequence[str] | None = None,
    rationale: bool = False,
    rationale_decode: DecodeConfig | None = None,
    rules: partitioning.Rules = partitioning.DEFAULT_RULES,
    chunk: int = 1024,
    overwrite: bool = False,
    shard: tuple[int, int] | None = None,
    progress: Progress | None = None,
) -> InferReport:
    """Answers every row of ``input_path`` into ``output_path``.

    Args:
      input_path: JSON lines or one array of objects, see :func:`distill.tasks.sources.read_rows`.
      output_path: JSON lines: ``line`` (from 1; of an array: the element), the row's own ``id`` if it has one, ``label``,
        ``score`` (the answer's log-probability, nats), with ``choices`` also ``probabilities`` (of each choice, in their
        order), with ``rationale=True`` also ``rationale``. A row that cannot be answered gives ``line`` and ``error``; so
        does one for which the student writes no answer.
        Lines of an earlier call with the same settings and input are kept. ``-`` is standard output; there, and in a pipe
        or a device, nothing is kept.
      model_dir: where the student was trained; only ``student.json``, the vocabulary and the checkpoint are read.
      student: replaces ``student.json``.
      input_field: which field holds the input, or a template as in :class:`distill.tasks.jsonl.JsonLines`; None: the
        field that the student was trained with.
      choices: the label is the most probable of these: the field that holds a row's choices, or the choices of all rows.
        None: ``decode.choices`` of the student, or the field that the training read, if its ``decode.answers`` is
        ``choose``; else labels are generated.
      rationale: generate the rationale, too. The label does not depend on it.
      rationale_decode: how rationales are decoded; None: as labels, up to 256 tokens.
      rules: see :mod:`distill.sharding.partitioning`.
      chunk: rows answered before they are written.
      overwrite: answer all rows again and replace the output.
      shard: ``(i, n)``, from ``(1, n)`` to ``(n, n)``: answers the i-th of n blocks of consecutive rows, whose sizes differ
        by at most one. The outputs of all blocks, one after the other, are the output of the whole input.
      progress: called with the progress.

    Raises:
      FileNotFoundError: no input file, or no student.
      distill.locking.Locked: another process writes this output.
      ValueError: a student that gives no labels, damaged files, more shards than rows, rows none of which has the input's
        field, or an output that is the input, that holds answers of another run or input, or that another program wrote.
    """
    progress = progress or Silent()
    student = students.read(model_dir) if student is None else student
    vocabulary = students.read_vocabulary(model_dir, student)
    answering.check(student, vocabulary)
    field = student.input_field if input_field is None else input_field
    rationale_decode = rationale_decode or answering.rationale_config(student.decode)
    block = None if shard is None else shards.block_of(input_path, *shard)
    named = student.rows.fields if student.rows is not None else {}
    choices = student.choices if choices is None else choices
    if choices is not None:
        answering.check_chooses(student)
    unfinished = model_directory.unfinished(model_dir)
    for warning in (*student.decode.unused(choices is not None), *filter(None, [unfinished])):
        progress.note(f"WARNING {warning}")
    job = _Job(student, vocabulary, field, rationale, rationale_decode, rules, chunk, str(input_path), choices, block)

    def read_rows() -> Iterator[Row]:
        found = input_rows.read(Path(input_path), field, named.get("id", "id"), choices)
        if choices is None:
            return found
        prompt = answering.target_prompt(student, vocabulary, student.label_prefix)
        return input_rows.with_problems(found, functools.partial(choosing.problem_of, vocabulary, prompt))

    rows = read_rows() if block is None else itertools.islice(read_rows(), block.first, block.end)
    input_rows.check_field(Path(input_path), field)
    if isinstance(choices, str):
        remedy = """--choices takes a list, such as '["yes", "no"]', or names another field"""
        input_rows.check_field(Path(input_path), choices, "the choices were", remedy)
    first = list(itertools.islice(rows, 1))  # an input that cannot be read is an error before anything is written
    report = _answer_to(output_path, job, itertools.chain(first, rows), model_dir, overwrite, progress)
    if block is not None and not (report.found or report.readable):
        return dataclasses.replace(report, others_readable=any(row.error is None for row in read_rows()))
    return report


def _answer_to(
    output_path: str | os.PathLike[str],
    job: "_Job",
    rows: Iterator[Row],
    model_dir: str | os.PathLike[str],
    overwrite: bool,
    progress: Progress,
) -> InferReport:
    """:func:`_answer` to a file, which is locked, or to a stream."""
    if os.fspath(output_path) == answers.STDOUT:
        return _answer(job, rows, answers.Stream(), model_dir, overwrite, progress, None)
    if os.path.exists(output_path) and not (os.path.isfile(output_path) or os.path.isdir(output_path)):
        with open(output_path, "wb") as file:
            return _answer(job, rows, answers.Stream(file), model_dir, overwrite, progress, None)
    outputs.check({"the output": output_path}, [job.input_path])
    lock = locking.held(locking.of_output(output_path), f"the output {os.fspath(output_path)}", "name another --output")
    with model_directory.undone_on_failure(epath.Path(output_path).parent), lock as held:
        return _answer(job, rows, output_path, model_dir, overwrite, progress, held)


@dataclasses.dataclass(frozen=True)
class _Job:
    """The student, its input field and its settings."""

    student: Student
    vocabulary: Plain
    field: str
    rationale: bool
    rationale_decode: DecodeConfig
    rules: partitioning.Rules
    chunk: int
    input_path: str
    choices: str | Sequence[str] | None = None
    block: shards.Block | None = None


def _answer(
    job: _Job,
    rows: Iterator[Row],
    output: str | os.PathLike[str] | answers.Stream,
    model_dir: str | os.PathLike[str],
    overwrite: bool,
    progress: Progress,
    lock: locking.Lock | None,
) -> InferReport:
    """:func:`infer` while the output is locked; a stream needs no lock."""
    student, vocabulary, field, rationale = job.student, job.vocabulary, job.field, job.rationale
    rationale_decode, rules, chunk = job.rationale_decode, job.rules, job.chunk
    skipped, places = 0, dict[str, str]()
    if isinstance(output, answers.Stream):
        out: answers.Answers | answers.Stream = output
    else:
        settings = _settings(model_dir, student, field, rationale, rationale_decode)
        settings |= {} if job.block is None else {"shard": job.block.name}
        settings |= {} if job.choices is None else {"choices": job.choices}
        out = answers.Answers(output, settings, overwrite=overwrite)
        skipped = _skip(rows, out, places, job.input_path)
    first = list(itertools.islice(rows, 1))
    rows = itertools.chain(first, rows)
    if not first:
        if out.found.rows:  # an input without rows leaves no output
            out.begin()
        return InferReport(0, out.found.rows, 0, dict(out.record.reasons.most_common()), first=places)

    device_mesh = mesh_here(student.mesh, progress).build()
    fit, cut, empty, number_readable = answering.Fit(), 0, 0, 0
    with jax.set_mesh(device_mesh), nn.logical_axis_rules(list(rules)):
        step, params = restore_student(os.fspath(model_dir), student.model, device_mesh, rules)
        progress.note(
            f"{os.fspath(model_dir)}: step {step}, {param_count(student.model):,} parameters, on "
            f"{counted(device_mesh.size, f'{jax.default_backend()} device')}; the input is field {field!r}"
            + (f"; {counted(skipped, 'row')} answered before" if skipped else "")
        )
        params = _to_read(params, job, device_mesh)
        answer_batch = Answering(
            student, vocabulary, params, device_mesh, rules=rules, rationale_decode=rationale_decode
        )
        # A first small chunk, so that the first answers are written soon.
        for part in _chunks(rows, min(chunk, student.decode.batch_size), chunk):
            readable = [row for row in part if row.error is None]
            number_readable += len(readable)
            fit += answer_batch.fit([row.text for row in readable])
            choices = None if job.choices is None else [row.choices or () for row in readable]
            texts = [row.text for row in readable]
            answered = iter(answer_batch(texts, rationale=rationale, choices=choices))
            lines, failures = [], []
            for row in part:
                values: dict[str, Any] = {"line": row.line}
                if row.id is not None:
                    values["id"] = row.id
                error = row.error
                if error is None:
                    found = next(answered)
                    if not math.isfinite(found.score):
                        error = f"the answer's score is {found.score}; the student's parameters are not finite"
                    elif found.problem is not None:
                        error = found.problem
                    else:
                        cut, empty = cut + found.cut, empty + found.is_empty
                        values["label"] = found.label
                        values["score"] = round(found.score, 6)
                        if found.probabilities is not None:
                            values["probabilities"] = [round(one, 6) for one in found.probabilities]
                        if rationale:
                            values["rationale"] = found.rationale
                if error is not None:
                    values["error"] = error
                    failures.append(reason_of(error))
                    places.setdefault(failures[-1], f"{job.input_path}:{row.line}")
                lines.append(answers.line(values))
            if lock is not None:
                lock.check()
            out.write(lines, [row.fingerprint for row in part], failures)
            progress.rows(out.record.rows, out.record.failed)
    return InferReport(
        out.record.answered - out.found.answered,
        out.found.rows,
        out.record.failed - out.found.failed,
        dict(out.record.reasons.most_common()),
        places,
        fit,
        cut,
        empty,
        number_readable,
    )


def _to_read(params: Any, job: "_Job", mesh: jax.sharding.Mesh) -> Any:
    """The parameters as decoding reads them, cast or quantized once: half or a quarter of the memory, the same answers."""
    model, decodes = job.student.model, (job.student.decode, job.rationale_decode)
    if all(decode.weights == "int8" for decode in decodes):
        return int8.placed(params, model, mesh, job.rules)
    if model.dtype == "float32" or any(decode.weights == "int8" for decode in decodes):
        return params
    shardings = jax.tree.map(lambda leaf: leaf.sharding, params)
    return jax.jit(functools.partial(in_compute_dtype, config=model), out_shardings=shardings)(params)


def _skip(rows: Iterator[Row], out: answers.Answers, places: dict[str, str], input_path: str) -> int:
    """Reads the rows that were answered before, which must be those of the input; returns their number.

    The first row of each reason is added to ``places``.
    """
    digest, skipped = answers.Record({}).digest, 0
    for row in itertools.islice(rows, out.found.rows):
        digest, skipped = answers.chained(digest, [row.fingerprint]), skipped + 1
        if row.error is not None:
            places.setdefault(reason_of(row.error), f"{input_path}:{row.line}")
    if skipped < out.found.rows:
        raise out.too_few_inputs(skipped)
    out.check_inputs(digest)
    return skipped


def mesh_here(config: partitioning.MeshConfig, progress: Progress) -> partitioning.MeshConfig:
    """The run's mesh where this machine has as many devices, else rows over all devices; answers do not depend on it."""
    devices = jax.device_count()
    try:
        if math.prod(config.shape(devices)) == devices or jax.process_count() > 1:
            return config
    except ValueError:
        pass
    trained_mesh = " × ".join(f"{name}={size}" for name, size in zip(partitioning.MESH_AXES, config.sizes))
    here = counted(devices, "device")
    progress.note(f"trained on mesh {trained_mesh}; this machine has {here}, over which rows are sharded instead")
    return partitioning.MeshConfig(-1, 1, 1)


def reason_of(error: str) -> str:
    """The key that errors are counted by: the message without details of its row."""
    return error.partition(";")[0].strip()[:120]


def fingerprint(model_dir: str | os.PathLike[str]) -> str:
    """A hash that names the parameters a model directory answers with, or ``"none"``.

    It is of the names and contents of the files that hold them. Where the directory is, and what its other files hold,
    such as metrics and times, does not count.

    Raises:
      distill.checkpoints.digests.Damaged: the list of digests is damaged.
    """
    for folder, item in ((BEST, "params"), (LATEST, "state")):
        root = epath.Path(model_dir) / folder
        newest = own_files.newest_step(root)
        if newest is not None:
            return digests.of_item(root / str(newest), item)[:16]
    return "none"


def _settings(
    model_dir: Any, student: Student, field: str, rationale: bool, rationale_decode: DecodeConfig
) -> dict[str, Any]:
    """The settings that the answers depend on. The batch size and the mesh are not among them."""

    def decode(config: DecodeConfig) -> dict[str, Any]:
        unused = {"batch_size", "bucket", "param_gather"} if config.method != "sample" else {"param_gather"}
        unused |= {"weights"} if config.weights == "compute" else set()  # outputs of earlier versions do not record it
        unused |= {"answers", "choices"}  # the job's choices are recorded
        unused |= set() if config.normalize_by_target_length else {"normalize_by_target_length"}
        return {name: value for name, value in dataclasses.asdict(config).items() if name not in unused}

    settings = {"input_field": field, "rationale": rationale, "form": student.form}
    settings |= {"label_prefix": student.label_prefix, "student": fingerprint(model_dir)}
    settings |= {"vocabulary": student.vocabulary_sha256, "dtype": student.model.dtype}
    settings |= {f"decode.{name}": value for name, value in decode(student.decode).items()}
    if rationale:
        settings["rationale_prefix"] = student.rationale_prefix
        settings |= {f"rationale_decode.{name}": value for name, value in decode(rationale_decode).items()}
    return settings


def _chunks(rows: Iterator[Row], first: int, size: int) -> Iterator[list[Row]]:
    """Rows in lists of ``size``, the first shorter. Rows before the place where a file is truncated count."""
    part: list[Row] = []
    wanted = first
    try:
        for row in rows:
            part.append(row)
            if len(part) == wanted:
                yield part
                part, wanted = [], size
    except SourceError as error:
        if part:
            yield part
        raise error
    if part:
        yield part


def counted_reason(report: InferReport, reason: str) -> str:
    """How often a reason occurred, and the first row with it: ``2 × … (first: a.jsonl:3)``."""
    place = f" (first: {report.first[reason]})" if reason in report.first else ""
    return f"{report.reasons[reason]:,} × {reason}{place}"


def summary(report: InferReport, output: str) -> str:
    """The counts of answered and unanswered rows, in lines to print."""
    total = report.found + report.answered + report.failed
    failed = sum(report.reasons.values())
    lines = [
        f"{counted(total, 'row')}: {total - failed:,} answered, {failed:,} not"
        + (f" ({report.found:,} of these rows were done by earlier calls)" if report.found else "")
        + f"; written to {output}"
    ]
    lines += [f"  {counted_reason(report, reason)}" for reason, _ in Counter(report.reasons).most_common(10)]
    if len(report.reasons) > 10:
        lines.append(f"  and {counted(len(report.reasons) - 10, 'more reason')}")
    lines += [f"  {text}" for text in report.fit.remarks(answering.LIMIT)]
    lines += [f"  {text}" for text in answering.remarks(report.cut, report.empty, answering.LONGER)]
    return "\n".join(lines)
