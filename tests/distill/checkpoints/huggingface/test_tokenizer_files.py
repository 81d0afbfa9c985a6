"""Vocabularies as Hugging Face tokenizers: the same ids for every text, and vocabularies that are refused."""

import json

import pytest
import sentencepiece
import seqio

from distill.checkpoints.huggingface import tokenizer_files
from distill.tasks import preprocessors, vocabularies
from distill.tools import vocabulary as train_vocabulary
from tests_support import QUESTIONS

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore")


TEXTS = [
    *QUESTIONS[:5], "", " ", "  two  spaces ", "tab\tand\nline", "ﬁ ½ ①", "日本語 テスト", "emoji 😀 ok", "a\u00a0b",
    "e\u0301", "x" * 300, "A (B) / C", "...",
]  # fmt: skip


@pytest.mark.parametrize("bos", [False, True])
def test_tokenizers_of_gemmas_kind_give_our_ids(gemma_vocabulary, tmp_path, bos):
    tokenizer_files.write(tmp_path, gemma_vocabulary, encoder_bos=bos)
    assert tokenizer_files.puts_bos(tmp_path) == bos
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5gemma2"}))
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ids_of = [tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.unk_token_id]
    assert ids_of == [0, 1, 2, 3]
    more = ["[label] two   spaces\n\n\nand <start_of_turn>user", "a▁b", "[label[label]]", "▁▁▁ ▁"]
    longest = 0
    for text in (*TEXTS, *more):
        ids = preprocessors.encode(gemma_vocabulary, text, bos=bos) or ([2, 1] if bos else [1])
        assert tokenizer(text).input_ids == ids, text
        assert tokenizer.decode(ids, skip_special_tokens=True) == text.replace("▁", " "), text
        longest = max(longest, max(len(gemma_vocabulary.tokenizer.id_to_piece(one)) for one in ids))
    assert longest > 8  # merges of merges were compared
    pair = preprocessors.encode(gemma_vocabulary, "a premise</s>a hypothesis", "</s>", bos=bos)
    assert tokenizer("a premise", "a hypothesis").input_ids == pair


def test_bos_needs_a_vocabulary_with_bos(tmp_path, small_vocabulary):
    with pytest.raises(ValueError, match=r"the vocabulary has no BOS, which ENCODER_BOS=True puts before every input"):
        tokenizer_files.write(tmp_path, small_vocabulary, encoder_bos=True)
    with pytest.raises(ValueError, match="has no BOS"):
        tokenizer_files.write(tmp_path, vocabularies.load("bytes"), encoder_bos=True)


@pytest.mark.parametrize("kind", ["small", "t5", "bytes", "words"])
def test_tokenizers_give_our_ids(kind, tmp_path, small_vocabulary, request):
    if kind == "t5":  # whose unknown piece is number 3
        vocabulary = vocabularies.load(request.getfixturevalue("t5_vocabulary_path"))
    elif kind == "words":
        (tmp_path / "words.model").write_bytes(train_vocabulary.of_words(QUESTIONS, 800))
        vocabulary = vocabularies.load(str(tmp_path / "words.model"))
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


GEMMAS = {
    "add_dummy_prefix": False, "remove_extra_whitespaces": False, "normalization_rule_name": "identity",
    "byte_fallback": True, "split_digits": True, "allow_whitespace_only_pieces": True,
    "user_defined_symbols": ["<start_of_turn>", "▁▁", "▁▁▁"],
    "pad_piece": "<pad>", "eos_piece": "<eos>", "bos_piece": "<bos>",
}  # fmt: skip


def trained(tmp_path, model_type, **options):
    """A vocabulary with BOS on the questions, of another kind or with other settings than T5's."""
    name = f"{model_type}-{len(options)}"  # SeqIO remembers files by their paths
    (tmp_path / "text").write_text("\n".join([*QUESTIONS, "a  b", "line   three"] * 3))
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "text"), model_prefix=str(tmp_path / name), vocab_size=600, model_type=model_type, pad_id=0,
        eos_id=1, unk_id=3, bos_id=2, minloglevel=2, hard_vocab_limit=False, **options,
    )  # fmt: skip
    return vocabularies.load(str(tmp_path / f"{name}.model"))


@pytest.mark.parametrize("options", [{}, GEMMAS], ids=["ours", "gemmas"])
def test_bpe_tokenizers_give_our_ids_and_texts(options, tmp_path):
    """With spaces as in T5's files, and as in Gemma's: kept, without a prefix, with symbols and byte pieces."""
    vocabulary = trained(tmp_path, "bpe", **options)
    tokenizer_files.write(tmp_path, vocabulary)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5gemma2"}))
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (2, 1, 0)
    for text in [*TEXTS, "<start_of_turn>user four    spaces"]:
        ids = [*vocabulary.encode(text), 1]
        assert tokenizer(text).input_ids == ids, text
        if vocabulary.unk_id not in ids:
            assert tokenizer.decode(ids, skip_special_tokens=True) == vocabulary.decode(ids).replace("<eos>", ""), text


def test_a_vocabulary_that_no_tokenizer_follows(tmp_path):
    for kind, words in (("word", "of whole words"), ("char", "of characters")):
        with pytest.raises(
            ValueError, match=f"no tokenizer for the student's vocabulary, which is {words}.*in the format t5x"
        ):
            tokenizer_files.write(tmp_path, trained(tmp_path, kind))
    with pytest.raises(ValueError, match=r"only unigram .* treat spaces as T5's does.*; got add_dummy_prefix=False"):
        tokenizer_files.write(tmp_path, trained(tmp_path, "unigram", add_dummy_prefix=False))
    with pytest.raises(ValueError, match="only without a dummy prefix, as Gemma's; this one has 'four'"):
        tokenizer_files.write(tmp_path, trained(tmp_path, "bpe", user_defined_symbols=["four"]))
    with pytest.raises(ValueError, match="PassThroughVocabulary"):
        tokenizer_files.write(tmp_path, seqio.PassThroughVocabulary(8))
