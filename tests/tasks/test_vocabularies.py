import pathlib

import pytest
import seqio
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.tasks import plain_vocabularies, preprocessors, texts, vocabularies
from distill.tools import vocabulary as training


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
    with pytest.raises(
        ValueError, match=r"expected padding id 0 and EOS id 1, as T5 has them; got -1 and 2 .-1: it has none.\."
    ):
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


@settings(max_examples=30)
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


@settings(max_examples=30)
@given(st.text(max_size=20), st.booleans())
def test_both_encoders_put_the_same_bos_before_a_text(gemma_vocabulary, text, bos):
    import tensorflow as tf

    plain = plain_vocabularies.SentencePiece(gemma_vocabulary.sp_model)
    ids = texts.encode(plain, text, "</s>", bos=bos)
    assert preprocessors.encode_tf(gemma_vocabulary, tf.constant(text), "</s>", bos=bos).numpy().tolist() == ids
    assert ids[:1] == ([2] if bos else texts.encode(plain, text, "</s>")[:1]) or not text
    assert bool(ids) == bool(text) and 2 not in ids[1:]


def test_which_vocabularies_have_bos(gemma_vocabulary, models):
    assert texts.bos_id(gemma_vocabulary) == 2
    assert texts.check_start(gemma_vocabulary, 2) is None
    with pytest.raises(
        ValueError, match=r"expected BOS with id 3, the first decoder input of a T5Gemma .*; got 2: set"
    ):
        texts.check_start(gemma_vocabulary, 3)
    small = plain_vocabularies.read(models["unigram"])
    for other in (small, vocabularies.load("bytes"), plain_vocabularies.Bytes(), seqio.PassThroughVocabulary(8)):
        assert texts.bos_id(other) is None
        with pytest.raises(ValueError, match=r"mine: expected BOS with id 2, .*; it has none: set VOCABULARY_PATH to"):
            texts.check_start(other, 2, "mine")
        with pytest.raises(ValueError, match="mine has no BOS, which ENCODER_BOS=True puts before every input"):
            texts.required_bos(other, "mine")


# Vocabularies without TensorFlow give SeqIO's ids.

TEXTS = st.text(max_size=60) | st.text(alphabet="abc [label] <extra_id_0>▁\t\n\u3000ﬁ½é😀", max_size=60)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """SentencePiece models of several kinds: unigram, byte fallback, BPE, without normalisation."""
    folder = tmp_path_factory.mktemp("models")
    lines = [f"[label] {i} apples and {i * 7} pears, naïve café <extra_id_1>" for i in range(60)]
    (folder / "text").write_text("\n".join(lines))
    import sentencepiece

    common = {
        "input": str(folder / "text"), "vocab_size": 90, "hard_vocab_limit": False, "minloglevel": 2, "pad_id": 0,
        "eos_id": 1, "unk_id": 2, "bos_id": -1,
    }  # fmt: skip
    kinds = {
        "unigram": {}, "bytes": {"byte_fallback": True, "vocab_size": 340}, "bpe": {"model_type": "bpe", "vocab_size": 60},
        "identity": {"normalization_rule_name": "identity"},
    }  # fmt: skip
    for kind, more in kinds.items():
        sentencepiece.SentencePieceTrainer.train(model_prefix=str(folder / kind), **common | more)
    return {kind: str(folder / f"{kind}.model") for kind in kinds}


def assert_alike(ours, theirs, text, ids):
    assert ours.encode(text) == list(theirs.encode(text))
    assert ours.decode(ids) == theirs.decode(ids)
    assert ours.decode(ours.encode(text)) == theirs.decode(theirs.encode(text))
    assert texts.encode(ours, text, "</s>") == texts.encode(theirs, text, "</s>")
    assert (ours.vocab_size, ours.eos_id, ours.unk_id, ours.pad_id, ours.extra_ids) == (
        theirs.vocab_size, theirs.eos_id, theirs.unk_id, theirs.pad_id, theirs.extra_ids
    )  # fmt: skip


