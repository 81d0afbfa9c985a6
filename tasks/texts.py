"""Texts to token ids and back, for decoding with a student. Plain Python, without TensorFlow or SeqIO."""

import re
from collections.abc import Sequence
from typing import Protocol

SINGLE_MARKER = "So the answer is"
EXPLANATION_MARKER = "Explanation:"


class Vocabulary(Protocol):
    """The interface of vocabularies, SeqIO's or those of :mod:`distill.tasks.plain_vocabularies`."""

    @property
    def eos_id(self) -> int | None:
        """The id that ends a sequence."""
        ...

    @property
    def vocab_size(self) -> int:
        """The number of ids, extra ids included."""
        ...

    def encode(self, s: str) -> Sequence[int]:
        """Token ids without EOS."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text up to the first EOS."""
        ...


def encode(vocabulary: Vocabulary, text: str, separator: str | None = None) -> list[int]:
    """Token ids ending in EOS, none for an empty text; :func:`distill.tasks.preprocessors.encode_tf` in plain Python.

    Args:
      vocabulary: encodes.
      text: the text.
      separator: text that represents EOS, see :func:`distill.tasks.preprocessors.encode_tf`.
    """
    if not text:
        return []
    pieces = text.split(separator) if separator else [text]
    return [token for piece in pieces for token in [*vocabulary.encode(piece), vocabulary.eos_id or 1]]


def prompt(vocabulary: Vocabulary, prefix: str) -> list[int]:
    """The token ids of a task's prefix, if targets begin with it."""
    return list(vocabulary.encode(prefix)) if prefix else []


def answer_of(text: str, marker: str = SINGLE_MARKER, explanation: str = EXPLANATION_MARKER) -> str:
    """The label in a text that holds a rationale and a label; empty without the marker.

    A text that begins with the marker gives its label first: the text up to ``explanation``, or all of it. Any other text
    reasons first: the text after the last marker.

    >>> answer_of("A bum lives near trains. So the answer is train station.")
    'train station.'
    >>> answer_of("So the answer is train station. Explanation: So the answer is where a bum lives.")
    'train station.'
    """
    pieces = re.split(_words(marker), text)
    if len(pieces) == 1:
        return ""
    first = pieces[0].strip()
    label_first = re.split(_words(explanation), text, maxsplit=1) if not first else [text]
    if len(label_first) > 1:
        return re.split(_words(marker), label_first[0], maxsplit=1)[-1].strip()
    return pieces[-1].strip()


def _words(marker: str) -> str:
    """A pattern for a marker with any white space between its words."""
    return r"\s+".join(map(re.escape, marker.split()))
