"""The devices that a backend's options name, as far as they are known before anything is started."""

import dataclasses
import re
from typing import Literal

# Generation → how many of the number in a type's name are one JAX device (v4 and v5p count cores, two of which are one
# device), and the devices of a machine.
_GENERATIONS = {
    "v2": (1, 8),
    "v3": (1, 8),
    "v4": (2, 4),
    "v5p": (2, 4),
    "v5e": (1, 8),
    "v6e": (1, 8),
}


@dataclasses.dataclass(frozen=True)
class Machines:
    """The machines of one run.

    Attributes:
      option: the options that name them, for messages.
      platform: ``tpu`` or ``gpu``; empty if it is not known.
      kind: a TPU's ``device_kind``; empty if it is not known.
      devices: of all processes together; None if it is not known.
      processes: how many there are, at least as far as is known.
      disks: ``lost`` with the machines, each machine's ``own``, or one file system that is ``shared``.
    """

    option: str
    platform: str = ""
    kind: str = ""
    devices: int | None = None
    processes: int = 1
    disks: Literal["lost", "own", "shared"] = "shared"


def tpu(option: str, name: str, slices: int = 1) -> Machines:
    """The machines of TPU slices by the name of their type.

    >>> found = tpu("--tpu_type=v5litepod-16", "v5litepod-16", 2)
    >>> found.kind, found.devices, found.processes
    ('TPU v5e', 32, 4)
    >>> tpu("--tpu_type=v4-8", "v4-8").devices
    4
    """
    found = re.fullmatch(r"(?:tpu-)?(v2|v3|v4|v5p|v5e|v5litepod|v6e)-(\d+)", name.lower())
    if found is None:
        return Machines(option, "tpu", processes=slices, disks="lost")
    generation = found[1].replace("v5litepod", "v5e")
    per_device, of_machine = _GENERATIONS[generation]
    devices = int(found[2]) // per_device
    processes = slices * -(-devices // of_machine)
    return Machines(option, "tpu", f"TPU {generation}", slices * devices, processes, disks="lost")
