"""Which rows are for validation, and which belong to a smaller training set: decided row by row, by a seeded hash.

The decision depends only on the seed and the row's input text. So splits stay the same when rows are added, dropped
or reordered, when files are read lazily or on another machine, and rows with the same input are never on both sides of a
split. In return, sizes are only approximately the requested fraction.

The one exception is a set so small that the hash holds out no row at all, as happens to a third of all sets of ten rows:
then the labelled input with the smallest position is held out, so that validation has a row.
"""

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence

from distill.tasks.records import HeldOut, Record

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

    Subsamples of one seed are nested: the rows of 12.5 % are among those of 25 %, and so on. They are drawn
    independently of :func:`in_validation`.
    """
    _check("subsample", fraction, zero=False)
    return position(record.input, seed=seed, purpose="subsample") < fraction


def cut(
    records: Iterable[Record], split: str, *, fraction: float = 0.1, seed: int = 0, counts: HeldOut | None = None
) -> Iterator[Record]:
    """The part of a training file's records that is ``train`` or ``validation``, in their order.

    Records are held back until both sides have one, which takes about ``1 / fraction`` of them. If the file ends before,
    the input with the smallest position is held out (one whose rows have a label, if any has), and all others are trained
    on. If all rows have the same input, or ``fraction`` is 0, no row is held out.

    Args:
      records: all rows of the training file.
      split: ``train`` or ``validation``.
      fraction, seed: as :func:`in_validation`.
      counts: receives the rows of both parts.

    Raises:
      ValueError: another split.
    """
    if split not in ("train", "validation"):
        raise ValueError(f"only 'train' and 'validation' are cut from the training rows; got {split!r}")
    wanted = split == "validation"
    remaining = iter(records)
    first: list[Record] = []
    sides: dict[str, bool] = {}  # of the first inputs: whether each is held out
    for record in remaining:
        first.append(record)
        if record.input not in sides:
            sides[record.input] = in_validation(record, fraction=fraction, seed=seed)
        if len(set(sides.values())) == 2 or not fraction:
            break
    else:
        sides = _both_sides(first, sides, fraction, seed)
    first_sides = ((record, sides[record.input]) for record in first)
    other_sides = ((record, in_validation(record, fraction=fraction, seed=seed)) for record in remaining)
    for record, held_out in itertools.chain(first_sides, other_sides):
        if counts is not None:
            counts.add(record, held_out)
        if held_out == wanted:
            yield record


def _both_sides(records: Sequence[Record], sides: dict[str, bool], fraction: float, seed: int) -> dict[str, bool]:
    """The sides of the inputs of a small set, changed so that none is empty; all train if there is only one input."""
    if not fraction or len(sides) < 2:
        return dict.fromkeys(sides, False)
    if len(set(sides.values())) == 2:
        return sides
    unlabelled = {record.input: record.label is None and record.llm_label is None for record in records}
    nearest = min(sides, key=lambda text: (unlabelled[text], position(text, seed=seed, purpose="validation")))
    return {text: text == nearest for text in sides}


def subsample(records: Iterable[Record], *, fraction: float, seed: int = 0) -> Iterator[Record]:
    """The records in the nested subsample of size ``fraction``."""
    for record in records:
        if fraction == 1 or in_subsample(record, fraction=fraction, seed=seed):
            yield record
