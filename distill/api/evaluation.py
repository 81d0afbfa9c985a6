"""``distill.evaluate``: a student's metrics on rows, with the functions that SeqIO's evaluation uses, without SeqIO."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from absl import logging

from distill.api import keywords, remedies
from distill.api import rows as row_files
from distill.api.rows import Rows
from distill.api.student import Student
from distill.counting import counted, form, share
from distill.tasks import metrics as scoring
from distill.tasks.records import Record, SourceError
from distill.validation import quoted


@keywords.checked(explains=("student",))
@remedies.speaking_python(remedies.OF_ROWS, "options")
def evaluate(
    student: Student,
    rows: Rows,
    *,
    fields: Mapping[str, str] | None = None,
    answer: str | None = None,
    rationale: bool = False,
    metrics: Sequence[Callable[..., Mapping[str, float]]] = (),
    rationale_metrics: Sequence[Callable[..., Mapping[str, float]]] = (),
) -> dict[str, float]:
    """Scores a student on rows with gold labels; the numbers are those of ``distill eval`` on the same rows.

    Args:
      student: of :func:`distill.train` or :func:`distill.load`.
      rows: as :func:`distill.read` takes them. Rows without a label are left out, with a warning that counts them.
      fields: see :func:`distill.read`; None: rows are read as those of the student's training; ``{}``: they use the names
        of the record.
      answer: how answers are compared: ``text``, ``choice`` or ``equation``; None: as in the student's training.
      rationale: also decode the reasoning, and compare it with each row's first rationale (ROUGE-L and BLEU).
      metrics: functions of yours, ``fn(targets, predictions) -> {name: value}``, as :func:`distill.train` takes them; a
        warning names those of the student's training that are not among them.
      rationale_metrics: the same for the reasoning, with ``rationale=True``: a target's ``text`` is the row's first
        rationale, a prediction the decoded one.

    Returns:
      ``accuracy``, ``accuracy_low``, ``accuracy_high`` (95 %), ``accuracy_exact``, the values of ``metrics``, and with
      ``rationale`` also ``rouge_l`` and ``bleu`` with their bounds, and the values of ``rationale_metrics``.

    Raises:
      TypeError: ``student`` is no student, such as the path of one; or a metric is no function, or returns no numbers by
        name.
      ValueError: no row has a label, or no row has a rationale when rationales are compared; or two metrics return the
        same name, or ``rationale_metrics`` are given without ``rationale``.
    """
    if not isinstance(student, Student):
        path = f"distill.load({os.fspath(student)!r})" if isinstance(student, str | os.PathLike) else "distill.load(…)"
        raise TypeError(
            f"student must be a Student, such as {path}; got {quoted(student, 200)} ({type(student).__name__})"
        )
    kind = student.description.answer if answer is None else answer
    if kind not in scoring.ACCURACY:
        raise ValueError(f"answer must be one of {', '.join(scoring.ANSWER_KINDS)}; got {kind!r}")
    scoring.check_functions("metrics", metrics)
    scoring.check_functions("rationale_metrics", rationale_metrics)
    if rationale_metrics and not rationale:
        raise ValueError(
            "rationale_metrics score the reasoning, which is not decoded; got rationale=False: give rationale=True"
        )
    if isinstance(rows, Iterable) and not isinstance(rows, Mapping) and not row_files.paths_of(rows):
        rows = list(rows)
    try:
        records = row_files.read(rows, **_reading(student, rows, fields, rationale))
    except SourceError as error:
        if fields is None and student.description.rows is not None and student.description.rows.fields:
            error.args = (f"{error}; rows are read as in training: fields={{…}} names other fields, {{}} the record's",)
        raise
    labelled = [record for record in records if record.label is not None]
    if not labelled:
        raise ValueError(
            f"none of {counted(len(records), 'row')} has a label to compare with; map it: fields={{'label': …}}"
        )
    if len(labelled) < len(records):
        without = len(records) - len(labelled)
        rows = share(without, len(records), "row", "has no label and is", "have no label and are")
        logging.warning("%s not scored", rows)
    functions = [scoring.ACCURACY[kind], *metrics]  # type: ignore[index]
    targets = [scoring.Answer(record.label or "", record.choices) for record in labelled]
    of_reasons = [scoring.rouge_l, scoring.bleu, *rationale_metrics] if rationale else []
    if metrics or rationale_metrics:  # mistakes in them are found before answers are decoded
        scoring.computed([*functions, *of_reasons], targets[:2], [target.text for target in targets[:2]])
    missing = [name for name in student.description.metrics if name not in map(scoring.name_of, metrics)]
    if missing:
        verb = form(len(missing), "is", "are")
        logging.warning("%s of the training %s not computed; give metrics=[…]", ", ".join(missing), verb)
    of_rows = isinstance(student.description.choices, str)  # the records have read that field
    choices = [record.choices for record in labelled] if of_rows else None
    answers = student.answer([record.input for record in labelled], choices=choices)
    found = scoring.computed(functions, targets, [one.text for one in answers])
    if rationale:
        explained = [record for record in records if record.rationales]
        if not explained:
            raise ValueError("no row has a rationale to compare with; map it: fields={'rationale': …}")
        written = student.rationales([record.input for record in explained])
        reasons = [scoring.Answer(record.rationales[0]) for record in explained]
        found |= scoring.computed(of_reasons, reasons, written)
    return found


# The fields of a record that scores depend on.
_OF_LABELS = ("input", "label", "choices", "solution")
_OF_RATIONALES = ("rationale", "rationales", "reply")


def _reading(student: Student, rows: Rows, fields: Mapping[str, str] | None, rationale: bool) -> dict[str, Any]:
    """The arguments of :func:`distill.read`: the caller's fields, else the format of the training's rows."""
    there = student.description.rows
    is_records = isinstance(rows, list) and any(isinstance(row, Record) for row in rows)
    if fields is not None or there is None or is_records:
        return {"fields": fields}
    return there.options((*_OF_LABELS, *_OF_RATIONALES) if rationale else _OF_LABELS)
