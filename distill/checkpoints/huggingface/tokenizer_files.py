"""A vocabulary as the files of a Hugging Face tokenizer that gives the same ids.

``transformers``' own T5 tokenizer assumes that the unknown piece has id 2, which is not true of every SentencePiece model.
So the whole tokenizer is written as ``tokenizer.json``, from the model's own tables.
"""

import base64
import json
import pathlib
from typing import Any

from sentencepiece import sentencepiece_model_pb2

from distill.tasks import vocabularies
from distill.tasks.texts import Vocabulary

MODEL_FILE = "spiece.model"
_UNIGRAM, _BPE = 1, 2  # of trainer_spec.model_type
_UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 2, 3, 4, 6  # of piece.type
_SPACE = "▁"


def write(folder: pathlib.Path, vocabulary: Vocabulary) -> None:
    """Writes the tokenizer of ``vocabulary`` to ``folder``; ``AutoTokenizer.from_pretrained`` loads it.

    Args:
      folder: the output.
      vocabulary: a byte vocabulary (ByT5's tokenizer) or a SentencePiece vocabulary, SeqIO's or plain.

    Raises:
      ValueError: a vocabulary of another kind, or one that such a tokenizer cannot reproduce.
    """
    sp_model = vocabularies.model_bytes(vocabulary)
    if sp_model is None:
        config: dict[str, Any] = {"tokenizer_class": "ByT5Tokenizer", "extra_ids": vocabulary.vocab_size - 259}
        config |= {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    else:
        model = sentencepiece_model_pb2.ModelProto.FromString(sp_model)  # type: ignore[attr-defined]
        (folder / MODEL_FILE).write_bytes(sp_model)
        # Not trainer_spec.unk_id: files to which pieces were added after the training have another.
        unknown = next(number for number, piece in enumerate(model.pieces) if piece.type == _UNKNOWN)
        named = {"pad_token": 0, "eos_token": 1, "unk_token": unknown}
        start = model.trainer_spec.bos_id
        if 0 <= start < len(model.pieces) and model.pieces[start].type == _CONTROL:
            named["bos_token"] = start
        names = {role: model.pieces[number].piece for role, number in named.items()}
        _write_json(folder / "tokenizer.json", _tokenizer(model, unknown, sorted(named.values())))
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **names}
    _write_json(folder / "tokenizer_config.json", config)


def _tokenizer(model: Any, unknown: int, special: list[int]) -> dict[str, Any]:
    """The contents of ``tokenizer.json`` for a SentencePiece model."""
    trainer, normalizer = model.trainer_spec, model.normalizer_spec
    if trainer.model_type not in (_UNIGRAM, _BPE):
        raise ValueError(
            "only unigram and BPE SentencePiece models, T5's and Gemma's kinds, can be exported; this one is of another "
            "kind"
        )
    spaces = (normalizer.add_dummy_prefix, normalizer.remove_extra_whitespaces)
    kinds = {_UNIGRAM: [(True, True)], _BPE: [(True, True), (False, False)]}[trainer.model_type]
    if spaces not in kinds or not normalizer.escape_whitespaces:
        raise ValueError(
            "only SentencePiece models that treat spaces as T5's does (add_dummy_prefix, remove_extra_whitespaces), or "
            f"with BPE as Gemma's does (neither), can be exported; got add_dummy_prefix={spaces[0]}, "
            f"remove_extra_whitespaces={spaces[1]}"
        )
    symbols = [number for number, entry in enumerate(model.pieces) if entry.type == _USER_DEFINED]
    if trainer.model_type == _BPE and symbols and normalizer.add_dummy_prefix:
        raise ValueError(
            "a BPE SentencePiece model with symbols that are always one piece can be exported only without a dummy prefix, "
            f"as Gemma's; this one has {model.pieces[symbols[0]].piece!r}"
        )
    end = model.pieces[1].piece
    charsmap = base64.b64encode(normalizer.precompiled_charsmap).decode("ascii")
    metaspace = {"type": "Metaspace", "replacement": _SPACE, "prepend_scheme": "always", "split": True}

    def added(number: int, special: bool) -> dict[str, Any]:
        # Symbols are matched after spaces were replaced, as SentencePiece matches them.
        shared = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": not special}
        return {"id": number, "content": model.pieces[number].piece, **shared, "special": special}

    def piece(name: str, number: int) -> dict[str, Any]:
        return {name: {"id": "A" if number == 0 else "B", "type_id": 0}}

    ending = {"SpecialToken": {"id": end, "type_id": 0}}
    steps: list[dict[str, Any]] = [{"type": "Precompiled", "precompiled_charsmap": charsmap}] if charsmap else []
    pre_tokenizer: dict[str, Any] | None = {
        "type": "Sequence",
        "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace],
    }
    decoder = metaspace
    if not normalizer.add_dummy_prefix:
        pre_tokenizer = None
        steps.append({"type": "Replace", "pattern": {"String": " "}, "content": _SPACE})
    if trainer.model_type == _BPE:
        spaced = {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "}
        strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if normalizer.add_dummy_prefix else []
        parts = [spaced, {"type": "ByteFallback"}, {"type": "Fuse"}, *strip]
        decoder = {"type": "Sequence", "decoders": parts}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            *(added(number, True) for number in special),
            *(added(number, False) for number in (symbols if trainer.model_type == _BPE else ())),
        ],
        "normalizer": {"type": "Sequence", "normalizers": steps} if len(steps) > 1 else steps[0] if steps else None,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [piece("Sequence", 0), ending],
            "pair": [piece("Sequence", 0), ending, piece("Sequence", 1), ending],
            "special_tokens": {end: {"id": end, "ids": [1], "tokens": [end]}},
        },
        "decoder": decoder,
        "model": _bpe(model, unknown) if trainer.model_type == _BPE else _unigram(model, unknown),
    }


def _unigram(model: Any, unknown: int) -> dict[str, Any]:
    return {
        "type": "Unigram",
        "unk_id": unknown,
        "vocab": [[entry.piece, entry.score] for entry in model.pieces],
        "byte_fallback": bool(model.trainer_spec.byte_fallback),
    }


def _bpe(model: Any, unknown: int) -> dict[str, Any]:
    """A BPE model. SentencePiece stores no merges: any two pieces that make a piece may merge, those of best score first."""
    numbers = {entry.piece: number for number, entry in enumerate(model.pieces)}
    others = (_UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE)
    normal = {entry.piece: entry.score for entry in model.pieces if entry.type not in others}
    merges = [
        (-score, numbers[piece[:cut]], numbers[piece[cut:]])
        for piece, score in normal.items()
        for cut in range(1, len(piece))
        if piece[:cut] in normal and piece[cut:] in normal
    ]
    return {
        "type": "BPE",
        "unk_token": model.pieces[unknown].piece,
        "fuse_unk": True,
        "byte_fallback": bool(model.trainer_spec.byte_fallback),
        "vocab": numbers,
        "merges": [[model.pieces[left].piece, model.pieces[right].piece] for _, left, right in sorted(merges)],
    }


def _write_json(path: pathlib.Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
