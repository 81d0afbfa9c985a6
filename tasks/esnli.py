"""e-SNLI (Camburu et al. 2018): does the premise entail the hypothesis? With the annotators' explanations."""

from typing import Any

from etils import epath

from distill.tasks import paper_files, parsers
from distill.tasks.dataset import Dataset
from distill.tasks.records import Record
from distill.tasks.sources import class_name, optional_text, text_field

SEPARATOR = "</s>"
"""Between premise and hypothesis, as in the paper's code; becomes the vocabulary's EOS."""


def record(row: dict[str, Any], id: str) -> Record:
    """A record of a row with ``premise``, ``hypothesis``, ``label`` (name or number) and ``explanation_1`` to ``_3``."""
    explanations = (optional_text(row, f"explanation_{number}") for number in (1, 2, 3))
    return Record(
        id=id,
        input=text_field(row, "premise") + SEPARATOR + text_field(row, "hypothesis"),
        label=class_name(row.get("label"), parsers.NLI_LABELS),
        rationales=tuple(explanations),
    )


def dataset(
    data_dir: epath.PathLike,
    *,
    name: str = "esnli",
    teacher: paper_files.Teacher = "palm",
    mode: parsers.Mode = "improved",
    missing_replies: paper_files.MissingReplies = "error",
) -> Dataset:
    """e-SNLI from the paper's files; see :class:`distill.tasks.paper_files.PaperFiles` for the arguments.

    ``missing_replies="drop"`` with fewer reply files is the published code's small subset.
    """
    source = paper_files.PaperFiles(
        data_dir,
        "esnli",
        record,
        splits=("train", "validation", "test"),
        teacher=teacher,
        mode=mode,
        missing_replies=missing_replies,
    )
    return Dataset(name, source, labels=parsers.NLI_LABELS, separator=SEPARATOR, several_rationales=teacher == "human")


def tfds_dataset(*, name: str = "esnli", tfds_name: str = "esnli:0.1.0", tfds_data_dir: str | None = None) -> Dataset:
    """e-SNLI from TFDS, with the annotators' explanations as rationales (one in train, three elsewhere)."""
    from distill.tasks.tfds_source import TfdsRecords

    splits = {split: split for split in ("train", "validation", "test")}
    source = TfdsRecords(tfds_name, record, splits, tfds_data_dir)
    return Dataset(name, source, labels=parsers.NLI_LABELS, separator=SEPARATOR, several_rationales=True)
