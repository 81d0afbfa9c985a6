"""Vocabularies as Hugging Face tokenizers: the same ids for every text, and vocabularies that are refused."""

import json

import pytest
import sentencepiece
import seqio

from distill.checkpoints.huggingface import tokenizer_files
from distill.tasks import preprocessors, vocabularies
from tests_support import QUESTIONS

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore")


TEXTS = [
    *QUESTIONS[:5], "", " ", "  two  spaces ", "tab\tand\nline", "ﬁ ½ ①", "日本語 テスト", "emoji 😀 ok", "a\u00a0b",
    "e\u0301", "x" * 300, "A (B) / C", "...",
]  # fmt: skip


@pytest.mark.parametrize("kind", ["small", "t5", "bytes"])
def test_tokenizers_give_our_ids(kind, tmp_path, small_vocabulary, request):
    if kind == "t5":  # whose unknown piece is number 3
        vocabulary = vocabularies.load(request.getfixturevalue("t5_vocabulary_path"))
    else:
        vocabulary = small_vocabulary if kind == "small" else vocabularies.load("bytes")
    tokenizer_files.write(tmp_path, vocabulary)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5"}))
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in TEXTS:
        ids = preprocessors.encode(vocabulary, text) or [1]
        assert tokenizer(text).input_ids == ids, text
        if kind != "bytes" and text.isascii() and vocabulary.unk_id not in ids:
            assert tokenizer.decode(ids, skip_special_tokens=True).split() == text.split()
    pair = preprocessors.encode(vocabulary, "a premise</s>a hypothesis", "</s>")
    assert tokenizer("a premise</s>a hypothesis").input_ids == pair
    assert tokenizer("a premise", "a hypothesis").input_ids == pair


def test_a_vocabulary_that_no_tokenizer_follows(tmp_path):
    (tmp_path / "text").write_text("one two three four five six\n" * 20)
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "text"), model_prefix=str(tmp_path / "m"), vocab_size=40, model_type="bpe", pad_id=0,
        eos_id=1, unk_id=2, bos_id=-1, minloglevel=2, hard_vocab_limit=False,
    )  # fmt: skip
    with pytest.raises(ValueError, match="only unigram"):
        tokenizer_files.write(tmp_path, vocabularies.load(str(tmp_path / "m.model")))
    with pytest.raises(ValueError, match="PassThroughVocabulary"):
        tokenizer_files.write(tmp_path, seqio.PassThroughVocabulary(8))
