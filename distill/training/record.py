"""``record.json``: what a finished run trained on, with which code, where, at what cost and with what outcome.

Training writes it just before ``result.json``. Experiments read it with :func:`read`, which checks every field. The best
parameters are selected on the validation split only; the test split is scored once, with these parameters.
"""

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping
from typing import Any

from etils import epath

from distill import atomic_files
from distill.validation import quoted

FILE = "record.json"
FORMAT = 1
PREDICTIONS = "predictions"
VALIDATION, TEST = "validation", "test"


@dataclasses.dataclass(frozen=True)
class SplitData:
    """The rows of one split.

    Attributes:
      fingerprint: a hash of the rows in their order; see :mod:`distill.training.provenance`. Runs with the same
        fingerprint of a split have the same rows there.
      rows: their number.
      split: the name of the SeqIO split.
      seen: of validation and test rows, the number that have the input of a training row; None if it is not known, as in
        records of earlier versions.
    """

    fingerprint: str
    rows: int
    split: str = ""
    seen: int | None = None


@dataclasses.dataclass(frozen=True)
class Code:
    """The program.

    Attributes:
      version: of this package.
      revision: the git commit; None outside of a git checkout.
      modified: whether tracked files differed from that commit when the process of the last attempt trained its first run;
        None without a revision.
      versions: library → version.
    """

    version: str
    revision: str | None
    modified: bool | None
    versions: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Environment:
    """The machine of the last attempt; of several processes, that of process 0.

    Attributes:
      host: its name.
      processor: the model of its processor.
      device_kind: JAX's name of the devices.
      devices: number of devices of the mesh, over all processes.
      processes: number of processes.
      python: version.
      xla_flags: the environment variable ``XLA_FLAGS``.
    """

    host: str
    processor: str
    device_kind: str
    devices: int
    processes: int
    python: str
    xla_flags: str


