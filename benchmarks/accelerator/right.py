"""Checks the results of the device: loss and gradients against the CPU's, packed against unpacked, attention by attention.

Run by :mod:`benchmarks.accelerator.measure`. Every check has a bound; one that exceeds it fails the run.
"""

import argparse
import dataclasses
import functools
import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.accelerator import cases
from distill.data.packing import Layout
from distill.model.config import T5Config
from distill.model.network import ModelInputs, Transformer
from distill.model.parameters import init_params, output_kernel
from distill.sharding.cross_entropy import weighted_cross_entropy
from distill.training.losses import TwoTaskLoss, task_token_weights

# Largest relative error ‖x - reference‖ / ‖reference‖ that passes.
FLOAT32, BFLOAT16 = 1e-5, 3e-2


def loss_and_gradients(config: T5Config, params: Any, arrays: dict[str, Any], seed: int | None = None) -> Any:
    """The two-task loss of a batch and its gradients, with dropout if there is a seed."""
    weights = task_token_weights(
        arrays["decoder_loss_weights"],
        arrays["decoder_task_ids"],
        TwoTaskLoss(alpha=0.5).coefficients(0),
        TwoTaskLoss(alpha=0.5).normalizer,
        arrays.get("decoder_segment_ids"),
    )

    def loss(params: Any) -> jax.Array:
        hidden = Transformer(config).apply(
            {"params": params},
            ModelInputs.of(arrays),
            deterministic=seed is None,
            rngs={} if seed is None else {"dropout": jax.random.key(seed)},
            method=Transformer.hidden,
        )
        return weighted_cross_entropy(
            hidden, output_kernel(params, config), arrays["decoder_target_tokens"], weights, chunk_tokens=1024
        )[0]

    return jax.value_and_grad(loss)(params)


class Run:
    """Runs :func:`loss_and_gradients` of different configurations; all compile at the same time, in threads."""

    def __init__(self, params: Any):
        self._params, self._pool, self._running = params, ThreadPoolExecutor(12), {}

    def start(self, device: jax.Device, config: T5Config, arrays: dict[str, Any], seed: int | None = None) -> Any:
        """Starts a run, or finds the one that was started; returns its future."""
        key = device, config, arrays["encoder_input_tokens"].shape, seed
        if key not in self._running:
            self._running[key] = self._pool.submit(self._run, device, config, arrays, seed)
        return self._running[key]

    def _run(self, device: jax.Device, config: T5Config, arrays: dict[str, Any], seed: int | None) -> Any:
        call = jax.jit(functools.partial(loss_and_gradients, config, seed=seed))
        with jax.default_device(device), jax.default_matmul_precision("highest"):
            params, arrays = jax.device_put((self._params, arrays), device)
            return jax.device_get(call(params, arrays))


def error(found: Any, reference: Any) -> float:
    """‖found - reference‖ / ‖reference‖ over all arrays, in float64."""
    pairs = list(zip(jax.tree.leaves(found), jax.tree.leaves(reference), strict=True))
    square = sum(float(np.sum((np.asarray(a, np.float64) - np.asarray(b, np.float64)) ** 2)) for a, b in pairs)
    return float((square / sum(float(np.sum(np.asarray(b, np.float64) ** 2)) for _, b in pairs)) ** 0.5)


def worst(found: Any, reference: Any) -> float:
    """The largest :func:`error` of one array."""
    return max(error(a, b) for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(reference), strict=True))


def checks(data: Path, device: jax.Device, size: str, windows: int, attentions: list[str]) -> list[dict[str, Any]]:
    """Runs all checks; returns a row for each one."""
    cpu = jax.devices("cpu")[0]
    rows = cases.read_rows(data / "rows.npz", "svamp")
    batch = next(cases.batches(rows, Layout(windows, *cases.LENGTHS["svamp"])))
    short = list(itertools.islice(rows, batch.examples))
    longest = [max(len(row[index]) for row in short) for index in range(4)]
    # One sequence per row: lengths are rounded up to multiples of 32, which all implementations accept.
    layout = Layout(
        2 * len(short), *(-(-max(longest[i], longest[i + 2]) // 32) * 32 for i in (0, 1)), packed=False
    )
    unpacked = next(cases.batches([*short, short[0]], layout))
    shape = cases.SIZES[size]
    layers = {name: min(4, getattr(shape, name)) for name in ("num_encoder_layers", "num_decoder_layers")}
    config = dataclasses.replace(shape, dropout_rate=0.0, **layers)
    with jax.default_device(cpu):
        params = jax.device_get(jax.jit(functools.partial(init_params, config))(jax.random.key(0)))
    run = Run(params)
    still, dropped = run.start(cpu, config, batch.arrays), dataclasses.replace(config, dropout_rate=0.1)
    with_dropout = run.start(cpu, dropped, batch.arrays, seed=3)
    work = [
        ("float32: device = CPU", FLOAT32, run.start(device, config, batch.arrays), still),
        ("float32: unpacked = packed", FLOAT32, run.start(device, config, unpacked.arrays), still),
    ]
    for attention in ["xla", *attentions]:
        changed = dataclasses.replace(dropped, attention=attention)
        if attention != "cudnn":  # cuDNN has no float32 attention
            name = f"float32, dropout: {attention} = CPU's xla"
            work.append((name, FLOAT32, run.start(device, changed, batch.arrays, seed=3), with_dropout))
        changed = dataclasses.replace(changed, dtype="bfloat16")
        name = f"bfloat16, dropout: {attention} = CPU's float32"
        work.append((name, BFLOAT16, run.start(device, changed, batch.arrays, seed=3), with_dropout))
        changed = dataclasses.replace(changed, dropout_rate=0.0)
        name = f"bfloat16: unpacked, {attention} = CPU's float32, packed"
        work.append((name, BFLOAT16, run.start(device, changed, unpacked.arrays), still))
    out: list[dict[str, Any]] = []
    for name, bound, found, expected in work:
        row: dict[str, Any] = {"check": name, "bound": bound}
        try:
            (loss, gradients), (other, reference) = found.result(), expected.result()
            row |= {
                "loss": abs(float(loss) - float(other)) / abs(float(other)),
                "gradients": error(gradients, reference),
                "worst_array": worst(gradients, reference),
            }
            row["passed"] = row["loss"] <= bound and row["gradients"] <= bound
        except Exception as failure:
            row |= {"passed": False, "error": f"{type(failure).__name__}: {failure}"[:600]}
        out.append(row)
        print(json.dumps(row), flush=True)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--size", default="small", choices=cases.SIZES)
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--attentions", default="cudnn,triton")
    options = parser.parse_args()
    device = jax.devices()[0]
    rows = checks(options.data, device, options.size, options.windows, options.attentions.split(","))
    (options.out / "right.json").write_text(json.dumps({"device": device.device_kind, "checks": rows}, indent=1) + "\n")
    raise SystemExit(not all(row["passed"] for row in rows))


if __name__ == "__main__":
    main()
