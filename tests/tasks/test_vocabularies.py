import pytest
import seqio
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks import preprocessors, vocabularies
from tools import vocabulary as training


def test_bytes_and_sizes():
    vocabulary = vocabularies.load("bytes")
    assert vocabulary.vocab_size == 384
    assert vocabularies.padded_size(vocabulary) == 384
    assert vocabularies.padded_size(32_100) == 32_128
    assert vocabularies.padded_size(32_128) == 32_128
    assert vocabularies.padded_size(5, multiple=1) == 5
    with pytest.raises(ValueError, match="multiple must be at least 1"):
        vocabularies.padded_size(5, multiple=0)


def test_the_public_vocabularies_are_not_read_before_use():
    vocabulary = vocabularies.load("t5")
    assert isinstance(vocabulary, seqio.SentencePieceVocabulary)
    assert vocabulary.sentencepiece_model_file == vocabularies.T5


def test_a_path_is_checked(tmp_path):
    path = tmp_path / "v.model"
    path.write_bytes(training.train(["some words for a small model"] * 3, 40))
    vocabulary = vocabularies.load(str(path), extra_ids=7)
    assert vocabulary.vocab_size == vocabularies.load(str(path)).vocab_size + 7
    assert (vocabulary.pad_id, vocabulary.eos_id, vocabulary.unk_id) == (0, 1, 2)
    with pytest.raises(FileNotFoundError, match="no vocabulary at bites; did you mean 'bytes'"):
        vocabularies.load("bites")


def test_other_special_ids_are_refused(tmp_path):
    import sentencepiece

    prefix = str(tmp_path / "other")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["some words for a small model"] * 3),
        model_prefix=prefix,
        vocab_size=30,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    with pytest.raises(ValueError, match="expected padding id 0 and EOS id 1, as T5 has them; got -1 and 2"):
        vocabularies.load(prefix + ".model")


def test_t5s_vocabulary(t5_vocabulary_path):
    vocabulary = vocabularies.load(t5_vocabulary_path)
    assert vocabularies.padded_size(vocabulary) == 32_128
    ids = preprocessors.encode(vocabulary, "A man sits.</s>A man stands.", "</s>")
    middle = ids.index(1)
    assert ids[-1] == 1
    assert vocabulary.decode(ids[:middle]) == "A man sits."
    assert vocabulary.decode(ids[middle + 1 :]) == "A man stands."


def test_hugging_faces_tokenizer_reads_the_separator_in_the_same_way(t5_vocabulary_path):
    transformers = pytest.importorskip("transformers")
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor(model_file=t5_vocabulary_path)
    pieces = [(model.id_to_piece(index), model.get_score(index)) for index in range(model.get_piece_size())]
    tokenizer = transformers.T5Tokenizer(vocab=pieces, extra_ids=0)
    vocabulary = vocabularies.load(t5_vocabulary_path)
    for text in ("A man sits.</s>A man stands.", "A man. </s> No man", "plain (3 + 4)", "ends</s>", "two\nlines"):
        assert preprocessors.encode(vocabulary, text, "</s>") == tokenizer(text)["input_ids"], text


@settings(deadline=None, max_examples=30)
@given(st.lists(st.text(max_size=10), min_size=1, max_size=3), st.booleans())
def test_both_encoders_agree(pieces, separated):
    import tensorflow as tf

    vocabulary = seqio.ByteVocabulary()
    separator = "</s>" if separated else None
    text = "</s>".join(pieces)
    ids = preprocessors.encode(vocabulary, text, separator)
    assert preprocessors.encode_tf(vocabulary, tf.constant(text), separator).numpy().tolist() == ids
    if text:
        assert ids.count(1) == (len(text.split("</s>")) if separated else 1)
