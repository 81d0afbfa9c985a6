"""Trains a SentencePiece vocabulary with the special ids of T5 (padding 0, EOS 1, unknown 2) or Gemma (BOS 2, unknown 3).

:mod:`distill.tools.vocabulary_command` reads the texts and writes the file.
"""

import collections
import io
import re
import string
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from distill import validation

MODEL_TYPES = ("unigram", "bpe", "word", "char")
SPECIALS = ("t5", "gemma")
# Options of SentencePiece's trainer. Gemma's: the ids, pieces and normalisation of its public files, as `transformers`'
# GemmaTokenizer has them.
_TRAINER: dict[str, dict[str, Any]] = {
    "t5": {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1},
    "gemma": {
        "pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3, "pad_piece": "<pad>", "eos_piece": "<eos>",
        "bos_piece": "<bos>", "unk_piece": "<unk>", "byte_fallback": True, "add_dummy_prefix": False,
        "remove_extra_whitespaces": False, "normalization_rule_name": "identity",
    },
}  # fmt: skip
_GEMMA_SYMBOLS = ("<mask>", "<start_of_turn>", "<end_of_turn>")
# Special pieces, and one more; Gemma's has one piece per byte, too.
_SMALLEST = {"t5": 4, "gemma": 4 + len(_GEMMA_SYMBOLS) + 256 + 1}
_LARGEST = 2**31 - 1
_LINE_BYTES = 4192  # SentencePiece's default: the longest line that it reads


def train(
    texts: Iterable[str],
    size: int,
    *,
    model_type: str | None = None,
    special: str = "t5",
    symbols: Sequence[str] = (),
    split_digits: bool = False,
    character_coverage: float = 1.0,
    required_characters: str = "",
    exact_size: bool = False,
    extra_ids: int = 0,
) -> bytes:
    """A SentencePiece model.

    Args:
      texts: the training texts.
      size: pieces, the special ones included.
      model_type: ``unigram``, ``bpe``, ``word`` or ``char``; None: ``unigram``, or ``bpe`` with ``special="gemma"``.
      special: whose special pieces and treatment of spaces: ``t5``, or ``gemma``, which students of the T5Gemma families
        need: ``<pad>`` 0, ``<eos>`` 1, ``<bos>`` 2, ``<unk>`` 3, ``<mask>``, ``<start_of_turn>``, ``<end_of_turn>``, a
        piece per byte, digits split, and spaces kept as they are.
      symbols: texts that always are one piece.
      split_digits: whether each digit is a piece of its own, which helps with arithmetic, and all ten have one even if the
        texts do not; ``gemma`` always splits digits.
      character_coverage: the share of the texts' characters that get pieces, in [0.98, 1], the frequent ones first; the
        others are unknown.
      required_characters: characters that get pieces however rare they are, as SentencePiece normalises them (½ is 1⁄2);
        white space needs none.
      exact_size: whether it is an error that the text gives fewer pieces than ``size``.
      extra_ids: sentinels for span corruption, appended to the ``size`` pieces as in T5's file: ``<extra_id_0>`` last.

    Returns:
      The serialized model: the contents of a ``.model`` file.

    Raises:
      ValueError: an argument is out of range, there is no text, or the text does not support this number of pieces.
    """
    import sentencepiece

    from distill.tasks import plain_vocabularies

    model_type = checked_type(size, model_type, special, character_coverage, extra_ids)
    gemma = special == "gemma"
    required = _normalised(required_characters, gemma) + (string.digits if split_digits else "")
    # SentencePiece reads lines, and treats a text with a line break as two.
    lines = [part for text in texts for line in text.split("\n") if line.strip() for part in _parts(line)]
    if not lines:
        raise ValueError("there is no text to train on")
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            vocab_size=size,
            model_type=model_type,
            user_defined_symbols=[*(_GEMMA_SYMBOLS if gemma else ()), *symbols],
            split_digits=split_digits or gemma,
            character_coverage=character_coverage,
            required_chars="".join(dict.fromkeys(required)),
            hard_vocab_limit=exact_size and model_type not in ("word", "char"),
            use_all_vocab=False,
            minloglevel=2,
            **_TRAINER[special],
        )
    except RuntimeError as error:
        raise ValueError(_why(str(error), size, model_type, bool(required))) from error
    trained = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue()).get_piece_size()
    if exact_size and trained != size:
        raise ValueError(f"the text gives {trained} pieces, not {size}; set size to {trained}, or leave exact_size off")
    if not extra_ids:
        return model.getvalue()
    return plain_vocabularies.with_extra_ids(model.getvalue(), extra_ids, "the vocabulary")


