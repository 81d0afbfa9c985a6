"""Which labels a job's rows can have, where they are few: a teacher's label outside them is no answer."""

import collections
from collections.abc import Iterable, Sequence

from distill.tasks import metrics
from distill.tasks.records import Record

MOST = 20
"""Distinct gold labels; more are taken for free text."""
_ROWS_A_LABEL = 3  # gold labels that repeat less often than this on average are taken for free text


def known_labels(
    records: Iterable[Record], *, declared: Sequence[str] = (), worked: Sequence[str] = ()
) -> tuple[str, ...]:
    """The labels there are, or nothing where any text may be one.

    Args:
      records: the job's rows. Rows with choices of their own do not count.
      declared: labels that the user or the data set names; they are the answer if there are any.
      worked: labels of the prompt's worked examples; they are labels, too, where the gold labels are few.

    Returns:
      distinct labels, those that differ in case or a final period as one, in order of first appearance.
    """
    if declared:
        return tuple(dict.fromkeys(declared))
    spelled: dict[str, str] = {}
    counts: collections.Counter[str] = collections.Counter()
    for record in records:
        if record.label is None or not record.label.strip() or record.choices:
            continue
        key = metrics.normalise_text(record.label)
        spelled.setdefault(key, record.label.strip())
        counts[key] += 1
        if len(counts) > MOST:
            return ()
    if not counts or counts.total() < _ROWS_A_LABEL * len(counts):
        return ()
    if len(counts) == 1 and not counts.keys() & {metrics.normalise_text(label) for label in worked}:
        return ()  # one label does not tell which others there are
    for label in worked:
        spelled.setdefault(metrics.normalise_text(label), label)
    return tuple(spelled.values())
