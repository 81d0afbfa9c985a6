"""Checks that a run's vocabulary is that of the parameters it starts from: else each id gets the row of another piece."""

import dataclasses
import logging
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from etils import epath

from distill.checkpoints.huggingface import tokenizer_files, weights_folder
from distill.inference import student as students
from distill.tasks import plain_vocabularies, vocabularies
from distill.validation import quoted

_OF_TOKENIZERS = ("spiece.model", "tokenizer.model")  # of T5 and of Gemma, in folders for `transformers`
_SENTINEL = re.compile("▁?<extra_id_[0-9]+>")  # SeqIO, transformers and files name and number them differently
_NORMAL, _BYTE = 1, 6  # of SentencePiece's piece.type


@dataclasses.dataclass(frozen=True)
class _There:
    """The vocabulary of initial parameters.

    Attributes:
      pieces: by id; None: bytes.
      special: ids whose pieces have a role, whatever their names.
      remedy: for a run with another vocabulary.
    """

    pieces: Mapping[int, str] | None
    special: frozenset[int]
    remedy: str


def check(path: str, vocabulary: Any) -> None:
    """Raises ValueError if a piece of ``vocabulary`` has another id where the initial parameters were trained.

    One vocabulary may continue the other, as with extra ids. Without a vocabulary beside the parameters, as with
    T5X checkpoints, names of the hub and bare parameters, nothing is checked. A ``tokenizer.json`` that cannot be read is
    a warning.

    Args:
      path: ``INITIAL_CHECKPOINT_PATH``.
      vocabulary: of the run, SeqIO's or one of :mod:`distill.tasks.plain_vocabularies`.
    """
    there = _beside(path)
    if there is None:
        return
    try:
        here = vocabularies.model_bytes(vocabulary)
    except ValueError:  # neither SentencePiece nor bytes
        return
    difference = _difference(there, here)
    if difference is not None:
        raise ValueError(
            f"INITIAL_CHECKPOINT_PATH={path!r} was trained with another vocabulary: {difference}; {there.remedy}, or start "
            "from parameters of the run's vocabulary"
        )


def _beside(path: str) -> _There | None:
    """The vocabulary of a model directory, also of one of its steps, or of a `transformers` model; None if it has none."""
    root = epath.Path(path)
    folders = [root, *list(root.parents)[:2]] if root.name.isdecimal() else [root]
    for folder in folders:
        if (folder / students.FILE).exists():
            model = vocabularies.model_bytes(students.read_vocabulary(folder, students.read(folder)))
            return _of_model(model, folder / students.VOCABULARY_FILE)
    for name in _OF_TOKENIZERS:
        if (root / name).exists():
            return _of_model(plain_vocabularies.read(root / name).sp_model, root / name)
    for name, read in ((tokenizer_files.TOKENIZER_FILE, _of_tokenizer), (tokenizer_files.CONFIG_FILE, _of_config)):
        if (root / name).exists():
            try:
                return read(pathlib.Path(os.fspath(root)) / name)
            except (ValueError, OSError) as error:
                logging.warning("%s; the run's vocabulary was not compared with that of %s", error, path)
                return None
    return None


def _of_model(model: bytes | None, file: epath.Path) -> _There:
    if model is None:
        return _There(None, frozenset(), 'set VOCABULARY_PATH="bytes"')
    return _There(dict(enumerate(piece for piece, _ in _pieces(model))), frozenset(), f"set VOCABULARY_PATH={file}")


def _of_tokenizer(file: pathlib.Path) -> _There:
    """The pieces of a ``tokenizer.json``. Raises ValueError if it does not list them."""
    tokenizer = weights_folder.read_json(file)
    try:
        found = tokenizer["model"]["vocab"]
        entries = [(number, piece) for piece, number in found.items()] if isinstance(found, dict) else [
            (number, piece) for number, (piece, _) in enumerate(found)
        ]  # fmt: skip
        added = [(one["id"], one["content"]) for one in tokenizer.get("added_tokens") or ()]
        pieces = {**dict(added), **dict(entries)}
    except (KeyError, TypeError, ValueError, AttributeError):
        pieces = {}
    if not pieces or not all(type(number) is int and isinstance(piece, str) for number, piece in pieces.items()):
        raise ValueError(f"{file} lists no pieces with their ids (model.vocab, added_tokens)")
    remedy = f"give the SentencePiece model that {file} was made from as VOCABULARY_PATH"
    return _There(pieces, frozenset(number for number, _ in added), remedy)


def _of_config(file: pathlib.Path) -> _There | None:
    """Bytes if a ``tokenizer_config.json``, without other files, names ByT5's tokenizer."""
    name = weights_folder.read_json(file).get("tokenizer_class")
    return _of_model(None, epath.Path(file)) if name in ("ByT5Tokenizer", "ByT5TokenizerFast") else None


def _difference(there: _There, here: bytes | None) -> str | None:
    """The first difference to a SentencePiece model, or to bytes (None), in words."""
    if there.pieces is None or here is None:
        kinds = ["bytes" if none else "SentencePiece" for none in (there.pieces is None, here is None)]
        return None if kinds[0] == kinds[1] else f"{kinds[0]} there, {kinds[1]} here"
    for number, (new, kind) in enumerate(_pieces(here)):
        old = there.pieces.get(number, new)
        named = number in there.special and kind not in (_NORMAL, _BYTE)
        if old != new and not named and not (_SENTINEL.fullmatch(old) and _SENTINEL.fullmatch(new)):
            return f"id {number} is {quoted(old)} there and {quoted(new)} here"
    return None


def _pieces(model: bytes) -> list[tuple[str, int]]:
    """The pieces of a SentencePiece model and their types."""
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto.FromString(model)  # type: ignore[attr-defined]
    return [(entry.piece, entry.type) for entry in proto.pieces]
