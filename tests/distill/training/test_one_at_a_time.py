"""Real processes on one directory: two at once, the holder killed, and a checkpoint that cannot be written."""

import os
import signal
import time

import pytest

from tests_support import xla_flags

PATIENCE_S = 300


@pytest.fixture
def start(warm, tmp_path, train_command):
    started = []

    def go(name, wrapper="distill.cli.main", **more):
        arguments = [*train_command, *(f"--gin.{key}={value!r}" for key, value in more.items())]
        environment = {"XLA_FLAGS": xla_flags(1)}
        process = warm.start(arguments, tmp_path / name, environment, wrapper, folder=tmp_path)
        started.append(process)
        return process

    yield go
    for process in started:
        process.send_signal(signal.SIGKILL)
        process.wait()


def wait_for(path, text, process):
    deadline = time.monotonic() + PATIENCE_S
    while text not in path.read_text():
        assert process.poll() is None, path.read_text()
        assert time.monotonic() < deadline, path.read_text()
        time.sleep(0.1)


def test_two_trainings_and_a_killed_one(start, tmp_path):
    first = start("first.log")
    wait_for(tmp_path / "first.log", "step 8/2000", first)
    configuration = (tmp_path / "run" / "config.gin").read_text()
    second = start("second.log", LEARNING_RATE=0.5)
    assert second.wait(PATIENCE_S) == 2
    told = (tmp_path / "second.log").read_text().splitlines()[-1]
    assert f"run is in use by process {first.pid} on {os.uname().nodename} since " in told
    assert told.endswith("wait until it ends, or choose another MODEL_DIR")
    assert (tmp_path / "run" / "config.gin").read_text() == configuration
    assert first.poll() is None
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert (tmp_path / "run" / ".lock").exists()
    third = start("third.log")
    wait_for(tmp_path / "third.log", "continuing from step ", third)
    third.send_signal(signal.SIGTERM)
    assert third.wait(PATIENCE_S) == 75
    assert not (tmp_path / "run" / ".lock").exists()


def test_a_checkpoint_that_cannot_be_written_ends_the_process(start, tmp_path):
    process = start("full.log", "full_disk_command")
    assert process.wait(PATIENCE_S) not in (0, None)
    told = (tmp_path / "full.log").read_text()
    assert "a checkpoint could not be written to " in told
    assert "No space left on device" in told
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir() if path.name.isdecimal()] == ["4"]
    assert not (tmp_path / "run" / ".lock").exists()
