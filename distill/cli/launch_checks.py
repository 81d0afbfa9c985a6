"""What a configuration needs, compared with the machines that ``distill launch`` starts it on."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import distill
from distill.api import configuration
from distill.api.statements import Scan
from distill.counting import counted
from distill.sharding import hardware
from distill.tools.launch.machines import Machines

_AXES = ("data", "fsdp", "model")
_OPTIONS = {"xla_gpu_": "gpu", "xla_tpu_": "tpu"}  # beginning of an option's name → the only platform that has it
_KERNELS = {"pallas": "tpu", "triton": "gpu", "cudnn": "gpu"}
"""Value of ``ATTENTION`` → the only platform that compiles it."""


def find(name: str, paths: Sequence[str]) -> bool:
    """Whether a gin file is on this machine.

    Raises:
      ConfigurationError: it is not, and its name is of a folder of files that the package ships, on every machine.
    """
    try:
        configuration.find(name, paths)
    except configuration.ConfigurationError:
        parts = Path(name).parts
        shipped = Path(distill.__file__).parent / "gin"
        if len(parts) == 3 and parts[0] == "gin" and (shipped / parts[1]).is_dir():
            raise
        return False
    return True


def check(scan: Scan, files: Sequence[str], machines: Machines) -> list[str]:
    """Returns warnings of settings that may not work on the machines.

    Args:
      scan: the statements of the configuration.
      files: names of the gin files.
      machines: where it runs.

    Raises:
      ConfigurationError: settings that cannot work there.
    """
    directory = scan.values.get("MODEL_DIR")
    return [*_platform(scan, files, machines), *_mesh(scan, machines), *_directory(directory, machines)]


def _platform(scan: Scan, files: Sequence[str], machines: Machines) -> list[str]:
    """Compares the platform of the settings with that of the machines."""
    if not machines.platform:
        return []
    here, options = machines.platform.upper(), scan.values.get("COMPILER_OPTIONS")
    for name in options if isinstance(options, dict) else ():
        platform = next((one for start, one in _OPTIONS.items() if str(name).startswith(start)), machines.platform)
        if platform != machines.platform:
            raise configuration.ConfigurationError(
                f"COMPILER_OPTIONS (set in {scan.defined['COMPILER_OPTIONS'][-1]}) has {name}, which compilers for {here}s "
                f"reject, and {machines.option} has {here}s; leave it out, and {_advice(machines)}"
            )
    given = [Path(file) for file in files if Path(file).parent.name == "hardware"]
    wanted = given[-1].name[:3] if given else machines.platform
    if wanted != machines.platform and wanted in ("cpu", "gpu", "tpu"):
        return [f"{given[-1]} is for {wanted.upper()}s, and {machines.option} has {here}s; {_advice(machines)}"]
    kernel = scan.values.get("ATTENTION")
    platform = _KERNELS.get(kernel, machines.platform) if isinstance(kernel, str) else machines.platform
    if platform == machines.platform:
        return []
    instead = "it is interpreted, which is slow" if kernel == "pallas" else "attention runs without it"
    return [
        f"ATTENTION={kernel!r} (set in {scan.defined['ATTENTION'][-1]}) is a kernel for {platform.upper()}s, and "
        f"{machines.option} has {here}s, where {instead}; give --gin.ATTENTION=auto"
    ]


def _mesh(scan: Scan, machines: Machines) -> list[str]:
    """Compares the number of the mesh's devices with that of the machines."""
    sizes = [_size(scan, axis) for axis in _AXES]
    if machines.devices is None or not all(isinstance(size, int) for size in sizes):
        return []
    known = 1
    for size in sizes:
        known *= 1 if size == -1 else size  # type: ignore[operator]
    left = machines.devices % known if -1 in sizes and known <= machines.devices else machines.devices - known
    if known == machines.devices or left == 0:
        return []
    mesh = " × ".join(f"{axis}={size}" for axis, size in zip(_AXES, sizes))
    there = f"{machines.option} has {counted(machines.devices, 'device')}"
    if -1 in sizes or known > machines.devices or machines.processes > 1:
        raise configuration.ConfigurationError(f"mesh {mesh} does not fit: {there}; {_advice(machines)}")
    return [f"mesh {mesh} uses {counted(known, 'device')}, and {there}; {_advice(machines)}"]


def _size(scan: Scan, axis: str) -> Any:
    """The size of an axis of the mesh, if it is set to a literal."""
    for (scope, selector, argument), given in scan.given.items():
        if not scope and argument == axis and selector.rpartition(".")[2] == "MeshConfig":
            found = scan.literal(given)
            return None if found is None else found.value
    return None


def _directory(model_dir: Any, machines: Machines) -> list[str]:
    """Warns if the model directory may be on each machine's own disk."""
    if not isinstance(model_dir, str) or "://" in model_dir or model_dir.startswith("/"):
        return []
    if machines.disks == "lost":
        why = "a relative path is on the machine's own disk, which is lost with it"
        return [f"MODEL_DIR={model_dir!r}: {why}; give gs://…, or the absolute path of a mounted bucket"]
    if machines.disks == "own" and machines.processes > 1:
        why = "a relative path is another folder on each machine, unless they share it, and all processes need the same"
        return [f"MODEL_DIR={model_dir!r}: {why}; give gs://…, or the absolute path of a shared folder"]
    return []


def _advice(machines: Machines) -> str:
    if machines.devices is None:
        return f"give a file gin/hardware/{machines.platform}_….gin, after the other files"
    return hardware.advice(machines.devices, machines.platform, machines.kind)
