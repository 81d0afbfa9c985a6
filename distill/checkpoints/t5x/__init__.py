"""Checkpoints of T5X, native and Orbax, read and written."""

from distill.checkpoints.t5x.checkpoint import (
    FORMATS,
    all_tensors,
    find,
    load_params,
    open_checkpoint,
    save,
    steps_in,
    write,
)

__all__ = ["FORMATS", "all_tensors", "find", "load_params", "open_checkpoint", "save", "steps_in", "write"]
