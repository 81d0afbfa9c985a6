"""Checkpoints of Hugging Face: configuration, parameter names, safetensors, tokenizer files."""

from distill.checkpoints.huggingface.checkpoint import (
    CONFIG_FILE,
    GENERATION_FILE,
    as_checkpoint,
    is_hub_name,
    load_params,
    load_pretrained,
    read_config,
    resolve,
    save_pretrained_folder,
    split_revision,
    write,
)

__all__ = [
    "CONFIG_FILE",
    "GENERATION_FILE",
    "as_checkpoint",
    "is_hub_name",
    "load_params",
    "load_pretrained",
    "read_config",
    "resolve",
    "save_pretrained_folder",
    "split_revision",
    "write",
]
