"""Checks the results of the device: loss and gradients against the CPU's, packed against unpacked, attention by attention.

Run by :mod:`benchmarks.accelerator.measure`. Every check has a bound; one that exceeds it fails the run.
"""

import dataclasses
import functools
import itertools
import json
from concurrent.futures import ThreadPoolExecutor, wait
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
    """A run of :func:`loss_and_gradients`: lowered at once, compiled in a thread, executed when its result is read.

    Nothing executes while another program compiles: XLA tries kernels on the device then, and disturbs what executes.
    """

    def __init__(
        self,
        pool: ThreadPoolExecutor,
        device: jax.Device,
        config: T5Config,
        params: Any,
        arrays: dict[str, Any],
        seed: int | None = None,
    ):
        self._inputs = jax.device_put((params, arrays), device)
        with jax.default_device(device), jax.default_matmul_precision("highest"):
            call = jax.jit(functools.partial(loss_and_gradients, config, seed=seed))
            lowered = call.lower(*self._inputs)
        self.compiled = pool.submit(lowered.compile)

    @functools.cached_property
    def result(self) -> Any:
        """Loss and gradients, numpy arrays."""
        return jax.device_get(self.compiled.result()(*self._inputs))


def error(found: Any, reference: Any) -> float:
    """‖found - reference‖ / ‖reference‖ over all arrays, in float64."""
    pairs = list(zip(jax.tree.leaves(found), jax.tree.leaves(reference), strict=True))
    square = sum(float(np.sum((np.asarray(a, np.float64) - np.asarray(b, np.float64)) ** 2)) for a, b in pairs)
    return float((square / sum(float(np.sum(np.asarray(b, np.float64) ** 2)) for _, b in pairs)) ** 0.5)


def worst(found: Any, reference: Any) -> float:
    """The largest :func:`error` of one array."""
    return max(error(a, b) for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(reference), strict=True))


def checks(
    data: Path, device: jax.Device, size: str, windows: int, attentions: list[str], path: Path
) -> list[dict[str, Any]]:
    """Runs all checks; returns a row for each one."""
    cpu = jax.devices("cpu")[0]
    rows = cases.read_rows(data / "rows.npz", "svamp")
    batch = next(cases.batches(rows, Layout(windows, *cases.LENGTHS["svamp"])))
    short = list(itertools.islice(rows, batch.examples))
    longest = [max(len(row[index]) for row in short) for index in range(4)]
    # One sequence per row: lengths are rounded up to multiples of 32, which all implementations accept.
    layout = Layout(2 * len(short), *(-(-max(longest[i], longest[i + 2]) // 32) * 32 for i in (0, 1)), packed=False)
    unpacked = next(cases.batches([*short, short[0]], layout))
    shape = cases.SIZES[size]
    layers = {name: min(4, getattr(shape, name)) for name in ("num_encoder_layers", "num_decoder_layers")}
    config = dataclasses.replace(shape, dropout_rate=0.0, **layers)
    with jax.default_device(cpu):
        params = jax.device_get(jax.jit(functools.partial(init_params, config))(jax.random.key(0)))
    pool, made = ThreadPoolExecutor(6), []

    def run(where: jax.Device, config: T5Config, arrays: dict[str, Any], seed: int | None = None) -> Run:
        made.append(Run(pool, where, config, params, arrays, seed))
        return made[-1]

    dropped = dataclasses.replace(config, dropout_rate=0.1)
    still, with_dropout = run(cpu, config, batch.arrays), run(cpu, dropped, batch.arrays, 3)
    work = [("float32: unpacked = CPU's packed", FLOAT32, run(device, config, unpacked.arrays), still)]
    for attention in ["xla", *attentions]:
        changed = dataclasses.replace(dropped, attention=attention)
        if attention != "cudnn":  # cuDNN has no float32 attention
            name = f"float32, packed, dropout: {attention} = CPU's xla"
            work.append((name, FLOAT32, run(device, changed, batch.arrays, 3), with_dropout))
        changed = dataclasses.replace(changed, dtype="bfloat16")
        name = f"bfloat16, packed, dropout: {attention} = CPU's float32"
        work.append((name, BFLOAT16, run(device, changed, batch.arrays, 3), with_dropout))
        changed = dataclasses.replace(changed, dropout_rate=0.0)
        name = f"bfloat16, unpacked: {attention} = CPU's float32, packed"
        work.append((name, BFLOAT16, run(device, changed, unpacked.arrays), still))
    wait([one.compiled for one in made])
    out: list[dict[str, Any]] = []
    for name, bound, found, expected in work:
        row: dict[str, Any] = {"check": name, "bound": bound}
        try:
            (loss, gradients), (other, reference) = found.result, expected.result
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
        path.write_text(json.dumps({"device": device.device_kind, "checks": out}, indent=1) + "\n")
    return out


def main() -> None:
    parser = cases.parser(__doc__)
    parser.add_argument("--size", default="small", choices=cases.SIZES)
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--attentions", default="cudnn,triton")
    options = parser.parse_args()
    device = jax.devices()[0]
    attentions, path = options.attentions.split(","), options.out / "right.json"
    rows = checks(options.data, device, options.size, options.windows, attentions, path)
    raise SystemExit(not all(row["passed"] for row in rows))


if __name__ == "__main__":
    main()
