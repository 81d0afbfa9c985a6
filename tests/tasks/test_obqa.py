"""Rows with two teachers' replies in one text."""

import json

import pytest

from distill.tasks import obqa

ROW = {"id": "7-1", "question": "What is cold?", "choices": ["fire", "ice"], "answer": "ice"}
REPLY = (
    "Ice is frozen. Thus, the answer is (b) ice\n\nQ: What is cold?\nAnswer Choices:\n(a) fire\n(b) ice "
    "llama rationale: Ice melts.\nIt is water.\n### Hint:\nNone"
)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "obqa" / "llm").mkdir(parents=True)
    for split, rows in {"train": 3, "valid": 1, "test": 1}.items():
        lines = "".join(json.dumps(ROW | {"id": str(number)}) + "\n" for number in range(rows))
        (tmp_path / "obqa" / f"obqa_{split}.json").write_text(lines)
        replies = [REPLY, "no answer llama rationale: Only I reason.", "Cold. Thus, the answer is (a) fire"][:rows]
        (tmp_path / "obqa" / "llm" / f"{split}_CoT_0.json").write_text(json.dumps(replies))
    return tmp_path


def test_both_rationales_with_their_teachers(folder):
    both, second, first = obqa.dataset(folder).records("train")
    assert both.input == "What is cold?\nAnswer Choices:\n(a) fire\n(b) ice"
    assert (both.label, both.llm_label, both.choices) == ("ice", "ice", ("fire", "ice"))
    assert both.rationales == ("Ice is frozen.", "Ice melts.\nIt is water.")
    assert both.rationale_teachers == ("flan-t5", "llama") and both.provenance["reply"] == REPLY
    assert (second.rationales, second.rationale_teachers, second.llm_label) == (("Only I reason.",), ("llama",), None)
    assert (first.rationales, first.rationale_teachers, first.llm_label) == (("Cold.",), ("flan-t5",), "fire")
    assert obqa.dataset(folder).splits == ("train", "validation", "test")
