"""``distill.train``: from rows to a student, through the same gin files as the command line."""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from etils import epath

from distill import atomic_files
from distill import validation as checks
from distill.api import gin_files, keywords, remedies
from distill.api import rows as row_files
from distill.api.paths import expand_home, vocabulary_of
from distill.api.rows import Rows
from distill.api.run import configured
from distill.api.student import Student
from distill.inference import model_directory, own_files
from distill.inference import student as students
from distill.model.config import T5Config
from distill.model.configs import NetworkConfig
from distill.model.t5gemma_config import T5GemmaConfig
from distill.sharding import hardware as hardware_files
from distill.sharding.partitioning import MeshConfig
from distill.tasks import metrics as scoring
from distill.validation import quoted, suggested

METHODS = ("distill", "distill_shared", "finetune", "task_distill", "single_task")


@keywords.checked(("distill.training.train", "train"), macros=remedies.ARGUMENTS, others="settings")
def train(
    rows: Rows,
    *,
    model: str | NetworkConfig,
    directory: str | os.PathLike,
    fields: Mapping[str, str] | None = None,
    validation: Rows | None = None,
    test: Rows | None = None,
    answer: str = "text",
    metrics: Sequence[Callable[..., Mapping[str, float]]] = (),
    initial: str | os.PathLike | None = None,
    vocabulary: str | os.PathLike | None = None,
    method: str = "distill",
    steps: int = 10_000,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    lam: float | None = None,
    alpha: float | None = None,
    lengths: Mapping[str, int] | None = None,
    max_answer_length: int | None = None,
    eval_period: int | None = None,
    patience: int | None = None,
    seed: int = 0,
    mesh: MeshConfig | None = None,
    hardware: str | None = None,
    settings: Mapping[str, Any] | None = None,
    quiet: bool = False,
    **overrides: Any,
) -> Student:
    """Trains a student on your rows, or continues the run in ``directory``; returns the student.

    The directory is that of ``distill train``: ``distill eval``, ``infer`` and ``export`` work on it. Rows in memory are
    written to ``<directory>/rows``. A call that was stopped continues from its last checkpoint when it is repeated, and a
    finished run is not trained again.

    Args:
      rows: training rows: the path of a JSON-lines file (or several paths), or an iterable of dicts or
        :class:`distill.Record` objects.
      model: the name of a file of ``gin/models`` (``"t5_1_1_small"``, ``"t5gemma2_270m"``), the path of a gin file, a
        :class:`distill.T5Config` or a :class:`distill.T5GemmaConfig`.
      directory: the model directory, local or ``gs://``.
      fields: field of a record (``input``, ``label``, ``rationale``, ``llm_label``, ``choices`` …) → field of the rows;
        None: the rows use the record's names.
      validation: rows that choose the best parameters; None holds out a tenth of ``rows``, one row at least.
      test: rows that are scored once at the end; None scores none.
      answer: how answers are compared: ``text``, ``choice`` or ``equation``.
      metrics: functions of yours that score answers, ``fn(targets, predictions) -> {name: value}``, in addition to the
        accuracy. They take two positional arguments of any name. Targets have ``text`` and ``choices``; predictions are
        texts. ``config.gin`` does not record them.
      initial: parameters to start from: a model directory, a Hugging Face folder or name, a T5X checkpoint, or
        T5Gemma's Flax files; None starts at random.
      vocabulary: ``t5``, ``mt5`` (their public files, which are downloaded), ``bytes``, or the path of a SentencePiece
        model. None takes the vocabulary of ``initial`` if that is a model directory, else that of the model's file (T5's
        for ``t5_…``, bytes for ``byt5_…``). A configuration from random parameters has none and needs this argument, as do
        the files ``t5gemma…``: Gemma's ``tokenizer.model`` has a licence to accept. No vocabulary is replaced by another
        one if it cannot be read.
      method: ``distill`` (label and rationale), ``distill_shared`` (the same with one encoder pass), ``finetune`` (gold
        labels), ``task_distill`` (the teacher's labels) or ``single_task`` (rationale and label in one target).
      steps: updates in all; may be raised to continue a finished run, unless ``patience`` has ended it.
      batch_size: windows in a global batch; None: the hardware file's.
      learning_rate: of Adafactor, constant; None: 1e-3.
      lam, alpha: weight of the rationale loss: λ, or α of ``α · label + (1 - α) · rationale``; at most one of them.
      lengths: ``{"inputs": 512, "targets": 256}``: tokens of a training window.
      max_answer_length: tokens decoded at most, EOS included.
      eval_period: steps between evaluations.
      patience: evaluations without improvement after which training ends; may be raised to continue a run that it ended.
      seed: of the initial parameters, dropout and the order of the rows.
      mesh: the device mesh, a :class:`distill.MeshConfig`; None: the hardware file's.
      hardware: the name of a file of ``gin/hardware``; None: ``cpu``, or ``gpu_1`` where JAX has one GPU.
      settings: more macros and bindings of ``gin/runs/train.gin``, such as ``{"EMA_DECAY": 0.99}``; they override all
        arguments above.
      quiet: print warnings only.
      **overrides: arguments of :func:`distill.training.train.train` that replace configured ones, such as ``callbacks``
        or an ``optimizer``. ``config.gin`` does not record them.

    Raises:
      TypeError: an argument of another type.
      ValueError: arguments or rows that do not fit, or a directory that holds another run.
      FileNotFoundError: a file is missing.
      KeyboardInterrupt, distill.exit_codes.Stopped: stopped by a signal after saving a checkpoint.
    """
    checks.check("method", method, METHODS)
    row_files.check_fields(fields)
    scoring.check_functions("metrics", metrics)
    keywords.check_mapping("lengths", lengths, "{'inputs': 512, 'targets': 256}")
    keywords.check_mapping("settings", settings, "{'EMA_DECAY': 0.99}")
    for name in settings or ():
        if not isinstance(name, str):
            raise TypeError(f"settings must map names to values, such as {{'EMA_DECAY': 0.99}}; got the name {name!r}")
    if lengths is not None:
        checks.check_items("lengths", lengths, ("inputs", "targets"), "an integer ≥ 1")
    if isinstance(model, str) and not model.endswith(".gin"):
        _check_name("model", model, "models")
    if hardware is not None:
        _check_name("hardware", hardware.removesuffix(".gin"), "hardware")
    if lam is not None and alpha is not None:
        raise ValueError(f"give lam or alpha, not both; got lam={lam} and alpha={alpha}")
    arguments = remedies.ARGUMENTS
    if not isinstance(model, str):
        arguments = {**arguments, "VOCAB_SIZE": f"{type(model).__name__}.vocab_size"}
    with remedies.speaking_python(arguments, "settings"):
        root = epath.Path(expand_home(os.fspath(directory)))
        own_files.check(root)
        bindings: dict[str, Any] = {"MODEL_DIR": os.fspath(root), "DATASET_NAME": "rows", "ANSWER": answer}
        parts: dict[str, Any] = {"train": rows, "validation": validation, "test": test}
        files: dict[str, list[str]] = {}
        contents: dict[str, bytes] = {}
        trained = model_directory.has_trained(root)
        for split, part in parts.items():
            if part is not None or split == "train":
                path = root / "rows" / f"{split}.jsonl"
                argument = "rows" if split == "train" else split
                files[split], data = row_files.store(part, path, fields, trained=trained, argument=argument)
                if not trained:
                    row_files.check(files[split], data, fields, answer, split)
                if data is not None:
                    contents[os.fspath(path)] = data
        bindings |= {"FILES": files, "FIELDS": dict(fields) if fields else None}
        bindings |= {"TEST_SPLIT": None} if test is None else {}
        bindings |= {"TRAIN_STEPS": steps, "RANDOM_SEED": seed, "LAMBDA": lam, "ALPHA": alpha, "PATIENCE": patience}
        bindings["INITIAL_CHECKPOINT_PATH"] = None if initial is None else os.fspath(initial)
        bindings |= _vocabulary(vocabulary, initial, model)
        optional = {
            "BATCH_SIZE": batch_size,
            "LEARNING_RATE": learning_rate,
            "TASK_FEATURE_LENGTHS": None if lengths is None else dict(lengths),
            "MAX_INPUT_LEN": None if lengths is None else lengths.get("inputs"),
            "MAX_DECODE_LEN": max_answer_length,
            "EVAL_PERIOD": eval_period,
        }
        bindings |= {name: value for name, value in optional.items() if value is not None}
        if isinstance(model, str):
            model_file = model if model.endswith(".gin") else f"gin/models/{model}.gin"
        else:
            model_file, fields_of_model = _configured(model)
            bindings |= fields_of_model
        if mesh is not None:
            bindings |= {f"partitioning.MeshConfig.{name}": value for name, value in dataclasses.asdict(mesh).items()}
        configuration_files = [
            model_file,
            "gin/tasks/jsonl.gin",
            f"gin/runs/{method}.gin",
            f"gin/hardware/{_hardware(hardware)}.gin",
        ]
        with model_directory.undone_on_failure(root):
            run = configured(configuration_files, {**bindings, **(settings or {})})
            for file, data in contents.items():
                _write(epath.Path(file), data)
            registration = {**run.registration, "label_metrics": [*run.registration.get("label_metrics", ()), *metrics]}
            run = dataclasses.replace(run, registration=registration, spelling=arguments)
            return run.train(quiet=quiet, **overrides)


