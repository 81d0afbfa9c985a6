"""Weights per token of a rationale: the tokens of key words weigh more than the others.

KPOD (Feng et al. 2024, arXiv 2405.16064) weights rationale tokens by their significance, which it learns with a mask.
Here the key words are given: by the row, as its numbers, or as its labels.
"""

import dataclasses
import itertools
import re
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from distill import validation
from distill.tasks.records import Record
from distill.validation import quoted

Kind = Literal["row", "label", "numbers"]
KINDS = ("row", "label", "numbers")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


@dataclasses.dataclass(frozen=True)
class KeyTokens:
    """Which words of a rationale are key words, and their weight.

    Attributes:
      kind: ``row``: the record's ``key_phrases``. ``label``: its gold label and the teacher's. ``numbers``: the numbers
        in its rationales.
      weight: factor on the weights of tokens that overlap a key word.
      other_weight: factor on the other tokens; 0 trains on the key words alone. EOS always has the factor 1.

    Raises:
      ValueError: an unknown kind, or a weight that is negative or not finite.
    """

    kind: Kind
    weight: float = 2.0
    other_weight: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"key_tokens must be one of {', '.join(map(repr, KINDS))} or None; got {self.kind!r}")
        for name in ("weight", "other_weight"):
            validation.check_range(f"key_tokens: {name}", getattr(self, name), "a finite number ≥ 0")

    def phrases(self, record: Record) -> tuple[str, ...]:
        """The key words of a record's rationales."""
        if self.kind == "row":
            return record.key_phrases
        if self.kind == "label":
            return tuple(dict.fromkeys(text for text in (record.label, record.llm_label) if text))
        return tuple(dict.fromkeys(_NUMBER.findall(" ".join(record.rationales))))

    def factors(self, vocabulary: Any, text: str, phrases: Sequence[str]) -> np.ndarray:
        """The factor of each token of ``text``, EOS included: float32 [tokens + 1]; [0] for an empty text.

        Args:
          vocabulary: SeqIO's; one of :func:`token_spans`.
          text: the rationale.
          phrases: the key words.
        """
        if not text:
            return np.zeros(0, np.float32)
        keys = spans(text, phrases)
        found = [
            self.weight if any(begin < end_of and start < end for start, end_of in keys) else self.other_weight
            for begin, end in token_spans(vocabulary, text)
        ]
        return np.array([*found, 1.0], np.float32)


def spans(text: str, phrases: Sequence[str]) -> list[tuple[int, int]]:
    """The places of whole words and phrases in a text, in any case: (first, one after the last) character.

    >>> spans("Larks fly; an owl sees larks.", ["larks", "ow"])
    [(0, 5), (23, 28)]
    """
    found = []
    for phrase in phrases:
        pattern = r"\s+".join(map(re.escape, phrase.split()))
        found += [match.span() for match in re.finditer(rf"(?<!\w){pattern}(?!\w)", text, re.IGNORECASE)]
    return sorted(found)


def token_spans(vocabulary: Any, text: str) -> list[tuple[int, int]]:
    """The characters of ``text`` that each of its tokens covers: (first, one after the last).

    Args:
      vocabulary: SeqIO's ``SentencePieceVocabulary`` or ``ByteVocabulary``.
      text: the text.

    Raises:
      ValueError: another vocabulary, which gives no places.
    """
    kind = type(vocabulary).__name__
    if kind == "ByteVocabulary":
        sizes = [len(sign.encode("utf-8")) for sign in text]
        return [(at, at + 1) for at, size in enumerate(sizes) for _ in range(size)]
    if kind != "SentencePieceVocabulary":
        raise ValueError(
            f"key_tokens needs a SentencePiece vocabulary or bytes, whose tokens have offsets in the text; got {kind}"
        )
    tokenizer = vocabulary.tokenizer
    try:
        pieces = tokenizer.encode(text, return_type="proto").pieces
    except TypeError:  # SentencePiece before 0.2.1
        pieces = tokenizer.encode(text, out_type="immutable_proto").pieces
    surfaces = [piece.surface for piece in pieces]
    ids = [piece.id for piece in pieces]
    if "".join(surfaces) != text or ids != list(vocabulary.encode(text)):
        raise ValueError(
            f"key_tokens needs tokens that cover their text; the SentencePiece model splits {quoted(text, 40)} into "
            f"{surfaces[:8]}, and the vocabulary encodes it as {list(vocabulary.encode(text))[:8]}"
        )
    ends = list(itertools.accumulate(map(len, surfaces)))
    return list(zip([0, *ends], ends))
