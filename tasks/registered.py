"""Finds the tasks and mixtures that :mod:`distill.tasks.registration` has registered with SeqIO, and what it noted."""

import dataclasses
import difflib
from collections.abc import Callable, Mapping
from typing import Any

import seqio

from distill.tasks import fingerprint, preprocessors, span_corruption
from distill.tasks.corpus import Corpus
from distill.tasks.feeding import RecordDataSource
from distill.tasks.records import Report


@dataclasses.dataclass(frozen=True)
class Registered:
    """The names under which a data set is registered.

    Attributes:
      label: input → label.
      rationale: input → rationale.
      single: input → rationale and label in one target.
      mixed: the mixture of ``label`` and ``rationale`` at their rates.
      paired: both of a row's sequences in one example.
      shared: the same with one input for both; the prefixes are the targets' first tokens, with weight 0.
      shared_label, shared_rationale: each of the two alone, to evaluate a student trained on ``shared``.
      spans: span corruption, of a :class:`distill.tasks.corpus.Corpus`; None for all other data sets.
    """

    label: str
    rationale: str
    single: str
    mixed: str
    paired: str
    shared: str
    shared_label: str
    shared_rationale: str
    spans: str | None = None


@dataclasses.dataclass(frozen=True)
class Noted:
    """What SeqIO's registries do not hold of a task.

    Attributes:
      settings: those that determine its examples, rows excepted.
      target_prefix: the prefix of its targets.
      call: the call that registered it.
    """

    settings: Mapping[str, Any]
    target_prefix: str
    call: Callable[[], Registered]


_noted: dict[str, Noted] = {}  # by the names of the tasks


def note(name: str, noted: Noted) -> None:
    """Notes a task that was registered, in place of an earlier one of its name."""
    _noted[name] = noted


def registered_names() -> list[str]:
    """All tasks and mixtures, sorted."""
    return sorted({*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()})


def neighbours(name: str, number: int = 3) -> list[str]:
    """The registered names most similar to ``name``."""
    return difflib.get_close_matches(name, registered_names(), n=number, cutoff=0.4)


def get(name: str) -> seqio.Task | seqio.Mixture:
    """The task or mixture of that name.

    Raises:
      ValueError: the name is unknown; similar names are suggested.
    """
    if name in seqio.MixtureRegistry.names():
        return seqio.MixtureRegistry.get(name)
    if name in seqio.TaskRegistry.names():
        return seqio.TaskRegistry.get(name)
    near = neighbours(name)
    known = registered_names()
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
    raise ValueError(
        f"no task or mixture is named {name!r}{hint} (registered: {', '.join(known) if known else 'none yet'})"
    )


def shares_input(task_name: str) -> bool:
    """Whether the sequences of a task's examples share their input."""
    return preprocessors.shares_input(seqio.TaskRegistry.get(task_name).output_features)


def prompt(task_name: str) -> tuple[int, ...]:
    """The token ids that all targets of a task begin with; none for most.

    Raises:
      ValueError: the task does not exist.
    """
    provider = get(task_name)
    prefix = _noted[task_name].target_prefix if task_name in _noted else ""
    return tuple(preprocessors.prompt(provider.output_features["targets"].vocabulary, prefix)) if prefix else ()


def check_prompts(trained: str, evaluated: str) -> None:
    """Raises ValueError if two tasks do not go together: only one has prompts, or reasons before its answer."""
    if trained.endswith("_single") != evaluated.endswith("_single"):
        needed = "single" if trained.endswith("_single") else "label"
        raise ValueError(
            f"{trained!r} is trained on and {evaluated!r} evaluated, and only one of them has reasons and answer in one "
            f"target: set EVAL_FORM={needed} (gin/runs/single_task.gin has the settings of FORM=single)"
        )
    has = [bool(prompt(name)) for name in (trained, evaluated)]
    if has[0] != has[1]:
        where = ["begin the targets" if each else "do not begin those" for each in has]
        raise ValueError(
            f"prefixes {where[0]} of {trained!r}, which is trained on, and {where[1]} of {evaluated!r}, which is "
            "evaluated; training and evaluation must use the same task prefix. FORM=shared needs "
            "EVAL_FORM=shared_label (or shared_rationale); other forms need the other values"
        )


def spans_of(task: seqio.Task | seqio.Mixture) -> span_corruption.SpanCorruption | None:
    """How a task corrupts windows of text; None for every other task, and for a mixture."""
    if not isinstance(task, seqio.Task):
        return None
    source = task.source
    corpus = source.dataset if isinstance(source, RecordDataSource) else None
    return corpus.spans if isinstance(corpus, Corpus) and task.name == f"{corpus.name}_spans" else None


def draws_at_random(task_name: str, split: str | None = None) -> bool:
    """Whether a task's epochs differ: whether any of its preprocessors draws at random.

    Args:
      task_name: a registered task.
      split: if given, its rows are checked: if none has several rationales, nothing is drawn. Reads them
        if necessary.
    """
    task = seqio.TaskRegistry.get(task_name)
    if not preprocessors.drawing(task.preprocessors):
        return False
    if split is None or not isinstance(task.source, RecordDataSource) or spans_of(task) is not None:
        return True
    return task.source.num_with_several_rationales(split) > 0


def report(task_name: str, split: str) -> Report:
    """The problems that the task's source found in a split's rows.

    Raises:
      ValueError: the task was not registered here.
    """
    source = seqio.TaskRegistry.get(task_name).source
    if not isinstance(source, RecordDataSource):
        raise ValueError(f"task {task_name!r} was not registered by tasks.registration.register")
    return source.report(split)


def call_of(task_name: str) -> Callable[[], Registered]:
    """The call that registered a task, to repeat it in another process. It can be pickled if its arguments can.

    Raises:
      ValueError: the task was not registered here.
    """
    if task_name not in _noted or not isinstance(get(task_name), seqio.Task):
        raise ValueError(f"task {task_name!r} was not registered by tasks.registration.register")
    return _noted[task_name].call


def label_is_last(task_name: str) -> bool:
    """Whether the label follows the rationale in the targets of a task."""
    noted = _noted.get(task_name)
    return noted is not None and task_name.endswith("_single") and noted.settings.get("single_order") != "label_first"


def settings_of(task_name: str) -> dict[str, Any]:
    """The settings, other than rows, that determine a task's examples: dotted names and plain values, ready for JSON.

    Reads the vocabulary, and no rows.

    Raises:
      ValueError: the task was not registered here.
    """
    task = get(task_name)
    if task_name not in _noted or not isinstance(task, seqio.Task):
        raise ValueError(f"task {task_name!r} was not registered by tasks.registration.register")
    return dict(_noted[task_name].settings) | fingerprint.of_vocabulary(task.output_features["targets"].vocabulary)
