"""``distill.evaluate``: a student's metrics on rows, with the functions that SeqIO's evaluation uses, without SeqIO."""

from collections.abc import Mapping

from absl import logging

from distill.api import rows as row_files
from distill.api.rows import Rows
from distill.api.student import Student
from distill.tasks import metrics


def evaluate(
    student: Student,
    rows: Rows,
    *,
    fields: Mapping[str, str] | None = None,
    answer: str | None = None,
    rationale: bool = False,
) -> dict[str, float]:
    """Scores a student on rows with gold labels; the numbers are those of ``distill eval`` on the same rows.

    Args:
      student: of :func:`distill.train` or :func:`distill.load`.
      rows: as :func:`distill.read` takes them. Rows without a label are left out, with a warning that counts them.
      fields: see :func:`distill.read`.
      answer: how answers are compared: ``text``, ``choice`` or ``equation``; None: as in the student's training.
      rationale: also decode the reasoning, and compare it with each row's first rationale (ROUGE-L and BLEU).

    Returns:
      ``accuracy``, ``accuracy_low``, ``accuracy_high`` (95 %), ``accuracy_exact``, and with ``rationale`` also
      ``rouge_l`` and ``bleu`` with their bounds.

    Raises:
      ValueError: no row has a label, or no row has a rationale when rationales are compared.
    """
    kind = student.description.answer if answer is None else answer
    if kind not in metrics.ACCURACY:
        raise ValueError(f"answer must be one of {', '.join(metrics.ANSWER_KINDS)}; got {kind!r}")
    records = row_files.read(rows, fields=fields)
    labelled = [record for record in records if record.label is not None]
    if not labelled:
        raise ValueError(f"none of the {len(records)} rows has a label to compare with; map it: fields={{'label': …}}")
    if len(labelled) < len(records):
        logging.warning("%d of %d rows have no label and are not scored", len(records) - len(labelled), len(records))
    answers = student.answer([record.input for record in labelled])
    targets = [metrics.Answer(record.label or "", record.choices) for record in labelled]
    scores = metrics.ACCURACY[kind](targets, [one.text for one in answers])  # type: ignore[index]
    found = {name: float(value) for name, value in scores.items()}
    if rationale:
        explained = [record for record in records if record.rationales]
        if not explained:
            raise ValueError("no row has a rationale to compare with; map it: fields={'rationale': …}")
        written = student.rationales([record.input for record in explained])
        reasons = [metrics.Answer(record.rationales[0]) for record in explained]
        for score in (metrics.rouge_l, metrics.bleu):
            found.update({name: float(value) for name, value in score(reasons, written).items()})
    return found
