"""Checks of a run's arguments before anything is trained."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
from etils import epath

from distill.checkpoints import initial
from distill.counting import form
from distill.data.stream import Stream
from distill.inference import model_directory, student
from distill.inference.decoder import Decoder
from distill.model.configs import NetworkConfig
from distill.sharding import partitioning, xla_options
from distill.terminal import Terminal
from distill.training import callbacks as user_callbacks
from distill.training import record, tracking
from distill.training.config import DataConfig, LoopConfig, TokenBatchesConfig, ValidationConfig
from distill.training.evaluators import make_evaluators, scored_examples
from distill.training.losses import TwoTaskLoss
from distill.training.optimizers import Optimizer, restricted
from distill.training.step import make_train_step

if TYPE_CHECKING:  # SeqIO, which a run on token windows does not need
    from distill.data.batches import BatchStream
    from distill.data.examples import KnownRows


def check(
    *,
    model: NetworkConfig,
    data: DataConfig | TokenBatchesConfig,
    loop: LoopConfig,
    validation: ValidationConfig | None = None,
    mesh: partitioning.MeshConfig = partitioning.MeshConfig(),
    initial_checkpoint_path: str | None = None,
    callbacks: Sequence[user_callbacks.Callback] = (),
    trackers: Sequence[str] = (),
    loss: TwoTaskLoss | None = None,
    optimizer: Optimizer | None = None,
    metrics: Sequence[str] = (),
    **others: object,
) -> None:
    """Checks the arguments of :func:`distill.training.train.train`. The tasks must be registered.

    Reads the rows of the splits that the run needs, or the file of token windows; of a cache, the manifest. Makes no
    parameters and compiles no step.

    Args:
      model, data, loop, validation, mesh, initial_checkpoint_path, callbacks, trackers, loss, optimizer, others: the
        arguments of the run.
      metrics: metrics that the validation task must have, in addition to ``validation.metric``.

    Raises:
      ValueError, FileNotFoundError, TypeError: the error that the run would raise.
    """
    del others
    device_mesh = mesh.build()
    partitioning.check_batch(data.batch_size, device_mesh, loop.num_microbatches)
    xla_options.accepted(loop.compiler_options, device_mesh)
    user_callbacks.check(callbacks)
    tracking.check(trackers)
    check_tasks(data, validation, model, initial_checkpoint_path)
    if loss is not None and optimizer is not None:
        # Checks its arguments, and traces no step.
        make_train_step(model, loss, restricted(optimizer, loop.trainable), **loop.step_options())
        check_loss(loss, data)
    wanted: set[tuple[str, str]] = set()
    if isinstance(data, DataConfig) and data.cache_dir is not None:
        check_cache(data)
    elif isinstance(data, DataConfig):
        wanted.add((data.mixture_or_task_name, data.split))
    if validation is not None:
        wanted |= {(validation.task_name, split) for split in (validation.split, validation.test_split) if split}
    for name, split in sorted(wanted):
        check_rows(name, split)
    if validation is not None:
        from distill.inference import token_scores

        few = token_scores.evaluator(validation.task_name, validation.split, lambda *_: [], max_examples=2)
        for metric in (validation.metric, *metrics):
            few.check_metric(metric)
        if validation.decode.answers == "choose":  # reads the choices of every row that the run evaluates
            make_evaluators(validation, Decoder(model, device_mesh, validation.decode), Terminal(active=False))
    if initial_checkpoint_path is not None:
        initial.kind_of(initial_checkpoint_path)
        check_initial(data, initial_checkpoint_path)


def check_tasks(
    data: DataConfig | TokenBatchesConfig,
    validation: ValidationConfig | None,
    model: NetworkConfig,
    initial_checkpoint_path: str | None = None,
) -> None:
    """Raises ValueError if the vocabulary exceeds the model's, or training and validation tasks differ in prompts.

    The error of a vocabulary names that of the initial parameters, if they have another one.

    A file of token windows has no task, so no validation task can be compared with it: validation is refused.
    """
    if isinstance(data, TokenBatchesConfig):
        if validation is not None:
            raise ValueError(
                f"validation decodes a registered task ({validation.task_name!r}), and the token windows of {data.path} "
                "have none; expected validation=None: score rows with distill.inference.exact_match in a callback"
            )
        if data.windows.largest_id >= model.vocab_size:
            raise ValueError(
                f"{data.path} holds the token id {data.windows.largest_id}, but the model's vocab_size is "
                f"{model.vocab_size}; write the file with the model's vocabulary"
            )
        return
    try:
        check_vocabulary(data.mixture_or_task_name, model)
    except ValueError:
        if initial_checkpoint_path is not None:
            check_initial(data, initial_checkpoint_path)
        raise
    if validation is not None:
        from distill.tasks import registration

        registration.check_prompts(data.mixture_or_task_name, validation.task_name)


def seen_rows(
    data: DataConfig | TokenBatchesConfig, stream: Stream, validation: ValidationConfig | None
) -> dict[str, tuple[int, int]]:
    """Counts the validation and test rows that have the input of a training row. Reads the rows.

    Args:
      data, validation: of the run.
      stream: the batches of ``data``; from a cache, the training rows are not read.

    Returns:
      Split → the number of such rows among those that are scored, and the number of those; empty where rows are no
      records.
    """
    if validation is None or isinstance(data, TokenBatchesConfig):
        return {}
    from distill.tasks import registration

    provider = registration.get(data.mixture_or_task_name)
    tasks = getattr(provider, "tasks", [provider])
    return seen_among([cast("BatchStream", stream).rows_of(task.name) for task in tasks], data, validation)


def seen_among(
    known: "Sequence[KnownRows | None]", data: DataConfig, validation: ValidationConfig | None
) -> dict[str, tuple[int, int]]:
    """:func:`seen_rows` of a run without its stream.

    Args:
      known: the training rows of its tasks; None for a task whose source holds no records.
      data, validation: of the run.
    """
    from distill.tasks import registration
    from distill.tasks.feeding import RecordDataSource

    if validation is None:
        return {}
    scored = registration.get(validation.task_name).source
    held = {rows.rows_sha256(data.split): rows for rows in known if rows is not None}  # forms of a data set share them
    if not held or not isinstance(scored, RecordDataSource):
        return {}
    trained = np.concatenate([rows.input_keys(data.split) for rows in held.values()])
    found: dict[str, tuple[int, int]] = {}
    for split in (validation.split, validation.test_split):
        if split is not None and split not in found:
            keys = scored.input_keys(split)[: scored_examples(validation, split)]
            found[split] = int(np.isin(keys, trained).sum()), len(keys)
    return found


def seen_warnings(found: Mapping[str, tuple[int, int]], data: DataConfig | TokenBatchesConfig) -> list[str]:
    """Warnings of what :func:`seen_rows` has found; none of the split that is trained on."""
    return [
        _seen_warning(number, rows, split)
        for split, (number, rows) in found.items()
        if number and not (isinstance(data, DataConfig) and split == data.split)
    ]


def seen_before(directory: epath.PathLike) -> list[str]:
    """:func:`seen_warnings` of a finished run, from its record; none if an earlier version trained it."""
    splits = {rows.split: rows for rows in _scored_splits(directory)}
    return [_seen_warning(rows.seen, rows.rows, split) for split, rows in splits.items() if rows.seen]


def scored_again(directory: epath.PathLike, task_name: str, split: str, examples: int) -> list[str]:
    """Warnings of rows that a finished run has scored and that are scored again: they are others now, or trained on.

    The task must be registered. Of rows that are others now, it is not known whether they are trained on.

    Args:
      directory: of the run.
      task_name, split: what is scored.
      examples: the number of rows that are scored.
    """
    from distill.training import provenance

    there = next((rows for rows in _scored_splits(directory) if rows.split == split), None)
    if there is None:
        return []
    now = [provenance.evaluation_rows(task_name, split, there.rows, rationales=given) for given in (False, True)]
    if None not in now and there.fingerprint not in now:
        return [
            f"the rows of split {split!r}, or the way their answers are compared, are not those of the training in "
            f"{directory}, so the score cannot be compared with its own; restore the data file to score its rows"
        ]
    limit = "" if examples == there.rows else " that the training scored"
    return [_seen_warning(there.seen, there.rows, split, limit)] if there.seen else []


def _scored_splits(directory: epath.PathLike) -> list[record.SplitData]:
    """The validation and test rows in the record of a run, without a split that it has trained on."""
    try:
        data = record.read(directory).data
    except (FileNotFoundError, ValueError):  # not finished, or of an earlier version
        return []
    own = data["train"].split if "train" in data else ""
    return [data[role] for role in (record.VALIDATION, record.TEST) if role in data and data[role].split != own]


def _seen_warning(number: int, rows: int, split: str, limit: str = "") -> str:
    return (
        f"{number:,} of {rows:,} rows of split {split!r}{limit} {form(number, 'has', 'have')} the input of a training row, "
        "so the score is not that of unseen rows; remove them from the training rows or from this split"
    )


def check_initial(data: DataConfig | TokenBatchesConfig, initial_checkpoint_path: str) -> None:
    """Raises ValueError if initial parameters are of another vocabulary than the task."""
    if isinstance(data, DataConfig):
        from distill.tasks import registration
        from distill.training import initial_vocabulary

        targets = registration.get(data.mixture_or_task_name).output_features["targets"]
        initial_vocabulary.check(initial_checkpoint_path, targets.vocabulary)


def unfinished_initial(initial_checkpoint_path: str | None) -> str | None:
    """Returns a warning if initial parameters are of a run that is not complete; else None."""
    found = None if initial_checkpoint_path is None else model_directory.unfinished(initial_checkpoint_path)
    return None if found is None else f"INITIAL_CHECKPOINT_PATH: {found}"


def check_loss(loss: TwoTaskLoss, data: DataConfig | TokenBatchesConfig) -> None:
    """Raises ValueError if the loss has a mutual-information term and the data no shared input."""
    if loss.mutual_information is not None and not data.shared_encoder:
        raise ValueError(
            f"MUTUAL_INFORMATION={loss.mutual_information} compares both targets of an input in one window; got "
            f"{data.source}, whose targets have an input each: set FORM=shared and EVAL_FORM=shared_label"
        )


def check_rows(mixture_or_task_name: str, split: str) -> None:
    """Raises ValueError or FileNotFoundError if a split has no rows. Reads the records of the project's own tasks."""
    from distill.tasks import registration

    provider = registration.get(mixture_or_task_name)
    if split not in provider.splits:
        raise ValueError(
            f"{mixture_or_task_name!r} has no split {split!r}; it has {', '.join(sorted(provider.splits))}"
        )
    if provider.num_input_examples(split) == 0:
        raise ValueError(f"{mixture_or_task_name!r} has no row in split {split!r}")


def check_cache(data: DataConfig) -> None:
    """Raises ValueError if a run cannot be trained from its cache. Reads the manifest, and files of rows that are there."""
    import seqio

    from distill.data import cache
    from distill.tasks import registration

    assert data.cache_dir is not None
    provider = registration.get(data.mixture_or_task_name)
    for task in provider.tasks if isinstance(provider, seqio.Mixture) else [provider]:
        known = cache.known_rows(data.cache_dir, task.name, data.split)
    cache.check_rows(data.cache_dir, known.rows_sha256(data.split), task.source, data.split)


def check_vocabulary(mixture_or_task_name: str, model: NetworkConfig) -> None:
    """Raises ValueError if the task's vocabulary has more ids than the model has rows, or lacks the decoder's BOS."""
    from distill.tasks import registration

    vocabulary = registration.get(mixture_or_task_name).output_features["targets"].vocabulary
    student.check_vocabulary(vocabulary, model, f"the vocabulary of {mixture_or_task_name!r}")
