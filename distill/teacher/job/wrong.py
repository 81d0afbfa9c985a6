"""The rows that a student answers wrongly on validation, to send only these to the teacher again.

UNDO (Jain et al. 2025, arXiv 2504.02521) lets a student's errors on a validation set decide what the teacher explains
anew. Here the errors select the rows; the prompt does not mention the student.
"""

import dataclasses
import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

from distill.tasks import json_files, metrics
from distill.tasks.records import Record, RowError
from distill.tasks.texts import SINGLE_MARKER, answer_of
from distill.teacher.job.config import ExtractConfig
from distill.teacher.job.extraction import answer_kind, labels_of
from distill.teacher.job.prompting import load_prompt, read_records

_IDS = b'{\n "predictions":'  # the beginning of a file of ids


@dataclasses.dataclass(frozen=True)
class Selected:
    """The selected rows and the counts of the selection.

    Attributes:
      records: the rows with a wrong prediction, in their order.
      predictions: the number of predictions.
      errors: the number of wrong ones, those without a row included.
      file: the predictions.
    """

    records: list[Record]
    predictions: int
    errors: int
    file: str

    def __str__(self) -> str:
        return (
            f"{self.errors:,} of {self.predictions:,} predictions in {self.file} are wrong; {len(self.records):,} rows "
            "are sent to the teacher"
        )


def narrowed(config: ExtractConfig, run: str) -> tuple[ExtractConfig, Selected]:
    """The job with only the rows that a student answers wrongly. Its known labels stay those of all rows.

    Args:
      config: the job; its ``limit`` applies to the selected rows.
      run: see :func:`select`.

    Raises:
      ValueError: see :func:`select`.
      PromptError, SourceError: a file cannot be used.
    """
    prompt = load_prompt(config)
    records, _ = read_records(dataclasses.replace(config, limit=None))
    kind = answer_kind(config, prompt)
    selected = select(run, records, kind)
    labels = labels_of(config, prompt, records)
    narrow = dataclasses.replace(
        config, dataset=None, inputs="", fields={}, records=selected.records, answer=kind, labels=labels
    )
    return narrow, selected


def predictions_file(run: str) -> pathlib.Path:
    """The predictions on validation: ``run`` itself if it is a file, or that of a model directory.

    Raises:
      ValueError: no such file, several, or predictions of a test split.
    """
    path = pathlib.Path(run).expanduser()
    if path.is_dir():
        found = sorted(path.glob("predictions/validation.jsonl")) or sorted(path.glob("predictions/*_validation.jsonl"))
        if not found:
            raise ValueError(
                f"--only_wrong: {path} holds no predictions on validation (predictions/*_validation.jsonl); "
                f"`distill eval --model_dir={path} --split=validation` writes them"
            )
        if len(found) > 1:
            names = ", ".join(file.name for file in found)
            raise ValueError(f"--only_wrong: {path} holds several files of predictions ({names}); give one of them")
        (path,) = found
    if not path.is_file():
        raise ValueError(f"--only_wrong needs a model directory or a file of its predictions; {path} does not exist")
    if re.fullmatch(r"(.*_)?test(_first_\d+)?", path.stem):
        raise ValueError(
            f"--only_wrong: {path} holds predictions on the test split, which must not select training rows; give those on "
            "validation"
        )
    return path


def select(run: str, records: Sequence[Record], answer: metrics.AnswerKind) -> Selected:
    """The rows that the student answers wrongly.

    A prediction belongs to the row with its id and its input. If ids differ, as those of rows without an id do, the input
    alone decides, after the student's prefix is removed.

    Args:
      run: a model directory, or a file of its predictions.
      records: the rows that may be selected.
      answer: how answers are compared.

    Raises:
      ValueError: see :func:`predictions_file`; a line is no prediction; or no wrong prediction belongs to a row.
    """
    file = predictions_file(run)
    prefixes = ("", _prefix(pathlib.Path(run).expanduser()))
    by_id = {record.id: number for number, record in enumerate(records)}
    by_input = {record.input: number for number, record in enumerate(records)}
    wanted: set[int] = set()
    errors = 0
    rows = _rows(file)
    for row in rows:
        place = by_id.get(row["id"])
        if place is not None and not row["input"].endswith(records[place].input):
            place = None
        if place is None:
            texts = (row["input"][len(prefix) :] for prefix in prefixes if row["input"].startswith(prefix))
            place = next((by_input[text] for text in texts if text in by_input), None)
        if _is_wrong(row, None if place is None else records[place], answer):
            errors += 1
            if place is not None:
                wanted.add(place)
    if errors and not wanted:
        raise ValueError(
            f"--only_wrong: none of the {errors:,} wrong predictions in {file} belongs to one of the {len(records):,} "
            "rows: neither id nor input is the same. Give the rows that the student was validated on as --inputs"
        )
    return Selected([records[place] for place in sorted(wanted)], len(rows), errors, str(file))


def write_ids(selected: Selected, path: pathlib.Path) -> None:
    """Writes the ids of the selected rows, and the counts, as one JSON object."""
    counts = {"predictions": selected.predictions, "errors": selected.errors, "file": selected.file}
    content = counts | {"ids": [record.id for record in selected.records]}
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def is_ids(file: BinaryIO) -> bool:
    """Whether a file is one that :func:`write_ids` wrote."""
    return file.read(len(_IDS)) == _IDS


def _is_wrong(row: Mapping[str, Any], record: Record | None, answer: metrics.AnswerKind) -> bool:
    target, prediction = row["target"], row["prediction"]
    if SINGLE_MARKER in target:  # a student that gives rationale and label in one target
        target, prediction = answer_of(target), answer_of(prediction)
    if record is None:
        return not metrics.same_answer(answer, target, prediction, ())
    gold = target if record.label is None else record.label
    return not metrics.same_answer(answer, gold, prediction, record.choices)


def _rows(file: pathlib.Path) -> list[dict[str, Any]]:
    rows = []
    for line, row in json_files.read_rows(file, "predictions"):
        if isinstance(row, RowError) or not all(isinstance(row.get(name), str) for name in _NAMES):
            raise ValueError(f"--only_wrong: {file}, line {line} is no prediction: it needs texts {', '.join(_NAMES)}")
        rows.append(row)
    return rows


_NAMES = ("id", "input", "target", "prediction")


def _prefix(run: pathlib.Path) -> str:
    """The prefix of the label task of a model directory; empty if it is not known."""
    folder = run if run.is_dir() else run.parent.parent
    try:
        found = json.loads((folder / "student.json").read_text(encoding="utf-8")).get("label_prefix", "")
    except (OSError, ValueError, AttributeError):
        return ""
    return found if isinstance(found, str) else ""
