"""Lengths of texts in the student's tokens."""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Ruler:
    """Measures texts.

    Attributes:
      unit: name of the unit for display: "tokens of spiece.model".
      encode: texts → their tokens, without EOS.
      eos: 1 for EOS; 0 if the unit is not a student's token.
      unk: the token in place of those that the vocabulary does not know; None: it knows all.
    """

    unit: str
    encode: Callable[[Sequence[str]], Sequence[Sequence[Any]]]
    eos: int = 1
    unk: Any = None

    def count(self, texts: Sequence[str]) -> list[int]:
        """Lengths without EOS."""
        return [len(tokens) for tokens in self.encode(texts)]

    def measure(self, text: str, separator: str | None = None) -> tuple[int, list[bool]]:
        """The length of a text as :meth:`lengths` gives it, and of each part whether it has an unknown token.

        The text is encoded once. Its parts are those between ``separator``; without one, there is one part.
        """
        parts = self.encode([text] if separator is None else text.split(separator))
        length = sum(len(tokens) + self.eos for tokens in parts) if text else 0
        return length, [self.unk is not None and self.unk in tokens for tokens in parts]

    def unknown(self, text: str) -> bool:
        """Whether a text has a token that the vocabulary does not know."""
        return self.measure(text)[1][0]

    def lengths(self, texts: Sequence[str], separator: str | None = None) -> list[int]:
        """Lengths with EOS; 0 for empty texts. ``separator`` represents EOS within a text, as in :mod:`tasks`."""
        if separator is None:
            return [length + self.eos if text else 0 for text, length in zip(texts, self.count(texts))]
        pieces = [text.split(separator) for text in texts]
        flat = iter(self.count([piece for row in pieces for piece in row]))
        return [sum(next(flat) + self.eos for _ in row) if text else 0 for text, row in zip(texts, pieces)]


def ruler(vocabulary: Any = None) -> Ruler:
    """A ruler for a vocabulary.

    Args:
      vocabulary: the path of a SentencePiece model; ``bytes`` (ByT5); ``t5`` or ``mt5`` (their public files); anything
        with ``encode(text)``; or None: white-space words, if there is no vocabulary.

    Raises:
      FileNotFoundError: the file does not exist.
    """
    if vocabulary is None:
        return Ruler("words", lambda texts: [text.split() for text in texts], eos=0)
    if vocabulary == "bytes":
        return Ruler("bytes", lambda texts: [text.encode("utf-8", "replace") for text in texts])
    if isinstance(vocabulary, str | pathlib.Path) and pathlib.Path(vocabulary).is_file():
        import sentencepiece

        processor = sentencepiece.SentencePieceProcessor(model_file=str(vocabulary))
        unit = f"tokens of {pathlib.Path(vocabulary).name}"
        return Ruler(unit, lambda texts: processor.encode(list(texts)), unk=processor.unk_id())
    if isinstance(vocabulary, str | pathlib.Path):
        from distill.tasks import vocabularies  # needs TensorFlow

        return ruler_of(vocabularies.load(str(vocabulary)), str(vocabulary))
    return ruler_of(vocabulary, type(vocabulary).__name__)


def ruler_of(vocabulary: Any, name: str) -> Ruler:
    """A ruler for an object with ``encode(text) -> ids``."""
    unk = getattr(vocabulary, "unk_id", None)
    return Ruler(f"tokens of {name}", lambda texts: [vocabulary.encode(text) for text in texts], unk=unk)
