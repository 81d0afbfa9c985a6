"""ANLI, round one (Nie et al. 2020): natural language inference collected against a model."""

from typing import Any

from etils import epath

from distill.tasks import paper_files, parsers
from distill.tasks.dataset import Dataset
from distill.tasks.esnli import SEPARATOR
from distill.tasks.records import Record
from distill.tasks.sources import class_name, optional_text, text_field


def record(row: dict[str, Any], id: str) -> Record:
    """A record of a row with ``premise`` (TFDS: ``context``), ``hypothesis``, ``label`` and, possibly, ``reason``."""
    premise = text_field(row, "premise" if "premise" in row else "context")
    return Record(
        id=str(row.get("uid") or id),
        input=premise + SEPARATOR + text_field(row, "hypothesis"),
        label=class_name(row.get("label"), parsers.NLI_LABELS),
        rationales=(optional_text(row, "reason"),),
    )


def dataset(
    data_dir: epath.PathLike,
    *,
    name: str = "anli1",
    teacher: paper_files.Teacher = "palm",
    mode: parsers.Mode = "improved",
    missing_replies: paper_files.MissingReplies = "error",
) -> Dataset:
    """ANLI's first round from the paper's files; see :class:`distill.tasks.paper_files.PaperFiles` for the arguments."""
    source = paper_files.PaperFiles(
        data_dir,
        "anli1",
        record,
        splits=("train", "validation", "test"),
        teacher=teacher,
        mode=mode,
        missing_replies=missing_replies,
    )
    return Dataset(name, source, labels=parsers.NLI_LABELS, separator=SEPARATOR)


def tfds_dataset(*, name: str = "anli1", tfds_name: str = "anli/r1:0.1.0", tfds_data_dir: str | None = None) -> Dataset:
    """ANLI's first round from TFDS, which has labels but no rationales."""
    from distill.tasks.tfds_source import TfdsRecords

    splits = {split: split for split in ("train", "validation", "test")}
    source = TfdsRecords(tfds_name, record, splits, tfds_data_dir)
    return Dataset(name, source, labels=parsers.NLI_LABELS, separator=SEPARATOR)
