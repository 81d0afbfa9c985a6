"""A mesh that does not fit the devices: the message names the file to use."""

import jax
import pytest

from distill.sharding import hardware, partitioning


@pytest.mark.parametrize(
    ("devices", "platform", "kind", "file"),
    [
        (1, "cpu", "cpu", "cpu"), (8, "cpu", "cpu", "cpu"), (1, "gpu", "NVIDIA H100", "gpu_1"),
        (8, "gpu", "NVIDIA H100", "gpu_8"),
        (8, "tpu", "TPU v3", "tpu_v3_8"), (4, "tpu", "TPU v4", "tpu_v4_8"), (16, "tpu", "TPU v5 lite", "tpu_v5e_16"),
        (256, "tpu", "TPU v6 lite", "tpu_v6e_256"), (64, "tpu", "TPU v5", "tpu_v5p_128"),
    ],
)  # fmt: skip
def test_the_file_for_what_is_there(devices, platform, kind, file):
    assert hardware.advice(devices, platform, kind).startswith(f"use --gin_file=gin/hardware/{file}.gin here")


def test_no_file_for_what_is_there():
    text = hardware.advice(3, "gpu", "NVIDIA H100")
    assert "their product must be 3, starting from one of gin/hardware/gpu_1.gin, gin/hardware/gpu_8.gin" in text
    assert hardware.advice(2, "rocket").endswith("their product must be 2")


def test_the_mesh_says_so():
    with pytest.raises(ValueError) as caught:
        partitioning.MeshConfig(2, 8, 1).build()
    count = jax.device_count()
    assert str(caught.value).startswith(
        f"mesh data=2 × fsdp=8 × model=1 does not fit: there are {count} devices of 'cpu'; "
        "use --gin_file=gin/hardware/cpu.gin here"
    )
    with pytest.raises(ValueError, match=r"there are 3 devices of 'cpu'$"):
        partitioning.MeshConfig(2, 8, 1).shape(3)
