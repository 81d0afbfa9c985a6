"""Modules that must import where only JAX and its libraries are installed."""

import os
import pathlib
import pkgutil
import subprocess
import sys

import distill.model

ABSENT = ("array_record", "gin", "seqio", "tensorflow", "tensorflow_datasets", "tensorflow_text")
MODULES = (
    "distill.training.train",
    "distill.training.joint_seeds",
    "distill.training.replay",
    "distill.data.token_batches",
    "distill.inference.decoder",
    "distill.inference.exact_match",
    "distill.precompile.estimates",
    "distill.precompile.step_costs",
    *(f"distill.model.{module.name}" for module in pkgutil.iter_modules(distill.model.__path__)),
)


def test_training_and_decoding_import_without_tensorflow_seqio_and_gin():
    code = f"""
import importlib, sys
sys.modules.update(dict.fromkeys({ABSENT!r}))
for name in {MODULES!r}:
    importlib.import_module(name)
print(sorted(name for name in {ABSENT!r} if sys.modules[name] is not None))
"""
    root = pathlib.Path(__file__).resolve().parents[1]
    environment = os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["[]"]
