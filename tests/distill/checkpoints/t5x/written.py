"""T5X checkpoints for the tests of this folder, and the errors expected of damaged ones."""

import jax
import numpy as np
import pytest
import tensorstore
from flax import serialization
from hypothesis import HealthCheck, settings

from distill.checkpoints import t5x as t5x_checkpoints
from distill.checkpoints import weights
from distill.model.network import T5Config
from distill.model.parameters import stack_layers, unstack_layers

PLAIN = T5Config(20, 8, 2, 4, 12, 2, 3)


FUZZ = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def in_layout(params, config, scan):
    """``params`` of ``config`` with layers stacked or not."""
    if config.scan_layers == scan:
        return params
    changed, _ = (stack_layers if scan else unstack_layers)(params, config)
    return jax.tree.map(np.asarray, changed)


def write_by_hand(folder, leaves, *, compressor, inline=(), dtype="float32", driver="gfile", dots=True):
    """A native checkpoint as T5X lays it out, written by TensorStore and msgpack alone."""
    folder.mkdir(parents=True)
    target = {}
    for name, array in leaves.items():
        if name in inline:
            target[name] = np.asarray(array)
            continue
        flat = "target." + name.replace("/", ".")
        metadata = {
            "shape": list(array.shape),
            "chunks": [max(1, n - 1) for n in array.shape],
            "compressor": compressor,
        }
        spec = {"driver": "zarr", "dtype": dtype, "kvstore": {"driver": "file", "path": f"{folder}/{flat}/"}}
        stored = tensorstore.open({**spec, "metadata": metadata}, create=True).result()
        stored.write(array.astype(stored.dtype.numpy_dtype)).result()
        target[name] = {
            "driver": "zarr",
            "dtype": dtype,
            "kvstore": {"driver": driver, "path": flat + ("/" if dots else "")},
            "metadata": metadata,
        }
    state = {"target": weights.unflatten(target), "state": {"step": np.int32(11)}}
    (folder / "checkpoint").write_bytes(serialization.msgpack_serialize({"version": 3, "optimizer": state}))
    return folder


def refused(path, match=None):
    with pytest.raises((ValueError, FileNotFoundError), match=match):
        t5x_checkpoints.load_params(path, PLAIN)


def loads_or_refuses(path):
    """A damaged checkpoint either is refused with ValueError or loads (the damage hit nothing that is read)."""
    try:
        t5x_checkpoints.load_params(path, PLAIN)
    except (ValueError, FileNotFoundError):
        return
    return
