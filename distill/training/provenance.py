"""Where a run comes from: fingerprints of its data, the revision of its code, and its machine.

One definition of "the same rows": the hash of a source's rows in their order
(:meth:`distill.tasks.feeding.RecordDataSource.rows_sha256`), which the data position of a checkpoint and the manifest of
a cache contain, too.
"""

import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import jax
from etils import epath

import distill
from distill.data.stream import Stream
from distill.inference.model_directory import PLAIN_CONFIG
from distill.training import record
from distill.training.config import DataConfig, TokenBatchesConfig, TrainResult, ValidationConfig
from distill.training.record import Code, Environment, SplitData

if TYPE_CHECKING:  # SeqIO, which a run on token windows does not need
    import seqio

    from distill.data.batches import BatchStream
    from distill.data.examples import KnownRows
    from distill.inference.evaluate import Evaluator

_LIBRARIES = (
    "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "seqio", "tensorflow", "tensorflow-text", "gin-config",
)  # fmt: skip
_GIT_S = 20.0


@dataclasses.dataclass(frozen=True)
class Origin:
    """Data, code and machine of an attempt; see :class:`distill.training.record.Record`.

    Attributes:
      started: seconds since 1970.
      configuration, data, code, environment: parts of the record.
    """

    started: float
    configuration: Mapping[str, Any]
    data: Mapping[str, SplitData]
    code: Code
    environment: Environment

    @classmethod
    def of(
        cls,
        directory: epath.Path,
        data: DataConfig | TokenBatchesConfig,
        stream: Stream,
        validation: ValidationConfig | None,
        evaluators: "Mapping[str, Evaluator]",
        *,
        devices: int,
        seen: Mapping[str, tuple[int, int]] = {},
        started: float | None = None,
    ) -> "Origin":
        """Reads what the record of a run needs. The tasks of the run must be registered.

        Args:
          directory: the model directory, with ``config.json`` if the run has a configuration.
          data, stream, validation, evaluators: of the run.
          devices: number of devices, over all processes.
          seen: what :func:`distill.training.checks.seen_rows` has found.
          started: when the attempt began, seconds since 1970; None: now.
        """
        if isinstance(data, TokenBatchesConfig):
            rows = {"train": SplitData(data.windows.fingerprint, stream.examples, "train")}
        else:
            rows = {"train": of_training_data(cast("BatchStream", stream), data.mixture_or_task_name, data.split)}
        roles = {record.VALIDATION: validation.split, record.TEST: validation.test_split} if validation else {}
        for role, split in roles.items():
            if split is not None:
                known = of_evaluation_data(evaluators[split])
                rows[role] = dataclasses.replace(known, seen=seen[split][0] if split in seen else None)
        begun = time.time() if started is None else started
        return cls(begun, configuration(directory), rows, code(), environment(devices))


def record_of(origin: Origin, result: TrainResult, validation: Mapping[str, float]) -> record.Record:
    """The record of a complete run.

    Args:
      origin: its data, code and machine.
      result: its outcome.
      validation: metrics on the validation split at the best step.
    """
    return record.Record(
        configuration=origin.configuration,
        data=origin.data,
        code=origin.code,
        environment=origin.environment,
        training=record.training_of(result.performance),
        selection=record.Selection(**result.selection) if result.selection else None,
        validation=validation,
        test=result.test,
    )


def of_training_data(stream: "BatchStream", mixture_or_task_name: str, split: str) -> SplitData:
    """The rows that a stream trains on, with the settings that determine their texts and tokens.

    The fingerprint covers every field of every row in order, the selection of rows, labels and rationales, the prefixes
    and the vocabulary. It covers neither the form of the task nor the mixture rates nor the seed: runs of several methods
    on the same rows have the same fingerprint. A source that holds no records (TFDS) is known by the lengths of its
    examples only.

    Args:
      stream: the batches.
      mixture_or_task_name: the name of its task or mixture.
      split: SeqIO split.
    """
    examples = stream.position()["data"]
    found: dict[str, Any] = {}
    rows = 0
    for task in _tasks(mixture_or_task_name):
        known = stream.rows_of(task.name)
        if known is not None:
            found |= _of_records(task, known, split)
            rows = max(rows, known.num_input_examples(split))
        else:
            found[task.name] = examples[task.name]
            rows += stream.size(task.name)
    return SplitData(_hash(found), rows, split)


