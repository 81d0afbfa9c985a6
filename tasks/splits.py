"""Which rows are for validation, and which belong to a smaller training set: decided row by row, by a seeded hash.

A row's lot depends on nothing but the seed and the row's input text. So splits stay the same when rows are added, dropped
or reordered, when files are read lazily or on another machine, and rows with the same input never sit on both sides of a
split. The price is that sizes are only about the fraction asked for.
"""

import hashlib
from collections.abc import Iterable, Iterator

from tasks.records import Record

_SPACE = 2.0**64


def position(text: str, *, seed: int = 0, purpose: str = "") -> float:
    """A fixed pseudo-random number in [0, 1) for ``text``; independent for each ``(seed, purpose)``."""
    digest = hashlib.blake2b(
        text.encode("utf-8", "surrogatepass"), digest_size=8, key=f"{purpose}:{seed}".encode()[:64]
    )
    return int.from_bytes(digest.digest(), "big") / _SPACE


def _check(name: str, fraction: float, *, zero: bool) -> None:
    if not (0 <= fraction <= 1) or (fraction == 0 and not zero):
        raise ValueError(f"{name} must be in {'[' if zero else '('}0, 1]; got {fraction}")


def in_validation(record: Record, *, fraction: float = 0.1, seed: int = 0) -> bool:
    """Whether a row of the training file is held out for validation.

    Args:
      record: the row; only its ``input`` counts.
      fraction: share of the rows to hold out.
      seed: another seed holds out other rows.
    """
    _check("validation_fraction", fraction, zero=True)
    return position(record.input, seed=seed, purpose="validation") < fraction


def in_subsample(record: Record, *, fraction: float, seed: int = 0) -> bool:
    """Whether a row belongs to the subsample of size ``fraction``.

    Subsamples of one seed are nested: what is in the 12.5 % is in the 25 %, and so on. They are drawn independently of
    :func:`in_validation`.
    """
    _check("subsample", fraction, zero=False)
    return position(record.input, seed=seed, purpose="subsample") < fraction


def cut(records: Iterable[Record], split: str, *, fraction: float = 0.1, seed: int = 0) -> Iterator[Record]:
    """The part of a training file's records that is ``train`` or ``validation``.

    Raises:
      ValueError: another split.
    """
    if split not in ("train", "validation"):
        raise ValueError(f"only 'train' and 'validation' are cut from the training rows; got {split!r}")
    wanted = split == "validation"
    for record in records:
        if in_validation(record, fraction=fraction, seed=seed) == wanted:
            yield record


def subsample(records: Iterable[Record], *, fraction: float, seed: int = 0) -> Iterator[Record]:
    """The records in the nested subsample of size ``fraction``."""
    for record in records:
        if fraction == 1 or in_subsample(record, fraction=fraction, seed=seed):
            yield record
