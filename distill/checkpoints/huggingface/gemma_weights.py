"""Reads the parameters of T5Gemma and T5Gemma 2 from an opened Hugging Face folder, and lists what does not fit."""

import functools
import logging
import pathlib

import numpy as np

from distill.checkpoints.arrays import Tensor
from distill.checkpoints.huggingface import gemma_names
from distill.checkpoints.huggingface.tensors import entry_tensor, unread
from distill.checkpoints.huggingface.weights_folder import FLOAT_DTYPES, WeightsFolder
from distill.checkpoints.weights import shape_text
from distill.model.t5gemma_config import T5GemmaConfig


def tensors(weights: WeightsFolder, config: T5GemmaConfig) -> dict[str, Tensor]:
    """Returns the parameters in ``weights`` under this project's names, and all other tensors under their own names.

    Vision tensors are left out; their number is logged once per folder.
    """
    held, read = weights.tensors, set()
    found: dict[str, Tensor] = {}
    for entry in gemma_names.entries(config):
        names = gemma_names.held_names(config, entry.name, held)
        read |= set(names)
        if names:
            found["/".join(entry.path)] = entry_tensor(weights, names[0], entry)
    images = [name for name in held if gemma_names.is_vision(name)]
    if images:
        _log_images(weights.folder, len(images))
    rest = sorted(held.keys() - read - set(images))
    return found | {name: unread(held[name].shape, held[name].dtype) for name in rest}


@functools.lru_cache(maxsize=32)
def _log_images(folder: pathlib.Path, number: int) -> None:
    # A run opens its folder several times.
    logging.warning("%s: %d tensors of images are not read: students are text only", folder, number)


def problems(weights: WeightsFolder, config: T5GemmaConfig) -> list[str]:
    """Returns every way in which the tensors of ``weights`` do not fit ``config``, by their own names."""
    held, read = weights.tensors, set()
    out: list[str] = []
    for entry in gemma_names.entries(config):
        names = gemma_names.held_names(config, entry.name, held)
        read |= set(names)
        if not names:
            out.append(f"{entry.name}: checkpoint has none, configuration {shape_text(entry.shape)}")
        for name in names:
            info = held[name]
            if info.shape != entry.shape:
                out.append(f"{name}: checkpoint {shape_text(info.shape)}, configuration {shape_text(entry.shape)}")
            elif info.dtype not in FLOAT_DTYPES:
                out.append(f"{name}: checkpoint {info.dtype}, wanted one of {FLOAT_DTYPES}")
            elif name != names[0] and not np.array_equal(weights.read(name), weights.read(names[0])):
                out.append(f"{name}: checkpoint has one that is not {names[0]}, configuration uses that one table")
    return out + [
        f"{name}: checkpoint {shape_text(info.shape)}, configuration has none"
        for name, info in held.items()
        if name not in read and not gemma_names.is_vision(name)
    ]
