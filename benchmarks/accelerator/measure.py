"""Measures an accelerator: is the training step right, how fast is it, and against PyTorch; JSON and PNG.

    python -m benchmarks.accelerator.measure --data=FOLDER --out=FOLDER [--train=FOLDER] [--parts=…] [--seconds=540]

``--data`` is the folder of :mod:`benchmarks.accelerator.prepare`, ``--train`` that of
:mod:`benchmarks.accelerator.prepare_training`; without it, nothing is trained end to end. The command needs JAX, Flax,
Optax, and for the other side PyTorch and transformers; no TensorFlow. The parts are processes that run one after the
other, those that decide most first, so that nothing disturbs a timing. A part that fails or exceeds its limit has its
error in the result, and the exit code is 1. A part is not started if less than its limit is left of ``--seconds``; the
result says so. ``results.json`` and ``results.png`` are written again after every part.
"""

import argparse
import dataclasses
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.accelerator import plot

_LIBRARIES = ("jax", "jaxlib", "flax", "optax", "torch", "transformers")


@dataclasses.dataclass(frozen=True)
class Part:
    """A process: its name, the module and its arguments, the seconds it may take, and the JSON file that it writes."""

    name: str
    arguments: Sequence[str]
    limit: float
    result: str


def all_parts(size: str | None, data: Path, train: Path | None, out: Path, peak: float | None) -> list[Part]:
    """The parts, those that decide most first.

    Args:
      size: measure this size only; None measures T5 1.1 Base and Large.
      data, train: folders with the rows and with the training data.
      out: folder for results, logs and parameters.
      peak: the device's peak, operations per second, or None.
    """
    both, scale = [f"--data={data}", f"--out={out}"], 3 if size else 1
    parts: list[Part] = []

    def add(name: str, limit: float, module: str, *arguments: str, result: str | None = None) -> None:
        parts.append(Part(name, [module, *arguments], limit * scale, result or f"{name}.json"))

    def training(module: str, group: str, limit: float) -> None:
        flags = [f"--size={size}", "--rounds=2"] if size else [f"--group={group}"]
        if module == "theirs" and peak is not None:
            flags.append(f"--peak={peak}")
        add(f"{module}_{size or group}", limit, module, *both, *flags)

    small = [f"--size={size}", "--windows=2"] if size else []
    few = [f"--size={size}", "--scale=16", "--rounds=2"] if size else []
    alone = ["--rows=2", "--heads=2", "--rounds=1", "--calls=1"] if size else []
    for group in ("base",) if size else ("base", "large"):
        training("ours", group, 150 if group != "large" else 300)
        training("theirs", group, 90)
    add("decoding_ours", 90, "decoding", f"--out={out}", "--side=ours", *few)
    add("decoding_theirs", 60, "decoding", f"--out={out}", "--side=theirs", *few)
    add("right", 120, "right", *both, *small)
    if train is not None:
        folder = out / "end_to_end"
        flags = (
            [f"--size={size}", "--seconds=8"] if size else ["--size=base", "--seconds=60", "--checkpoint_period=100"]
        )
        given = [f"--data={train}", f"--out={folder}", "--parts=kill,demo", *flags]
        add("end_to_end", 300, "end_to_end", *given, result="end_to_end/end_to_end.json")
    add("attention", 100, "attention", *both, *alone)
    if not size:
        add("tiles", 90, "tiles", *both)
        training("theirs", "compiled", 300)
        training("ours", "attention", 150)
        training("ours", "more", 200)
    return parts


def run(part: Part, out: Path) -> dict[str, Any]:
    """Runs a part; returns its exit code, its seconds, what it wrote, and the end of its output if it failed."""
    environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TOKENIZERS_PARALLELISM": "false"}
    module, *arguments = part.arguments
    log, started = out / f"{part.name}.log", time.monotonic()
    with log.open("w") as file:
        command = [sys.executable, "-m", f"benchmarks.accelerator.{module}", *arguments]
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
        try:
            process.wait(part.limit)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    path = out / part.result
    ended: dict[str, Any] = {
        "exit_code": process.returncode,
        "seconds": round(time.monotonic() - started, 1),
        "result": json.loads(path.read_text()) if path.exists() else None,
    }
    if process.returncode:
        ended["log"] = log.read_text(errors="replace")[-3000:]
    return ended


def machine() -> dict[str, Any]:
    """What is measured on: date, device, cores, and versions of libraries (None: not installed)."""
    versions: dict[str, str | None] = {}
    for name in _LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    query = "--query-gpu=name,memory.total,driver_version,clocks.max.sm,power.limit"
    try:
        found = subprocess.run(
            ["nvidia-smi", query, "--format=csv,noheader"], capture_output=True, text=True, timeout=20
        )
        gpu: str | None = found.stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        gpu = None
    here = {"date": time.strftime("%Y-%m-%d"), "gpu": gpu, "cores": os.cpu_count(), "python": platform.python_version()}
    return here | versions


def device_peak() -> float | None:
    """The bfloat16 peak of the device, looked up in a separate process, which then frees the device."""
    code = "import jax; from distill.precompile import chips; print(chips.peak_flops(jax.devices()[0].device_kind))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120).stdout.split()
    return float(found[-1]) if found and found[-1] != "None" else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--train", type=Path)
    parser.add_argument("--work", type=Path, help="folder for logs, profiles and parameters; by default OUT/work")
    parser.add_argument("--parts", help="comma-separated names; by default all")
    parser.add_argument("--seconds", type=float, default=3600.0, help="start no part that could end later")
    parser.add_argument("--size", help="measure this size only, for example tiny to test the benchmark on a CPU")
    options = parser.parse_args()
    work = options.work or options.out / "work"
    for folder in (work, options.out):
        folder.mkdir(parents=True, exist_ok=True)
    started, result = time.monotonic(), {"machine": machine(), "parts": {}}
    print(json.dumps(result["machine"]), flush=True)
    parts = all_parts(options.size, options.data, options.train, work, device_peak())
    names = [part.name for part in parts]
    wanted = options.parts.split(",") if options.parts else names
    if unknown := sorted(set(wanted) - set(names)):
        parser.error(f"--parts takes names of {', '.join(names)}; got {', '.join(unknown)}")
    for part in parts:
        left = options.seconds - (time.monotonic() - started)
        if part.name not in wanted:
            continue
        if left < part.limit:
            result["parts"][part.name] = {"exit_code": None, "skipped": f"{left:.0f} s are left of {part.limit:.0f} s"}
        else:
            result["parts"][part.name] = run(part, work)
        ended = result["parts"][part.name]
        how = ended.get("skipped") or f"exit code {ended['exit_code']}, {ended['seconds']} s"
        print(f"{part.name}: {how}", flush=True)
        result["seconds"] = round(time.monotonic() - started, 1)
        (options.out / "results.json").write_text(json.dumps(result, indent=1) + "\n")
        plot.draw(result, options.out / "results.png")
    raise SystemExit(any(part["exit_code"] != 0 for part in result["parts"].values()))


if __name__ == "__main__":
    main()
