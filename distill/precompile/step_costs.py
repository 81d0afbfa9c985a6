"""The costs of a run's training step: its model FLOPs, and the peak of the chip that executes it.

Training may not import this package, whose modules compile training steps. The commands pass :func:`of_run` to it.
"""

from collections.abc import Mapping
from typing import Any

import jax

from distill.precompile import chips
from distill.precompile.model_flops import step_flops
from distill.training.timing import CostModel, StepCosts


def model_flops(arguments: Mapping[str, Any]) -> float:
    """Operations of one update of a run on all devices, see :mod:`distill.precompile.model_flops`.

    Args:
      arguments: the arguments of ``train``; ``model``, ``data`` and ``loop`` are read.
    """
    return step_flops(arguments["model"], arguments["data"].layout, arguments["loop"].trainable)


def of_run(arguments: Mapping[str, Any]) -> CostModel:
    """Returns the cost model of a run: its operations, and the peak of one of its devices.

    The peak is None for a CPU and for a chip that :mod:`distill.precompile.chips` does not have.

    Args:
      arguments: see :func:`model_flops`.
    """
    flops = model_flops(arguments)
    return lambda compiled, devices: StepCosts(flops, chips.peak_flops(jax.local_devices()[0].device_kind))