def _check_name(argument: str, name: str, folder: str) -> None:
    """Raises ValueError, with the names of all files of ``gin/<folder>``, unless ``name`` is one of them."""
    try:
        gin_files.find(f"gin/{folder}/{name}.gin")
    except gin_files.ConfigurationError:
        names = gin_files.shipped(folder)
        near = suggested(gin_files.nearest(name, names)[: 3 if argument == "hardware" else 1])
        path = ", or the path of a .gin file" if argument == "model" else ""
        raise ValueError(f"{argument} must be one of {', '.join(names)}{path}; got {quoted(name, 200)}{near}") from None


def _configured(model: NetworkConfig) -> tuple[str, dict[str, Any]]:
    """The model file of a configuration's family, and the bindings of its fields."""
    values = dataclasses.asdict(model)
    if isinstance(model, T5Config):
        return "gin/models/t5_1_1.gin", {f"network.T5Config.{name}": value for name, value in values.items()}
    stacks = {stack: values.pop(stack) for stack in ("encoder", "decoder")}
    bindings = {f"t5gemma_config.T5GemmaConfig.{name}": value for name, value in values.items()}
    for stack, fields in stacks.items():
        bindings |= {f"{stack}/t5gemma_config.StackConfig.{name}": value for name, value in fields.items()}
    return f"gin/models/t5gemma{2 if model.version == 2 else ''}.gin", bindings


