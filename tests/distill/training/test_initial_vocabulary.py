"""Initial parameters of another vocabulary are refused: their rows would belong to other pieces."""

import json
import logging
import re

import pytest

from distill.checkpoints.huggingface import tokenizer_files
from distill.inference import student as students
from distill.tasks import plain_vocabularies
from distill.tools import vocabulary
from distill.training import initial_vocabulary

WORDS = ["the cat sat on the mat", "a dog ran to the log"] * 9
OTHER = ["zebras graze quietly in yellow fields"] * 9


def models(extra_ids=0):
    return [vocabulary.train(texts, 40, extra_ids=extra_ids) for texts in (WORDS, OTHER)]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A model directory with a vocabulary, as ``distill train`` writes it."""
    mine, _ = models()
    (tmp_path / "student.json").write_text("{}")
    monkeypatch.setattr(students, "read", lambda root: None)
    monkeypatch.setattr(
        students,
        "read_vocabulary",
        lambda root, student: plain_vocabularies.SentencePiece(mine, 0, "v"),
    )
    return tmp_path


def test_the_same_vocabulary_and_its_extension_are_accepted(run):
    mine, _ = models()
    initial_vocabulary.check(str(run), plain_vocabularies.SentencePiece(mine, 0, "v"))
    initial_vocabulary.check(str(run / "best" / "7"), plain_vocabularies.SentencePiece(mine, 20, "v"))
    longer, _ = models(extra_ids=3)
    initial_vocabulary.check(str(run), plain_vocabularies.SentencePiece(longer, 0, "v"))


@pytest.mark.parametrize("path", [".", "best/7", "checkpoints/30"])
def test_another_vocabulary_is_refused_with_the_first_piece_that_differs(run, path):
    _, other = models()
    with pytest.raises(
        ValueError, match=r"was trained with another vocabulary: id 4 is .* there and .* here"
    ) as caught:
        initial_vocabulary.check(str(run / path), plain_vocabularies.SentencePiece(other, 0, "v"))
    assert f"set VOCABULARY_PATH={run / 'vocabulary.model'}, or start from parameters" in str(caught.value)


def test_bytes_and_pieces_differ(run):
    with pytest.raises(ValueError, match="another vocabulary: SentencePiece there, bytes here"):
        initial_vocabulary.check(str(run), plain_vocabularies.Bytes(0))


def test_the_tokenizer_of_a_transformers_folder_counts(tmp_path):
    mine, other = models()
    (tmp_path / "spiece.model").write_bytes(mine)
    initial_vocabulary.check(str(tmp_path), plain_vocabularies.SentencePiece(mine, 10, "v"))
    with pytest.raises(ValueError, match=re.escape(f"set VOCABULARY_PATH={tmp_path / 'spiece.model'}")):
        initial_vocabulary.check(str(tmp_path), plain_vocabularies.SentencePiece(other, 0, "v"))


@pytest.mark.parametrize("special", [None, "gemma"])
def test_the_pieces_of_tokenizer_json_count(tmp_path, special):
    given = {"special": special, "size": 300} if special else {"size": 40}
    mine, other = [vocabulary.train(texts, **given) for texts in (WORDS, OTHER)]
    tokenizer_files.write(tmp_path, plain_vocabularies.SentencePiece(mine, 0, "v"))
    (tmp_path / "spiece.model").unlink()  # as `transformers` saves a tokenizer
    tokenizer = json.loads((tmp_path / "tokenizer.json").read_text())
    last = plain_vocabularies.SentencePiece(mine, 0, "v").vocab_size
    tokenizer["added_tokens"].append({"id": last, "content": "<extra_id_99>", "special": True})
    tokenizer["added_tokens"][0]["content"] = "[PAD]"  # a name of the same role
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    for extra_ids in (0, 10):
        initial_vocabulary.check(str(tmp_path), plain_vocabularies.SentencePiece(mine, extra_ids, "v"))
    wanted = (
        r"another vocabulary: id \d+ is '.+' there and '.+' here; give the SentencePiece model that "
        rf"{tmp_path}/tokenizer\.json was made from as VOCABULARY_PATH, or start from parameters of the run's"
    )
    with pytest.raises(ValueError, match=wanted):
        initial_vocabulary.check(str(tmp_path), plain_vocabularies.SentencePiece(other, 0, "v"))
    with pytest.raises(ValueError, match="SentencePiece there, bytes here; give the SentencePiece model"):
        initial_vocabulary.check(str(tmp_path), plain_vocabularies.Bytes(0))


def test_a_tokenizer_of_bytes_counts(tmp_path):
    mine, _ = models()
    tokenizer_files.write(tmp_path, plain_vocabularies.Bytes())
    initial_vocabulary.check(str(tmp_path), plain_vocabularies.Bytes(0))
    with pytest.raises(ValueError, match='bytes there, SentencePiece here; set VOCABULARY_PATH="bytes"'):
        initial_vocabulary.check(str(tmp_path), plain_vocabularies.SentencePiece(mine, 0, "v"))


NO_PIECES = [
    {}, {"model": []}, {"model": {"vocab": {"a": "b"}}}, {"model": {"vocab": [["a", 1], 3]}},
    {"model": {"vocab": {"a": 1}}, "added_tokens": [{"id": [], "content": "b"}]},
]  # fmt: skip


@pytest.mark.parametrize("text", ["{", "[]", "[" * 10_000, *map(json.dumps, NO_PIECES)])
def test_a_tokenizer_json_that_cannot_be_read_is_a_warning(tmp_path, text, caplog):
    mine, _ = models()
    (tmp_path / "tokenizer.json").write_text(text)
    with caplog.at_level(logging.WARNING):
        initial_vocabulary.check(str(tmp_path), plain_vocabularies.SentencePiece(mine, 0, "v"))
    [line] = caplog.messages
    assert re.match(
        rf"{tmp_path}/tokenizer\.json (is|must|lists) .*; the run's vocabulary was not compared with that of ", line
    )


def test_without_a_vocabulary_nothing_is_checked(tmp_path):
    _, other = models()
    initial_vocabulary.check(str(tmp_path), plain_vocabularies.SentencePiece(other, 0, "v"))
    initial_vocabulary.check("google/t5-v1_1-small", plain_vocabularies.SentencePiece(other, 0, "v"))
