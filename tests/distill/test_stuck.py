"""Real processes that hang: each ends in bounded time with exit code 75, and says where every thread is."""

import signal
import socket
import time

import pytest

from distill import exit_codes, stuck
from tests_support import xla_flags

PATIENCE_S = 600
# A training of a tiny student whose data thread blocks after some batches.
BLOCKED = """
import pathlib, sys, threading
sys.path.insert(0, "tests")
from distill import stuck
from distill.data import batches
from distill.tasks import jsonl, registration
from distill.model.network import T5Config
from distill.training import optimizers, train
from distill.training.losses import TwoTaskLoss
from tests_support import write_rows
folder = pathlib.Path(sys.argv[1])
write_rows(folder / "train.jsonl", 40)
fields = {"input": "question", "rationale": "why", "label": "answer"}
dataset = jsonl.dataset({"train": folder / "train.jsonl"}, name="sums", fields=fields)
names = registration.register(dataset, "bytes")
model = T5Config(384, embed_dim=8, num_heads=1, head_dim=8, mlp_dim=8, num_encoder_layers=1, num_decoder_layers=1)
following, made = batches.BatchStream.__next__, []
def blocks(self):
    made.append(1)
    if len(made) < 8:
        return following(self)
    stuck._watch.after_s = 5.0  # compilation may take longer
    threading.Event().wait()
batches.BatchStream.__next__ = blocks
train.train(
    str(folder / "run"), model=model, data=train.DataConfig(names.paired, {"inputs": 48, "targets": 48}, batch_size=2),
    loss=TwoTaskLoss(lam=0.5), optimizer=optimizers.adamw(1e-2),
    loop=train.LoopConfig(train_steps=1000, log_period=1, stuck_after_s=900.0),
)
"""
# Two processes that sum their steps across processes for ever.
TOGETHER = """
import sys
import jax, numpy as np
jax.distributed.initialize(sys.argv[2], 2, int(sys.argv[3]), heartbeat_timeout_seconds=100)
jax.config.update("jax_cpu_collectives_implementation", "gloo")
from jax.experimental import multihost_utils
from distill import stuck
with stuck.watching(4.0, sys.argv[1], lambda: "do this"):
    for step in range(10**9):
        stuck.doing("making a step", step)
        multihost_utils.process_allgather(np.int32(step))
        if step == 20:
            print("running", flush=True)
"""


@pytest.fixture
def start(warm, tmp_path):
    """Starts programs in new processes; none outlives the test."""
    started = []

    def go(program, *arguments):
        script = tmp_path / f"program_{len(started)}.py"
        script.write_text(program)
        given = [str(script), *map(str, arguments)]
        started.append(warm.start(given, script.with_suffix(".log"), {"XLA_FLAGS": xla_flags(1)}, "script_command"))
        return started[-1]

    yield go
    for process in started:
        process.send_signal(signal.SIGKILL)
        process.wait()


def test_a_data_thread_that_blocks(start, tmp_path):
    process = start(BLOCKED, tmp_path)
    code = process.wait(PATIENCE_S)
    told = process.output
    assert code == exit_codes.STOPPED, told
    message = told.strip().splitlines()[-1]
    assert "process is stuck: nothing has happened for" in message and "(STUCK_AFTER_S = 5)" in message
    assert "while waiting for a batch" in message and "after its last step, 7" in message
    (file,) = (tmp_path / "run" / "stacks").iterdir()
    assert f"all stacks are in {file}" in message
    stacks = file.read_text()
    assert "thread batches (" in stacks and "in blocks" in stacks
    assert "thread MainThread (" in stacks and "batches = [next(s) if lane.active" in stacks
    assert stacks in told


def test_a_process_that_stops_ends_the_other(start, tmp_path):
    """SIGSTOP to process 1 leaves its connection open; process 0 waits in a collective, and names it."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{server.getsockname()[1]}"
    both = [start(TOGETHER, tmp_path, address, number) for number in range(2)]
    both[0].wait_for("running\n")
    time.sleep(2)  # both have reported
    both[1].send_signal(signal.SIGSTOP)
    stopped = time.monotonic()
    code = both[0].wait(PATIENCE_S)
    assert time.monotonic() - stopped < 30
    told = both[0].output
    assert code == exit_codes.STOPPED, told
    message = told.strip().splitlines()[-1]
    assert "process 0 of 2 is stuck" in message and "while making a step" in message
    assert "process 1: step " in message and "no report for " in message
    assert "process_allgather" in told
    (warning,) = [
        line for line in told.splitlines() if line.startswith("distill: process 1 of 2 has reported nothing for")
    ]
    assert warning.endswith("; do this") and told.index(warning) < told.index("process 0 of 2 is stuck")


def test_signs_of_life_keep_a_process(tmp_path):
    with stuck.watching(0.4, tmp_path):
        for _ in range(10):
            time.sleep(0.1)
            stuck.alive()
    assert stuck._watch is None
    assert not (tmp_path / stuck.FOLDER).exists()
    stuck.doing("nothing that is watched", 3)


def test_nothing_is_watched_without_a_time(tmp_path):
    with stuck.watching(None, tmp_path):
        assert stuck._watch is None


@pytest.mark.parametrize("seconds", [0.0, -1.0])
def test_the_time_is_positive(seconds):
    from distill.training.config import LoopConfig

    with pytest.raises(ValueError, match="stuck_after_s must be > 0 or None"):
        LoopConfig(train_steps=1, stuck_after_s=seconds)
