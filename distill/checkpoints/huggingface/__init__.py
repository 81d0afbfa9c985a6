"""Checkpoints of Hugging Face: configuration, parameter names, safetensors, tokenizer files."""
