"""T5X's two formats, written one array at a time."""

import functools
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorstore
from etils import epath

from distill.checkpoints import arrays, streamed_orbax
from distill.checkpoints.t5x import index as t5x_index
from distill.checkpoints.weights import STACKS, flat_shapes, is_stacked, reading_order, split_heads, unflatten
from distill.model.network import T5Config

LAYOUTS = ("t5", "scalable_t5")
_COMPRESSORS: dict[str, dict[str, Any] | None] = {"gzip": {"id": "gzip", "level": 1}, "none": None}
Read = Callable[[str], Any]


def _renamed(config: T5Config, layout: str) -> Iterator[tuple[str, str]]:
    """(T5X's name, ours) of every array to write, in reading order."""
    for name in sorted(flat_shapes(config), key=reading_order):
        parts = name.split("/")
        if layout == "scalable_t5" and len(parts) == 3 and parts[0] in STACKS and parts[1] == "relpos_bias":
            stack = parts[0]
            if config.scan_layers:
                yield f"{stack}/{stack}/relpos_bias/rel_embedding", name
            else:
                layers = config.num_encoder_layers if stack == "encoder" else config.num_decoder_layers
                for index in range(layers):
                    yield f"{stack}/layers_{index}/relpos_bias/rel_embedding", name
        else:
            yield name, name


def _array(read: Read, theirs: str, ours: str, config: T5Config, layout: str) -> np.ndarray:
    """The array that T5X stores as ``theirs``."""
    array = np.asarray(read(ours)).astype(np.float32, copy=False)
    if layout != "scalable_t5":
        return array
    if is_stacked(theirs) and not is_stacked(ours):  # the one bias, for every layer
        layers = config.num_encoder_layers if theirs.startswith("encoder/") else config.num_decoder_layers
        return np.repeat(array[:, None], layers, axis=1)
    return split_heads(ours, array, config)


class NativeWriter:
    """Writes T5X's native format.

    Args:
      config: of the parameters.
      layout: see :func:`distill.checkpoints.t5x.checkpoint.write`.
      compression: ``gzip`` or ``none``.
    """

    def __init__(self, config: T5Config, layout: str = "t5", compression: str = "gzip"):
        if compression not in _COMPRESSORS:
            raise ValueError(f"compression must be one of {', '.join(_COMPRESSORS)}; got {compression!r}")
        self._config, self._layout, self._compressor = config, layout, _COMPRESSORS[compression]

    def write(self, read: Read, folder: str | os.PathLike[str], step: int) -> None:
        """Writes every parameter that ``read`` returns by name to ``folder``, and the index last."""
        final = epath.Path(folder)
        gcs = os.fspath(final).startswith("gs://")
        # Renaming is cheap and atomic on a disk; in a bucket it copies, and the index, written last, marks completion.
        place = final if gcs else final.parent / f"{final.name}.tmp-{int(time.time())}"
        place.mkdir(parents=True, exist_ok=True)
        target: dict[str, Any] = {}
        for theirs, ours in _renamed(self._config, self._layout):
            array = _array(read, theirs, ours, self._config, self._layout)
            name = "target." + theirs.replace("/", ".")
            chunks = arrays.chunk_shape(array.shape, stacked=is_stacked(theirs))
            write_zarr(place, name, array, chunks, self._compressor)
            target[theirs] = t5x_index.describe(name, array.shape, chunks, self._compressor, gcs=gcs)
            del array
        state = {"target": unflatten(target), "state": {"step": np.int32(step)}}
        t5x_index.write(place / t5x_index.INDEX_FILE, state)
        if not gcs:
            place.rename(final)


def write_zarr(
    folder: str | os.PathLike[str], name: str, array: np.ndarray, chunks: tuple[int, ...], compressor: Any
) -> None:
    """Writes ``array`` as float32, with one chunk in memory at a time."""
    spec = arrays.zarr_in_folder(folder, name)
    spec |= {
        "dtype": "float32",
        "metadata": {"shape": list(array.shape), "chunks": list(chunks), "compressor": compressor},
    }
    stored = tensorstore.open(spec, create=True, delete_existing=True).result()
    for index in arrays.blocks(array.shape, chunks):
        stored[index].write(np.ascontiguousarray(array[index])).result()


class OrbaxWriter:
    """Writes T5X's Orbax format.

    Args:
      config: of the parameters.
      layout: see :func:`distill.checkpoints.t5x.checkpoint.write`.
    """

    def __init__(self, config: T5Config, layout: str = "t5"):
        self._config, self._layout = config, layout

    def write(self, read: Read, directory: str | os.PathLike[str], step: int) -> None:
        """Writes every parameter that ``read`` returns by name to ``<directory>/checkpoint_<step>``."""
        config, layout = self._config, self._layout
        target = {
            theirs: streamed_orbax.Leaf(
                order=number, load=functools.partial(_array, read, theirs, ours, config, layout)
            )
            for number, (theirs, ours) in enumerate(_renamed(config, layout))
        }
        tree = {"target": unflatten(target), "state": {"step": np.int32(step)}}
        streamed_orbax.save(directory, step, {"state": tree}, step_prefix="checkpoint")
