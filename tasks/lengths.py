"""Lengths of texts in the student's tokens."""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

Count = Callable[[Sequence[str]], list[int]]


@dataclasses.dataclass(frozen=True)
class Ruler:
    """Measures texts.

    Attributes:
      unit: name of the unit for display: "tokens of spiece.model".
      count: texts → their lengths, without EOS.
      eos: 1 for EOS; 0 if the unit is not a student's token.
      unknown: a text → whether it has a token that the vocabulary does not know.
    """

    unit: str
    count: Count
    eos: int = 1
    unknown: Callable[[str], bool] = lambda text: False

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
        return Ruler("words", lambda texts: [len(text.split()) for text in texts], eos=0)
    if vocabulary == "bytes":
        return Ruler("bytes", lambda texts: [len(text.encode("utf-8", "replace")) for text in texts])
    if isinstance(vocabulary, str | pathlib.Path) and pathlib.Path(vocabulary).is_file():
        import sentencepiece

        processor = sentencepiece.SentencePieceProcessor(model_file=str(vocabulary))
        unit = f"tokens of {pathlib.Path(vocabulary).name}"
        return Ruler(
            unit,
            lambda texts: [len(ids) for ids in processor.encode(list(texts))],
            unknown=lambda text: processor.unk_id() in processor.encode(text),
        )
    if isinstance(vocabulary, str | pathlib.Path):
        from distill.tasks import vocabularies  # needs TensorFlow

        return ruler_of(vocabularies.load(str(vocabulary)), str(vocabulary))
    return ruler_of(vocabulary, type(vocabulary).__name__)


def ruler_of(vocabulary: Any, name: str) -> Ruler:
    """A ruler for an object with ``encode(text) -> ids``."""
    unk_id = getattr(vocabulary, "unk_id", None)
    return Ruler(
        f"tokens of {name}",
        lambda texts: [len(vocabulary.encode(text)) for text in texts],
        unknown=lambda text: unk_id is not None and unk_id in vocabulary.encode(text),
    )
