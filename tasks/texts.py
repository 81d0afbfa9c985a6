"""Texts to token ids and back, for decoding with a student. Plain Python, without TensorFlow or SeqIO."""

import re
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

SINGLE_MARKER = "So the answer is"
EXPLANATION_MARKER = "Explanation:"


@runtime_checkable
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


def encode(vocabulary: Vocabulary, text: str, separator: str | None = None, *, bos: bool = False) -> list[int]:
    """Token ids ending in EOS, none for an empty text; :func:`distill.tasks.preprocessors.encode_tf` in plain Python.

    Args:
      vocabulary: encodes.
      text: the text.
      separator: text that represents EOS, see :func:`distill.tasks.preprocessors.encode_tf`.
      bos: whether BOS precedes the tokens.

    Raises:
      ValueError: ``bos`` with a vocabulary without BOS.
    """
    if not text:
        return []
    pieces = text.split(separator) if separator else [text]
    ids = [token for piece in pieces for token in [*vocabulary.encode(piece), vocabulary.eos_id or 1]]
    return [required_bos(vocabulary), *ids] if bos else ids


def bos_id(vocabulary: Vocabulary) -> int | None:
    """The id of BOS; None if the vocabulary has none, as T5's."""
    try:
        found = getattr(vocabulary, "bos_id", None)
    except NotImplementedError:  # SeqIO's base class
        return None
    return None if found is None or found < 0 else int(found)


def required_bos(vocabulary: Vocabulary, name: str = "the vocabulary") -> int:
    """The id of BOS. Raises ValueError if the vocabulary has none."""
    found = bos_id(vocabulary)
    if found is None:
        raise ValueError(
            f"{name} has no BOS, which ENCODER_BOS=True puts before every input; set VOCABULARY_PATH to Gemma's "
            "tokenizer.model or to a model of `distill vocabulary --special=gemma`, or ENCODER_BOS=False"
        )
    return found


def check_start(vocabulary: Vocabulary, start_id: int, name: str = "the vocabulary") -> None:
    """Raises ValueError unless the vocabulary's BOS is ``start_id``, the first decoder input of a T5Gemma network."""
    found = bos_id(vocabulary)
    if found != start_id:
        got = "it has none" if found is None else f"got {found}"
        raise ValueError(
            f"{name}: expected BOS with id {start_id}, the first decoder input of a T5Gemma network "
            f"(T5GemmaConfig.decoder_start_id); {got}: set VOCABULARY_PATH to Gemma's tokenizer.model or to a model of "
            "`distill vocabulary --special=gemma`"
        )


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