def training_rows(data: DataConfig) -> str | None:
    """The fingerprint that :func:`of_training_data` gives the rows as they are now; None if a task reads no records.

    Of a cache, only the manifest is read.
    """
    found: dict[str, Any] = {}
    for task in _tasks(data.mixture_or_task_name):
        known = known_rows(data, task)
        if known is None:
            return None
        found |= _of_records(task, known, data.split)
    return _hash(found)


def rows_read(data: DataConfig | TokenBatchesConfig, validation: ValidationConfig | None) -> dict[str, list[str]]:
    """Hashes of all rows that a run reads, as they are now; corpora of span corruption and TFDS are left out.

    The tasks of the run must be registered. Of a cache, only the manifest is read.

    Returns:
      Data set, split and a hash of the settings that select and describe its rows, as one text → the hash of the rows.
    """
    from distill.tasks import registration

    found: dict[str, list[str]] = {}
    read: list[tuple[seqio.Task, KnownRows | None, str]] = []
    if isinstance(data, TokenBatchesConfig):
        found[data.path] = [data.windows.fingerprint]
    else:
        read += [(task, known_rows(data, task), data.split) for task in _tasks(data.mixture_or_task_name)]
    if validation is not None:
        splits = [split for split in (validation.split, validation.test_split) if split is not None]
        read += [(task, _records(task), split) for task in _tasks(validation.task_name) for split in splits]
    for task, rows, split in read:
        if rows is not None and registration.spans_of(task) is None:
            settings = _hash(registration.settings_of(task.name))[:12]
            found[f"{task.source.dataset.name}, split {split}, settings {settings}"] = [rows.rows_sha256(split)]
    return found


def known_rows(data: DataConfig, task: "seqio.Task") -> "KnownRows | None":
    """The training rows of a task, those of its cache if it is read from one; None if its source holds no records."""
    from distill.data import cache

    rows = _records(task)
    return rows if rows is None or data.cache_dir is None else cache.known_rows(data.cache_dir, task.name, data.split)


def _records(task: "seqio.Task") -> "KnownRows | None":
    from distill.tasks.feeding import RecordDataSource

    return task.source if isinstance(task.source, RecordDataSource) else None


def _tasks(mixture_or_task_name: str) -> "Sequence[seqio.Task]":
    import seqio

    from distill.tasks import registration

    provider = registration.get(mixture_or_task_name)
    return provider.tasks if isinstance(provider, seqio.Mixture) else [provider]


def _of_records(task: "seqio.Task", rows: "KnownRows", split: str) -> dict[str, Any]:
    """The rows of a task and their settings, by the data set: all its forms share their source and its settings."""
    from distill.tasks import registration

    return {task.source.dataset.name: [rows.rows_sha256(split), registration.settings_of(task.name)]}


def of_evaluation_data(evaluator: "Evaluator") -> SplitData:
    """The rows that an evaluator scores.

    The fingerprint covers id, input, target and choices of every row in order, the way answers are compared, and the
    number of rows that are scored; for a task of rationales, the rationales too. It does not depend on the method, its
    switches, the form, the prefixes, the teacher or the size of the training set, so the predictions of two runs with the
    same fingerprint can be compared row by row.

    Args:
      evaluator: its task's rows have been read.
    """
    from distill.tasks.feeding import RecordDataSource

    task, split = evaluator.task, evaluator.split
    if isinstance(task.source, RecordDataSource):
        content: Any = _scored(task, split)
    else:
        content = [[row[name] for name in ("id", "input", "target")] for row in evaluator.texts()]
    return SplitData(_hash([content, len(evaluator)]), len(evaluator), split)


