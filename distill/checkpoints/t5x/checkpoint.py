"""T5X checkpoints, read and written: its native format (msgpack index and zarr arrays) and its Orbax format.

Local paths and ``gs://`` alike; layers stacked or not; heads of attention kernels joined (T5X's ``examples/t5`` and the
network here) or a separate axis (``examples/scalable_t5``).
"""

import os
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from etils import epath

from distill.checkpoints import leftovers, orbax_tree
from distill.checkpoints.arrays import Tensor, TensorInfo
from distill.checkpoints.t5x import index as t5x_index
from distill.checkpoints.t5x.writers import LAYOUTS, NativeWriter, OrbaxWriter
from distill.checkpoints.weights import Checkpoint, Weights, as_leaves, infer_config
from distill.model.network import T5Config

__all__ = [
    "LAYOUTS",
    "TensorInfo",
    "all_tensors",
    "find",
    "infer_config",
    "load_params",
    "open_checkpoint",
    "save",
    "write",
]

Params = dict[str, Any]
Path = str | os.PathLike[str]

STATE = "state"
FORMATS = ("native", "orbax")
# The path of the network's parameters in a training state.
_ROOTS = ("target", "_optimizer/target", "optimizer/target", "params")
_STEPS = ("state/step", "_optimizer/state/step", "step")
_STEP_FOLDER = re.compile(r"checkpoint_(\d+)")


def find(path: Path) -> epath.Path:
    """The file or folder to read at ``path``: the index file of a native checkpoint, or the folder of an Orbax tree.

    Args:
      path: the checkpoint's folder (``…/checkpoint_1000000``), its index file, or the folder of a run, whose newest
        checkpoint is read.

    Raises:
      FileNotFoundError: no T5X checkpoint is there.
    """
    root = epath.Path(path)
    if root.exists() and not root.is_dir():
        return root
    for folder in (root, root / STATE):
        if (folder / t5x_index.INDEX_FILE).exists():
            return folder / t5x_index.INDEX_FILE
        if orbax_tree.is_tree(folder):
            return folder
    steps = steps_in(root)
    if steps:
        return find(root / f"checkpoint_{steps[-1]}")
    raise FileNotFoundError(
        f"no T5X checkpoint at {path}: expected a file '{t5x_index.INDEX_FILE}', a folder '{STATE}' of Orbax's, or "
        "folders 'checkpoint_<step>'"
    )


def steps_in(path: Path) -> list[int]:
    """The steps of the checkpoints in a run's folder, in order."""
    root = epath.Path(path)
    if not root.is_dir():
        return []
    matches = [_STEP_FOLDER.fullmatch(child.name) for child in root.iterdir()]
    return sorted(int(match[1]) for match in matches if match)


def all_tensors(path: Path) -> dict[str, Tensor]:
    """Every array of a checkpoint, the optimizer's included, by its '/'-joined name; read on demand.

    Raises:
      FileNotFoundError: no T5X checkpoint is there.
      ValueError: its files are damaged, or are not T5X's.
    """
    place = find(path)
    if place.is_dir():
        return orbax_tree.tensors(place)
    return t5x_index.tensors(t5x_index.read(place), place.parent, str(place))


def open_checkpoint(path: Path) -> Checkpoint:
    """The network's parameters in a checkpoint, read on demand.

    Raises:
      FileNotFoundError: no T5X checkpoint is there.
      ValueError: its files are damaged, are not T5X's, or hold no parameters.
    """
    everything = all_tensors(path)
    for root in _ROOTS:
        below = {name[len(root) + 1 :]: tensor for name, tensor in everything.items() if name.startswith(f"{root}/")}
        if below:
            return Checkpoint(str(path), below, _step(everything))
    raise ValueError(
        f"{path} holds no parameters (no array under {', '.join(_ROOTS)}); it has {sorted(everything)[:5]}"
    )


def _step(everything: dict[str, Tensor]) -> int | None:
    for name in _STEPS:
        if name in everything and everything[name].info.shape == ():
            value = everything[name].read()
            return int(value) if np.issubdtype(value.dtype, np.integer) else None
    return None


def load_params(path: Path, config: T5Config, *, shardings: Any = None) -> Params:
    """The parameters of a checkpoint, for the network of ``config``.

    Args:
      path: see :func:`find`.
      config: the network's; the parameters are stacked if ``scan_layers``, for either layout of the file.
      shardings: a tree of shardings like the parameters: each array is placed as soon as it is read, so host
        memory holds one at a time. None returns NumPy arrays.

    Returns:
      float32 parameters.

    Raises:
      FileNotFoundError: no T5X checkpoint is there.
      ValueError: the files are damaged, or do not fit ``config``; every difference is listed, with both shapes.
    """
    return Weights(open_checkpoint(path), config).tree(shardings)


def save(params: Params, config: T5Config, directory: Path, step: int, **options: str) -> epath.Path:
    """:func:`write` for parameters in memory; ``options`` are its.

    Raises:
      ValueError: as :func:`write`; or the parameters are not those of ``config``.
    """
    return write(as_leaves(params, config).__getitem__, config, directory, step, **options)


def write(
    read: Callable[[str], Any],
    config: T5Config,
    directory: Path,
    step: int,
    *,
    format: str = "native",
    layout: str = "t5",
    compression: str = "gzip",
) -> epath.Path:
    """Writes a checkpoint that T5X restores, ``<directory>/checkpoint_<step>``. It has no optimizer state.

    Args:
      read: returns a parameter of ``config`` by its '/'-joined name; called in reading order, one at a time.
      config: of the parameters, stacked if ``scan_layers``; written as float32.
      directory: of the run.
      step: of the training.
      format: ``native`` or ``orbax``.
      layout: the names and shapes to use: ``t5`` (T5X's ``examples/t5``; stacked if ``config.scan_layers``) or
        ``scalable_t5`` (heads are an axis, every layer has its position bias: a shared one is written to each).
      compression: of native arrays: ``gzip`` as T5X writes them, or ``none``.

    Returns:
      The folder of the checkpoint.

    Raises:
      ValueError: an unknown format or layout, or a step that exists already.
    """
    if format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}; got {format!r}")
    if layout not in LAYOUTS:
        raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}; got {layout!r}")
    if step < 0:
        raise ValueError(f"step must be ≥ 0; got {step}")
    folder = epath.Path(directory) / f"checkpoint_{step}"
    if folder.exists():
        raise ValueError(f"{folder} exists already; give another directory or step")
    with leftovers.removed_on_failure(directory, folder.name):
        if format == "orbax":
            OrbaxWriter(config, layout).write(read, directory, step)
        else:
            NativeWriter(config, layout, compression).write(read, folder, step)
    return folder
