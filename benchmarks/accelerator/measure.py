"""Measures an accelerator: is the training step right, how fast is it, and against PyTorch; one command, one JSON, one PNG.

    python -m benchmarks.accelerator.measure --data=FOLDER --out=FOLDER [--train=FOLDER] [--size=tiny]

``--data`` is the folder of :mod:`benchmarks.accelerator.prepare`, ``--train`` that of
:mod:`benchmarks.accelerator.prepare_training`; without it, nothing is trained end to end. The command needs JAX, Flax, Optax,
and for the other side PyTorch and transformers; no TensorFlow. The parts of a phase are processes that compile at the same
time. None is timed before all have compiled, and then only one at a time. A part that fails or exceeds its time has its error
in the result, and the exit code is 1. It takes about six minutes on an H100 with 16 cores.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.accelerator import gpu_lock

_MODULE = "benchmarks.accelerator."


@dataclass
class Part:
    """A process: its name, the module's arguments, the seconds it may take, and the JSON file that it writes."""

    name: str
    arguments: Sequence[str]
    limit: float
    result: str


def phases(size: str | None, data: Path, train: Path | None, out: Path) -> list[list[Part]]:
    """The parts to run, phase by phase."""
    both, scale = [f"--data={data}", f"--out={out}"], 6 if size else 1  # a CPU compiles the parts one after the other

    def part(name: str, limit: float, module: str, *arguments: str, result: str | None = None) -> Part:
        return Part(name, [module, *arguments], limit * scale, result or f"{name}.json")

    def training(module: str, group: str, limit: float) -> Part:
        flags = [f"--size={size}", "--rounds=2"] if size else [f"--group={group}"]
        deadline = [f"--deadline={130 * scale}"] if module == "ours" else []
        return part(f"{module}_{size or group}", limit, module, *both, *flags, *deadline)

    def end_to_end(name: str, limit: float) -> Part:
        folder = out / f"end_to_end_{name}"
        flags = [f"--size={size or 'base'}", f"--seconds={8 if size else 30}", f"--parts={name}"]
        flags += [] if size else ["--checkpoint_period=100"]
        result = f"end_to_end_{name}/end_to_end.json"
        return part(f"end_to_end_{name}", limit, "end_to_end", f"--data={train}", f"--out={folder}", *flags, result=result)

    def decoding(side: str) -> Part:
        flags = [f"--size={size}", "--scale=16", "--rounds=2"] if size else []
        return part(f"decoding_{side}", 110, "decoding", f"--out={out}", f"--side={side}", *flags)

    small = [f"--size={size}", "--windows=2"] if size else []
    alone = ["--rows=2", "--heads=2", "--rounds=1", "--calls=1"] if size else ["--tiles"]
    groups = [("ours", "both", 280)]
    groups += [("theirs", name, 275) for name in (["base"] if size else ["base", "large", "compiled"])]
    whole = [("demo", 150.0), ("kill", 200.0)] if train else []
    return [
        [*(training(*group) for group in groups), *(end_to_end(*each) for each in whole)],
        [
            part("right", 100, "right", *both, *small),
            part("attention", 100, "attention", *both, *alone),
            decoding("ours"),
            decoding("theirs"),
        ],
    ]


def run_phase(parts: list[Part], out: Path, report: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Runs the parts of a phase side by side; returns what they wrote, and how they ended."""
    environment = {
        **os.environ,
        "BENCHMARK_PARTS": " ".join(part.name for part in parts),
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "XLA_PYTHON_CLIENT_MEM_FRACTION": ".80",
        "TOKENIZERS_PARALLELISM": "false",
    }
    started, running = time.monotonic(), {}
    for part in parts:
        with open(out / f"{part.name}.log", "w") as log:
            running[part.name] = subprocess.Popen(
                [sys.executable, "-m", _MODULE + part.arguments[0], *part.arguments[1:]],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment | {"BENCHMARK_PART": part.name},
            )
    ended: dict[str, Any] = {}
    while len(ended) < len(parts):
        time.sleep(0.2)
        for part in parts:
            process, seconds = running[part.name], time.monotonic() - started
            if part.name in ended or (process.poll() is None and seconds < part.limit):
                continue
            if process.poll() is None:
                process.kill()
                process.wait()
            gpu_lock.ready(out, part.name)
            path = out / part.result
            ended[part.name] = {
                "exit_code": process.returncode,
                "seconds": round(seconds, 1),
                "result": json.loads(path.read_text()) if path.exists() else None,
            }
            report(ended)
            if process.returncode:
                ended[part.name]["log"] = (out / f"{part.name}.log").read_text()[-3000:]
            print(f"{part.name}: exit code {process.returncode} after {seconds:.0f} s", flush=True)
    return ended


def machine() -> dict[str, Any]:
    """What was measured on."""
    versions = {}
    for name in ("jax", "jaxlib", "flax", "optax", "torch", "transformers"):
        try:
            versions[name] = __import__("importlib.metadata", fromlist=["version"]).version(name)
        except Exception:
            versions[name] = None
    gpu = None
    try:
        query = "--query-gpu=name,memory.total,driver_version,clocks.sm,clocks.max.sm,power.limit"
        gpu = subprocess.run(
            ["nvidia-smi", query, "--format=csv,noheader"], capture_output=True, text=True, timeout=20
        ).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        pass
    return {"date": time.strftime("%Y-%m-%d"), "gpu": gpu, "cores": os.cpu_count(), "python": platform.python_version()} | versions


def device_peak() -> float | None:
    """The bfloat16 peak of the device, looked up in a process of its own, which then frees the device."""
    code = "import jax; from distill.precompile import chips; print(chips.peak_flops(jax.devices()[0].device_kind))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60).stdout.split()
    return float(found[-1]) if found and found[-1] != "None" else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--work", type=Path, help="folder for logs, profiles and parameters; by default OUT/work")
    parser.add_argument("--train", type=Path)
    parser.add_argument("--size", help="run everything at this size, to test the benchmark itself on a CPU")
    options = parser.parse_args()
    work = options.work or options.out / "work"
    for folder in (work, options.out):
        folder.mkdir(parents=True, exist_ok=True)
    for old in work.glob("ready_*"):
        old.unlink()
    started = time.monotonic()
    result: dict[str, Any] = {"machine": machine(), "parts": {}}
    print(json.dumps(result["machine"]), flush=True)
    peak = device_peak()
    for parts in phases(options.size, options.data, options.train, work):
        for part in parts:
            if part.arguments[0] == "theirs" and peak is not None:
                part.arguments = [*part.arguments, f"--peak={peak}"]

        def report(ended: dict[str, Any]) -> None:
            result["parts"] |= ended
            result["seconds"] = round(time.monotonic() - started, 1)
            (options.out / "results.json").write_text(json.dumps(result, indent=1) + "\n")

        report(run_phase(parts, work, report))
    raise SystemExit(any(part["exit_code"] for part in result["parts"].values()))


if __name__ == "__main__":
    main()
