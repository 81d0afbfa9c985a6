"""Checks of a configured run before its training begins, and advice about its settings.

``arguments`` are those of :func:`distill.training.train.train`, ``registration`` those of
:func:`distill.tasks.registration.register`, as a :class:`distill.api.run.Run` has them.
"""

from collections.abc import Mapping
from typing import Any

from etils import epath

from distill.inference import model_directory, own_files
from distill.tasks import task_ids

_ROWS_MULTIPLE = 128  # of a token table that is sharded over devices


def check_longer(directory: str, arguments: Mapping[str, Any]) -> None:
    """Refuses a run that cannot train to ``train_steps``, before its data is read.

    Raises:
      ValueError: the training would end at once: its patience has ended it, or it has done as many steps.
    """
    from distill.checkpoints import schemas
    from distill.checkpoints.manager import BEST, LATEST
    from distill.training.config import Progress

    root, validation = epath.Path(directory), arguments.get("validation")
    newest = own_files.newest_step(root / LATEST)
    if newest is None:
        return
    try:
        saved = Progress(**schemas.read_json(root / LATEST / str(newest), "progress"))
    except (ValueError, TypeError, OSError):  # the training reads an older step, or says it
        return
    if not (root / model_directory.RESULT).exists():
        saved.check_steps(root, newest, arguments["loop"].train_steps, validates=validation is not None)
    agrees = saved.higher_is_better == Progress.of(validation).higher_is_better
    if agrees and (root / BEST / str(saved.best_step)).exists():  # else the training selects, and counts, anew
        saved.limit(arguments["loop"].train_steps, validation.patience if validation else None)


def check_finished(directory: str, arguments: Mapping[str, Any]) -> None:
    """Checks that a finished run, which is not trained again, is the one that is configured.

    Raises:
      ValueError: it was trained or scored on other rows.
    """
    from distill.training import provenance, record

    root = epath.Path(directory)
    if not (root / model_directory.RESULT).exists():
        return
    try:
        before = record.read(root).data
    except (FileNotFoundError, ValueError):  # of an earlier version
        return
    if changed := provenance.changed_rows(before, arguments["data"], arguments.get("validation")):
        raise ValueError(
            f"{root} is finished, and its {' and '.join(changed)} rows have changed since it was trained: restore "
            "them, or give another MODEL_DIR to train on the new ones"
        )


def advice(arguments: Mapping[str, Any], registration: Mapping[str, Any]) -> list[str]:
    """Lines about settings that are legal and most likely not meant."""
    validation = arguments.get("validation")
    unused = [] if validation is None else validation.decode.unused()
    return [*_idle_weights(arguments), *unused, *rare_validations(arguments), *_oversized(arguments, registration)]


def rare_validations(arguments: Mapping[str, Any]) -> list[str]:
    """A line if a run of several steps validates only at its end, or too rarely for its patience to end it."""
    validation, steps = arguments.get("validation"), arguments["loop"].train_steps
    if validation is None or steps == 1:
        return []
    shown, patience = f"EVAL_PERIOD={validation.period} and TRAIN_STEPS={steps}", validation.patience
    idle = patience is not None and (patience + 1) * validation.period >= steps
    if validation.period > steps:
        also = f", and PATIENCE={patience} changes nothing" if idle else ""
        return [f"{shown}: the run validates once, after its last step, so it keeps those parameters as the best{also}"]
    fewest = f"it needs {patience + 1} validations before the last step" if patience is not None else ""
    return [f"{shown}: PATIENCE={patience} changes nothing, because {fewest}"] if idle else []


def _idle_weights(arguments: Mapping[str, Any]) -> list[str]:
    """A line if weights of two tasks are set, and one task is trained."""
    task, loss = arguments["data"].mixture_or_task_name, arguments["loss"]
    if not task_ids.one_task(task):
        return []
    given = {"LAMBDA": loss.lam, "ALPHA": loss.alpha}
    idle = [f"{name}={value:g}" for name, value in given.items() if isinstance(value, (int, float)) and value != 1]
    return [f"{task} is one task: {text} changes nothing" for text in idle]


def _oversized(arguments: Mapping[str, Any], registration: Mapping[str, Any]) -> list[str]:
    """Lines if the table and the windows are those of another vocabulary."""
    from distill.model import configs
    from distill.tasks import vocabularies

    model, given = arguments["model"], registration.get("vocabulary", "t5")
    vocabulary = vocabularies.load(given) if isinstance(given, str) else given
    size = -(-vocabulary.vocab_size // _ROWS_MULTIPLE) * _ROWS_MULTIPLE
    if arguments.get("initial_checkpoint_path") is not None or model.vocab_size < 2 * size:
        return []
    fewer = (model.vocab_size - size) * configs.parameters_per_id(model)
    lines = [
        f"the vocabulary has {vocabulary.vocab_size:,} ids and the student's table {model.vocab_size:,} rows: "
        f"--gin.VOCAB_SIZE={size} saves {fewer:,} parameters"
    ]
    if type(vocabulary).__name__ == "ByteVocabulary":
        lengths = arguments["data"].task_feature_lengths
        lines.append(
            f"the vocabulary is bytes: TASK_FEATURE_LENGTHS counts bytes, now {lengths['inputs']} for inputs and "
            f"{lengths['targets']} for targets; fit it to your rows (`distill data` measures them)"
        )
    return lines
