"""One training process of ``benchmarks.accelerator.end_to_end``: a student on token windows, or the demo.

    python -m benchmarks.accelerator.training_run '{"model_dir": …, "data": …, "size": "tiny", …}'

Appends a line of JSON to ``<model_dir>.losses.jsonl`` at each log line of the run. A process that is killed has written all
lines before.
"""

import dataclasses
import json
import os
import pathlib
import signal
import sys
import time
from typing import Any

import jax

from benchmarks.accelerator import cases
from distill.checkpoints.manager import CheckpointConfig, restore_student
from distill.inference.decoder import DecodeConfig, Decoder
from distill.inference.exact_match import ExactMatch
from distill.model.config import T5Config
from distill.model.parameters import init_params
from distill.precompile import chips
from distill.sharding.partitioning import MeshConfig
from distill.training import optimizers
from distill.training.callbacks import Callback
from distill.training.losses import TwoTaskLoss
from distill.training.timing import StepCosts
from distill.training.train import LoopConfig, TokenBatchesConfig, train

_COMMIT_S = 120.0


@dataclasses.dataclass(frozen=True)
class Spec:
    """What a process trains.

    Attributes:
      model_dir: of the run.
      data: token windows, a file.
      size: a name of :data:`cases.SIZES`.
      vocab_size: of the student.
      steps: of the run.
      batch_size: windows per update.
      checkpoint_period, log_period: steps.
      dtype: of the activations.
      spawned: seconds since 1970 when the process was started.
      kill_after: step after whose log line the process kills itself with SIGKILL, once a checkpoint is complete; None
        never.
    """

    model_dir: str
    data: str
    size: str
    vocab_size: int
    steps: int
    batch_size: int
    checkpoint_period: int
    log_period: int
    dtype: str
    spawned: float
    kill_after: int | None = None


class Losses(Callback):
    """Writes step, loss and time of each log line; kills the process at a given step."""

    def __init__(self, spec: Spec):
        self._spec, self._path = spec, pathlib.Path(f"{spec.model_dir}.losses.jsonl")
        layout = TokenBatchesConfig(spec.data, spec.batch_size).layout
        self._flops = cases.step_flops(student(spec), layout.windows, layout.encoder_length, layout.decoder_length)
        self._peak = chips.peak_flops(jax.devices()[0].device_kind)
        self.compiled_s: float | None = None

    def costs(self, compiled: jax.stages.Compiled, devices: int) -> Any:
        """Notes the time at which the step is compiled, and returns its model FLOPs."""
        self.compiled_s = time.time() - self._spec.spawned
        return StepCosts(self._flops, self._peak)

    def on_log(self, at: Any, metrics: Any) -> None:
        names = ("loss", "grad_norm", "steps_per_second", "tokens_per_second_per_device", "mfu")
        line = {"step": at.step, "pid": os.getpid(), "seconds": time.time() - self._spec.spawned}
        line |= {"compiled_s": self.compiled_s} | {name: metrics[name] for name in names if name in metrics}
        line["model_flops_per_step"] = self._flops
        if self._peak and "steps_per_second" in metrics:
            line["mfu_of_model_flops"] = self._flops * metrics["steps_per_second"] / self._peak
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if at.step == self._spec.kill_after:
            until = time.monotonic() + _COMMIT_S
            while not complete_checkpoints(self._spec.model_dir):
                if time.monotonic() > until:
                    raise TimeoutError(f"no checkpoint in {self._spec.model_dir} was complete after {_COMMIT_S:.0f} s")
                time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGKILL)


def complete_checkpoints(model_dir: str) -> list[int]:
    """The steps of the complete checkpoints of a run, ascending. Orbax renames a folder to its step once it is complete."""
    folder = pathlib.Path(model_dir) / "checkpoints"
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdigit()) if folder.is_dir() else []


def student(spec: Spec) -> T5Config:
    """T5 1.1 of a size, with dropout."""
    return dataclasses.replace(cases.SIZES[spec.size], vocab_size=spec.vocab_size, dtype=spec.dtype, attention="auto")


def run(spec: Spec) -> None:
    """Trains with the settings of gin/runs/distill.gin: Adafactor at 1e-3, both tasks, λ = 1."""
    losses = Losses(spec)
    train(
        spec.model_dir,
        model=student(spec),
        data=TokenBatchesConfig(spec.data, spec.batch_size),
        loss=TwoTaskLoss(),
        optimizer=optimizers.adafactor(1e-3),
        loop=LoopConfig(spec.steps, log_period=spec.log_period, chunk_tokens=4096),
        mesh=MeshConfig(1, 1, 1),
        checkpoints=CheckpointConfig(period=spec.checkpoint_period),
        callbacks=[losses],
        cost_model=losses.costs,
    )


def demo(data: str, out: str, steps: tuple[int, int], vocab_size: int) -> None:
    """Trains the student of ``distill demo`` (gin/recipes/demo_pretraining.gin, demo_student.gin) and scores its test rows.

    Writes ``<out>/demo.json``.
    """
    model = T5Config(
        vocab_size=vocab_size, embed_dim=64, num_heads=4, head_dim=16, mlp_dim=128, num_encoder_layers=2,
        num_decoder_layers=2, dropout_rate=0.1, logits_via_embedding=True,
    )  # fmt: skip
    mesh = MeshConfig(1, 1, 1)
    decoder = Decoder(model, mesh.build(), DecodeConfig(max_decode_len=3, max_input_len=32, batch_size=500))
    rows = ExactMatch(f"{data}/demo_test.npz", decoder)
    adamw = {"weight_decay": 0.03, "b2": 0.99, "relative": True}
    stages = (
        (
            "demo_pretraining",
            24,
            optimizers.linear_decay(peak=2e-2, steps=steps[0], warmup_steps=min(50, steps[0] // 2)),
        ),
        ("demo_student", 32, 2e-2),
    )
    with jax.set_mesh(mesh.build()):
        scores = {"random": rows(jax.jit(lambda key: init_params(model, key))(jax.random.key(0)))["exact_match"]}
    found: dict[str, Any] = {"rows": len(rows), "exact_match": scores, "stages": {}}
    initial = None
    for (name, batch_size, learning_rate), number in zip(stages, steps, strict=True):
        started = time.time()
        result = train(
            f"{out}/{name}",
            model=model,
            data=TokenBatchesConfig(f"{data}/{name}.npz", batch_size),
            loss=TwoTaskLoss(),
            optimizer=optimizers.adamw(learning_rate, **adamw),
            loop=LoopConfig(number, log_period=100, ema_decay=0.99, chunk_tokens=4096),
            mesh=mesh,
            checkpoints=CheckpointConfig(period=100_000),
            initial_checkpoint_path=initial,
        )
        initial = f"{out}/{name}"
        with jax.set_mesh(mesh.build()):
            _, params = restore_student(initial, model, mesh.build())
            scores[name] = rows(params)["exact_match"]
        found["stages"][name] = {
            "steps": result.step,
            "seconds": round(time.time() - started, 1),
            "phases": result.performance["phases"],
        }
    pathlib.Path(out, "demo.json").write_text(json.dumps(found, indent=2) + "\n")


def main() -> None:
    given = json.loads(sys.argv[1])
    if "demo" in given:
        demo(given["data"], given["out"], tuple(given["demo"]), given["vocab_size"])
    else:
        run(Spec(**given))


if __name__ == "__main__":
    main()
