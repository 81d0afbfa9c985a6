"""Loads Triton, which PyTorch's CUDA builds bring, so that it does not call TensorFlow's LLVM.

TensorFlow 2.20 and 2.21 load their library with global symbols. A copy of Triton that is loaded later calls TensorFlow's
LLVM instead of its own, and the process ends with a segmentation fault (github.com/tensorflow/tensorflow/issues/124205).
PyTorch imports Triton late: in the first optimizer, or in a model's ``generate``.
"""

import importlib.util
import os
import sys


def load() -> bool:
    """Imports Triton with its own symbols first, before or after TensorFlow. Returns whether Triton can be imported."""
    if "triton" in sys.modules:
        return True
    if not hasattr(os, "RTLD_DEEPBIND") or importlib.util.find_spec("triton") is None:  # Triton exists for Linux only
        return False
    flags = sys.getdlopenflags()
    sys.setdlopenflags(os.RTLD_NOW | os.RTLD_DEEPBIND)
    try:
        import triton  # noqa: F401
    except ImportError:
        return False  # PyTorch goes on without it
    finally:
        sys.setdlopenflags(flags)
    return True
