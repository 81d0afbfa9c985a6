"""Checkpoints on a ``gs://`` that answers 429 and 503, cuts contents short and refuses, through the real clients."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

import fake_gcs

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the server's certificate")

ROOT = pathlib.Path(__file__).resolve().parents[3]
PROGRAM = """
import json, os, sys
import jax, numpy as np
from distill.checkpoints.manager import Checkpoints
from distill.cli import errors
from distill.model.config import T5Config
from distill.training.state import TrainState
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
config = T5Config(16, 8, 2, 4, 8, num_encoder_layers=1, num_decoder_layers=1)
state = TrainState(jax.numpy.int32(3), {"w": jax.numpy.arange(300_000, dtype="float32")}, {"count": jax.numpy.int32(3)})
position = {"seed": 0, "draws": 8, "consumed": {"task": 8}, "data": {"task": "f" * 64}}
progress = {"best": 0.5, "best_step": 0, "stale": 0, "examples": 8, "seconds": 1.0, "stopped": None}
for line in sys.stdin:
    action, folder = json.loads(line)
    try:
        saver = Checkpoints(folder, config)
        if action == "save":
            saver.save(state, position, progress)
            saver.wait()
            answer = "saved"
        else:
            restored, found, _ = saver.restore(state)
            equal = all(np.array_equal(*pair) for pair in zip(jax.tree.leaves(state), jax.tree.leaves(restored)))
            answer = "equal" if equal and found["draws"] == 8 else "other"
    except Exception as error:
        answer = errors.explain(error) or repr(error)
    print(json.dumps(answer), file=answers, flush=True)
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The storage, and a function that asks a process to save or to restore."""
    with fake_gcs.serving(tmp_path_factory.mktemp("server")) as (storage, environment):
        retries = {"GCS_RETRY_CONFIG_MAX_RETRIES": "5", "GCS_RETRY_CONFIG_INIT_DELAY_TIME_US": "10000"}
        given = {**os.environ, **environment, **retries, "PYTHONPATH": os.fspath(ROOT), "JAX_PLATFORMS": "cpu"}
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=given
        )

        def ask(action, folder):
            process.stdin.write(json.dumps([action, folder]) + "\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())

        yield storage, ask
        process.kill()
        process.wait()


def first_of(kind, parts):
    """Disturbs the first request of each object whose name contains one of ``parts``."""
    left = set(parts)

    def disturb(method, name):
        if kind == "cut" and method != "GET":
            return None
        for part in [part for part in left if part in name]:
            left.remove(part)
            return kind
        return None

    return disturb


@pytest.fixture(scope="module")
def saved(served):
    """A model directory with a checkpoint, which no test changes."""
    _, ask = served
    assert ask("save", "gs://bucket/run") == "saved"
    assert ask("restore", "gs://bucket/run") == "equal"
    return "gs://bucket/run"


@pytest.fixture
def run(served, saved):
    """The storage, the function that asks, and the model directory; no request is disturbed before and after."""
    storage, ask = served
    storage.disturb = lambda method, name: None
    yield storage, ask, saved
    storage.disturb = lambda method, name: None


@pytest.mark.parametrize("kind", [429, 503, "cut"])
def test_a_passing_fault_is_retried(run, kind):
    storage, ask, folder = run
    storage.disturb = first_of(kind, ["digests.json", "manifest.ocdbt", "position/metadata", "ocdbt.process_0/d"])
    assert ask("restore", folder) == "equal"
    storage.disturb = first_of(kind, ["manifest.ocdbt", "ocdbt.process_0/d"])
    assert ask("save", f"{folder}-{kind}") == "saved"
    assert ask("restore", f"{folder}-{kind}") == "equal"


def test_a_refused_object_is_named_and_no_checkpoint_is_set_aside(run):
    storage, ask, folder = run
    before = set(storage.objects)
    storage.disturb = lambda method, name: 403 if "/state/" in name else None
    code, text = ask("restore", folder)
    assert code == 74 and folder in text and "\n" not in text
    storage.disturb = lambda method, name: None
    assert set(storage.objects) >= before
    assert ask("restore", folder) == "equal"


def test_a_refused_save_is_named(run):
    storage, ask, folder = run
    storage.disturb = lambda method, name: 403 if method == "POST" and "/state/" in name else None
    code, text = ask("save", f"{folder}-refused")
    assert code == 74 and f"{folder}-refused" in text and "\n" not in text
