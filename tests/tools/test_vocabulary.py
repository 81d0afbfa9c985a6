"""Vocabularies: their special ids, their pieces, and what a text or an argument does not allow."""

import pytest
import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from distill.tools import vocabulary

LINES = ["The cat sat on the mat.", "A dog sat on 12 logs.", "There are 345 birds in the tree."] * 5


def _load(model):
    return sentencepiece.SentencePieceProcessor(model_proto=model)


@pytest.mark.parametrize("model_type", ["unigram", "bpe", "word"])
def test_special_ids_are_t5s(model_type):
    model = _load(vocabulary.train(LINES, 50, model_type=model_type))
    assert (model.pad_id(), model.eos_id(), model.unk_id(), model.bos_id()) == (0, 1, 2, -1)
    assert model.get_piece_size() <= 50
    if model_type != "word":
        assert model.decode(model.encode("The dog sat on 345 mats.")) == "The dog sat on 345 mats."
    assert vocabulary.train(LINES, 50, model_type=model_type) == vocabulary.train(LINES, 50, model_type=model_type)


def test_special_ids_are_gemmas():
    """Ids, pieces and spaces are those of transformers' GemmaTokenizer and of Gemma's public files."""
    written = vocabulary.train(LINES, 340, special="gemma", symbols=["[label]"])
    model = _load(written)
    assert (model.pad_id(), model.eos_id(), model.bos_id(), model.unk_id()) == (0, 1, 2, 3)
    first = [model.id_to_piece(number) for number in range(8)]
    assert first == ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>", "[label]"]
    text = "<start_of_turn>[label] Two  spaces,\n345 naïve 😀 <end_of_turn>"
    pieces = model.encode(text, out_type=str)
    assert pieces[:2] == ["<start_of_turn>", "[label]"] and pieces[-1] == "<end_of_turn>"
    assert model.decode(model.encode(text)) == text
    assert model.unk_id() not in model.encode(text)
    assert [piece for piece in model.encode("345", out_type=str) if piece != "▁"] == ["3", "4", "5"]
    # Control pieces are no text: an input cannot contain BOS or EOS.
    assert not {0, 1, 2} & set(model.encode("<pad><eos><bos>"))
    with pytest.raises(ValueError, match="model_type must be 'bpe' with special='gemma', as Gemma's is; got 'unigram'"):
        vocabulary.train(LINES, 340, special="gemma", model_type="unigram")
    with pytest.raises(ValueError, match=r"size must be at least 264 \(its special pieces, 256 bytes and one more\)"):
        vocabulary.train(LINES, 100, special="gemma")
    with pytest.raises(ValueError, match=r"special.*'gema'; did you mean 'gemma'"):
        vocabulary.train(LINES, 340, special="gema")


def test_extra_ids_follow_the_pieces_as_in_t5s_file():
    plain, model = (_load(vocabulary.train(LINES, 50, extra_ids=number)) for number in (0, 3))
    pieces = plain.get_piece_size()
    last = [model.id_to_piece(number) for number in range(pieces, model.get_piece_size())]
    assert last == ["▁<extra_id_2>", "▁<extra_id_1>", "▁<extra_id_0>"]
    assert model.encode(LINES[0]) == plain.encode(LINES[0])
    with pytest.raises(ValueError, match="extra_ids must be ≥ 0; got -1"):
        vocabulary.train(LINES, 50, extra_ids=-1)


def test_symbols_and_digits():
    model = _load(vocabulary.train(LINES, 60, symbols=["[label]"], split_digits=True))
    assert "[label]" in model.encode("[label] birds", out_type=str)
    assert [piece for piece in model.encode("345", out_type=str) if piece != "▁"] == ["3", "4", "5"]