@settings(max_examples=200)
@given(TEXTS, st.lists(st.integers(0, 500), max_size=20), st.sampled_from([0, 7, 125]))
def test_plain_bytes_are_seqios(text, ids, extra_ids):
    assert_alike(plain_vocabularies.Bytes(extra_ids), seqio.ByteVocabulary(extra_ids), text, ids)


@pytest.mark.parametrize("kind", ["unigram", "bytes", "bpe", "identity"])
@pytest.mark.parametrize("extra_ids", [0, 5])
def test_plain_pieces_are_seqios(models, kind, extra_ids):
    ours = plain_vocabularies.read(models[kind], extra_ids)
    theirs = seqio.SentencePieceVocabulary(models[kind], extra_ids=extra_ids)
    assert ours.sp_model == theirs.sp_model or not extra_ids
    assert vocabularies.model_bytes(theirs) == theirs.sp_model
    stored = vocabularies.without_extra_ids(theirs.sp_model, extra_ids)
    again = plain_vocabularies.SentencePiece(stored, extra_ids)  # as a model directory keeps it

    @settings(max_examples=100)
    @given(TEXTS, st.lists(st.integers(0, 500), max_size=20))
    def alike(text, ids):
        assert_alike(ours, theirs, text, ids)
        assert_alike(again, theirs, text, ids)

    alike()


def test_plain_pieces_of_t5(t5_vocabulary_path):
    ours, theirs = plain_vocabularies.read(t5_vocabulary_path), seqio.SentencePieceVocabulary(t5_vocabulary_path)
    for text in ("[label] A man sits.", "<extra_id_0> two  spaces\n", "日本語 😀 ﬁ ½", ""):
        assert_alike(ours, theirs, text, [3, 1, 31_999, 40_000, 5])


@pytest.mark.parametrize("contents", [b"", b"not a model", b"\x00" * 100])
def test_a_damaged_model_is_one_line(tmp_path, contents, models):
    (tmp_path / "v.model").write_bytes(contents)
    for load in (vocabularies.load, plain_vocabularies.read):
        with pytest.raises(
            ValueError, match=r"v\.model (is not a SentencePiece model, or is damaged|: expected)"
        ) as caught:
            load(str(tmp_path / "v.model"))
        assert "\n" not in str(caught.value)


def test_a_cut_off_model_is_one_line(tmp_path, models):
    whole = pathlib.Path(models["unigram"]).read_bytes()
    (tmp_path / "v.model").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"v\.model") as caught:
        vocabularies.load(str(tmp_path / "v.model"))
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="is a folder; expected a SentencePiece model file"):
        vocabularies.load(str(tmp_path))


def test_pieces_that_are_not_utf8_are_refused(tmp_path, models):
    """Found by fuzzing: such a model was read, and raised UnicodeDecodeError at the first answer with the piece."""
    whole = pathlib.Path(models["identity"]).read_bytes()
    piece = "\u2581".encode()
    assert piece in whole
    (tmp_path / "v.model").write_bytes(whole.replace(piece, b"\xeb\xeb\x81", 1))
    with pytest.raises(ValueError, match=r"v\.model is not a SentencePiece model, or is damaged \('utf-8'") as caught:
        plain_vocabularies.read(str(tmp_path / "v.model"))
    assert type(caught.value) is ValueError


def test_other_kinds_cannot_be_stored():
    with pytest.raises(ValueError, match=r"served and exported .* got one of type PassThroughVocabulary"):
        vocabularies.model_bytes(seqio.PassThroughVocabulary(8))
    with pytest.raises(FileNotFoundError, match=r"cannot be read .* --gin.VOCABULARY_PATH=bytes") as caught:
        vocabularies.model_bytes(seqio.SentencePieceVocabulary("nowhere/at/all.model"))
    assert "\n" not in str(caught.value)
