"""What a configuration needs, compared with the machines that ``distill launch`` starts it on."""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import distill
from distill.api import gin_files
from distill.api.statements import Literal, Scan
from distill.counting import counted, joined
from distill.sharding import hardware
from distill.tools.launch.machines import TPU_TYPES, Machines
from distill.validation import suggested

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
        gin_files.find(name, paths)
    except gin_files.ConfigurationError:
        parts = Path(name).parts
        shipped = Path(distill.__file__).parent / "gin"
        if len(parts) == 3 and parts[0] == "gin" and (shipped / parts[1]).is_dir():
            raise
        return False
    return True


def check(scan: Scan, files: Sequence[str], machines: Machines, *, trains: bool) -> list[str]:
    """Returns warnings of settings that may not work on the machines.

    Args:
      scan: the statements of the configuration.
      files: names of the gin files.
      machines: where it runs.
      trains: whether the command trains, so that the mesh must divide its batches.

    Raises:
      ConfigurationError: settings that cannot work there.
    """
    directory = scan.values.get("MODEL_DIR")
    warnings = [
        *_type(machines),
        *_platform(scan, files, machines),
        *_mesh(scan, machines),
        *_directory(directory, machines),
    ]
    if trains:
        _batch(scan, machines)
    return warnings


def _type(machines: Machines) -> list[str]:
    """Warns of the name of a TPU's type that is not known."""
    if not machines.unknown:
        return []
    prefix, head, number = re.findall(r"^(tpu-)?(.*?)(?:-(\d+))?$", machines.unknown)[0]
    near = gin_files.close(head.lower(), TPU_TYPES)
    meant = suggested([f"{prefix}{one}-{number or 'N'}" for one in near[:1]])
    return [
        f"{machines.option}: {machines.unknown!r} is no known type of TPU, so its number of devices is not checked"
        f"{meant or f'; known are {joined(TPU_TYPES)} with a number, such as v5litepod-16'}"
    ]


def _platform(scan: Scan, files: Sequence[str], machines: Machines) -> list[str]:
    """Compares the platform of the settings with that of the machines."""
    if not machines.platform:
        return []
    here, options = machines.platform.upper(), scan.values.get("COMPILER_OPTIONS")
    for name in options if isinstance(options, dict) else ():
        platform = next((one for start, one in _OPTIONS.items() if str(name).startswith(start)), machines.platform)
        if platform != machines.platform:
            raise gin_files.ConfigurationError(
                f"COMPILER_OPTIONS (set in {scan.defined['COMPILER_OPTIONS'][-1]}) has {name}, which compilers for {here}s "
                f"reject, and {machines.option} has {here}s; leave it out, and {_advice(machines)}"
            )
    given = [Path(file) for file in files if Path(file).parent.name == "hardware"]
    wanted = given[-1].name[:3] if given else machines.platform
    if wanted != machines.platform and wanted in ("cpu", "gpu", "tpu"):
        return [f"{given[-1]} is for {wanted.upper()}s, and {machines.option} has {here}s; {_advice(machines)}"]
    generation = re.match(r"tpu_(v\d+\w?)_", given[-1].name) if given and machines.kind else None
    if generation and f"TPU {generation[1]}" != machines.kind:
        return [
            f"{given[-1]} is for TPU {generation[1]}, and {machines.option} has {machines.kind}; {_advice(machines)}"
        ]
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
    sizes = _sizes(scan)
    if machines.devices is None or sizes is None:
        return []
    known = math.prod(size for size in sizes if size != -1)
    left = machines.devices % known if -1 in sizes and known <= machines.devices else machines.devices - known
    if known == machines.devices or left == 0:
        return []
    mesh = " × ".join(f"{axis}={size}" for axis, size in zip(_AXES, sizes))
    there = f"{machines.option} has {counted(machines.devices, 'device')}"
    advice = _without_overrides(scan, machines) or _advice(machines)
    if -1 in sizes or known > machines.devices or machines.processes > 1:
        raise gin_files.ConfigurationError(f"mesh {mesh} does not fit: {there}; {advice}")
    return [f"mesh {mesh} uses {counted(known, 'device')}, and {there}; {advice}"]


def _without_overrides(scan: Scan, machines: Machines) -> str:
    """The advice if the hardware file that fits the machines is given and sizes set elsewhere do not; else empty."""
    axes = [(axis, found) for axis in _AXES if (found := _setting(scan, "MeshConfig", axis))]
    for file in hardware.fitting(machines.devices or 0, machines.platform, machines.kind):
        name = f"gin/hardware/{file.name}"
        others = [(axis, found) for axis, found in axes if found.place.rpartition(":")[0] != name]
        if name in scan.texts and others:
            wrong = " and ".join(
                f"partitioning.MeshConfig.{axis} = {found.value} (set in {found.place})" for axis, found in others
            )
            return f"{name} fits without {wrong}; leave {'it' if len(others) == 1 else 'them'} out"
    return ""


def _batch(scan: Scan, machines: Machines) -> None:
    """Raises ConfigurationError if the mesh and the micro-batches do not divide the batch."""
    batch, parts = _setting(scan, "DataConfig", "batch_size"), _setting(scan, "LoopConfig", "num_microbatches")
    sizes = _sizes(scan)
    if batch is None or parts is None or sizes is None or type(batch.value) is not int or type(parts.value) is not int:
        return
    if -1 in sizes and machines.devices is None:
        return
    left = (machines.devices or 0) // math.prod(size for size in sizes if size != -1)
    data, fsdp, _ = (left if size == -1 else size for size in sizes)
    ways = data * fsdp * parts.value
    if ways > 0 and batch.value % ways:
        multiple = ways * max(1, round(batch.value / ways))
        raise gin_files.ConfigurationError(
            f"BATCH_SIZE={batch.value} (set in {batch.place}) is not divisible by data × fsdp × micro-batches = "
            f"{data} × {fsdp} × {parts.value} = {ways}; give a multiple of it, such as --gin.BATCH_SIZE={multiple}"
        )


def _sizes(scan: Scan) -> list[int] | None:
    """The sizes of the mesh's axes, if all are set to whole numbers that a mesh can have."""
    found = [_setting(scan, "MeshConfig", axis) for axis in _AXES]
    sizes = [
        one.value for one in found if one is not None and type(one.value) is int and (one.value > 0 or one.value == -1)
    ]
    return sizes if len(sizes) == len(_AXES) else None


def _setting(scan: Scan, owner: str, argument: str) -> Literal | None:
    """The value of an argument of a class, and where it is set, if it is set to a literal."""
    for (scope, selector, name), given in scan.given.items():
        if not scope and name == argument and selector.rpartition(".")[2] == owner:
            return scan.literal(given)
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
