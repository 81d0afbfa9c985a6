"""The real training loop on one accelerator, end to end: it learns, it is killed, and it continues.

Needs neither TensorFlow nor SeqIO. The data come from ``benchmarks.accelerator.prepare_training``.

    python -m benchmarks.accelerator.end_to_end --data=FOLDER --out=FOLDER --seconds=100 [--size=base] [--demo]

Three parts, each in separate processes and with a time limit. A part that fails leaves its error in the result, and the
others still run.

- ``demo`` (with ``--demo``): trains the student of ``distill demo``, and scores its test rows before and after.
- ``kill``: trains T5 1.1 of a size for about ``--seconds``, kills it with SIGKILL after the first complete checkpoint,
  starts it again, and requires that it continues from the newest complete checkpoint and ends.
- ``same``: a tiny student, once without a break and once killed and resumed; compares the losses of all steps.

Writes ``FOLDER/end_to_end.json``. Exit code 1 if a part failed.
"""

import argparse
import json
import os
import pathlib
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

RESULT = "end_to_end.json"
# Windows per update (32: gin/hardware/gpu_1.gin), steps between checkpoints, steps between log lines.
SETTINGS = {"base": (32, 40, 10), "small": (32, 40, 10), "tiny": (8, 10, 5), "nano": (4, 3, 5)}
_START_S = 240.0  # for imports, compilation and the last checkpoint, beyond the seconds of training
_DEMO_S = 300.0
_SAME_S = 240.0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of benchmarks.accelerator.prepare_training")
    parser.add_argument("--out", required=True, help="folder for runs and the result; runs there are removed first")
    parser.add_argument("--seconds", type=float, default=100.0, help="of training in part kill")
    parser.add_argument("--size", default="base", choices=sorted(SETTINGS))
    parser.add_argument("--batch_size", type=int, help="windows per update of part kill; the size has a default")
    parser.add_argument("--checkpoint_period", type=int, help="steps, of part kill; the size has a default")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--parts", default="kill,same", help="of kill, same and demo")
    parser.add_argument("--demo", action="store_true", help="also run part demo")
    parser.add_argument("--deterministic", action="store_true", help="GPU: part same with --xla_gpu_deterministic_ops")
    parser.add_argument("--demo_steps", default="1000,400", help="of pretraining and of the student")
    parser.add_argument("--same_steps", type=int, default=8, help="of part same")
    options = parser.parse_args()
    unknown = set(options.parts.split(",")) - {"kill", "same", "demo", ""}
    if unknown:
        parser.error(f"--parts takes kill, same and demo; got {', '.join(sorted(unknown))}")
    return options


class Failed(Exception):
    """A part did not do what it must."""


class Process:
    """A training process; its output goes to a file."""

    def __init__(self, given: dict[str, Any], log: pathlib.Path, cache: pathlib.Path, xla_flags: str = ""):
        command = [sys.executable, "-m", "benchmarks.accelerator.training_run", json.dumps(given)]
        environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache), "PYTHONUNBUFFERED": "1"}
        environment["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {xla_flags}".strip()
        self.log = log
        with log.open("a", encoding="utf-8") as file:
            self.process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)

    def wait(self, seconds: float) -> int:
        """Waits for the end and returns the exit code; kills it after the given time, and then raises Failed."""
        try:
            return self.process.wait(max(1.0, seconds))
        except subprocess.TimeoutExpired:
            self.kill()
            raise Failed(f"no end after {seconds:.0f} s: {self.tail()}") from None

    def kill(self) -> None:
        """Ends it with SIGKILL."""
        self.process.kill()
        self.process.wait()

    def tail(self) -> str:
        """The last lines of its output."""
        return " | ".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-6:])[-1500:]

    def must_end(self, seconds: float) -> None:
        """Raises Failed unless it ends by itself with exit code 0."""
        code = self.wait(seconds)
        if code:
            raise Failed(f"exit code {code}: {self.tail()}")


