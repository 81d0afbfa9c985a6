"""Figures of TPU generations and of GPUs, and the names of topologies.

Each generation's source is in :data:`CHIPS`; the pages were read in November 2026. For v5e and later, Google Cloud's
pages give the interconnect as one figure for both directions together; a chip can send half of it.

``usable_gib`` is the HBM per device that the compiler of libtpu 0.0.52 lets a program use, as its out-of-memory message
states; the rest is reserved.
"""

import dataclasses
import difflib
import re

from distill.sharding import hardware

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """Figures of one TPU generation, per chip unless stated otherwise.

    Attributes:
      name: the generation's name in topologies.
      hbm_gib: HBM, GiB.
      tflops: bfloat16 peak, 1e12 operations per second.
      hbm_gbps: HBM bandwidth, 1e9 bytes per second.
      ici_gbps: send bandwidth to all neighbours together, 1e9 bytes per second.
      usable_gib: HBM per *device* that a program may use, GiB.
      page: Google Cloud's page, the source of all figures except ``usable_gib``, unless :data:`UNCONFIRMED` has an
        entry.
      devices: JAX devices per chip: 2 if each core is a device.
      config: the chip configuration that joins both cores to one device, if libtpu has one.
    """

    name: str
    hbm_gib: float
    tflops: float
    hbm_gbps: float
    ici_gbps: float
    usable_gib: float
    page: str
    devices: int = 1
    config: str | None = None

    @property
    def device_hbm_bytes(self) -> float:
        """HBM of one device, bytes."""
        return self.hbm_gib * GIB / self.devices

    @property
    def device_usable_bytes(self) -> float:
        """HBM of one device that a program may use, bytes."""
        return min(self.usable_gib * GIB, self.device_hbm_bytes)

    @property
    def device_flops(self) -> float:
        """Peak of one device, operations per second."""
        return self.tflops * 1e12 / self.devices

    @property
    def device_hbm_bandwidth(self) -> float:
        """HBM bandwidth of one device, bytes per second."""
        return self.hbm_gbps * 1e9 / self.devices

    @property
    def device_ici_bandwidth(self) -> float:
        """Send bandwidth of one device, its share of the chip's links, bytes per second."""
        return self.ici_gbps * 1e9 / self.devices


_PAGES = "https://docs.cloud.google.com/tpu/docs"
# Figures that no page of the manufacturer confirms, and the evidence for them.
UNCONFIRMED = {
    "v2": (
        "its page no longer has figures: peak, memory and bandwidth are from memory, and JAX 0.10.2's own table of "
        "chips (jax/_src/pallas/mosaic/tpu_info.py) agrees on the first two and has 716 for 700 GB/s; of the interconnect, "
        "4 links of 496 Gbit/s (from memory, after Jouppi et al. 2020, doi 10.1145/3360307), no copy could be read"
    ),
    "v3": (
        "the interconnect is 4 links of 70 GB/s in Jouppi et al. 2023 (arXiv 2304.01433, table 4, read in quotations), "
        "but 340 TB/s of all-reduce for 1024 chips on its page is 83 GB/s per link, and the JAX scaling book has 100"
    ),
    "v4": (
        "the interconnect is 6 links of 50 GB/s in Jouppi et al. 2023 (arXiv 2304.01433, table 4, read in quotations); "
        "the JAX scaling book has 45 per link"
    ),
}

CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v2", 16, 46, 700, 248, 7.48, f"{_PAGES}/v2", devices=2),
        Chip("v3", 32, 123, 900, 280, 15.48, f"{_PAGES}/v3", devices=2),
        Chip("v4", 32, 275, 1200, 300, 30.75, f"{_PAGES}/v4", config="megacore"),
        Chip("v5e", 16, 197, 819, 200, 15.75, f"{_PAGES}/v5e"),  # 400 GB/s both ways
        Chip("v5p", 95, 459, 2765, 600, 95.73, f"{_PAGES}/v5p"),  # 1200 both ways
        Chip("v6e", 32, 918, 1638, 400, 31.24, f"{_PAGES}/v6e"),  # 800 both ways
        Chip("tpu7x", 192, 2307, 7380, 600, 94.74, f"{_PAGES}/tpu7x", devices=2),  # 1200 both ways
    )
}


