"""Several processes train what one process trains: losses, parameters, checkpoints, whoever goes on with them."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.util import event_pb2

from tests_support import write_rows

ROOT = pathlib.Path(__file__).resolve().parents[2]


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def launch(processes, devices, arguments, timeout=240):
    """Runs `distill train` in several processes with some host devices each; returns their outputs."""
    environment = {
        **os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    command = [sys.executable, "-m", "distill.main", "train", *arguments]
    address = f"127.0.0.1:{free_port()}"
    running = []
    for number in range(processes):
        more = [f"--coordinator_address={address}", f"--num_processes={processes}", f"--process_id={number}"]
        running.append(
            subprocess.Popen(
                command + (more if processes > 1 else []),
                cwd=ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    try:
        outputs = [process.communicate(timeout=timeout)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0] * processes, "\n".join(outputs)
    return outputs


@pytest.fixture
def arguments(tmp_path):
    write_rows(tmp_path / "train.jsonl", 40)
    write_rows(tmp_path / "test.jsonl", 8, start=50)
    bindings = {
        "FILES": {split: str(tmp_path / f"{split}.jsonl") for split in ("train", "test")},
        "FIELDS": {"input": "question", "rationale": "why", "label": "answer"},
        "VOCABULARY_PATH": "bytes", "VOCAB_SIZE": 384, "TRAIN_STEPS": 12, "EVAL_PERIOD": 6, "LOG_PERIOD": 1,
        "TASK_FEATURE_LENGTHS": {"inputs": 48, "targets": 48}, "MAX_DECODE_LEN": 4, "EVAL_BATCH_SIZE": 8,
        "network.T5Config.num_encoder_layers": 1, "network.T5Config.num_decoder_layers": 1,
        "network.T5Config.embed_dim": 16, "network.T5Config.mlp_dim": 16, "network.T5Config.num_heads": 2,
        "BATCH_SIZE": 8, "DROPOUT_RATE": 0.0, "partitioning.MeshConfig.fsdp": 2, "CHECKPOINT_PERIOD": 6,
    }  # fmt: skip
    files = ["gin/models/t5_1_1_tiny.gin", "gin/tasks/jsonl.gin", "gin/runs/distill.gin", "gin/hardware/cpu.gin"]

    def given(directory, **changes):
        return [f"--gin_file={file}" for file in files] + [
            f"--gin.{name}={value!r}" for name, value in {**bindings, "MODEL_DIR": str(directory), **changes}.items()
        ]

    return given


def losses(directory):
    """Training loss by step, from the run's TensorBoard files."""
    out = {}
    for path in sorted((directory / "logs").glob("events*")):
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            event = event_pb2.Event.FromString(record)
            for value in event.summary.value:
                if value.tag == "train/loss":
                    out[event.step] = float(tf.make_ndarray(value.tensor))
    return out


def test_two_processes_train_like_one_and_one_goes_on_where_two_stopped(tmp_path, arguments):
    launch(1, 4, arguments(tmp_path / "one", FORM="mixed"))
    outputs = launch(2, 2, arguments(tmp_path / "two", FORM="mixed", TRAIN_STEPS=6))
    assert "step 6/6" in outputs[0]
    assert "step 6/6" not in outputs[1]
    (tmp_path / "two" / "result.json").unlink()
    launch(1, 2, arguments(tmp_path / "two", FORM="mixed"))
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert list(one) == list(two) == list(range(1, 13))
    np.testing.assert_allclose(list(one.values()), list(two.values()), rtol=1e-5)
    results = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("one", "two")]
    assert results[0]["test"] == results[1]["test"]