def lines_of(model_dir: pathlib.Path) -> list[dict[str, Any]]:
    """The log lines of a run, over all its processes."""
    path = pathlib.Path(f"{model_dir}.losses.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def checkpoints_of(model_dir: pathlib.Path) -> list[int]:
    """The steps of the complete checkpoints; the same rule as ``training_run.complete_checkpoints``, without JAX."""
    return sorted(int(path.name) for path in (model_dir / "checkpoints").glob("*") if path.name.isdigit())


def resumed_from(log: pathlib.Path) -> int:
    """The step that the program itself reports to continue from; 0 if it starts anew."""
    found = re.findall(r"continuing from step (\d+)", log.read_text(encoding="utf-8", errors="replace"))
    return int(found[-1]) if found else 0


class Parts:
    """The three parts."""

    def __init__(self, options: argparse.Namespace):
        self.options = options
        self.data, self.out = pathlib.Path(options.data).resolve(), pathlib.Path(options.out).resolve()
        self.manifest = json.loads((self.data / "manifest.json").read_text())

    def spec(self, name: str, size: str, **changes: Any) -> dict[str, Any]:
        """The arguments of a training process."""
        batch_size, checkpoint_period, log_period = SETTINGS[size]
        return {
            "model_dir": str(self.out / name),
            "data": str(self.data / "student.npz"),
            "size": size,
            "vocab_size": self.manifest["vocab_size"],
            "batch_size": batch_size,
            "checkpoint_period": checkpoint_period,
            "log_period": log_period,
            "dtype": self.options.dtype,
        } | changes

    def start(self, spec: dict[str, Any], log: str, xla_flags: str = "") -> Process:
        return Process(spec | {"spawned": time.time()}, self.out / f"{log}.log", self.out / "compiled", xla_flags)

    def demo(self) -> dict[str, Any]:
        """Trains the demo's student and scores it."""
        steps = [int(number) for number in self.options.demo_steps.split(",")]
        given = {
            "demo": steps,
            "data": str(self.data),
            "out": str(self.out),
            "vocab_size": self.manifest["demo_vocab_size"],
        }
        process = Process(given, self.out / "demo.log", self.out / "compiled")
        process.must_end(_DEMO_S)
        found = json.loads((self.out / "demo.json").read_text())
        before, after = found["exact_match"]["random"], found["exact_match"]["demo_student"]
        if not after > before:
            raise Failed(f"exact match is {after} % after training and {before} % before")
        return found

    def kill(self) -> dict[str, Any]:
        """Trains, kills, resumes."""
        options, directory = self.options, self.out / "kill"
        given = {"batch_size": options.batch_size, "checkpoint_period": options.checkpoint_period}
        spec = self.spec("kill", options.size, **{name: value for name, value in given.items() if value})
        first = self.start(spec | {"steps": 1_000_000}, "kill_1")
        limit = time.monotonic() + options.seconds + _START_S
        while True:
            lines, saved = lines_of(directory), checkpoints_of(directory)
            trained = lines[-1]["seconds"] - lines[0]["seconds"] if lines else 0.0
            # Later than the checkpoint, so that the kill undoes updates.
            if saved and lines[-1]["step"] > saved[-1] and trained >= 0.4 * options.seconds:
                break
            if first.process.poll() is not None:
                raise Failed(f"ended before it was killed, exit code {first.process.returncode}: {first.tail()}")
            if time.monotonic() > limit:
                first.kill()
                raise Failed(f"no complete checkpoint and later step in time: {first.tail()}")
            time.sleep(0.05)
        first.kill()
        lines, saved = lines_of(directory), checkpoints_of(directory)
        reached, logged = lines[-1]["step"], lines
        rate = (logged[-1]["step"] - logged[0]["step"]) / max(1e-3, logged[-1]["seconds"] - logged[0]["seconds"])
        steps = reached + max(2 * spec["log_period"], round(0.6 * options.seconds * rate))
        second = self.start(spec | {"steps": steps}, "kill_2")
        second.must_end(options.seconds + _START_S)
        result = json.loads((directory / "result.json").read_text())
        continued = resumed_from(second.log)
        later = lines_of(directory)[len(lines) :]
        losses = [[line["step"], line["loss"]] for line in (*lines, *later)]
        found = {
            "size": options.size,
            "dtype": options.dtype,
            "batch_size": spec["batch_size"],
            "kill_signal": signal.Signals(-first.process.returncode).name,
            "killed_at_step": reached,
            "complete_checkpoints_at_kill": saved,
            "resumed_from": continued,
            "steps": result["step"],
            "seconds_to_compiled_step": [lines[0]["compiled_s"], later[0]["compiled_s"]],
            "seconds_to_first_log": [lines[0]["seconds"], later[0]["seconds"]],
            "steps_per_second": [line.get("steps_per_second") for line in later],
            "mfu_of_model_flops": [line.get("mfu_of_model_flops") for line in later],
            "model_flops_per_step": later[0]["model_flops_per_step"],
            "mfu_of_log_lines": [line.get("mfu") for line in later],
            "losses": losses,
            "performance": result["performance"],
        }
        if not continued or continued != saved[-1]:
            raise Failed(f"continued from step {continued}, expected {saved[-1]}: {second.tail()}")
        if result["step"] != steps or result["stopped"] is not None or later[0]["step"] <= continued:
            raise Failed(f"the resumed run ended at step {result['step']} of {steps}: {second.tail()}")
        if not later[-1]["loss"] < lines[0]["loss"]:
            raise Failed(f"the loss did not fall: {lines[0]['loss']} at the beginning, {later[-1]['loss']} at the end")
        return found

    def same(self) -> dict[str, Any]:
        """Compares a run that was killed and resumed with one that was not."""
        steps, size = self.options.same_steps, "nano" if self.options.size == "nano" else "tiny"
        flags = "--xla_gpu_deterministic_ops=true" if self.options.deterministic else ""
        common = {"steps": steps, "checkpoint_period": 3, "log_period": 1, "batch_size": 4}
        self.start(self.spec("same_whole", size, **common), "same_whole", flags).must_end(_SAME_S)
        killed = self.spec("same_killed", size, **common)
        first = self.start(killed | {"kill_after": 5}, "same_killed_1", flags)
        if (code := first.wait(_SAME_S)) != -signal.SIGKILL:
            raise Failed(f"exit code {code} of the process that kills itself: {first.tail()}")
        second = self.start(killed, "same_killed_2", flags)
        second.must_end(_SAME_S)
        whole = {line["step"]: line["loss"] for line in lines_of(self.out / "same_whole")}
        pids = [line["pid"] for line in lines_of(self.out / "same_killed")]
        resumed = {line["step"]: line["loss"] for line in lines_of(self.out / "same_killed") if line["pid"] == pids[-1]}
        continued = resumed_from(second.log)
        if not continued or sorted(resumed) != list(range(continued + 1, steps + 1)):
            raise Failed(f"continued from step {continued} with the steps {sorted(resumed)}: {second.tail()}")
        pairs = [(step, whole[step], loss) for step, loss in sorted(resumed.items())]
        difference = max(abs(loss / other - 1.0) for _, other, loss in pairs)
        return {
            "resumed_from": continued,
            "losses": [{"step": step, "uninterrupted": other, "resumed": loss} for step, other, loss in pairs],
            "largest_relative_difference": difference,
            "equal": difference == 0.0,
        }


def device() -> dict[str, Any]:
    """Device and library versions, from a separate process: this one must not take the accelerator's memory."""
    code = (
        "import json, jax, numpy, flax, optax, orbax.checkpoint as o; d = jax.devices()[0]; "
        "print(json.dumps({'platform': d.platform, 'kind': d.device_kind, 'jax': jax.__version__, "
        "'numpy': numpy.__version__, 'flax': flax.__version__, 'optax': optax.__version__, 'orbax': o.__version__}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=180, check=False)
    if done.returncode:
        raise Failed(f"JAX finds no device: {done.stderr[-800:]}")
    return json.loads(done.stdout.splitlines()[-1]) | {"python": platform.python_version()}


def main() -> int:
    options = arguments()
    out = pathlib.Path(options.out)
    if (out / RESULT).exists():  # an earlier run of this program
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    parts = Parts(options)
    named = {*options.parts.split(","), *(["demo"] if options.demo else [])}
    every: dict[str, Callable[[], dict[str, Any]]] = {"kill": parts.kill, "same": parts.same, "demo": parts.demo}
    wanted = {"device": device} | {name: part for name, part in every.items() if name in named}
    found: dict[str, Any] = {"settings": vars(options), "data": parts.manifest, "failed": []}
    for name, part in wanted.items():
        started = time.monotonic()
        try:
            found[name] = part()
        except Exception as error:  # recorded; the other parts still run
            found[name] = {"error": f"{type(error).__name__}: {error}"}
            found["failed"].append(name)
        found[name]["wall_seconds"] = round(time.monotonic() - started, 1)
        (out / RESULT).write_text(json.dumps(found, indent=2) + "\n")
        print(name, "FAILED" if name in found["failed"] else "ok", found[name].get("error", ""), flush=True)
    print(json.dumps({name: found[name] for name in wanted}, indent=2))
    return 1 if found["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