def checked_type(size: int, model_type: str | None, special: str, character_coverage: float, extra_ids: int) -> str:
    """The type of the model that :func:`train` makes. Raises ValueError for arguments that no text supports."""
    validation.check("special", special, SPECIALS)
    gemma = special == "gemma"
    model_type = model_type or ("bpe" if gemma else "unigram")
    if model_type not in MODEL_TYPES:
        raise ValueError(f"model_type must be one of {', '.join(MODEL_TYPES)}; got {model_type!r}")
    if gemma and model_type != "bpe":
        raise ValueError(f"model_type must be 'bpe' with special='gemma', as Gemma's is; got {model_type!r}")
    if size < _SMALLEST[special]:
        reason = "its special pieces, 256 bytes and one more" if gemma else "three special pieces and one more"
        raise ValueError(f"size must be at least {_SMALLEST[special]} ({reason}); got {size}")
    if size > _LARGEST:
        raise ValueError(f"size must be at most {_LARGEST}; got {size}")
    validation.check_range("character_coverage", character_coverage, "in [0.98, 1]")
    if extra_ids < 0:
        raise ValueError(f"extra_ids must be ≥ 0; got {extra_ids}")
    return model_type


def _normalised(characters: str, gemma: bool) -> str:
    """Required characters as SentencePiece reads them, without white space.

    Raises:
      ValueError: not Unicode text, or white space alone.
    """
    import sentencepiece

    try:
        characters.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"required_characters must be text in UTF-8; got {characters!r}") from error
    if not gemma:  # which keeps characters as they are
        normalizer = sentencepiece.SentencePieceNormalizer(rule_name="nmt_nfkc")
        read = str(normalizer.normalize(characters)).replace("▁", " ")
    else:
        read = characters
    kept = "".join(read.split())
    if characters and not kept:
        raise ValueError(f"required_characters names no character; white space needs no piece; got {characters!r}")
    return kept


def _parts(line: str) -> Iterator[str]:
    """A line in parts of at most ``_LINE_BYTES``, cut at spaces where there are any.

    SentencePiece leaves out longer lines, and with them the characters that no other line has.
    """
    if len(line.encode()) <= _LINE_BYTES:
        yield line
        return
    part = ""
    for word in line.split():
        for begin in range(0, len(word), _LINE_BYTES // 4):  # a character has at most four bytes
            piece = word[begin : begin + _LINE_BYTES // 4]
            if part and len(f"{part} {piece}".encode()) > _LINE_BYTES:
                yield part
                part = ""
            part = f"{part} {piece}" if part and begin == 0 else part + piece
    yield part


def unknown_characters(model: bytes, texts: Iterable[str]) -> collections.Counter[str]:
    """Counts the characters of ``texts`` that a SentencePiece model represents by the unknown token."""
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    found = collections.Counter[str]()
    for text in texts:
        found.update(text)
    return collections.Counter({c: n for c, n in found.items() if processor.unk_id() in processor.encode(f"a{c}")})


def of_words(texts: Iterable[str], size: int) -> bytes:
    """A unigram SentencePiece model whose pieces are the words of ``texts``, and then their characters.

    A known word is one piece, as in a model of the type ``word``, which `transformers` cannot represent. An unknown word
    is spelt with a known beginning and characters.

    Args:
      texts: the training texts.
      size: pieces at most, the special ones included.

    Raises:
      ValueError: there is no text, or words and characters need more pieces.
    """
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto.FromString(train(texts, size, model_type="word"))  # type: ignore[attr-defined]
    words = [entry for entry in model.pieces if entry.type == entry.NORMAL]
    lowest = min(entry.score for entry in words) - 10.0  # a spelling never scores as high as a word
    known = {entry.piece for entry in model.pieces}
    for character in sorted({character for entry in words for character in entry.piece} - known):
        model.pieces.add(piece=character, score=lowest)
    if len(model.pieces) > size:
        raise ValueError(f"size {size} is too small: the words and their characters need {len(model.pieces)} pieces")
    model.trainer_spec.model_type = model.trainer_spec.UNIGRAM
    model.trainer_spec.vocab_size = len(model.pieces)
    return model.SerializeToString()


def _why(message: str, size: int, model_type: str, requires: bool) -> str:
    limit = re.search(r"value <= (\d+)", message)
    if limit:
        return f"size {size} is more than the text supports; at most {limit[1]} for a {model_type} model"
    if "required_chars" in message or "smaller than" in message:
        needed = re.search(r"(\d+) vs (\d+)", message)
        characters = "its characters and the required ones" if requires else "its characters"
        hint = f": {characters} alone need {needed[2]}" if needed else ""
        fewer = ", or require fewer characters" if requires else ""
        return f"size {size} is too small for the text{hint}; raise it, or lower character_coverage{fewer}"
    return f"SentencePiece could not train a {model_type} model of size {size}: {message}"
