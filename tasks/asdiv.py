"""SVAMP augmented with ASDiv (Miao et al. 2020): trained on both sets' training rows, tested on SVAMP's test rows."""

from typing import Any

from etils import epath

from distill.tasks import paper_files, parsers, svamp
from distill.tasks.dataset import Dataset
from distill.tasks.records import Record
from distill.tasks.sources import Concatenated, text_field


def record(row: dict[str, Any], id: str) -> Record:
    """A record of an ASDiv row with ``Body``, ``Question`` and ``Answer``; the answer's unit, "9 (apples)", is dropped."""
    text = text_field(row, "Body") + "\n" + text_field(row, "Question")
    return Record(id=id, input=text, label=text_field(row, "Answer").split(" ")[0])


def source(
    data_dir: epath.PathLike,
    *,
    teacher: paper_files.Teacher = "palm",
    mode: parsers.Mode = "improved",
    missing_replies: paper_files.MissingReplies = "error",
) -> paper_files.PaperFiles:
    """ASDiv's files alone, in the paper's layout."""
    return paper_files.PaperFiles(
        data_dir,
        "asdiv",
        record,
        splits=("train",),
        teacher=teacher,
        mode=mode,
        missing_replies=missing_replies,
    )


def dataset(
    data_dir: epath.PathLike,
    *,
    name: str = "asdiv",
    teacher: paper_files.Teacher = "palm",
    mode: parsers.Mode = "improved",
    missing_replies: paper_files.MissingReplies = "error",
    validation_fraction: float = 0.1,
    split_seed: int = 0,
) -> Dataset:
    """The augmented set from the paper's files; see :class:`distill.tasks.paper_files.PaperFiles` for the arguments."""
    original = svamp.source(data_dir, teacher=teacher, mode=mode, missing_replies=missing_replies)
    added = source(data_dir, teacher=teacher, mode=mode, missing_replies=missing_replies)
    both = Concatenated({"train": [(original, "train"), (added, "train")], "test": [(original, "test")]})
    return Dataset(name, both, answer="equation", validation_fraction=validation_fraction, split_seed=split_seed)
