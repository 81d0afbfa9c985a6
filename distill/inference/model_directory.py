"""What a run writes before it starts, the settings with which it refuses to restart, and whether it is complete."""

import contextlib
import itertools
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from distill import atomic_files, locking
from distill.inference import own_files, run_settings
from distill.inference import student as students
from distill.inference.own_files import ATTEMPTS, CONFIG, FAILURE, PLAIN_CONFIG, PRUNED, REACHED, RESULT
from distill.inference.student import Student

KEPT_RESULT = "result.before-{}.json"
_STEPS = ("checkpoints", "best")
_ROWS = "rows"
# The files of a start.
_REPLACED = (CONFIG, PLAIN_CONFIG, students.FILE, students.VOCABULARY_FILE, ATTEMPTS)
_START = frozenset({*_REPLACED, *(atomic_files.partial(name).name for name in _REPLACED), _ROWS, REACHED})


def begin(
    directory: epath.PathLike,
    text: str,
    before: Mapping[str, Any] | None,
    after: Mapping[str, Any],
    student: Student | None,
    vocabulary_model: bytes | None,
    *,
    writes: bool = True,
) -> list[str]:
    """Prepares the directory for a run: ``config.gin``, ``student.json`` and the vocabulary's file.

    A finished run keeps its configuration. It continues only if nothing was changed except a larger ``TRAIN_STEPS`` or, if
    it has ended early, a larger ``PATIENCE``; its ``result.json`` is then kept under another name. A run that has saved a
    checkpoint continues if the student does not depend on the changed settings. A run that has not trained yet takes any
    configuration.

    Args:
      directory: the model directory.
      text: the resolved configuration.
      before: the bindings of ``config.gin``, None if there is no such file.
      after: the bindings of ``text``.
      student: for ``student.json``; None writes none.
      vocabulary_model: the contents of ``vocabulary.model``; None for bytes.
      writes: whether this process writes; all processes of a run check.

    Returns:
      Lines for the user.

    Raises:
      ValueError: another configuration for a run that has trained; every difference is listed. Or a folder that holds no
        run, but files that no run writes.
    """
    root = epath.Path(directory)
    own_files.check(root)
    finished = (root / RESULT).exists()
    result = _object(root / RESULT)
    early = finished and result.get("stopped") == "early"
    trained = has_trained(root)
    remarks: list[str] = []
    changed = run_settings.differences(before, after) if before is not None else []
    if trained and before is not None:
        changed = [*changed, *_other_vocabulary(root, student, vocabulary_model)]
        blocking = [one for one in changed if one.student and not _may_change(one, finished, early)]
        if blocking:
            listed = "\n  ".join(map(str, blocking))
            raise ValueError(
                f"{directory} holds a {'finished' if finished else 'started'} run with other settings:\n  {listed}\n"
                "give the settings of the run to continue it (TRAIN_STEPS may be raised), or another MODEL_DIR for "
                f"the new ones (INITIAL_CHECKPOINT_PATH={directory} starts from its parameters)"
            )
    longer = [one for one in changed if one.raises_steps or one.raises_patience] if finished else []
    if finished and not longer:
        steps, patience = _above(run_settings.STEPS, before), _above(run_settings.PATIENCE, before)
        what, remedy = _early(result.get("reason"), steps, patience) if early else ("is finished", steps)
        remarks.append(f"{directory} {what}; nothing is trained (raise {remedy} to continue)")
        if changed:
            remarks.append("settings that have no effect on a finished run differ: " + "; ".join(map(str, changed)))
    if longer:
        remarks.append("continuing a finished run: " + "; ".join(map(str, longer)))
    elif trained and changed and not finished:
        remarks.append(
            "settings that do not change the student differ from the last start: " + "; ".join(map(str, changed))
        )
    locking.wait_for_all(f"{root}: checked")  # all processes see the directory as it was
    if writes:
        root.mkdir(parents=True, exist_ok=True)
        if longer:
            kept = root / KEPT_RESULT.format(_kept_name(longer[0]))
            (root / RESULT).replace(kept)
            remarks.append(f"the earlier result is kept as {kept.name} when the run continues")
        if before is None or (changed and (not finished or longer)):
            atomic_files.replace(root / CONFIG, text)
        if before is None or (changed and (not finished or longer)) or not (root / PLAIN_CONFIG).exists():
            settings = json.dumps(plain(after), indent=1, ensure_ascii=False, default=str) + "\n"
            atomic_files.replace(root / PLAIN_CONFIG, settings)
        if student is not None and (not finished or longer or not (root / students.FILE).exists()):
            students.write(root, student, vocabulary_model)
        elif student is None:
            logging.warning(
                "the vocabulary is neither SentencePiece nor bytes; `distill infer` cannot serve this student"
            )
    locking.wait_for_all(f"{root}: written")  # a process that found result.json would train nothing
    return remarks


