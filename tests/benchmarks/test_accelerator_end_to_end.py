"""The end-to-end run at its smallest, in processes that find neither TensorFlow nor SeqIO nor gin."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from benchmarks.accelerator import end_to_end
from distill.data import token_batches
from distill.data.batches import BatchStream
from distill.data.packing import Layout
from distill.inference import exact_match
from distill.tasks import jsonl, registration
from tests_support import write_rows, xla_flags

ROOT = pathlib.Path(__file__).resolve().parents[2]
ABSENT = ("array_record", "gin", "seqio", "tensorflow", "tensorflow_datasets", "tensorflow_text")


@pytest.fixture
def data(tmp_path):
    """A folder as ``prepare_training`` writes it, of the sums of the other tests in bytes."""
    folder = tmp_path / "data"
    folder.mkdir()
    write_rows(tmp_path / "train.jsonl", 40)
    fields = {"input": "question", "rationale": "why", "label": "answer"}
    dataset = jsonl.dataset({"train": tmp_path / "train.jsonl"}, name="sums", fields=fields, validation_fraction=0.0)
    stream = BatchStream(registration.register(dataset, "bytes").paired, Layout(8, 32, 32))
    token_batches.write(folder / "student.npz", stream)
    for name in ("demo_pretraining", "demo_student"):
        token_batches.write(folder / f"{name}.npz", stream, 4)
    row = np.array([5, 1], np.int32)
    exact_match.write_rows(folder / "demo_test.npz", [row], [row])
    (folder / "manifest.json").write_text(json.dumps({"vocab_size": 384, "demo_vocab_size": 384}))
    return folder


def run(data, out, *flags):
    """Runs the program with a folder first on the path whose packages cannot be imported."""
    absent = out.parent / "absent"
    absent.mkdir(exist_ok=True)
    for name in ABSENT:
        (absent / f"{name}.py").write_text(f"raise ImportError('{name} is not installed')\n")
    environment = os.environ | {
        "PYTHONPATH": f"{absent}{os.pathsep}{ROOT}",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": xla_flags(1),
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",  # both parts run the same step
    }
    command = [sys.executable, "-m", "benchmarks.accelerator.end_to_end", f"--data={data}", f"--out={out}", *flags]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, check=False)
    return done, json.loads((out / end_to_end.RESULT).read_text())


def test_a_killed_run_continues_with_the_losses_of_one_that_was_not(data, tmp_path):
    flags = ("--size=nano", "--seconds=1", "--same_steps=5", "--dtype=float32")
    done, found = run(data, tmp_path / "out", *flags)
    assert done.returncode == 0, done.stdout[-3000:]
    assert found["failed"] == [] and found["device"]["platform"] == "cpu"
    assert found["same"]["resumed_from"] == 3
    assert [row["step"] for row in found["same"]["losses"]] == [4, 5]
    assert found["same"]["equal"] is True
    killed = found["kill"]
    assert killed["kill_signal"] == "SIGKILL"
    assert killed["resumed_from"] == killed["complete_checkpoints_at_kill"][-1] < killed["killed_at_step"]
    assert killed["performance"]["attempts"] == 2 and killed["performance"]["steps"] == killed["steps"]
    record = json.loads((tmp_path / "out" / "same_killed" / "record.json").read_text())
    assert record["data"]["train"]["fingerprint"] == token_batches.Windows.read(data / "student.npz").fingerprint


def test_a_part_that_fails_is_recorded_and_the_exit_code_is_1(data, tmp_path):
    (data / "student.npz").write_bytes(b"nothing")
    (data / "demo_test.npz").unlink()
    done, found = run(data, tmp_path / "out", "--parts=kill", "--size=nano", "--seconds=1")
    assert done.returncode == 1
    assert found["failed"] == ["kill"]
    assert "holds no token windows" in found["kill"]["error"]


def test_the_step_that_a_run_continues_from_is_the_one_that_it_prints(tmp_path):
    log = tmp_path / "log"
    log.write_text("reading windows.npz\n")
    assert end_to_end.resumed_from(log) == 0
    log.write_text("reading windows.npz\ncontinuing from step 40 of runs/base\nstep 50/80 loss 1\n")
    assert end_to_end.resumed_from(log) == 40
