"""Which of the files in ``gin/hardware`` fits the devices that are there."""

import math
import re
from pathlib import Path

import distill

# How JAX calls a TPU's generation → how the files do.
_GENERATIONS = {
    "TPU v3": "v3",
    "TPU v4": "v4",
    "TPU v5 lite": "v5e",
    "TPU v5e": "v5e",
    "TPU v5": "v5p",
    "TPU v5p": "v5p",
    "TPU v6 lite": "v6e",
    "TPU v6e": "v6e",
}


def generation(kind: str) -> str | None:
    """A TPU's generation, as the files of ``gin/hardware`` name it, from a device's ``device_kind``; else None.

    >>> generation("TPU v5 lite")
    'v5e'
    """
    return _GENERATIONS.get(kind)


def advice(devices: int, platform: str, kind: str = "") -> str:
    """The files to take on ``devices`` devices, as words for the end of a message.

    Args:
      devices: how many there are.
      platform: as ``jax.default_backend()``: cpu, gpu or tpu.
      kind: as a device's ``device_kind``.
    """
    files = _files(platform, kind)
    named = " or ".join(f"--gin_file=gin/hardware/{path.name}" for path in fitting(devices, platform, kind))
    axes = "--gin.partitioning.MeshConfig.data=, .fsdp= and .model= set the axes"
    if named:
        return f"use {named} here, after the other files; {axes}"
    near = ", ".join(f"gin/hardware/{path.name}" for path in files)
    return f"{axes}; their product must be {devices}{f', starting from one of {near}' if near else ''}"


def example(devices: int | None, platform: str, kind: str = "") -> str:
    """The name of the file to begin with; arguments as of :func:`advice`, ``devices`` None if their number is not known.

    >>> example(8, "gpu"), example(32, "tpu", "TPU v5e"), example(None, "gpu")
    ('gpu_8.gin', 'tpu_v5e_….gin', 'gpu_….gin')
    """
    fit = [] if devices is None else fitting(devices, platform, kind)
    return fit[0].name if fit else f"{_prefix(platform, kind)}_….gin"


def fitting(devices: int, platform: str, kind: str = "") -> list[Path]:
    """The files whose mesh fits; arguments as of :func:`advice`."""
    return [path for path in _files(platform, kind) if _mesh_size(path) in (devices, None)]


def _files(platform: str, kind: str) -> list[Path]:
    """The files for a platform, and for a TPU's generation."""
    return sorted((Path(distill.__file__).parent / "gin" / "hardware").glob(f"{_prefix(platform, kind)}*.gin"))


def _prefix(platform: str, kind: str) -> str:
    return f"{platform}_{_GENERATIONS[kind]}" if platform == "tpu" and kind in _GENERATIONS else platform


def _mesh_size(path: Path) -> int | None:
    """How many devices the file's mesh is for; None for any number."""
    sizes = [
        int(size) for size in re.findall(r"^  (?:data|fsdp|model) = (-?\d+)", path.read_text("utf-8"), re.MULTILINE)
    ]
    return None if -1 in sizes else math.prod(sizes)
