"""Small PyTorch models of every T5 family with random weights, and folders of them as the hub has them."""

import json
import pathlib

import safetensors.torch
import torch
import transformers

VOCAB = 101
SMALL = {"vocab_size": VOCAB, "d_model": 32, "d_kv": 6, "d_ff": 48, "num_layers": 2, "num_heads": 4}
FAMILIES = {
    "t5": {"model_type": "t5", "feed_forward_proj": "relu"},
    "t5_v1_1": {"model_type": "t5", "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    "mt5": {"model_type": "mt5", "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    "umt5": {"model_type": "umt5", "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    "byt5": {
        "model_type": "t5",
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
        "num_layers": 3,
        "num_decoder_layers": 1,
    },
}
_CLASSES = {
    "t5": (transformers.T5Config, transformers.T5ForConditionalGeneration),
    "mt5": (transformers.MT5Config, transformers.MT5ForConditionalGeneration),
    "umt5": (transformers.UMT5Config, transformers.UMT5ForConditionalGeneration),
}


def fields(family: str, **changes) -> dict:
    """The ``config.json`` of a small model, as the hub's files of the family say it."""
    return {
        **SMALL,
        **FAMILIES[family],
        "is_encoder_decoder": True,
        "decoder_start_token_id": 0,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "dropout_rate": 0.1,
        **changes,
    }


def build(family: str, seed: int = 0, **changes) -> torch.nn.Module:
    """The model with every weight random, and its output kernel its own unless the family ties it."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    settings = fields(family, **changes)
    config_class, model_class = _CLASSES[settings["model_type"]]
    model = model_class(config_class(**{k: v for k, v in settings.items() if k != "model_type"})).eval()
    if settings.get("tie_word_embeddings") is False:
        model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.lm_head.weight))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "layer_norm" in name:
                weight.copy_(1.0 + 0.3 * torch.randn(weight.shape))
            elif "relative_attention_bias" in name:
                weight.copy_(torch.randn(weight.shape))
            elif name == "shared.weight":
                # Small where it makes the logits too: a decoder would only repeat its last token.
                weight.copy_(torch.randn(weight.shape) * (0.3 if model.lm_head.weight is weight else 1.0))
            else:
                weight.copy_(torch.randn(weight.shape) * weight.shape[1] ** -0.5)
    return model


def save(model: torch.nn.Module, family: str, folder: pathlib.Path, **changes) -> pathlib.Path:
    """Writes ``model`` as the hub holds it: ``config.json`` and one ``model.safetensors`` without copies."""
    folder.mkdir(parents=True, exist_ok=True)
    tied = fields(family).get("tie_word_embeddings", True)
    tensors = {
        name: weight.detach().clone().contiguous()
        for name, weight in model.state_dict().items()
        if "embed_tokens" not in name and not (tied and name == "lm_head.weight")
    }
    safetensors.torch.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(fields(family, **changes)))
    return folder
