"""The file layout of the paper's release: one file of rows per split, and files of a teacher's replies in the same order.

DIR/svamp/svamp_train.json           JSON lines (or one array)
DIR/svamp/llm/train_CoT_0.json …     arrays of PaLM's replies, in order of their numbers
DIR/gpt-neox/svamp/train.json        one array of GPT-NeoX's replies
"""

import dataclasses
import re
from collections.abc import Callable, Iterator
from typing import Any, Literal

from etils import epath

from distill.tasks import parsers, sources
from distill.tasks.records import REPLY, Record, Report, SourceError

Teacher = Literal["palm", "gpt-neox", "human", "none"]
TEACHERS: tuple[Teacher, ...] = ("palm", "gpt-neox", "human", "none")

SETS = ("cqa", "svamp", "esnli", "anli1", "asdiv")
"""The data sets in this layout; each is a module of :mod:`distill.tasks`."""

MissingReplies = Literal["error", "keep", "drop"]

_FILE_NAMES = {"validation": "valid"}
_REPLIES = "the teacher's replies"


class PaperFiles:
    """Rows and replies of one data set in the paper's layout.

    Args:
      data_dir: the folder that holds a folder for each data set.
      name: the data set's folder.
      to_record: makes a record of a row and its id, with the set's own explanations as rationales if it has any.
      splits: splits that have files; ``validation`` is called ``valid`` there.
      teacher: ``palm``, ``gpt-neox``, ``human`` (the set's own explanations), or ``none``.
      mode: how replies are read; see :mod:`distill.tasks.parsers`.
      missing_replies: treatment of rows after the last reply. ``error``: an error; ``keep``: kept without rationale, and
        counted; ``drop``: dropped, as the published loader does for partly answered sets.
      parser: the data set whose prompt the replies answer; by default this one.
    """

    def __init__(
        self,
        data_dir: epath.PathLike,
        name: str,
        to_record: Callable[[dict[str, Any], str], Record],
        *,
        splits: tuple[str, ...] = ("train", "test"),
        teacher: Teacher = "palm",
        mode: parsers.Mode = "improved",
        missing_replies: MissingReplies = "error",
        parser: str | None = None,
    ):
        if teacher not in TEACHERS:
            raise ValueError(f"teacher must be one of {', '.join(TEACHERS)}; got {teacher!r}")
        if mode not in ("improved", "strict"):
            raise ValueError(f"mode must be 'improved' or 'strict'; got {mode!r}")
        if missing_replies not in ("error", "keep", "drop"):
            raise ValueError(f"missing_replies must be 'error', 'keep' or 'drop'; got {missing_replies!r}")
        self.splits = splits
        self.parser = parser or name
        self.teacher = teacher
        self._root, self._name, self._to_record = epath.Path(data_dir), name, to_record
        self._mode, self._missing_replies = mode, missing_replies

    def rows_file(self, split: str) -> epath.Path:
        """Where a split's rows are."""
        return self._root / self._name / f"{self._name}_{_FILE_NAMES.get(split, split)}.json"

    def reply_files(self, split: str) -> list[epath.Path]:
        """Where a split's replies are, in order; empty without a teacher.

        Raises:
          SourceError: no file exists, or a number is missing.
        """
        split = _FILE_NAMES.get(split, split)
        if self.teacher == "gpt-neox":
            return [self._root / "gpt-neox" / self._name / f"{split}.json"]
        if self.teacher != "palm":
            return []
        folder = self._root / self._name / "llm"
        pattern = re.compile(rf"{re.escape(split)}_CoT_(\d+)\.json")
        found = [pattern.fullmatch(path.name) for path in folder.iterdir()] if folder.exists() else []
        numbers = sorted(int(match[1]) for match in found if match)
        if not numbers:
            raise sources.MissingFileError(f"{folder}/{split}_CoT_0.json is missing ({_REPLIES})")
        gaps = sorted(set(range(numbers[-1] + 1)) - set(numbers))
        if gaps:
            raise sources.MissingFileError(
                f"{folder}/{split}_CoT_{gaps[0]}.json is missing, though number {numbers[-1]} is there ({_REPLIES})"
            )
        return [folder / f"{split}_CoT_{number}.json" for number in numbers]

    def raw_rows(self, split: str) -> Iterator[tuple[int, Any]]:
        """The split's rows with their line numbers; see :func:`distill.tasks.sources.read_rows`."""
        return sources.read_rows(self.rows_file(split), f"rows of {self._name}")

    def _replies(self, split: str) -> Iterator[Any]:
        for file in self.reply_files(split):
            yield from sources.read_array(file, _REPLIES)

    def __call__(self, split: str, report: Report | None = None) -> Iterator[Record]:
        """Yields the split's records.

        Raises:
          SourceError: a file is missing or broken, or rows and replies are not equally many.
        """
        if split not in self.splits:
            raise ValueError(f"{self._name} has no files for split {split!r}; it has {', '.join(self.splits)}")
        report = Report() if report is None else report
        file = self.rows_file(split)
        has_replies = self.teacher in ("palm", "gpt-neox")
        replies = self._replies(split)
        none_left = object()
        rows = answered = 0
        to_record = lambda row, number: self._to_record(row, str(row.get("id") or f"{self._name}-{split}-{number}"))  # noqa: E731
        lines = sources.build(self.raw_rows(split), to_record, report, str(file))
        for line, record in lines:
            rows += 1
            reply = next(replies, none_left) if has_replies else none_left
            answered += reply is not none_left
            if record is None:
                continue
            provenance = {"file": str(file), "line": line, "teacher": self.teacher}
            if self.teacher != "human":
                record = dataclasses.replace(record, rationales=())
            if has_replies and reply is none_left:
                if self._missing_replies == "error":
                    continue  # counts all replies for the message
                if self._missing_replies == "drop":
                    continue
                report.add(REPLY, "no reply", file=file, line=line, id=record.id)
            elif has_replies:
                record = self._with_reply(record, reply, provenance, report)
            report.rows += 1
            yield dataclasses.replace(record, provenance=provenance)
        too_many = sum(1 for _ in replies)
        if too_many or (has_replies and answered < rows and self._missing_replies == "error"):
            raise SourceError(
                f"{file} has {rows} rows, but {answered + too_many} replies were found in "
                f"{', '.join(path.name for path in self.reply_files(split))}; they must match one to one"
                + ("" if too_many else " (missing_replies='keep' or 'drop' allows fewer)")
            )

    def _with_reply(self, record: Record, reply: Any, provenance: dict[str, Any], report: Report) -> Record:
        where = {"file": provenance["file"], "line": provenance["line"], "id": record.id}
        if not isinstance(reply, str):
            report.add(REPLY, f"the reply is not text but {type(reply).__name__}", **where)
            return record
        provenance["reply"], provenance["parser"] = reply, self.parser
        teacher: parsers.Teacher = "gpt" if self.teacher == "gpt-neox" else "palm"
        parsed = parsers.parse(self.parser, reply, record.choices, mode=self._mode, teacher=teacher)
        if problem := parsed.problem(reply):
            kind, reason, text = problem
            report.add(kind, reason, **where, text=text)
        return dataclasses.replace(record, llm_label=parsed.llm_label, rationales=parsed.rationales)
