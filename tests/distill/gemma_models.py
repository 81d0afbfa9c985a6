"""Small PyTorch models of both T5Gemma versions with random weights, and folders of them as transformers writes them."""

import json
import pathlib
from typing import Any

import torch
import transformers

VOCAB = 99
_STACK = {
    "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "query_pre_attn_scalar": 16, "sliding_window": 5,
}  # fmt: skip
_TINY_VISION = {
    "model_type": "siglip_vision_model", "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
    "num_attention_heads": 1, "image_size": 32, "patch_size": 8,
}  # fmt: skip
_LOCAL_GLOBAL = ["sliding_attention", "sliding_attention", "full_attention"]
FAMILIES = ("t5gemma", "t5gemma_unbalanced", "t5gemma2")


def config(family: str, **changes: Any) -> transformers.PretrainedConfig:
    """The transformers configuration of a small model; ``changes`` apply to both stacks."""
    stack = {**_STACK, **changes}
    if family == "t5gemma":
        both = {**stack, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}
        return transformers.T5GemmaConfig(encoder=both, decoder=both, vocab_size=VOCAB)
    if family == "t5gemma_unbalanced":
        encoder = {**stack, "hidden_size": 24, "num_key_value_heads": 4, "num_hidden_layers": 3}
        decoder = {**stack, "num_key_value_heads": 1, "head_dim": 6, "num_hidden_layers": 1}
        free = {"attn_logit_softcapping": None, "final_logit_softcapping": None}
        return transformers.T5GemmaConfig(
            encoder={**encoder, **free}, decoder={**decoder, **free}, vocab_size=VOCAB, tie_word_embeddings=False
        )
    rope = {
        "full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1000.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
    }
    layers = {"num_hidden_layers": 3, "layer_types": _LOCAL_GLOBAL}
    text = {**stack, **layers, "rope_parameters": rope}
    return transformers.T5Gemma2Config(
        encoder={"text_config": text, "vision_config": _TINY_VISION},
        decoder={**text, "num_key_value_heads": 1},
    )


def build(family: str, seed: int = 0, **changes: Any) -> torch.nn.Module:
    """The model in evaluation mode, with every weight random."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    of_version_1 = transformers.T5GemmaForConditionalGeneration
    kind = transformers.T5Gemma2ForConditionalGeneration if family == "t5gemma2" else of_version_1
    settings = config(family, **changes)
    settings._attn_implementation = "eager"
    model = kind(settings).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("norm.weight"):
                weight.copy_(0.3 * torch.randn(weight.shape))
            elif "embed_tokens.weight" in name:
                # Smaller than unit variance after scaling: a tied decoder would only repeat its last token.
                weight.copy_(torch.randn(weight.shape) * 0.5 * weight.shape[1] ** -0.5)
            elif weight.ndim == 2:
                weight.copy_(torch.randn(weight.shape) * weight.shape[1] ** -0.5)
    return model


def save(model: torch.nn.Module, folder: pathlib.Path) -> pathlib.Path:
    """Writes ``model`` with its own ``save_pretrained``."""
    model.save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text())["model_type"] == model.config.model_type
    return folder
