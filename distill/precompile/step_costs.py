"""The operations of a run's compiled training step, and the peak of the chip that executes it.

Training may not import this package, whose modules compile training steps. The commands pass :func:`measure` to it.
"""

import logging

import jax

from distill.precompile import chips, costs, hlo
from distill.training.timing import StepCosts


def measure(compiled: jax.stages.Compiled, devices: int) -> StepCosts:
    """Counts the operations of a compiled step, and looks up the peak of its devices.

    XLA's ``cost_analysis()`` of the compiled program is the count. It counts a loop body once, so it is multiplied by the
    ratio of :func:`distill.precompile.costs.analyse` with and without trip counts; without loops the ratio is 1.

    Args:
      compiled: the step for one device of the mesh.
      devices: number of devices.

    Returns:
      The operations of one update on all devices, None with a logged warning if they cannot be counted; the peak of one
      device, None for a CPU or a chip that :mod:`distill.precompile.chips` does not have.
    """
    return StepCosts(_flops(compiled, devices), chips.peak_flops(jax.local_devices()[0].device_kind))


def _flops(compiled: jax.stages.Compiled, devices: int) -> float | None:
    try:
        counted, module = (compiled.cost_analysis() or {})["flops"], hlo.parse(compiled.as_text() or "")
        once, every = (costs.analyse(module, count_trips=trips).flops for trips in (False, True))
        return float(counted) * (every / once if once else 1.0) * devices
    except Exception as error:  # a backend without cost analysis, or a program that cannot be parsed
        logging.warning("the operations of the step are not counted: %s: %.200s", type(error).__name__, error)
        return None
