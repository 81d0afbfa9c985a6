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


TPU_TYPES = ("v2", "v3", "v4", "v5p", "v5litepod", "v5e", "v6e", "tpu7x")
"""What the name of a TPU's type begins with, before its number."""


@dataclasses.dataclass(frozen=True)
class Machines:
    """The machines of one run.

    Attributes:
      option: the options that name them, for messages.
      platform: ``tpu`` or ``gpu``; empty if it is not known.
      kind: a TPU's ``device_kind``; empty if it is not known.
      devices: of all processes together; None if it is not known.
      processes: how many there are, at least as far as is known.
      unknown: the name of a TPU's type that is none of :data:`TPU_TYPES` with a number.
      disks: ``lost`` with the machines, each machine's ``own``, or one file system that is ``shared``.
    """

    option: str
    platform: str = ""
    kind: str = ""
    devices: int | None = None
    processes: int = 1
    unknown: str = ""
    disks: Literal["lost", "own", "shared"] = "shared"


def tpu(option: str, name: str, slices: int = 1) -> Machines:
    """The machines of TPU slices by the name of their type.

    >>> found = tpu("--tpu_type=v5litepod-16", "v5litepod-16", 2)
    >>> found.kind, found.devices, found.processes
    ('TPU v5e', 32, 4)
    >>> tpu("--tpu_type=v4-8", "v4-8").devices
    4
    """
    found = re.fullmatch(rf"(?:tpu-)?({'|'.join(TPU_TYPES)})-(\d+)", name.lower())
    generation = found[1].replace("v5litepod", "v5e") if found else ""
    if found is None or generation not in _GENERATIONS:
        return Machines(
            option, "tpu", "TPU7x" if found else "", processes=slices, unknown="" if found else name, disks="lost"
        )
    per_device, of_machine = _GENERATIONS[generation]
    devices = int(found[2]) // per_device
    processes = slices * -(-devices // of_machine)
    return Machines(option, "tpu", f"TPU {generation}", slices * devices, processes, disks="lost")
