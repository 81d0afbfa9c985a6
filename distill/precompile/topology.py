"""A TPU topology opened by name, with libtpu's compiler and without a TPU."""

import contextlib
import dataclasses
import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import topologies
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import Mesh

from distill.precompile.chips import Chip, parse_topology
from distill.sharding.partitioning import MESH_AXES, MeshConfig, arranged

ROOMIEST = "v5p"


@dataclasses.dataclass(frozen=True)
class Topology:
    """A slice of TPU chips to compile for.

    Attributes:
      name: for example ``v5e:4x4``.
      chip: the figures of each chip.
      num_chips: chips in the slice.
      devices: the JAX devices, ``chip.devices`` per chip.
    """

    name: str
    chip: Chip
    num_chips: int
    devices: Sequence[Any]

    def mesh(self, config: MeshConfig) -> Mesh:
        """Returns the mesh of a run over all devices, in the device order of the run.

        Raises:
          ValueError: the mesh has another number of devices.
        """
        return arranged(mesh_shape(config, len(self.devices), self.name), self.devices)


def mesh_shape(config: MeshConfig, devices: int, topology: str) -> tuple[int, int, int]:
    """Returns the mesh sizes over exactly ``devices`` devices, with -1 resolved.

    Raises:
      ValueError: the mesh has another number of devices.
    """
    known = int(np.prod([size for size in config.sizes if size != -1]))
    if devices % known or (-1 not in config.sizes and known != devices):
        wanted_mesh = " × ".join(f"{name}={size}" for name, size in zip(MESH_AXES, config.sizes))
        raise ValueError(
            f"the run's mesh {wanted_mesh} does not fill --topology={topology}, which has {devices} devices; set MESH (or "
            "one of its axes to -1) so that the product is that number, or choose another topology"
        )
    data, fsdp, model = (devices // known if size == -1 else size for size in config.sizes)
    return data, fsdp, model


def open_topology(name: str) -> Topology:
    """Opens the topology ``name``, such as ``v5e:4x4``.

    Raises:
      ValueError: libtpu is not installed, or does not know the topology.
    """
    chip, num_chips = parse_topology(name)
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError(
            "compiling for TPUs requires libtpu's compiler, and libtpu is not installed; "
            "install it with: pip install 'distill-step-by-step[precompile]' (no TPU is needed)"
        )
    # These settings skip the search for a TPU and the metadata server, and let several processes compile at once.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    options: dict[str, Any] = {"chip_config_name": chip.config} if chip.config else {}
    if num_chips < 4:  # fewer than a default host has
        sizes = [int(size) for size in name.partition(":")[2].split("x")]
        options["chips_per_host_bounds"] = (*sizes, *[1] * (3 - len(sizes)))
    try:
        with silenced():
            found = topologies.get_topology_desc(platform="tpu", topology_name=name, **options)
    except RuntimeError as error:
        raise ValueError(f"libtpu knows no topology {name!r}: {str(error).splitlines()[0]}") from None
    return Topology(name, chip, num_chips, found.devices)


def roomiest(devices: int) -> str:
    """Returns the name of a topology with ``devices`` devices of large memory: v5p."""
    return f"{ROOMIEST}:2x2x{devices // 4}" if devices % 4 == 0 else f"{ROOMIEST}:1x{devices}x1"


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Suppresses libtpu's terminal output; if an error follows, its last lines are added to the error as a note."""
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as captured:
        os.dup2(captured.fileno(), 2)
        try:
            yield
        except Exception as error:
            captured.seek(0)
            for line in captured.read().decode(errors="replace").splitlines()[-5:]:
                error.add_note(line)
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)


@contextlib.contextmanager
def uncached() -> Iterator[None]:
    """Disables JAX's persistent cache: programs for a topology would be written there, but cannot be read back."""
    enabled = jax.config.jax_enable_compilation_cache  # type: ignore[attr-defined]
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", enabled)
        compilation_cache.reset_cache()
