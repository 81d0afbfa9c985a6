"""Checks that a run's vocabulary is that of the parameters it starts from: else each id gets the row of another piece."""

from typing import Any

from etils import epath

from distill.inference import student as students
from distill.tasks import plain_vocabularies, vocabularies

_OF_TOKENIZERS = ("spiece.model", "tokenizer.model")  # of T5 and of Gemma, in folders for `transformers`


def check(path: str, vocabulary: Any) -> None:
    """Raises ValueError if a piece of ``vocabulary`` has another id where the initial parameters were trained.

    One vocabulary may continue the other, as with extra ids. Without a vocabulary beside the parameters, as with
    T5X checkpoints, names of the hub and bare parameters, nothing is checked.

    Args:
      path: ``INITIAL_CHECKPOINT_PATH``.
      vocabulary: of the run, SeqIO's or one of :mod:`distill.tasks.plain_vocabularies`.
    """
    root = _beside(path)
    if root is None:
        return
    if (root / students.FILE).exists():
        there = vocabularies.model_bytes(students.read_vocabulary(root, students.read(root)))
        file = root / students.VOCABULARY_FILE
    else:
        file = next(root / name for name in _OF_TOKENIZERS if (root / name).exists())
        there = plain_vocabularies.read(file).sp_model
    try:
        here = vocabularies.model_bytes(vocabulary)
    except ValueError:  # neither SentencePiece nor bytes
        return
    difference = _difference(there, here)
    if difference is not None:
        remedy = f"VOCABULARY_PATH={file}" if there is not None else 'VOCABULARY_PATH="bytes"'
        raise ValueError(
            f"INITIAL_CHECKPOINT_PATH={path!r} was trained with another vocabulary: {difference}; set {remedy}, or start "
            "from parameters of the run's vocabulary"
        )


def _beside(path: str) -> epath.Path | None:
    """The folder of a model directory, also of one of its steps, or of a `transformers` model that has a vocabulary."""
    root = epath.Path(path)
    folders = [root, *list(root.parents)[:2]] if root.name.isdecimal() else [root]
    for folder in folders:
        if (folder / students.FILE).exists():
            return folder
    return root if any((root / name).exists() for name in _OF_TOKENIZERS) else None


def _difference(there: bytes | None, here: bytes | None) -> str | None:
    """The first difference of two SentencePiece models in words; None is a byte vocabulary."""
    if there is None or here is None:
        kinds = ["bytes" if model is None else "SentencePiece" for model in (there, here)]
        return None if there is here else f"{kinds[0]} there, {kinds[1]} here"
    if there == here:
        return None
    for number, (old, new) in enumerate(zip(_pieces(there), _pieces(here))):
        if old != new:
            return f"id {number} is {old!r} there and {new!r} here"
    return None


def _pieces(model: bytes) -> list[str]:
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto.FromString(model)  # type: ignore[attr-defined]
    return [entry.piece for entry in proto.pieces]