@dataclasses.dataclass(frozen=True)
class Training:
    """The work of a run, summed over its updates and over restarts. Updates that a kill has undone do not count.

    Attributes:
      steps: updates.
      examples: source rows; label and rationale of a paired example count once.
      tokens: tokens that are not padding: inputs and targets of both tasks.
      padding_share: the share of padding among all positions of the windows.
      lambda_: effective λ: the mean over updates of rationale weight / label weight; None if no update had label
        tokens. ``lambda`` in the file.
      lambda_of_totals: total rationale weight / total label weight; equal to ``lambda_`` where every update has the same
        label weight (normalisers ``task_tokens`` and ``task_examples``).
      flops: model FLOPs of all updates on all devices (:mod:`distill.precompile.model_flops`); None if not known.
      flops_per_step: those of one update.
      seconds: training time, with evaluation, checkpoints and compilation, without the final test.
      chip_seconds: the sum over attempts of seconds × devices; on CPUs × the cores that the processes may use.
      peak_memory_bytes: of the fullest device; None if the backend does not report it.
      parameters: number of parameters, without adapters.
      attempts: starts of the run, restarts included.
      phases: phase → seconds; their sum is ``seconds``.
      wall_seconds: since the first start, including lost work and the time between attempts.
      goodput: seconds of the updates that count / ``wall_seconds``.
      lost_steps: updates that were repeated because a kill had undone them; on remote storage, as far as log lines show.
      tokens_per_second_per_device: tokens / seconds of updates and data / devices, without the first update of each start;
        None for a run of one update.
      mfu: model FLOPs per second and device / the chip's bfloat16 peak; None if either is not known.
      host_peak_memory_bytes: of the process; None where the system does not report it.
      trained_parameters: number of trained parameters, adapters included; None in records of earlier versions, where it was
        all.
    """

    steps: int
    examples: int
    tokens: int
    padding_share: float
    lambda_: float | None
    lambda_of_totals: float | None
    flops: float | None
    flops_per_step: float | None
    seconds: float
    chip_seconds: float
    peak_memory_bytes: int | None
    parameters: int
    attempts: int
    phases: Mapping[str, float] = dataclasses.field(default_factory=dict)
    wall_seconds: float | None = None
    goodput: float | None = None
    lost_steps: int = 0
    tokens_per_second_per_device: float | None = None
    mfu: float | None = None
    host_peak_memory_bytes: int | None = None
    trained_parameters: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values by their name in the file; numbers that are not finite become None."""
        return {name.rstrip("_"): value for name, value in _finite(dataclasses.asdict(self)).items()}


@dataclasses.dataclass(frozen=True)
class Selection:
    """How the best parameters were chosen.

    Attributes:
      split: the SeqIO split that was scored during training. The test split takes no part.
      metric: the metric of that split.
      step: the step with the best value; the earliest of equal ones.
      value: the value.
      higher_is_better: whether the largest value is the best.
    """

    split: str
    metric: str
    step: int
    value: float
    higher_is_better: bool = True


@dataclasses.dataclass(frozen=True)
class Record:
    """The contents of ``record.json``.

    Attributes:
      configuration: the macros and bindings of the run by name, macro references resolved. Empty for a run that was
        started from Python without a configuration.
      data: ``train``, ``validation`` and ``test`` → their rows; only splits that the run used.
      code, environment, training: see there.
      selection: None for a run without validation.
      validation: metrics on the validation split at the best step; a metric that is not a number is None.
      test: metrics on the test split with the parameters of the best step.
      format: version of this file.
    """

    configuration: Mapping[str, Any]
    data: Mapping[str, SplitData]
    code: Code
    environment: Environment
    training: Training
    selection: Selection | None
    validation: Mapping[str, float | None]
    test: Mapping[str, float | None]
    format: int = FORMAT

    def to_json(self) -> dict[str, Any]:
        """Returns the record as plain JSON values; numbers that are not finite become None."""
        plain = _finite(dataclasses.asdict(self))
        plain["training"] = self.training.to_json()
        return {"format": plain.pop("format"), **plain}


def write(directory: epath.PathLike, record: Record) -> None:
    """Writes ``record.json`` into the model directory, atomically. Call it on process 0 only."""
    text = json.dumps(record.to_json(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    atomic_files.replace(epath.Path(directory) / FILE, text)


def read(directory: epath.PathLike) -> Record:
    """Reads and checks ``record.json`` of a model directory.

    Raises:
      FileNotFoundError: there is no such file: the run is not finished, or an earlier version trained it.
      ValueError: the file is not a record; the message names the file and the field.
    """
    path = epath.Path(directory) / FILE
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: the run is not finished, or an earlier version trained it")
    try:
        value = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise ValueError(f"{path} is not JSON: {error}") from None
    if isinstance(value, dict) and value.get("format", FORMAT) != FORMAT:
        raise ValueError(f"{path}: format must be {FORMAT}; got {value['format']!r}; another version has written it")
    return _parsed(Record, value, str(path), "")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def training_of(performance: Mapping[str, Any]) -> Training:
    """The inverse of :meth:`Training.to_json`, as ``result.json`` holds it under ``performance``. Raises ValueError."""
    return _parsed(Training, dict(performance), "performance", "")


def _parsed(wanted: Any, value: Any, path: str, field: str) -> Any:
    """Returns ``value`` as ``wanted``: a dataclass of this module, a mapping, a union with None, or a plain type.

    Raises:
      ValueError: it has another form.
    """
    where = f"{path}: {field or 'the file'}"
    if wanted is Any:
        return value
    if typing.get_origin(wanted) in (types.UnionType, typing.Union):
        (inner,) = [option for option in typing.get_args(wanted) if option is not type(None)]
        return None if value is None else _parsed(inner, value, path, field)
    if dataclasses.is_dataclass(wanted) or typing.get_origin(wanted) is not None:
        if not isinstance(value, dict):
            raise ValueError(f"{where} must be an object; got {type(value).__name__}")
        prefix = f"{field}." if field else ""
        if not dataclasses.is_dataclass(wanted):
            of = typing.get_args(wanted)[1]
            return {key: _parsed(of, item, path, f"{prefix}{key}") for key, item in value.items()}
        hints, found = typing.get_type_hints(wanted), {}
        for each in dataclasses.fields(wanted):
            name = each.name.rstrip("_")
            if name in value:
                found[each.name] = _parsed(hints[each.name], value[name], path, f"{prefix}{name}")
            elif each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING:
                raise ValueError(f"{path}: {prefix}{name} is missing")
        return wanted(**found)  # type: ignore[operator]
    accepted = (int, float) if wanted is float else (wanted,)
    if not isinstance(value, accepted) or (isinstance(value, bool) and wanted is not bool):
        raise ValueError(f"{where} must be {_NAMES[wanted]}; got {quoted(value)}")
    return float(value) if wanted is float else value


_NAMES = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
