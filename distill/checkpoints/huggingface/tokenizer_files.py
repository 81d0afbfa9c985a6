"""A vocabulary as the files of a Hugging Face tokenizer that gives the same ids.

``transformers``' own T5 tokenizer assumes that the unknown piece has id 2, which is not true of every SentencePiece model.
So the whole tokenizer is written as ``tokenizer.json``, from the model's own tables: unigram models as T5's, and BPE models
as Gemma's.
"""

import base64
import json
import pathlib
from typing import Any

from sentencepiece import sentencepiece_model_pb2

from distill.tasks import texts, vocabularies
from distill.tasks.texts import Vocabulary

MODEL_FILE = "spiece.model"
TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
_UNIGRAM, _BPE, _WORD, _CHARACTER = 1, 2, 3, 4  # of trainer_spec.model_type
_NORMAL, _UNKNOWN, _USER_DEFINED = 1, 2, 4  # of piece.type
_SPACE = "▁"
_METASPACE = {"type": "Metaspace", "replacement": _SPACE, "prepend_scheme": "always", "split": True}
_WORDS = {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, _METASPACE]}
# Whether a space is put before a text, other spaces are removed, and spaces become a piece's character.
_AS_T5, _AS_GEMMA = (True, True, True), (False, False, True)


def write(folder: pathlib.Path, vocabulary: Vocabulary, *, encoder_bos: bool = False) -> None:
    """Writes the tokenizer of ``vocabulary`` to ``folder``; ``AutoTokenizer.from_pretrained`` loads it.

    Args:
      folder: the output.
      vocabulary: a byte vocabulary (ByT5's tokenizer) or a SentencePiece vocabulary, SeqIO's or plain.
      encoder_bos: whether the tokenizer puts BOS before the tokens of an input. EOS always ends them.

    Raises:
      ValueError: a vocabulary of another kind, one that such a tokenizer cannot reproduce, or one that lacks BOS.
    """
    bos = texts.required_bos(vocabulary) if encoder_bos else texts.bos_id(vocabulary)
    sp_model = vocabularies.model_bytes(vocabulary)
    if sp_model is None:
        config: dict[str, Any] = {"tokenizer_class": "ByT5Tokenizer", "extra_ids": vocabulary.vocab_size - 259}
        config |= {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    else:
        model = sentencepiece_model_pb2.ModelProto.FromString(sp_model)  # type: ignore[attr-defined]
        (folder / MODEL_FILE).write_bytes(sp_model)
        # Not trainer_spec.unk_id: files to which pieces were added after the training have another.
        unknown = next(number for number, piece in enumerate(model.pieces) if piece.type == _UNKNOWN)
        named = {"pad_token": 0, "eos_token": 1, "unk_token": unknown} | ({} if bos is None else {"bos_token": bos})
        names = {role: model.pieces[number].piece for role, number in named.items()}
        special = list(dict.fromkeys(named.values()))
        _write_json(folder / TOKENIZER_FILE, _tokenizer(model, unknown, special, bos if encoder_bos else None))
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **names}
    _write_json(folder / CONFIG_FILE, config)


def puts_bos(folder: pathlib.Path) -> bool:
    """Whether the tokenizer that :func:`write` wrote to ``folder`` puts BOS before the tokens of an input."""
    path = folder / TOKENIZER_FILE
    if not path.exists():
        return False
    try:
        first = json.loads(path.read_bytes())["post_processor"]["single"][0]
    except (ValueError, KeyError, IndexError, TypeError):
        raise ValueError(
            f"{path} is no tokenizer that `distill export --format=hf` wrote: it has no template"
        ) from None
    return "SpecialToken" in first


def _tokenizer(model: Any, unknown: int, special: list[int], bos: int | None) -> dict[str, Any]:
    """The contents of ``tokenizer.json`` for a SentencePiece model; ``bos`` is put before inputs unless it is None."""
    kind = model.trainer_spec.model_type
    written = {_UNIGRAM: _unigram, _BPE: _bpe}.get(kind)
    if written is None:
        name = {_WORD: "of whole words", _CHARACTER: "of characters"}.get(kind, f"of SentencePiece's kind {kind}")
        raise ValueError(
            f"transformers has no tokenizer for the student's vocabulary, which is {name}: expected a unigram or BPE "
            "model; export it in the format t5x, or train with the vocabulary bytes or a model of `distill vocabulary`"
        )
    ends = {1: model.pieces[1].piece} | ({} if bos is None else {bos: model.pieces[bos].piece})

    def piece(name: str, id_: str, number: int) -> dict[str, Any]:
        return {name: {"id": id_, "type_id": number}}

    start = [] if bos is None else [piece("SpecialToken", ends[bos], 0)]
    ending = piece("SpecialToken", ends[1], 0)
    first = [*start, piece("Sequence", "A", 0), ending]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(number, model.pieces[number].piece, special=True) for number in special],
        "post_processor": {
            "type": "TemplateProcessing",
            "single": first,
            "pair": [*first, piece("Sequence", "B", 0), ending],
            "special_tokens": {text: {"id": text, "ids": [number], "tokens": [text]} for number, text in ends.items()},
        },
    } | written(model, unknown, special)