def evaluation_rows(task_name: str, split: str, rows: int, *, rationales: bool | None = None) -> str | None:
    """The fingerprint that :func:`of_evaluation_data` gives the rows as they are now; None for a task without records.

    Args:
      task_name, split: what is scored.
      rows: the number of rows that are scored.
      rationales: whether it is that of a task of rationales; None: as the task is.
    """
    from distill.tasks.feeding import RecordDataSource

    (task,) = _tasks(task_name)
    return _hash([_scored(task, split, rationales), rows]) if isinstance(task.source, RecordDataSource) else None


def changed_rows(
    before: Mapping[str, SplitData], data: DataConfig | TokenBatchesConfig, validation: ValidationConfig | None
) -> list[str]:
    """Names the splits of a finished run whose rows are others now: ``train``, ``validation``, ``test``.

    Rows that cannot be read now, or that no task reads as records, are not compared. Of a run from a cache, the files that
    it was built from are compared, too, as far as they are there.

    Args:
      before: the rows of the run, as its record has them.
      data, validation: of the run; its tasks must be registered.
    """
    if isinstance(data, TokenBatchesConfig):
        return []
    import tensorflow as tf

    roles = {record.VALIDATION: validation.split, record.TEST: validation.test_split} if validation else {}
    found = []
    for role, there in before.items():
        try:
            if role == "train":
                now = training_rows(data)
                if now == there.fingerprint and data.cache_dir is not None and not _may_download(data):
                    now = training_rows(dataclasses.replace(data, cache_dir=None))
            elif validation is None or roles.get(role) != there.split:
                continue
            else:
                now = evaluation_rows(validation.task_name, there.split, there.rows)
        except (ValueError, OSError, tf.errors.OpError):
            continue
        if now not in (None, there.fingerprint):
            found.append(role)
    return found


def _may_download(data: DataConfig) -> bool:
    """Whether reading the training rows may download them."""
    sources = [task.source for task in _tasks(data.mixture_or_task_name) if _records(task) is not None]
    return any(getattr(source.dataset.source, "may_download", False) for source in sources)


def _scored(task: "seqio.Task", split: str, rationales: bool | None = None) -> list[Any]:
    """What is scored of a task's records."""
    explained = task.name.endswith("_rationale") if rationales is None else rationales
    return [task.source.scored_sha256(split, rationales=explained), task.source.dataset.answer]


def _hash(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@functools.cache
def code() -> Code:
    """The version, git revision and libraries of the running program.

    They are read once per process: what is checked out or installed while a sweep runs is not what the process has loaded.
    """
    revision, modified = _revision(Path(distill.__file__).resolve().parents[1])
    versions = {}
    for name in _LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # installed under another name, or not needed here
            continue
    return Code(distill.__version__, revision, modified, versions)


def _revision(root: Path) -> tuple[str | None, bool | None]:
    """The commit that ``root`` has checked out, and whether tracked files differ from it; None outside of a checkout.

    A package that is installed below another project's checkout has no revision.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", os.fspath(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=_GIT_S, check=True).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != root:
            return None, None
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return None, None


def environment(devices: int) -> Environment:
    """The machine of this process.

    Args:
      devices: number of devices of the mesh, over all processes.
    """
    return Environment(
        host=socket.gethostname(),
        processor=processor(),
        device_kind=jax.local_devices()[0].device_kind,
        devices=devices,
        processes=jax.process_count(),
        python=platform.python_version(),
        xla_flags=os.environ.get("XLA_FLAGS", ""),
    )


def processor() -> str:
    """The name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def configuration(directory: epath.Path) -> Mapping[str, Any]:
    """The macros and bindings of the run from ``config.json``, which is written with ``config.gin``; empty without it."""
    path = directory / PLAIN_CONFIG
    return json.loads(path.read_text()) if path.exists() else {}
