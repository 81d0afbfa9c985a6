"""Names of topologies, and figures per device."""

import pytest

from distill.precompile.chips import CHIPS, GPUS, UNCONFIRMED, gpu, parse_topology, peak_flops


@pytest.mark.parametrize(
    "name, chip, number",
    [("v5e:4x4", "v5e", 16), ("v5e:1x1", "v5e", 1), ("v4:2x2x2", "v4", 8), ("v5p:4x4x8", "v5p", 128),
     ("tpu7x:2x2x1", "tpu7x", 4), ("v6e:16x16", "v6e", 256)],
)  # fmt: skip
def test_topologies(name, chip, number):
    assert parse_topology(name) == (CHIPS[chip], number)


@pytest.mark.parametrize(
    "name", ["", "v5e", "v5e:4", "v5e:4x", "v5e:4x4x4x4", "v5e 4x4", "v5e:4X4", " v5e:4x4", "v5e:-4x4", "v5e:4x4\n"]
)
def test_malformed_names(name):
    with pytest.raises(ValueError, match=r"GENERATION:AxB .*got "):
        parse_topology(name)


def test_an_unknown_generation_has_a_suggestion():
    with pytest.raises(ValueError, match=r"unknown TPU generation 'v5' in --topology=v5:2x2; did you mean 'v5[ep]'\?"):
        parse_topology("v5:2x2")
    with pytest.raises(ValueError, match="unknown TPU generation 'h100'"):
        parse_topology("h100:2x2")


@pytest.mark.parametrize("name", ["v5e:0x4", "v4:2x0x2"])
def test_no_chips(name):
    with pytest.raises(ValueError, match="at least one chip"):
        parse_topology(name)


def test_a_core_of_two_is_half_a_chip():
    v3 = CHIPS["v3"]
    assert v3.devices == 2
    assert v3.device_flops == 61.5e12
    assert v3.device_hbm_bytes == 16 * 2**30
    assert v3.device_hbm_bandwidth == 450e9
    assert v3.device_ici_bandwidth == 140e9


def test_a_program_may_use_no_more_than_there_is():
    for chip in CHIPS.values():
        assert 0 < chip.device_usable_bytes <= chip.device_hbm_bytes
    assert CHIPS["v5p"].device_usable_bytes == 95 * 2**30  # libtpu states 95.73 GiB
    assert CHIPS["v5e"].device_usable_bytes == 15.75 * 2**30
    assert set(UNCONFIRMED) <= set(CHIPS)


@pytest.mark.parametrize(
    ("kind", "name", "tflops"),
    [("NVIDIA A100-SXM4-40GB", "A100 40 GB", 312), ("NVIDIA A100-SXM4-80GB", "A100 80 GB", 312),
     ("NVIDIA A100 80GB PCIe", "A100 80 GB PCIe", 312), ("NVIDIA H100 80GB HBM3", "H100 SXM", 989),
     ("NVIDIA H100 PCIe", "H100 PCIe", 756), ("NVIDIA H200", "H200 SXM", 989), ("NVIDIA L4", "L4", 121),
     ("NVIDIA B200", "B200", 2250)],
)  # fmt: skip
def test_gpus_by_their_device_kind(kind, name, tflops):
    assert gpu(kind).name == name
    assert peak_flops(kind) == tflops * 1e12
    assert len([one for one in GPUS if one is gpu(kind)]) == 1


def test_peaks_of_devices():
    assert peak_flops("TPU v5 lite") == 197e12
    assert peak_flops("TPU v3") == 61.5e12  # of a device, which is a core
    assert peak_flops("TPU7x") == 2307e12 / 2
    assert peak_flops("cpu") is None
    assert peak_flops("NVIDIA L40S") is None
