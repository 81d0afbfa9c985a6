"""CommonsenseQA (Talmor et al. 2019) in its CoS-E edition v1.11 (Rajani et al. 2019), as the paper uses it.

Five choices per question; the paper's test split is the set's own validation split.
"""

from typing import Any

from etils import epath

from distill.tasks import paper_files, parsers
from distill.tasks.dataset import Dataset
from distill.tasks.records import Record, RowError, shown
from distill.tasks.row_fields import lettered
from distill.tasks.sources import optional_text, text_field


def record(row: dict[str, Any], id: str) -> Record:
    """A record of a row with ``question``, ``choices``, ``answer`` and the annotators' ``abstractive_explanation``."""
    choices = row.get("choices")
    if not isinstance(choices, list) or not choices or not all(isinstance(choice, str) for choice in choices):
        raise RowError(f"choices must be a list of texts; got {shown(choices)}")
    answer = text_field(row, "answer")
    if answer not in choices:
        raise RowError(f"unknown label: the answer {shown(answer)} is not among the choices")
    question = text_field(row, "question")
    if not question.strip():
        raise RowError("the row has no input: the question is empty")
    return Record(
        id=id,
        input=f"{question}\nAnswer Choices:\n{lettered(choices)}",
        label=answer,
        rationales=(optional_text(row, "abstractive_explanation"),),
        choices=tuple(choices),
    )


def dataset(
    data_dir: epath.PathLike,
    *,
    name: str = "cqa",
    teacher: paper_files.Teacher = "palm",
    mode: parsers.Mode = "improved",
    missing_replies: paper_files.MissingReplies = "error",
    validation_fraction: float = 0.1,
    split_seed: int = 0,
) -> Dataset:
    """CommonsenseQA from the paper's files; see :class:`distill.tasks.paper_files.PaperFiles` for the arguments."""
    source = paper_files.PaperFiles(
        data_dir, "cqa", record, teacher=teacher, mode=mode, missing_replies=missing_replies
    )
    return Dataset(name, source, answer="choice", validation_fraction=validation_fraction, split_seed=split_seed)


def tfds_dataset(
    *,
    name: str = "cqa",
    tfds_name: str = "cos_e:0.0.1",
    tfds_data_dir: str | None = None,
    validation_fraction: float = 0.1,
    split_seed: int = 0,
) -> Dataset:
    """CommonsenseQA from TFDS's ``cos_e``, with the annotators' explanations as rationales."""
    from distill.tasks.tfds_source import TfdsRecords

    source = TfdsRecords(tfds_name, record, {"train": "train", "test": "validation"}, tfds_data_dir)
    return Dataset(name, source, answer="choice", validation_fraction=validation_fraction, split_seed=split_seed)