def test_digits_and_required_characters_are_known_however_rare_they_are():
    """Books have hardly any digit: at a coverage of 0.99, a student could neither read nor write numbers."""
    rare = ["ab " * 40] * 20 + ["5 ü"]
    plain = _load(vocabulary.train(rare, 8, character_coverage=0.99))
    assert plain.unk_id() in plain.encode("5") and plain.unk_id() in plain.encode("ü")
    model = _load(vocabulary.train(rare, 24, character_coverage=0.99, split_digits=True, required_characters="+ü ü"))
    for text in (*"0123456789", "ü", "+", "a", "b"):
        assert model.unk_id() not in model.encode(text), text
    assert model.unk_id() in model.encode("-")


def test_the_characters_of_long_lines_are_known():
    """SentencePiece leaves out lines of more than 4,192 bytes, so they are cut."""
    model = _load(vocabulary.train(["a b", "z" + "a" * 9000 + "y", "some words " * 2000 + "x"], 30))
    assert model.unk_id() not in model.encode("zyx")
    line = "ab " * 3000 + "é" * 5000 + " end"
    parts = list(vocabulary._parts(line))
    assert max(len(part.encode()) for part in parts) <= 4192
    assert "".join(parts).replace(" ", "") == line.replace(" ", "") and len(parts) == 6
    assert list(vocabulary._parts("as  it is ")) == ["as  it is "]


def test_required_characters_are_those_that_sentencepiece_reads():
    model = _load(vocabulary.train(["a b"] * 9, 30, required_characters="½ ² e\u0301"))
    assert model.unk_id() not in model.encode("½ ² é e\u0301")
    for white in (" ", "\t", "▁"):
        with pytest.raises(ValueError, match="required_characters names no character; white space needs no piece; got"):
            vocabulary.train(["a b"], 30, required_characters=white)
    with pytest.raises(ValueError, match=r"required_characters must be text in UTF-8; got '\\udcff'"):
        vocabulary.train(["a b"], 30, required_characters="\udcff")
    with pytest.raises(
        ValueError, match=r"its characters and the required ones alone need .* or require fewer characters"
    ):
        vocabulary.train(["a b"], 6, required_characters="123456789")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 3}, "size must be at least 4"),
        ({"size": 2**40}, "size must be at most 2147483647; got 1099511627776"),
        ({"size": 50, "character_coverage": 0.9}, r"character_coverage must be in \[0.98, 1\]; got 0.9"),
        ({"size": 50, "model_type": "bigram"}, "model_type must be one of unigram, bpe, word, char"),
        ({"size": 5000, "exact_size": True}, "size 5000 is more than the text supports; at most"),
        ({"size": 6, "model_type": "bpe"}, "size 6 is too small for the text"),
        ({"size": 100, "model_type": "word", "exact_size": True}, "pieces, not 100"),
    ],
)
def test_bad_sizes_are_explained(arguments, message):
    with pytest.raises(ValueError, match=message):
        vocabulary.train(LINES, **arguments)


def test_no_text_is_an_error():
    with pytest.raises(ValueError, match="there is no text"):
        vocabulary.train(["", "\n"], 10)


def test_a_vocabulary_of_words_gives_the_ids_of_the_type_word_and_spells_unknown_ones():
    texts = ["[label] what can dogs do ?", "dogs bark and cats do not"]
    words = _load(vocabulary.train(texts, 64, model_type="word"))
    model = vocabulary.of_words(texts, 64)
    pieces = _load(model)
    for text in (*texts, "[label] cats and dogs ?"):
        assert pieces.encode(text) == words.encode(text)
    assert pieces.encode("dogs bad", out_type=str) == ["▁dogs", "▁", "b", "a", "d"]
    assert pieces.decode(pieces.encode("dogs bad")) == "dogs bad"
    assert sentencepiece_model_pb2.ModelProto.FromString(model).trainer_spec.model_type == 1  # unigram
    needed = pieces.vocab_size()
    with pytest.raises(ValueError, match=f"size {needed - 1} is too small: .* need {needed} pieces"):
        vocabulary.of_words(texts, needed - 1)
