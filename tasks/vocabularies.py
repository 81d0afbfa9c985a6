"""Vocabularies by a short name or path, and the sizes of the tables that go with them."""

import difflib

import seqio
from etils import epath

T5 = "gs://t5-data/vocabs/cc_all.32000.100extra/sentencepiece.model"
MT5 = "gs://t5-data/vocabs/mc4.250000.100extra/sentencepiece.model"

NAMES = {"t5": T5, "mt5": MT5}
BYT5_EXTRA_IDS = 125


def load(name: str = "t5", *, extra_ids: int | None = None) -> seqio.Vocabulary:
    """A vocabulary with padding 0 and EOS 1.

    Args:
      name: ``t5``, ``mt5`` (their public files), ``bytes`` (ByT5's), or the path of a SentencePiece model.
      extra_ids: sentinels to add behind the pieces; by default those of the pretrained models (ByT5: 125; T5's and mT5's
        files contain theirs), none for other files.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the model's padding is not 0 or its EOS not 1 (checked when a local file is loaded).
    """
    if name == "bytes":
        return seqio.ByteVocabulary(extra_ids=BYT5_EXTRA_IDS if extra_ids is None else extra_ids)
    path = NAMES.get(name, name)
    vocabulary = seqio.SentencePieceVocabulary(path, extra_ids=extra_ids or 0)
    if not path.startswith("gs://"):
        if not epath.Path(path).exists():
            near = difflib.get_close_matches(name, [*NAMES, "bytes"], n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise FileNotFoundError(
                f"no vocabulary at {path}{hint} (expected {', '.join(NAMES)}, bytes, or the path of a SentencePiece model)"
            )
        check(vocabulary, path)
    return vocabulary


def check(vocabulary: seqio.Vocabulary, name: str = "the vocabulary") -> None:
    """Raises ValueError unless padding is 0 and EOS is 1, as everything here expects."""
    pad = vocabulary.tokenizer.pad_id() if isinstance(vocabulary, seqio.SentencePieceVocabulary) else vocabulary.pad_id
    if pad != 0 or vocabulary.eos_id != 1:
        raise ValueError(
            f"{name}: expected padding id 0 and EOS id 1, as T5 has them; got {pad} and {vocabulary.eos_id}. "
            "`python -m tools.vocabulary` trains models that fit."
        )


def padded_size(vocabulary: seqio.Vocabulary | int, multiple: int = 128) -> int:
    """The vocabulary's size rounded up to a multiple, for an embedding that tiles and shards evenly.

    >>> padded_size(32100)
    32128
    """
    if multiple < 1:
        raise ValueError(f"multiple must be at least 1; got {multiple}")
    size = vocabulary if isinstance(vocabulary, int) else vocabulary.vocab_size
    return -(-size // multiple) * multiple
