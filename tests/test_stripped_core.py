"""The numerical core runs on a machine with JAX, Flax, Optax and Orbax: no TensorFlow, SeqIO, TFDS, CLU or gin."""

import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
PROGRAM = """
import sys

ABSENT = {"tensorflow", "tensorflow_text", "tensorflow_datasets", "seqio", "clu", "gin", "t5", "t5x", "array_record",
          "sentencepiece", "rouge_score", "sacrebleu", "matplotlib"}

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Finder())

import importlib, pkgutil

import distill
import distill.model, distill.sharding

for package in (distill.model, distill.sharding):
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)

import jax
import numpy as np
from flax import linen as nn

from distill import losses, optimizers
from distill.inference.decoder import DecodeConfig, Decoder
from distill.model.config import T5Config
from distill.sharding import partitioning
from distill.training.state import make_state, shardings_of
from distill.training.step import jit_step, make_train_step

model = T5Config(64, 16, 2, 8, 32, 1, 1)
mesh, rules = partitioning.MeshConfig(1, 1, 1).build(), partitioning.DEFAULT_RULES
optimizer = optimizers.adamw(1e-2)
rng = np.random.default_rng(0)
tokens = rng.integers(2, 64, (4, 8)).astype(np.int32)
batch = {
    "encoder_input_tokens": tokens,
    "decoder_input_tokens": np.pad(tokens[:, :-1], ((0, 0), (1, 0))),
    "decoder_target_tokens": tokens,
    "decoder_task_ids": np.array([[1] * 8, [2] * 8] * 2, np.int32),
    "decoder_loss_weights": np.ones((4, 8), np.float32),
}
with jax.set_mesh(mesh), nn.logical_axis_rules(list(rules)):
    state = make_state(model, optimizer, mesh, rules)
    before = jax.tree.map(np.asarray, state.params)
    step = jit_step(make_train_step(model, losses.TwoTaskLoss(), optimizer), shardings_of(state), mesh, None)
    state, metrics = step(state, partitioning.to_global(batch, mesh), jax.random.key(0))
    total, count = metrics["loss"]
    assert np.isfinite(float(total)) and float(total) > 0 and float(count) > 0, metrics
    assert int(state.step) == 1
    moved = jax.tree.map(lambda a, b: float(np.abs(a - np.asarray(b)).max()), before, state.params)
    assert all(change > 0 for change in jax.tree.leaves(moved)), moved
    decoder = Decoder(model, mesh, DecodeConfig(max_decode_len=5, max_input_len=8, batch_size=2, bucket=8))
    decoded = decoder(state.params, [row for row in tokens[:3]])
assert len(decoded) == 3 and all(len(one.tokens) <= 5 and one.log_prob < 0 for one in decoded), decoded
loaded = {name.split(".")[0] for name in sys.modules}
assert not loaded & ABSENT, loaded & ABSENT
for name in ABSENT:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        continue
    raise AssertionError(f"{name} was imported")
print("done")
"""


def test_the_core_trains_and_decodes_without_tensorflow():
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split()[-1] == "done"


def test_importing_the_package_loads_no_heavy_library():
    program = (
        "import time; start = time.perf_counter(); import distill; seconds = time.perf_counter() - start\n"
        "import sys; print(seconds, *(n for n in ('jax', 'tensorflow', 'flax', 'gin', 'numpy') if n in sys.modules))"
    )
    runs = [
        subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
        for _ in range(3)
    ]
    outputs = [run.stdout.split() for run in runs]
    assert all(len(output) == 1 for output in outputs), [run.stdout + run.stderr for run in runs]
    assert min(float(output[0]) for output in outputs) < 0.3
