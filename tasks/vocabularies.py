"""Vocabularies by a short name or path, and the sizes of their embedding tables.

``load`` gives SeqIO's, for tasks; :mod:`distill.tasks.plain_vocabularies` gives the same ids without TensorFlow, for
serving.
"""

import sys
from typing import TYPE_CHECKING, Any

from etils import epath

from distill import validation
from distill.tasks import plain_vocabularies

if TYPE_CHECKING:
    import seqio

T5 = "gs://t5-data/vocabs/cc_all.32000.100extra/sentencepiece.model"
MT5 = "gs://t5-data/vocabs/mc4.250000.100extra/sentencepiece.model"

NAMES = {"t5": T5, "mt5": MT5}
BYT5_EXTRA_IDS = 125


def check_exists(name: str) -> None:
    """Raises FileNotFoundError unless ``name`` is a short name, remote, or the path of a file."""
    if name == "bytes" or "://" in NAMES.get(name, name) or epath.Path(name).exists():
        return
    hint = validation.did_you_mean(name, [*NAMES, "bytes"])
    raise FileNotFoundError(
        f"no vocabulary at {name}{hint} (expected {', '.join(NAMES)}, bytes, or the path of a SentencePiece model)"
    )


def load(name: str = "t5", *, extra_ids: int | None = None) -> "seqio.Vocabulary":
    """A vocabulary with padding 0 and EOS 1.

    Args:
      name: ``t5``, ``mt5`` (their public files), ``bytes`` (ByT5's), or the path of a SentencePiece model.
      extra_ids: sentinels to append to the pieces; by default those of the pretrained models (ByT5: 125; T5's and mT5's
        files contain theirs), none for other files.

    Raises:
      FileNotFoundError: the file does not exist.
      ValueError: the file is no SentencePiece model, or its padding is not 0 or its EOS not 1 (checked when a local file is
        loaded).
    """
    import seqio

    if name == "bytes":
        return seqio.ByteVocabulary(extra_ids=BYT5_EXTRA_IDS if extra_ids is None else extra_ids)
    check_exists(name)
    path = NAMES.get(name, name)
    if "://" not in path:
        plain_vocabularies.read(path)  # raises a one-line error for an invalid file
    return seqio.SentencePieceVocabulary(path, extra_ids=extra_ids or 0)


def check(vocabulary: "seqio.Vocabulary", name: str = "the vocabulary") -> None:
    """Raises ValueError unless padding is 0 and EOS is 1, as the whole package expects."""
    tokenizer = getattr(vocabulary, "tokenizer", None)
    plain_vocabularies.check_ids(
        vocabulary.pad_id if tokenizer is None else tokenizer.pad_id(), vocabulary.eos_id, name
    )


def model_bytes(vocabulary: Any) -> bytes | None:
    """The SentencePiece model of a vocabulary, including its extra ids; None for a byte vocabulary.

    Args:
      vocabulary: SeqIO's or one of :mod:`distill.tasks.plain_vocabularies`.

    Raises:
      ValueError: a vocabulary of another kind.
      FileNotFoundError: SeqIO's model file cannot be read; one line.
    """
    if isinstance(vocabulary, plain_vocabularies.Bytes):
        return None
    if isinstance(vocabulary, plain_vocabularies.SentencePiece):
        return vocabulary.sp_model
    if "seqio" in sys.modules:
        import seqio

        if isinstance(vocabulary, seqio.ByteVocabulary):
            return None
        if isinstance(vocabulary, seqio.SentencePieceVocabulary):
            return _read_model(vocabulary)
    raise ValueError(
        "a student can be served and exported with SentencePiece and byte vocabularies; got one of type "
        f"{type(vocabulary).__name__}"
    )


def without_extra_ids(model: bytes, extra_ids: int) -> bytes:
    """A SentencePiece model without its last ``extra_ids`` pieces, which loading it with that many adds again."""
    if not extra_ids:
        return model
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto.FromString(model)  # type: ignore[attr-defined]
    del proto.pieces[-extra_ids:]
    return proto.SerializeToString()


def _read_model(vocabulary: "seqio.SentencePieceVocabulary") -> bytes:
    import tensorflow as tf

    try:
        return vocabulary.sp_model
    except (tf.errors.OpError, RuntimeError, OSError) as error:
        path = vocabulary.sentencepiece_model_file
        reason = " ".join(str(error).split()).partition(" when reading ")[0][:160]
        raise FileNotFoundError(
            f"the vocabulary {path} cannot be read ({reason}); without a network, give a copy of the file, or a vocabulary "
            "that needs no file: --gin.VOCABULARY_PATH=…/sentencepiece.model or --gin.VOCABULARY_PATH=bytes"
        ) from None


def padded_size(vocabulary: "seqio.Vocabulary | int", multiple: int = 128) -> int:
    """The vocabulary's size rounded up to a multiple, for an embedding that tiles and shards evenly.

    >>> padded_size(32100)
    32128
    """
    if multiple < 1:
        raise ValueError(f"multiple must be at least 1; got {multiple}")
    size = vocabulary if isinstance(vocabulary, int) else vocabulary.vocab_size
    return -(-size // multiple) * multiple
