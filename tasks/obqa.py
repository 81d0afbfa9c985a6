"""OpenBookQA (Mihaylov et al. 2018) and RiddleSense (Lin et al. 2021) with two teachers' replies, as TinyLLM has them.

TinyLLM (Tian et al. 2024, arXiv 2402.04616) publishes rows with ``id``, ``question``, ``choices`` and ``answer`` in the
paper's layout, and one text per row with both replies: Flan-T5's, then ``llama rationale:`` and LLaMA 2's.
"""

import dataclasses
import re
from typing import Any, Literal

from etils import epath

from distill.tasks import cqa, paper_files
from distill.tasks.dataset import Dataset
from distill.tasks.records import Record, Report, is_blank

TEACHERS = ("flan-t5", "llama")
MARKER = "llama rationale:"
# LLaMA continues with headings, further questions, or the answer in another form.
_STOP = re.compile(r"\n\s*(?:#|Question|Answer|Q:|Explanation|Hint|Note)|\n\s*\n\s*\n")


def llama_rationale(reply: str) -> str:
    """The second teacher's reasoning in a reply; empty without one.

    >>> llama_rationale("Ice is cold. Thus, the answer is (a) ice llama rationale: Ice melts.\\nQuestion:\\nWhat")
    'Ice melts.'
    """
    text = reply.partition(MARKER)[2]
    stop = _STOP.search(text)
    return (text[: stop.start()] if stop else text).strip()


class TwoTeachers(paper_files.PaperFiles):
    """Rows with two teachers' rationales; the teacher's label is Flan-T5's. LLaMA's text names no label."""

    def __init__(self, data_dir: epath.PathLike, name: str, **options: Any):
        super().__init__(data_dir, name, cqa.record, splits=("train", "validation", "test"), parser="cqa", **options)

    def _with_reply(self, record: Record, reply: Any, provenance: dict[str, Any], report: Report) -> Record:
        if not isinstance(reply, str):
            return super()._with_reply(record, reply, provenance, report)
        first = super()._with_reply(record, reply.partition(MARKER)[0], provenance, report)
        provenance["reply"], provenance["teacher"] = reply, ", ".join(TEACHERS)
        texts = {TEACHERS[0]: (*first.rationales, "")[0], TEACHERS[1]: llama_rationale(reply)}
        kept = {teacher: text for teacher, text in texts.items() if not is_blank(text)}
        return dataclasses.replace(first, rationales=tuple(kept.values()), rationale_teachers=tuple(kept))


def dataset(
    data_dir: epath.PathLike,
    *,
    name: Literal["obqa", "riddle"] = "obqa",
    missing_replies: paper_files.MissingReplies = "error",
) -> Dataset:
    """The set ``name`` below ``data_dir``; see :class:`distill.tasks.paper_files.PaperFiles`. It has a validation split."""
    source = TwoTeachers(data_dir, name, missing_replies=missing_replies)
    return Dataset(name, source, answer="choice", several_rationales=True)
