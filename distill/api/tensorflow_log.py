"""Silences what TensorFlow logs while it is imported; imports it only on request."""

import contextlib
import importlib
import os
import sys

_LEVEL, _SILENT = "TF_CPP_MIN_LOG_LEVEL", "3"
_LEVEL_OF_JAX = "1"  # JAX sets it when it is imported, where the user has not


def set_level() -> bool:
    """Lets TensorFlow, which only reads data here, log nothing, unless the user has chosen a level.

    Returns:
      Whether TensorFlow is to be silent.
    """
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # or it prints that its results may differ
    by_jax = "jax" in sys.modules and os.environ.get(_LEVEL) == _LEVEL_OF_JAX
    if by_jax or _LEVEL not in os.environ:
        os.environ[_LEVEL] = _SILENT
    return os.environ[_LEVEL] == _SILENT


def import_quietly() -> None:
    """Imports SeqIO, and TensorFlow with it, with file descriptor 2 closed to them: both log before a level can be set."""
    silent = set_level()
    if "seqio" in sys.modules or not silent:
        importlib.import_module("seqio")
        return
    with contextlib.ExitStack() as stack:
        if sys.stderr is not None:
            sys.stderr.flush()
        try:
            terminal = os.dup(2)
        except OSError:  # the process has no file descriptor 2
            terminal = None
        if terminal is not None:
            # Before the descriptor is replaced: a signal may end the block after any line.
            stack.callback(os.close, terminal)
            stack.callback(os.dup2, terminal, 2)
            nowhere = os.open(os.devnull, os.O_WRONLY)
            stack.callback(os.close, nowhere)
            os.dup2(nowhere, 2)
        importlib.import_module("seqio")