@dataclasses.dataclass(frozen=True)
class Gpu:
    """Figures of one GPU product.

    Attributes:
      name: short name.
      pattern: a regular expression that matches all of JAX's ``device_kind``, which is NVIDIA's product name.
      tflops: bfloat16 peak of the tensor cores without sparsity, 1e12 operations per second. Data sheets of Hopper and
        later give twice this figure, "with sparsity".
      memory_gb: memory, 1e9 bytes.
      memory_gbps: its bandwidth, 1e9 bytes per second.
      page: the data sheet.
    """

    name: str
    pattern: str
    tflops: float
    memory_gb: float
    memory_gbps: float
    page: str


_NVIDIA = "https://www.nvidia.com/en-us/data-center"
# Figures are those of NVIDIA's data sheets, from memory, and were compared with copies in November 2026: H100 SXM and
# B200 agree (HGX B200: 4.5 PFLOPS with sparsity, 180 GB, 7.7 TB/s). NVIDIA's pages themselves were not read. Of the L4,
# one copy has half of the data sheet's 121.
GPUS = (
    Gpu("A100 40 GB", r"NVIDIA A100-(SXM4|PCIE|PG509-200)(-40GB)?", 312, 40, 1555, f"{_NVIDIA}/a100"),
    Gpu("A100 80 GB", r"NVIDIA A100-SXM4-80GB", 312, 80, 2039, f"{_NVIDIA}/a100"),
    Gpu("A100 80 GB PCIe", r"NVIDIA A100 80GB PCIe", 312, 80, 1935, f"{_NVIDIA}/a100"),
    Gpu("H100 SXM", r"NVIDIA H100 80GB HBM3", 989, 80, 3350, f"{_NVIDIA}/h100"),
    Gpu("H100 PCIe", r"NVIDIA H100 PCIe", 756, 80, 2000, f"{_NVIDIA}/h100"),
    Gpu("H200 SXM", r"NVIDIA H200", 989, 141, 4800, f"{_NVIDIA}/h200"),
    Gpu("L4", r"NVIDIA L4", 121, 24, 300, f"{_NVIDIA}/l4"),
    Gpu("B200", r"NVIDIA B200", 2250, 180, 7700, f"{_NVIDIA}/hgx"),
)


# JAX's names of the generations that gin/hardware has no file for.
_WITHOUT_FILE = {"TPU v2": "v2", "TPU7x": "tpu7x"}


def gpu(device_kind: str) -> Gpu | None:
    """The GPU of a ``device_kind``, or None if :data:`GPUS` does not have it.

    >>> gpu("NVIDIA H100 80GB HBM3").tflops
    989
    """
    return next((one for one in GPUS if re.fullmatch(one.pattern, device_kind)), None)


def peak_flops(device_kind: str) -> float | None:
    """The bfloat16 peak of one device, operations per second; None for a CPU or an unknown chip."""
    generation = _WITHOUT_FILE.get(device_kind) or hardware.generation(device_kind)
    if generation is not None:
        return CHIPS[generation].device_flops
    found = gpu(device_kind)
    return None if found is None else found.tflops * 1e12


def parse_topology(name: str) -> tuple[Chip, int]:
    """Returns the generation and the number of chips of a topology such as ``v5e:4x4`` or ``v4:2x2x2``.

    Raises:
      ValueError: a malformed name, an unknown generation, or no chips.
    """
    match = re.fullmatch(r"(\w+):(\d+(?:x\d+){1,2})", name)
    if match is None:
        raise ValueError(f"a topology must be GENERATION:AxB or GENERATION:AxBxC, such as v5e:4x4; got {name!r}")
    if match[1] not in CHIPS:
        near = difflib.get_close_matches(match[1], list(CHIPS), n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"unknown TPU generation {match[1]!r} in --topology={name}{hint}; there are {', '.join(CHIPS)}"
        )
    number = 1
    for size in match[2].split("x"):
        number *= int(size)
    if number == 0:
        raise ValueError(f"a topology must have at least one chip; got {name!r}")
    return CHIPS[match[1]], number


def hardware_file(topology: str) -> str:
    """The name of the file of ``gin/hardware`` to begin with for a topology.

    Raises:
      ValueError: as :func:`parse_topology`.

    >>> hardware_file("v5e:4x4"), hardware_file("v4:2x2x1"), hardware_file("v5p:4x4x2")
    ('tpu_v5e_16.gin', 'tpu_v4_8.gin', 'tpu_v5p_….gin')
    """
    chip, number = parse_topology(topology)
    return hardware.example(number * chip.devices, "tpu", f"TPU {chip.name}")
