"""What tests of runs request again and again is made once in a process: the examples of a small data set, and its curves.

TensorFlow traces every step of a data set anew, which takes two fifths of the time of a short training, and drawing three
axes takes an eighth of it.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import seqio

import traced_steps
from distill.tasks import feeding, fingerprint, registration
from distill.training import curves

KEPT = 200  # of each kind, those requested last

Read = Callable[..., Iterator[dict[str, Any]]]
Draw = Callable[[Mapping[str, Any], str | None, str | None], bytes]


def examples(read: Read) -> Read:
    """Returns ``reading.examples`` as a function that reads equal rows with equal settings once.

    Only tasks of this package over rows in memory are equal to others: by the rows' hash, the vocabulary and the
    preprocessors, their functions included. SeqIO's cache and large data sets are always read.
    """
    kept = traced_steps.Kept()

    @functools.wraps(read)
    def read_once(task: seqio.Task, split: str, **options: Any) -> Iterator[dict[str, Any]]:
        place = None if options.get("use_cached") else _place(task, split)
        if place is None:
            yield from read(task, split, **options)
            return
        place = (*place, tuple(sorted(options.items())))
        for example in kept.get_or_make(place, lambda: list(read(task, split, **options)), KEPT):
            yield dict(example)

    return read_once


def pictures(draw: Draw) -> Draw:
    """Returns ``curves._figure`` as a function that draws once for equal curves with no, few or many points."""
    kept = traced_steps.Kept()

    @functools.wraps(draw)
    def drawn_once(scalars: Mapping[str, Any], split: str | None, metric: str | None) -> bytes:
        drawn = tuple(sorted((tag, bool(points), curves._marker(points)) for tag, points in scalars.items()))
        return kept.get_or_make((drawn, split, metric), lambda: draw(scalars, split, metric), KEPT)

    return drawn_once


def _place(task: seqio.Task, split: str) -> Any:
    """What makes the examples of a task what they are; None if that cannot be compared."""
    source = task.source
    if type(task) is not registration.PlainTask or type(source) is not feeding.RecordDataSource:
        return None
    if split not in source.splits:
        return None
    steps = [step for step in task.preprocessors if not isinstance(step, seqio.CacheDatasetPlaceholder)]
    vocabularies = [
        (name, feature.add_eos, sorted(fingerprint.of_vocabulary(feature.vocabulary).items()))
        for name, feature in task.output_features.items()
    ]
    exact = {type(feature.vocabulary) for feature in task.output_features.values()}
    if not exact <= {seqio.ByteVocabulary, seqio.SentencePieceVocabulary}:
        return None
    place = traced_steps.identity((steps, vocabularies, sorted(source.spec), source.rows_sha256(split)))
    try:
        hash(place)
    except TypeError:
        return None
    return place
