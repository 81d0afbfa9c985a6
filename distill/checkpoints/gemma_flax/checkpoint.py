"""Reads T5Gemma checkpoints in the layout of google-deepmind/gemma: an Orbax tree of its network's parameters.

The tree is nested, as ``gm.ckpts.save_params`` and the files on Kaggle have it; flat, with names joined by '/' below
``transformer``; or that of Kauldron's trainer, with the parameters below ``params``. Only parameters are read.
"""

import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from distill import terminal
from distill.checkpoints import orbax_tree
from distill.checkpoints.arrays import FLOATS, Tensor, TensorInfo
from distill.checkpoints.gemma_flax.names import PADDED_ROWS, ROWS, Entry, entries
from distill.checkpoints.gemma_flax.shapes import check_family, infer_config, transposed_gates
from distill.checkpoints.weights import Checkpoint, Weights, check_no_differences, shape_text
from distill.model.t5gemma_config import T5GemmaConfig

Path = str | os.PathLike[str]

# The item of a step of Kauldron's, and the tree below which it has the parameters.
_KAULDRON_ITEM, _KAULDRON_ROOT = "default", "params"
_FLAT_ROOT = "transformer/"
# In a flat tree, kernels of feed-forward blocks have the ending of all other kernels.
_FLAT_KERNEL = re.compile(r"(/mlp/(?:linear|gating_einsum))/w$")
_OF_GEMMA = re.compile(r"(?:^|/)(?:embedder/input_embedding$|layer_\d+/|stacked_layers/)")


def find(path: Path) -> epath.Path | None:
    """The folder of the Orbax tree at ``path``, if it has the names of google-deepmind/gemma, of any of its families.

    Raises:
      ValueError: its metadata are damaged.
    """
    root = epath.Path(path)
    for folder in (root, root / _KAULDRON_ITEM):
        if orbax_tree.is_tree(folder) and any(_OF_GEMMA.search(name) for name in orbax_tree.paths(folder)):
            return folder
    return None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Every parameter by its '/'-joined name in a nested tree, read on demand.

    Raises:
      FileNotFoundError: no such checkpoint is there.
      ValueError: its files are damaged.
    """
    folder = find(path)
    if folder is None:
        raise FileNotFoundError(
            f"{path} is no checkpoint of google-deepmind/gemma: expected an Orbax folder (_METADATA)"
        )
    trained = any(name.startswith(f"{_KAULDRON_ROOT}/") for name in orbax_tree.paths(folder))
    below = (_KAULDRON_ROOT,) if trained else ()
    prefix = f"{_KAULDRON_ROOT}/" if trained else ""
    held = {name.removeprefix(prefix): tensor for name, tensor in orbax_tree.tensors(folder, below).items()}
    if all(name.startswith(_FLAT_ROOT) for name in held):
        held = {_FLAT_KERNEL.sub(r"\1", name.removeprefix(_FLAT_ROOT)): tensor for name, tensor in held.items()}
    return held


def open_source(path: Path, **overrides: Any) -> tuple[Checkpoint, T5GemmaConfig]:
    """The parameters at ``path`` under this project's names, and their configuration.

    Args:
      path: of the checkpoint's folder, local or ``gs://``.
      **overrides: fields of the configuration to set, see :func:`distill.checkpoints.gemma_flax.shapes.infer_config`.

    Raises:
      FileNotFoundError: no such checkpoint is there.
      ValueError: its files are damaged or incomplete, or are of another family, which is named.
    """
    held = read_tensors(path)
    config = infer_config(str(path), {name: tensor.info.shape for name, tensor in held.items()}, **overrides)
    return _as_checkpoint(str(path), held, config), config


def load_params(path: Path, config: T5GemmaConfig, *, shardings: Any = None) -> dict[str, Any]:
    """The parameters at ``path``, for the network of ``config``.

    Args:
      path: of the checkpoint's folder, local or ``gs://``.
      config: the network's; the parameters are stacked if ``scan_layers``.
      shardings: as for :meth:`distill.checkpoints.weights.Weights.tree`.

    Returns:
      float32 parameters.

    Raises:
      FileNotFoundError: no such checkpoint is there.
      ValueError: as :func:`open_source`; or it does not fit ``config``: every difference is listed, by its own names.
    """
    return Weights(_as_checkpoint(str(path), read_tensors(path), config), config).tree(shardings)


def _as_checkpoint(where: str, held: Mapping[str, Tensor], config: T5GemmaConfig) -> Checkpoint:
    """``held`` under this project's names. Raises one ValueError that lists every difference to ``config``."""
    shapes = {name: tensor.info.shape for name, tensor in held.items()}
    check_family(where, shapes)
    wanted = list(entries(config, transposed_gates(where, shapes)))
    check_no_differences([*_problems(held, wanted), *_output_kernel(config)], where)
    if any(entry.is_table and shapes[entry.name][0] != entry.shape[0] for entry in wanted):
        terminal.notice(f"{where}: {PADDED_ROWS - ROWS} padding rows of each token table are not read")
    return Checkpoint(where, {entry.path: _tensor(held[entry.name], entry) for entry in wanted})


def _output_kernel(config: T5GemmaConfig) -> list[str]:
    if config.logits_via_embedding:
        return []
    return ["output kernel: checkpoint has none, configuration has one (logits_via_embedding=False)"]


def _problems(held: Mapping[str, Tensor], wanted: list[Entry]) -> list[str]:
    """Every way in which the arrays do not fit, by their own names."""
    out: list[str] = []
    by_name = {entry.name: entry for entry in wanted}
    for name, entry in by_name.items():
        if name not in held:
            out.append(f"{name}: checkpoint has none, configuration {shape_text(entry.shape)}")
            continue
        info = held[name].info
        if info.shape != entry.shape and not _is_padded(entry, info):
            out.append(f"{name}: checkpoint {shape_text(info.shape)}, configuration {shape_text(entry.shape)}")
        elif info.dtype not in FLOATS:
            out.append(f"{name}: checkpoint holds {info.dtype}, expected {', '.join(FLOATS)}")
    return out + [
        f"{name}: checkpoint {shape_text(tensor.info.shape)}, configuration has none"
        for name, tensor in held.items()
        if name not in by_name
    ]


def _is_padded(entry: Entry, info: TensorInfo) -> bool:
    """Whether an array is the table of ``entry`` with the padding rows of the published checkpoints."""
    return entry.is_table and entry.shape[0] == ROWS and info.shape == (PADDED_ROWS, *entry.shape[1:])


def _tensor(array: Tensor, entry: Entry) -> Tensor:
    """The parameter of ``entry``, read on demand from its part of ``array``."""

    def load(index: Any) -> np.ndarray:
        if entry.is_table:
            return _rows(array, entry.shape, index)
        part = array.read() if entry.index is None else array.read((entry.index,))
        return entry.converted(part)[index]

    part = np.broadcast_to(np.empty(()), entry.shape if entry.index is None else entry.shape[1:])
    return Tensor(TensorInfo(entry.converted(part).shape, array.info.dtype), load)


def _rows(array: Tensor, shape: tuple[int, ...], index: Any) -> np.ndarray:
    """``index`` of the first ``shape[0]`` rows. A process that has a shard of a table reads only this shard."""
    if index is ...:
        return array.read()[: shape[0]]
    return array.read(tuple(slice(*part.indices(size)) for part, size in zip(index, shape, strict=True)))
