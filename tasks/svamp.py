"""SVAMP (Patel et al. 2021): arithmetic word problems, answered by an equation that is compared by its value."""

from collections.abc import Iterator
from typing import Any

from etils import epath

from distill.tasks import paper_files, parsers, sources
from distill.tasks.dataset import Dataset
from distill.tasks.records import Record, RowError
from distill.tasks.sources import text_field

_TRAIN_ROWS = 800
_SPLITS = {"train": slice(None, _TRAIN_ROWS), "test": slice(_TRAIN_ROWS, None)}


def record(row: dict[str, Any], id: str) -> Record:
    """A record of a row with ``input`` and ``label``, or, as from SVAMP's authors, ``Body``, ``Question``, ``Equation``."""
    if "Body" in row:
        text = text_field(row, "Body") + "\n" + text_field(row, "Question")
        return Record(id=id, input=text, label=text_field(row, "Equation"))
    return Record(id=id, input=text_field(row, "input"), label=text_field(row, "label"))


class SvampFiles(paper_files.PaperFiles):
    """SVAMP's files. Without split files, the authors' ``SVAMP.json`` is shuffled and split as in the paper's code."""

    def raw_rows(self, split: str) -> Iterator[tuple[int, Any]]:
        """The split's rows with their line (in ``SVAMP.json``: element) numbers."""
        original = self.rows_file(split).parent / "SVAMP.json"
        if self.rows_file(split).exists() or not original.exists():
            yield from super().raw_rows(split)
            return
        import numpy as np

        rows = sources.read_array(original, "SVAMP as its authors publish it")
        for index in np.random.RandomState(0).permutation(len(rows))[_SPLITS[split]].tolist():
            row = rows[index]
            yield index + 1, row if isinstance(row, dict) else RowError(f"expected an object; got {type(row).__name__}")


def source(
    data_dir: epath.PathLike,
    *,
    teacher: paper_files.Teacher = "palm",
    mode: parsers.Mode = "improved",
    missing_replies: paper_files.MissingReplies = "error",
) -> paper_files.PaperFiles:
    """SVAMP's files in the paper's layout."""
    return SvampFiles(data_dir, "svamp", record, teacher=teacher, mode=mode, missing_replies=missing_replies)


def dataset(
    data_dir: epath.PathLike,
    *,
    name: str = "svamp",
    teacher: paper_files.Teacher = "palm",
    mode: parsers.Mode = "improved",
    missing_replies: paper_files.MissingReplies = "error",
    validation_fraction: float = 0.1,
    split_seed: int = 0,
) -> Dataset:
    """SVAMP from the paper's files; see :class:`distill.tasks.paper_files.PaperFiles` for the arguments."""
    files = source(data_dir, teacher=teacher, mode=mode, missing_replies=missing_replies)
    return Dataset(name, files, answer="equation", validation_fraction=validation_fraction, split_seed=split_seed)