def _vocabulary(vocabulary: Any, initial: Any, model: str | NetworkConfig) -> dict[str, Any]:
    """The bindings that choose the vocabulary; none to keep that of the model's file."""
    if vocabulary is not None:
        return {"VOCABULARY_PATH": expand_home(os.fspath(vocabulary))}
    if initial is not None and (epath.Path(initial) / students.FILE).exists():
        student = students.read(initial)
        students.read_vocabulary(initial, student)  # checks the file
        in_file = os.fspath(epath.Path(initial) / students.VOCABULARY_FILE)
        bindings: dict[str, Any] = {"VOCABULARY_PATH": "bytes" if student.vocabulary == "bytes" else in_file}
        return bindings | {"vocabularies.load.extra_ids": student.vocabulary_extra_ids}
    if isinstance(model, T5Config):
        raise ValueError(
            "vocabulary is missing: a T5Config names none; give vocabulary='t5', 'mt5', 'bytes' or the path of a "
            "SentencePiece model" + _in_initial(initial)
        )
    if isinstance(model, T5GemmaConfig):
        raise ValueError(
            "vocabulary is missing: a T5GemmaConfig names none; give the path of Gemma's tokenizer.model, or of a model of "
            "`distill vocabulary --special=gemma`" + _in_initial(initial)
        )
    return {}


def _in_initial(initial: Any) -> str:
    """The end of an error that names the vocabulary of a Hugging Face folder; empty if there is none."""
    file = vocabulary_of(initial)
    return f"; initial has one, {file}" if file else ""


def _hardware(name: str | None) -> str:
    """The hardware file: the given one, or the one that fits JAX's devices."""
    if name is not None:
        return name.removesuffix(".gin")
    import jax

    backend, number = jax.default_backend(), jax.device_count()
    if backend == "cpu":
        return "cpu"
    if backend == "gpu" and number == 1:
        return "gpu_1"
    advice = hardware_files.advice(number, backend, jax.devices()[0].device_kind)
    raise ValueError(f"hardware is missing: JAX has {number} {backend} devices; {advice}")


def _write(path: epath.Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_files.replace(path, data)
