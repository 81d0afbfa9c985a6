"""Orbax checkpoints of more parameters than memory holds: every array is made just before it is written."""

import asyncio
import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore
from etils import epath
from orbax.checkpoint import type_handlers

from distill.checkpoints import arrays, digests

# The database that takes a chunk holds several copies of it for a while: plain, compressed, and in the file buffer. Not
# smaller: glibc's malloc does not return freed blocks below 32 MiB.
CHUNK_BYTES = 40 * 2**20


@dataclasses.dataclass(frozen=True)
class Leaf:
    """An array that is made on demand.

    Attributes:
      order: leaves are made in the order of these numbers.
      load: makes it.
    """

    order: int
    load: Callable[[], np.ndarray]


class _LeafHandler(type_handlers.NumpyHandler):
    """Writes :class:`Leaf` values as Orbax writes NumPy's arrays, one after another."""

    async def serialize(
        self, values: Sequence[Any], infos: Sequence[Any], args: Sequence[Any] | None = None
    ) -> list[Any]:
        """Makes and writes each value; returns when all are written."""
        args = args or [ocp.SaveArgs()] * len(values)
        for value, info, arg in sorted(zip(values, infos, args), key=lambda item: item[0].order):
            array = value.load()
            for future in await super().serialize([array], [info], [arg]):
                await asyncio.to_thread(future.result)
            del array
        return []

    async def _open_and_write(self, value: np.ndarray, tspec: dict[str, Any], ts_context: Any) -> None:
        """As Orbax's, in chunks; Orbax writes an array as one chunk, which needs a second and a third copy of it."""
        chunks = arrays.chunk_shape(value.shape, max_bytes=CHUNK_BYTES)
        if tspec["driver"] != "zarr" or "metadata" not in tspec:
            await super()._open_and_write(value, tspec, ts_context)
            return
        spec = tensorstore.Spec({**tspec, "metadata": {**tspec["metadata"], "chunks": list(chunks)}})
        stored = await tensorstore.open(spec, create=True, open=True, context=ts_context)
        for index in arrays.blocks(value.shape, chunks):
            await stored[index].write(np.ascontiguousarray(value[index]), can_reference_source_data_indefinitely=True)


def save(
    directory: str | os.PathLike[str], step: int, items: Mapping[str, Any], *, step_prefix: str | None = None
) -> None:
    """Writes one step of an Orbax checkpoint manager.

    Args:
      directory: the manager's.
      step: which.
      items: by name: a tree whose leaves may be :class:`Leaf`, or (a ``dict`` in :class:`Json`) what becomes JSON.
      step_prefix: the step's folder is ``<prefix>_<step>``.
    """
    handler = _LeafHandler(deepcopy_host_arrays=False)
    registry = type_handlers.create_type_handler_registry(
        (Leaf, handler),
        (np.number, type_handlers.ScalarHandler()),
        (jax.Array, type_handlers.ArrayHandler()),  # of which there is none; Orbax warns where it is not known
    )
    handlers: dict[str, Any] = {}
    arguments: dict[str, Any] = {}
    for name, item in items.items():
        if isinstance(item, Json):
            handlers[name], arguments[name] = ocp.JsonCheckpointHandler(), ocp.args.JsonSave(item.value)
        else:
            handlers[name] = ocp.PyTreeCheckpointHandler(use_ocdbt=True, type_handler_registry=registry)
            arguments[name] = ocp.args.PyTreeSave(item)
    where = directory if "://" in str(directory) else Path(directory).resolve()
    options = ocp.CheckpointManagerOptions(
        create=True,
        step_prefix=step_prefix,
        enable_async_checkpointing=False,
        temporary_path_class=digests.temporary_path_class(where) if step_prefix is None else None,
    )
    with ocp.CheckpointManager(epath.Path(where), options=options, item_handlers=handlers) as manager:
        manager.save(step, args=ocp.args.Composite(**arguments))
        manager.wait_until_finished()


@dataclasses.dataclass(frozen=True)
class Json:
    """An item that is written as JSON."""

    value: dict[str, Any]
