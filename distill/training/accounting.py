"""Sums over the updates of a run, and the part of the record that is made from them.

A checkpoint holds the sums, so they count every update that the parameters contain, once.
"""

import math
import resource
import sys
from collections.abc import Sequence

from distill.training import record, timing
from distill.training.config import Progress
from distill.training.step import Fetchable


def add(progress: Progress, updates: Sequence[Fetchable], positions: int, flops: float | None) -> None:
    """Adds updates to the totals of a run.

    Args:
      progress: changed in place.
      updates: the metrics of each update, on the host.
      positions: positions of the windows of a global batch, inputs and targets.
      flops: operations of one update on all devices; None if unknown.
    """
    totals = progress.totals
    for metrics in updates:
        one = {f"tokens_{side}": float(metrics[f"tokens/{side}"][0]) for side in ("encoder", "decoder")}
        rationale, label = (float(total) for total in metrics["effective_lambda"])
        one |= {"updates": 1.0, "positions": float(positions), "weight_rationale": rationale, "weight_label": label}
        if label > 0.0:
            one |= {"lambda_sum": rationale / label, "lambda_updates": 1.0}
        if flops is not None:
            one |= {"flops": flops, "flops_updates": 1.0}
        for name, value in one.items():
            totals[name] = totals.get(name, 0.0) + value


def tokens(progress: Progress) -> float:
    """Tokens of all updates that are not padding: inputs and targets of both tasks."""
    return progress.totals.get("tokens_encoder", 0.0) + progress.totals.get("tokens_decoder", 0.0)


def padding_share(progress: Progress) -> float:
    """The share of padding among all positions of all updates; 0 before the first."""
    positions = progress.totals.get("positions", 0.0)
    return 1.0 - tokens(progress) / positions if positions else 0.0


def training(
    progress: Progress,
    *,
    steps: int,
    parameters: int,
    trained_parameters: int | None = None,
    lanes: int,
    devices: int,
    costs: timing.StepCosts,
    attempts: timing.Attempts,
) -> record.Training:
    """The ``training`` part of the record.

    Args:
      progress: of the run.
      steps: updates that count.
      parameters: number of parameters, without adapters.
      trained_parameters: number of those that are trained, adapters included; None: all.
      lanes: runs that shared the steps; 1 except for joint seeds.
      devices: number of devices.
      costs: of one update of this run.
      attempts: the starts of the run.
    """
    totals = progress.totals
    # Steps of an earlier version of this program, which kept no totals, cannot be counted.
    whole = totals.get("updates", 0.0) == steps
    lambdas, label = totals.get("lambda_updates", 0.0), totals.get("weight_label", 0.0)
    flops = totals["flops"] if steps and whole and totals.get("flops_updates", 0.0) == steps else None
    working = lanes * sum(progress.phases.get(name, 0.0) for name in ("step", "data", "other"))
    timed = (steps - attempts.first_updates(steps)) / steps if steps else 0.0  # the share of the updates in ``working``
    per_second = timed * lanes / working / devices if working > 0.0 and whole and timed else None
    mfu = flops * per_second / costs.peak_flops if flops and per_second and costs.peak_flops else None
    return record.Training(
        steps=steps,
        examples=progress.examples,
        tokens=round(tokens(progress)),
        padding_share=padding_share(progress),
        lambda_=totals["lambda_sum"] / lambdas if whole and lambdas else None,
        lambda_of_totals=totals["weight_rationale"] / label if whole and label else None,
        flops=flops,
        flops_per_step=costs.flops if costs.flops is not None else (flops / steps if flops else None),
        seconds=progress.seconds,
        chip_seconds=progress.chip_seconds,
        peak_memory_bytes=progress.peak_memory_bytes,
        parameters=parameters,
        trained_parameters=parameters if trained_parameters is None else trained_parameters,
        attempts=len(attempts.all),
        phases=dict(progress.phases),
        wall_seconds=attempts.wall_seconds,
        goodput=timing.goodput(progress, attempts, lanes),
        lost_steps=attempts.lost_steps,
        tokens_per_second_per_device=tokens(progress) * per_second if per_second else None,
        mfu=mfu if mfu is not None and math.isfinite(mfu) else None,
        host_peak_memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _MAXRSS_UNIT,
    )


_MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024  # getrusage(2): bytes on macOS, KiB on Linux
