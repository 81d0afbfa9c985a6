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
_UNIGRAM = 1  # of trainer_spec.model_type
_UNKNOWN = 2  # of piece.type
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
        names = {role: model.pieces[number].piece for role, number in named.items()}
        _write_json(folder / "tokenizer.json", _tokenizer(model, unknown))
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **names}
    _write_json(folder / "tokenizer_config.json", config)


def _tokenizer(model: Any, unknown: int) -> dict[str, Any]:
    """The contents of ``tokenizer.json`` for a SentencePiece model."""
    trainer, normalizer = model.trainer_spec, model.normalizer_spec
    if trainer.model_type != _UNIGRAM:
        raise ValueError("only unigram SentencePiece models, T5's kind, can be exported; this one is of another kind")
    if not (normalizer.add_dummy_prefix and normalizer.remove_extra_whitespaces and normalizer.escape_whitespaces):
        raise ValueError(
            "only SentencePiece models that treat spaces as T5's does (add_dummy_prefix, remove_extra_whitespaces) can be "
            f"exported; got add_dummy_prefix={normalizer.add_dummy_prefix}, "
            f"remove_extra_whitespaces={normalizer.remove_extra_whitespaces}"
        )
    special = dict.fromkeys([0, 1, unknown])
    end = model.pieces[1].piece
    charsmap = base64.b64encode(normalizer.precompiled_charsmap).decode("ascii")
    metaspace = {"type": "Metaspace", "replacement": _SPACE, "prepend_scheme": "always", "split": True}

    def piece(name: str, number: int) -> dict[str, Any]:
        return {name: {"id": "A" if number == 0 else "B", "type_id": 0}}

    ending = {"SpecialToken": {"id": end, "type_id": 0}}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": number,
                "content": model.pieces[number].piece,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for number in special
        ],
        "normalizer": {"type": "Precompiled", "precompiled_charsmap": charsmap} if charsmap else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace]},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [piece("Sequence", 0), ending],
            "pair": [piece("Sequence", 0), ending, piece("Sequence", 1), ending],
            "special_tokens": {end: {"id": end, "ids": [1], "tokens": [end]}},
        },
        "decoder": metaspace,
        "model": {
            "type": "Unigram",
            "unk_id": unknown,
            "vocab": [[entry.piece, entry.score] for entry in model.pieces],
            "byte_fallback": bool(trainer.byte_fallback),
        },
    }


def _write_json(path: pathlib.Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
