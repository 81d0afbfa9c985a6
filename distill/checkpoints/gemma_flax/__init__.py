"""T5Gemma checkpoints of Google DeepMind's Flax code, the Flax files on Kaggle, read."""

from distill.checkpoints.gemma_flax.checkpoint import find, load_params, open_source, read_tensors

__all__ = ["find", "load_params", "open_source", "read_tensors"]
