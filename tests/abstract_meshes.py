"""Meshes of one device that this machine does not have, for tracing."""

import inspect

import jax

KINDS = {"tpu": "TPU v5 lite", "gpu": "NVIDIA H100"}


def mesh_of(platform: str) -> jax.sharding.AbstractMesh:
    """An abstract mesh of one device of ``tpu`` or ``gpu``. JAX before 0.10.1 knows only the kind of the device."""
    known = {"device_kind": KINDS[platform], "num_cores": 1, "platform": platform}
    takes = inspect.signature(jax.sharding.AbstractDevice).parameters
    device = jax.sharding.AbstractDevice(**{name: value for name, value in known.items() if name in takes})
    return jax.sharding.AbstractMesh((1, 1, 1), ("data", "fsdp", "model"), abstract_device=device)