def _added(number: int, content: str, *, special: bool) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": not special, "special": special}
    return {"id": number, "content": content, **flags}


def _unigram(model: Any, unknown: int, special: list[int]) -> dict[str, Any]:
    """Normaliser, model and decoder of a unigram model that treats spaces as T5's does."""
    if _spaces(model) != _AS_T5:
        raise ValueError(_other_spaces(model, "only unigram SentencePiece models that treat spaces as T5's does"))
    return {
        "normalizer": _charsmap(model),
        "pre_tokenizer": _WORDS,
        "decoder": _METASPACE,
        "model": {
            "type": "Unigram",
            "unk_id": unknown,
            "vocab": [[entry.piece, entry.score] for entry in model.pieces],
            "byte_fallback": bool(model.trainer_spec.byte_fallback),
        },
    }


def _bpe(model: Any, unknown: int, special: list[int]) -> dict[str, Any]:
    """Normaliser, model and decoder of a BPE model with Gemma's or T5's treatment of spaces; see ``GemmaTokenizer``."""
    spaces, charsmap = _spaces(model), _charsmap(model)
    kept = spaces == _AS_GEMMA and charsmap is None
    if not kept and spaces != _AS_T5:
        what = "only BPE SentencePiece models that treat spaces as Gemma's does (neither, no normalisation) or as T5's does"
        raise ValueError(_other_spaces(model, what))
    symbols = [number for number, entry in enumerate(model.pieces) if entry.type == _USER_DEFINED]
    if symbols and not kept:
        raise ValueError(
            "a BPE SentencePiece model with symbols that are always one piece can be exported only without a dummy prefix, "
            f"as Gemma's; this one has {model.pieces[symbols[0]].piece!r}"
        )
    added = [_added(number, model.pieces[number].piece, special=True) for number in special]
    added += [_added(number, model.pieces[number].piece, special=False) for number in symbols if number not in special]
    stripped = [] if kept else [{"type": "Strip", "content": " ", "start": 1, "stop": 0}]
    spaced = {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "}
    escaped = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    return {
        "added_tokens": sorted(added, key=lambda token: token["id"]),
        "normalizer": escaped if kept else charsmap,
        "pre_tokenizer": None if kept else _WORDS,
        "decoder": {"type": "Sequence", "decoders": [spaced, {"type": "ByteFallback"}, {"type": "Fuse"}, *stripped]},
        "model": {
            "type": "BPE",
            "unk_token": model.pieces[unknown].piece,
            "fuse_unk": True,
            "byte_fallback": bool(model.trainer_spec.byte_fallback),
            "vocab": {entry.piece: number for number, entry in enumerate(model.pieces)},
            "merges": _merges(model),
        },
    }


def _spaces(model: Any) -> tuple[bool, bool, bool]:
    normalizer = model.normalizer_spec
    return normalizer.add_dummy_prefix, normalizer.remove_extra_whitespaces, normalizer.escape_whitespaces


def _other_spaces(model: Any, what: str) -> str:
    prefix, removed, _ = _spaces(model)
    return (
        f"{what} (add_dummy_prefix, remove_extra_whitespaces) can be exported; got add_dummy_prefix={prefix}, "
        f"remove_extra_whitespaces={removed}, normalisation {model.normalizer_spec.name!r}"
    )


def _charsmap(model: Any) -> dict[str, Any] | None:
    charsmap = base64.b64encode(model.normalizer_spec.precompiled_charsmap).decode("ascii")
    return {"type": "Precompiled", "precompiled_charsmap": charsmap} if charsmap else None


def _merges(model: Any) -> list[list[str]]:
    """The merges of a BPE model, first to last: every split of a piece into two pieces, by the piece's score.

    SentencePiece merges the pair of neighbours whose joined piece has the highest score.
    """
    normal = {entry.piece: number for number, entry in enumerate(model.pieces) if entry.type == _NORMAL}
    found = []
    for piece in sorted(normal, key=lambda piece: -model.pieces[normal[piece]].score):
        splits = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
        known = [pair for pair in splits if pair[0] in normal and pair[1] in normal]
        found += [list(pair) for pair in sorted(known, key=lambda pair: (normal[pair[0]], normal[pair[1]]))]
    return found


def _write_json(path: pathlib.Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