@contextlib.contextmanager
def undone_on_failure(directory: epath.PathLike, *, writes: bool = True) -> Iterator[None]:
    """An error inside, before anything was trained, leaves a directory that was new or empty as it was.

    Folders above it that were made are removed too. A directory that holds more than the files of a start, such as logs,
    is kept, and so is every directory after a signal.

    Args:
      directory: the model directory, or another folder that a command makes.
      writes: whether this process writes.
    """
    root = epath.Path(directory)
    existed = root.exists()
    fresh = writes and not (existed and (not root.is_dir() or any(root.iterdir())))
    above = [] if existed else [root, *itertools.takewhile(lambda folder: not folder.exists(), root.parents)]
    try:
        yield
    except Exception:
        if fresh and root.is_dir() and all(_belongs_to_start(path) for path in root.iterdir()):
            for path in root.iterdir():
                path.rmtree() if path.is_dir() else path.unlink()
        for folder in above if fresh else ():
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
        raise


@contextlib.contextmanager
def start_undone_on_failure(directory: epath.PathLike, *, writes: bool = True) -> Iterator[None]:
    """An error inside, before a later step was saved, leaves the files of an earlier start as :func:`begin` found them.

    A finished run stays finished, with its ``result.json``; its configuration and ``student.json`` are those of its
    training. Call it with the directory's lock held.

    Args:
      directory: the model directory.
      writes: whether this process writes.
    """
    root = epath.Path(directory)
    before: dict[str, bytes] = {}
    if writes and has_trained(root):
        names = (RESULT, CONFIG, PLAIN_CONFIG, students.FILE, students.VOCABULARY_FILE)
        before = {name: (root / name).read_bytes() for name in names if (root / name).exists()}
    steps = _newest_steps(root) if before else []
    try:
        yield
    except Exception:
        # A damaged step is set aside, so that the newest may be an older one.
        if before and all(now <= then for now, then in zip(_newest_steps(root), steps)):
            _restore(root, before)
        raise


def _restore(root: epath.Path, before: Mapping[str, bytes]) -> None:
    try:
        # The kept result is renamed back, which needs no space on the disk.
        for kept in root.glob(KEPT_RESULT.format("*")) if RESULT in before else ():
            if not (root / RESULT).exists() and kept.read_bytes() == before[RESULT]:
                kept.replace(root / RESULT)
        for name, content in before.items():
            if not (root / name).exists() or (root / name).read_bytes() != content:
                atomic_files.replace(root / name, content)
    except OSError as error:
        logging.warning("%s could not be left as it was before this start: %s", root, error)


def _belongs_to_start(path: epath.Path) -> bool:
    """Whether a file or folder of a model directory is written before training, and nothing was trained."""
    if path.name in _STEPS:
        return not any(path.iterdir())
    return path.name in _START


