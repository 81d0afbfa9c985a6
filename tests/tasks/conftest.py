"""Small data sets in the paper's file layout, written to a temporary folder."""

import json
import pathlib
import types

import pytest

from tests_support import write_lines

CQA_ROWS = [
    {
        "id": f"row{number}",
        "question": f"Where would you put item {number}?",
        "choices": ["shelf", "pond", "zoo", "bank", "Rome"],
        "answer": answer,
        "abstractive_explanation": "because it is so",
        "extractive_explanation": "",
    }
    for number, answer in enumerate(["shelf", "pond", "zoo", "bank", "Rome", "shelf"])
]
CQA_REPLIES = [
    "It must be a place for items. So the answer is (a) shelf.\n\nQ: What?\nA: So the answer is (b) no.",
    "It must be wet. So the answer is (c) zoo.",
    "It must be full of animals. So the answer is either (c) zoo or (b) pond.",
    "It must be safe. So the answer is one of these.",
    "It must be a city. So the answer is (e) rome.",
    "It must be flat. So the answer is (a) shelf or (d) bank.",
]
SVAMP_ROWS = [
    {"input": f"There are {n} birds and 2 cats.\nHow many animals?", "label": f"( {n}.0 + 2.0 )"} for n in range(3, 9)
]
SVAMP_REPLIES = [
    "3 + 2 = 5. The answer is (3 + 2).\n\nQ: And?",
    "This is hard.",
    "5 + 2. The answer is (5 * 2) - 3.",
    "6 and x. The answer is (6 + x).",
    "7 + 2 = 9. The answer is (7 + 2).",
    "8 + 3 = 11. The answer is (8 + 3).",
]
NLI_ROWS = [
    {"premise": f"Man {n} sits.", "hypothesis": "A man stands.", "label": n % 3, "explanation_1": f"why {n}"}
    for n in range(4)
]


def write_array(path: pathlib.Path, values) -> pathlib.Path:
    """Writes one JSON array."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values), encoding="utf-8")
    return path


@pytest.fixture
def write():
    """``write.lines(path, rows)`` and ``write.array(path, values)``."""
    return types.SimpleNamespace(lines=write_lines, array=write_array)


@pytest.fixture
def cqa_dir(tmp_path):
    """CQA, six rows a split, with two reply files for train and one for test."""
    for split in ("train", "test"):
        write_lines(tmp_path / "cqa" / f"cqa_{split}.json", CQA_ROWS)
    write_array(tmp_path / "cqa" / "llm" / "train_CoT_0.json", CQA_REPLIES[:4])
    write_array(tmp_path / "cqa" / "llm" / "train_CoT_1.json", CQA_REPLIES[4:])
    write_array(tmp_path / "cqa" / "llm" / "test_CoT_0.json", CQA_REPLIES)
    return tmp_path


@pytest.fixture
def svamp_dir(tmp_path):
    """SVAMP, six rows a split, with one reply file a split."""
    for split in ("train", "test"):
        write_lines(tmp_path / "svamp" / f"svamp_{split}.json", SVAMP_ROWS)
        write_array(tmp_path / "svamp" / "llm" / f"{split}_CoT_0.json", SVAMP_REPLIES)
    return tmp_path


@pytest.fixture
def nli_dir(tmp_path):
    """e-SNLI and ANLI, four rows a split, with PaLM's and GPT-NeoX's replies."""
    formats = {"esnli": "Because {}. Answer: {}", "anli1": "Because {}. So the answer is {}.\n\nPremise: x"}
    labels = ["entailment", "neutral", "contradiction", "entailment"]
    for name, text in formats.items():
        for split in ("train", "valid", "test"):
            write_lines(tmp_path / name / f"{name}_{split}.json", NLI_ROWS)
            replies = [text.format(n, label) for n, label in enumerate(labels)]
            write_array(tmp_path / name / "llm" / f"{split}_CoT_0.json", replies)
            write_array(tmp_path / "gpt-neox" / name / f"{split}.json", [" " + reply for reply in replies])
    return tmp_path
