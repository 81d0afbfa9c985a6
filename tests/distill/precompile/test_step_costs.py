"""The costs that training records: model FLOPs of the run, whatever its compiled program is."""

import types

import pytest

from distill.data.packing import Layout
from distill.precompile import chips, step_costs
from distill.precompile.model_flops import forward_flops, step_flops
from distill.training.config import LoopConfig
from distill.training.timing import StepCosts
from tests.distill.precompile.tiny_run import TINY


def arguments(**loop):
    data = types.SimpleNamespace(layout=Layout(4, 16, 8))
    return {"model": TINY, "data": data, "loop": LoopConfig(1, **loop)}


def test_a_run_costs_three_forward_passes_over_its_windows_on_any_number_of_devices():
    wanted = StepCosts(flops=3 * forward_flops(TINY, Layout(4, 16, 8)))  # a CPU has no peak
    for devices in (1, 8):
        assert step_costs.of_run(arguments())(None, devices) == wanted


def test_gradients_of_frozen_kernels_do_not_count():
    frozen = arguments(frozen=("mlp/",))
    found = step_costs.model_flops(frozen)
    assert found == step_flops(TINY, Layout(4, 16, 8), frozen["loop"].trainable) < step_costs.model_flops(arguments())


def test_the_peak_is_that_of_the_device(monkeypatch):
    monkeypatch.setattr(chips, "peak_flops", {"cpu": 5e12}.get)
    assert step_costs.of_run(arguments())(None, 1).peak_flops == pytest.approx(5e12)