def plain(bindings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run as JSON values: macros, and arguments that are bound to something other than a macro.

    A reference to a macro is replaced by its value; a reference to a function keeps its spelling, ``@optimizers.adamw()``.

    >>> plain({"LAMBDA": 0.5, "train/losses.TwoTaskLoss.lam": "%LAMBDA", "SIZES": ("%LAMBDA", 2)})
    {'LAMBDA': 0.5, 'SIZES': [0.5, 2]}
    """

    def resolve(value: Any, depth: int = 0) -> Any:
        if isinstance(value, str) and value[:1] == "%" and value[1:] in bindings and depth < 16:
            return resolve(bindings[value[1:]], depth + 1)
        if isinstance(value, Mapping):
            return {str(key): resolve(item, depth) for key, item in value.items()}
        return [resolve(item, depth) for item in value] if isinstance(value, (list, tuple)) else value

    def is_macro(value: Any) -> bool:
        return isinstance(value, str) and value[:1] == "%" and value[1:] in bindings

    kept = {name: value for name, value in bindings.items() if "." not in name or not is_macro(value)}
    return {name: resolve(value) for name, value in kept.items()}


def has_trained(directory: epath.PathLike) -> bool:
    """Whether a run in the directory is finished or has saved a checkpoint."""
    root = epath.Path(directory)
    return (root / RESULT).exists() or any(own_files.newest_step(root / folder) is not None for folder in _STEPS)


def unfinished(directory: epath.PathLike) -> str | None:
    """A warning if the run in a directory is not complete: its step, and what continues it; None if there is no such run.

    A folder that holds parameters and no run, such as one of ``distill convert`` or ``export``, has no warning.

    Args:
      directory: the model directory.
    """
    root = epath.Path(directory)
    # An export has a copy of config.gin.
    has_begun = (root / CONFIG).exists() and any((root / name).exists() for name in (students.FILE, *_STEPS))
    if (root / RESULT).exists() or not (has_begun or (root / ATTEMPTS).exists()):
        return None
    settings = _object(root / PLAIN_CONFIG)
    steps = next((settings[name] for name in reversed(run_settings.STEPS) if isinstance(settings.get(name), int)), None)
    newest = max(_newest_steps(root))
    at = f"its newest saved step is {newest:,}" + (f" of {steps:,}" if steps is not None else "")
    if error := _object(root / FAILURE).get("error"):
        why = str(error).split("; ")[0]
        return f"the run in {directory} has failed ({why}): {at}; `distill sweep --retry_failed` repeats it"
    if (root / PRUNED).exists():
        return f"the run in {directory} was ended by its search before its last step: {at}"
    return f"the run in {directory} is not complete: {at}; unless it is running now, the same training command continues it"


def _object(path: epath.Path) -> dict[str, Any]:
    """A JSON object of a file; empty if the file is missing or damaged."""
    try:
        value = json.loads(path.read_text()) if path.exists() else None
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _early(reason: Any, steps: str, patience: str) -> tuple[str, str]:
    """What a run that has ended early has done, and the settings that continue it; ``reason`` as in ``result.json``."""
    if not isinstance(reason, str):  # of an older version
        return "has ended early", f"{patience} or, if a callback has ended it, {steps}"
    return f"has ended early, by {reason}", patience if reason == "patience" else steps


def _above(names: Sequence[str], before: Mapping[str, Any] | None) -> str:
    """A setting, by the first of its names, and the value of the run that it must exceed, if that is known."""
    settings = plain(before or {})
    value = next((settings[name] for name in reversed(names) if type(settings.get(name)) is int), None)
    return names[0] if value is None else f"{names[0]} above {value}"


def _may_change(one: run_settings.Difference, finished: bool, early: bool) -> bool:
    """Fewer steps do not change the student while the run is not finished, nor does more patience once it has ended it."""
    return one.raises_steps or (one.name in run_settings.STEPS and not finished) or (early and one.raises_patience)


def _kept_name(longer: run_settings.Difference) -> str:
    return f"{longer.after}-steps" if longer.raises_steps else f"patience-{longer.after}"


def _newest_steps(root: epath.Path) -> list[int]:
    """The newest saved step per folder, 0 where there is none."""
    return [own_files.newest_step(root / name) or 0 for name in _STEPS]


def _other_vocabulary(root: epath.Path, student: Student | None, model: bytes | None) -> list[run_settings.Difference]:
    """Whether the vocabulary encodes differently; its path does not count."""
    if student is None or not (root / students.FILE).exists():
        return []
    there = students.read(root)
    mine = students.with_vocabulary(student, model)
    old = (there.vocabulary, there.vocabulary_extra_ids, there.vocabulary_sha256[:16])
    new = (mine.vocabulary, mine.vocabulary_extra_ids, mine.vocabulary_sha256[:16])
    return [run_settings.Difference("the vocabulary", old, new, True)] if old != new else []
