"""Converts tensors of an opened weights folder into parameters of this project."""

from typing import Any

import numpy as np

from distill.checkpoints.arrays import Tensor, TensorInfo
from distill.checkpoints.huggingface.names import Entry
from distill.checkpoints.huggingface.weights_folder import WeightsFolder

_DTYPES = {"F64": "float64", "F32": "float32", "BF16": "bfloat16", "F16": "float16"}


def entry_tensor(weights: WeightsFolder, name: str, entry: Entry) -> Tensor:
    """Returns the parameter of ``entry``, read on demand from the tensor ``name``."""
    info = weights.tensors[name]
    shape = info.shape[::-1] if entry.transposed else info.shape

    def load(index: Any) -> np.ndarray:
        array = weights.read(name)
        return (array.T if entry.transposed else array)[index]

    return Tensor(TensorInfo(shape, _DTYPES.get(info.dtype, info.dtype)), load)


def unread(shape: tuple[int, ...], dtype: str) -> Tensor:
    """Returns shape and dtype of a tensor without a corresponding parameter; ``dtype`` is safetensors' name."""
    return Tensor(TensorInfo(shape, _DTYPES.get(dtype, dtype)), lambda _: np.empty(0))
