"""The set of possible labels of a job, if it is small: a teacher's label outside it counts as undecided."""

import collections
from collections.abc import Iterable, Sequence

from distill.tasks import metrics
from distill.tasks.records import Record

MOST = 20
"""Maximum number of distinct gold labels; more are treated as free text."""
_ROWS_A_LABEL = 3  # gold labels that occur less often on average are treated as free text


def known_labels(
    records: Iterable[Record], *, declared: Sequence[str] = (), worked: Sequence[str] = ()
) -> tuple[str, ...]:
    """The possible labels, or empty if any text may be a label.

    Args:
      records: the job's rows. Rows with choices are ignored.
      declared: labels named by the user or the data set; returned if not empty.
      worked: labels of the prompt's worked examples, added if the gold labels are few.

    Returns:
      distinct labels (ignoring case and a final period), in order of first appearance.
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
        return ()  # a single label does not determine the others
    for label in worked:
        spelled.setdefault(metrics.normalise_text(label), label)
    return tuple(spelled.values())
