"""Vocabularies without TensorFlow or SeqIO, with exactly the ids that SeqIO's give: for serving a trained student."""

import dataclasses
import hashlib
import os
from collections.abc import Sequence

import sentencepiece

MAX_MODEL_BYTES = 256 * 2**20
"""The largest SentencePiece file that is read; mT5's has 4.3 MB."""

_USER_DEFINED = 4  # SentencePiece's number for a piece that is matched literally


@dataclasses.dataclass(frozen=True)
class Bytes:
    """SeqIO's ``ByteVocabulary``: UTF-8 bytes + 3; ids from 259 are sentinels and decode to nothing."""

    extra_ids: int = 125
    eos_id: int = dataclasses.field(default=1, init=False)
    unk_id: int = dataclasses.field(default=2, init=False)
    bos_id: int | None = dataclasses.field(default=None, init=False)
    pad_id: int = dataclasses.field(default=0, init=False)

    @property
    def vocab_size(self) -> int:
        """The number of ids, extra ids included."""
        return 259 + self.extra_ids

    def encode(self, s: str) -> list[int]:
        """Token ids without EOS. Raises UnicodeEncodeError for lone surrogates."""
        return [byte + 3 for byte in s.encode("utf-8")]

    def decode(self, ids: Sequence[int]) -> str:
        """The text up to the first EOS; incomplete UTF-8 sequences and special ids are dropped."""
        ids = list(ids)
        ids = ids[: ids.index(self.eos_id)] if self.eos_id in ids else ids
        return bytes(i - 3 for i in ids if 3 <= i < 259).decode("utf-8", errors="ignore")


class SentencePiece:
    """SeqIO's ``SentencePieceVocabulary`` over a model's bytes.

    Args:
      model: the contents of a SentencePiece model file, extra ids not included.
      extra_ids: sentinels to append to the pieces, ``<extra_id_0>`` last, as SeqIO does.
      name: the model's name in errors.

    Raises:
      ValueError: it is no SentencePiece model, or its padding is not 0 or its EOS not 1.
    """

    def __init__(self, model: bytes, extra_ids: int = 0, name: str = "the vocabulary"):
        self.extra_ids, self.name = extra_ids, name
        model = with_extra_ids(model, extra_ids, name) if extra_ids else model
        self._tokenizer = sentencepiece.SentencePieceProcessor()
        try:
            if not model:
                raise RuntimeError("the file is empty")
            self._tokenizer.LoadFromSerializedProto(model)
            self._tokenizer.IdToPiece(list(range(self._tokenizer.GetPieceSize())))  # each must be UTF-8, to be decoded
        except (RuntimeError, UnicodeDecodeError) as error:
            raise damaged(name, error) from None
        self.sp_model = model
        self.pad_id, self.eos_id = self._tokenizer.pad_id(), self._tokenizer.eos_id()
        self.unk_id, self.bos_id = self._tokenizer.unk_id(), self._tokenizer.bos_id()
        check_ids(self.pad_id, self.eos_id, name)

    @property
    def vocab_size(self) -> int:
        """The number of ids, extra ids included."""
        return self._tokenizer.GetPieceSize()

    def encode(self, s: str) -> list[int]:
        """Token ids without EOS."""
        return self._tokenizer.EncodeAsIds(s)

    def decode(self, ids: Sequence[int]) -> str:
        """The text up to the first EOS; ids outside of the vocabulary are read as the unknown piece."""
        ids = [self.unk_id if i >= self.vocab_size else int(i) for i in ids]
        ids = ids[: ids.index(self.eos_id) + 1] if self.eos_id in ids else ids
        return self._tokenizer.DecodeIds(ids)

    def __repr__(self) -> str:
        return f"SentencePiece({self.name!r}, sha256={hashlib.sha256(self.sp_model).hexdigest()[:12]})"


Plain = Bytes | SentencePiece


def read(path: str | os.PathLike[str], extra_ids: int = 0) -> SentencePiece:
    """The SentencePiece vocabulary in a local file.

    Raises:
      FileNotFoundError: the file does not exist.
      ValueError: it is no SentencePiece model that fits; names the file.
    """
    if os.path.isdir(path):
        raise ValueError(f"{path} is a folder; expected a SentencePiece model file")
    if os.path.getsize(path) > MAX_MODEL_BYTES:
        raise ValueError(f"{path} is larger than {MAX_MODEL_BYTES} bytes; expected a SentencePiece model file")
    with open(path, "rb") as file:
        return SentencePiece(file.read(), extra_ids, os.fspath(path))


def damaged(name: str, error: Exception) -> ValueError:
    """The error for a file that SentencePiece cannot load, in one line."""
    reason = " ".join(str(error).split())[:160] or type(error).__name__
    return ValueError(f"{name} is not a SentencePiece model, or is damaged ({reason})")


def check_ids(pad_id: int, eos_id: int | None, name: str) -> None:
    """Raises ValueError unless padding is 0 and EOS is 1, as everything here expects."""
    if pad_id != 0 or eos_id != 1:
        raise ValueError(
            f"{name}: expected padding id 0 and EOS id 1, as T5 has them; got {pad_id} and {eos_id}"
            f"{' (-1: it has none)' if -1 in (pad_id, eos_id) else ''}. `distill vocabulary` trains models that fit."
        )


def with_extra_ids(model: bytes, extra_ids: int, name: str) -> bytes:
    """A SentencePiece model with sentinels after its pieces, ``<extra_id_0>`` last, as SeqIO appends them.

    Raises:
      ValueError: the bytes are no SentencePiece model; names it ``name``.
    """
    from google.protobuf.message import DecodeError
    from sentencepiece import sentencepiece_model_pb2

    try:
        proto = sentencepiece_model_pb2.ModelProto.FromString(model)  # type: ignore[attr-defined]
    except DecodeError as error:
        raise damaged(name, error) from None
    for number in reversed(range(extra_ids)):
        proto.pieces.add(piece=f"▁<extra_id_{number}>", score=0.0, type=_USER_DEFINED)
    return proto.SerializeToString()
