"""Locks: two processes at once, a holder that is killed, another machine's lock, and an object store."""

import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest

import fake_gcs
import warm_commands
from distill import locking

ROOT = pathlib.Path(__file__).resolve().parents[2]
HOLD = """
import sys, time
from distill import locking
locking.LEASE, locking.HEARTBEAT, locking._SETTLE = 3.0, 0.5, 0.5
try:
    with locking.held(sys.argv[1], sys.argv[1], "choose another MODEL_DIR"):
        print("held", flush=True)
        sys.stdin.readline()
except locking.Locked as error:
    print(error, flush=True)
"""
# One process of a multi-process run: holds a lock together with the others.
TOGETHER = """
import sys
import jax
from distill import locking
jax.distributed.initialize(sys.argv[2], 2, int(sys.argv[3]), initialization_timeout=200)
try:
    with locking.held_together(sys.argv[1], "run", "choose another MODEL_DIR"):
        print("held", flush=True)
        sys.stdin.readline()
except locking.Locked as error:
    print(error, flush=True)
"""


@pytest.fixture
def hold():
    """Starts processes that hold a lock until a line is written to them; their first line is the outcome."""
    started = []

    def start(path, environment=(), script=HOLD, arguments=()):
        process = subprocess.Popen(
            [sys.executable, "-c", script, os.fspath(path), *arguments], text=True, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL if script is TOGETHER else None,
            env={**os.environ, **dict(environment), "PYTHONPATH": os.fspath(ROOT), "JAX_PLATFORMS": "cpu"},
        )  # fmt: skip
        started.append(process)
        return process

    def together(path):
        with socket.socket() as server:
            server.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{server.getsockname()[1]}"
        return [start(path, script=TOGETHER, arguments=(address, str(number))) for number in range(2)]

    start.together = together
    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def said(process):
    """The next message of a process. Gloo prints lines of several processes as they connect, also in the middle of one."""
    while line := process.stdout.readline():
        if message := re.search(r"held|\S+ is in use .*", line):
            return message[0].strip()
    return ""


def release(process):
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.wait(30) == 0


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(locking, "LEASE", 3.0)
    monkeypatch.setattr(locking, "HEARTBEAT", 0.5)


def test_the_second_process_is_refused_by_name_and_the_third_goes_on(hold, tmp_path):
    path = locking.of_directory(tmp_path / "run")
    first = hold(path)
    assert said(first) == "held"
    before = time.monotonic()
    refused = said(hold(path))
    assert time.monotonic() - before < 5
    assert refused.startswith(f"{path} is in use by process {first.pid} on {os.uname().nodename} since 20")
    assert refused.endswith("UTC; wait until it ends, or choose another MODEL_DIR")
    release(first)
    assert said(hold(path)) == "held"


def test_the_lock_of_a_killed_process_is_no_obstacle(hold, tmp_path):
    path = locking.of_directory(tmp_path / "run")
    first = hold(path)
    assert said(first) == "held"
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert path.exists()
    before = time.monotonic()
    second = hold(path)
    assert said(second) == "held"
    assert time.monotonic() - before < 2.5  # less than the lease
    release(second)
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == []


def test_a_multi_process_run_holds_one_lock_together(hold, tmp_path):
    path = locking.of_directory(tmp_path / "run")
    first = [*hold.together(path)]
    assert [said(process) for process in first] == ["held", "held"]
    refused = [said(process) for process in [hold(path), *hold.together(path)]]
    for line in refused:
        assert f"in use by process {first[0].pid} on {os.uname().nodename} since " in line
    for process in first:
        process.stdin.write("\n")
        process.stdin.flush()
    assert [process.wait(60) for process in first] == [0, 0]
    assert said(hold(path)) == "held"


def test_two_that_start_together(hold, tmp_path):
    path = locking.of_output(tmp_path / "answers.jsonl")
    assert path.name == "answers.jsonl.lock"
    outcomes = [said(process) for process in [hold(path) for _ in range(3)]]
    assert sum(outcome == "held" for outcome in outcomes) == 1
    assert sum("is in use by" in outcome for outcome in outcomes) == 2


def test_two_that_find_a_dead_ones_lock_together(hold, tmp_path):
    path = locking.of_directory(tmp_path)
    first = hold(path)
    assert said(first) == "held"
    first.kill()
    first.wait()
    outcomes = [said(process) for process in [hold(path) for _ in range(3)]]
    assert sum(outcome == "held" for outcome in outcomes) == 1


def of_another_machine(path):
    """Turns a lock on disk into one of another machine."""
    marker = path.read_text()
    path.write_text(marker.replace(f"host={os.uname().nodename}", "host=node-17"))
    owner = path.with_name(path.name + ".owner")
    record = json.loads(owner.read_text()) | {"host": "node-17", "machine": "node-17 another boot"}
    owner.write_text(json.dumps(record))


def test_another_machines_lock_is_taken_over_when_it_has_expired(hold, tmp_path, short):
    path = tmp_path / ".lock"
    first = hold(path)
    assert said(first) == "held"
    first.kill()
    first.wait()
    of_another_machine(path)
    before = time.monotonic()
    with locking.held(path, "runs/a"):
        assert time.monotonic() - before > 2.5
    assert not path.exists()


def test_another_machines_lock_is_refused_once_it_shows_a_sign_of_life(hold, tmp_path, short):
    path = tmp_path / ".lock"
    first = hold(path)
    assert said(first) == "held"
    first.kill()
    first.wait()
    of_another_machine(path)
    beating = subprocess.Popen(
        [sys.executable, "-c", "import sys, time, os\nwhile True: time.sleep(.3); os.utime(sys.argv[1])", path]
    )
    try:
        message = r"runs/a is in use by process \d+ on node-17 since 20.* UTC; wait"
        with pytest.raises(locking.Locked, match=message), locking.held(path, "runs/a"):
            pytest.fail("two hold it")
    finally:
        beating.kill()
        beating.wait()


def test_a_lock_that_was_taken_away_is_noticed(tmp_path, short):
    path = tmp_path / ".lock"
    with locking.held(path, "runs/a") as lock:
        lock.check()
        path.unlink()
        deadline = time.monotonic() + 10
        with pytest.raises(locking.LockLost, match=r"\.lock was lost \(marker-missing\)"):
            while time.monotonic() < deadline:
                lock.check()
                time.sleep(0.1)


@pytest.mark.parametrize("content", ['version = 1\nrequires-python = ">=3.12"\n', '{"nodes": {}}', "words"])
def test_a_file_that_is_no_lock_is_kept(tmp_path, content):
    path = locking.of_output(tmp_path / "uv")
    path.write_text(content)
    os.utime(path, (0, 0))
    with (
        pytest.raises(ValueError, match=r"uv\.lock is the lock file of uv, and holds something else"),
        locking.held(path, "uv"),
    ):
        pytest.fail("held")
    assert path.read_text() == content
    path.unlink()
    path.mkdir()
    with pytest.raises(ValueError, match="holds something else"), locking.held(path, "uv"):
        pytest.fail("held")
    assert path.is_dir()


def test_a_file_in_the_place_of_the_owners_name_is_kept(tmp_path):
    path = locking.of_output(tmp_path / "uv")
    owner = tmp_path / "uv.lock.owner"
    owner.write_bytes(b"Ada \xff")
    with pytest.raises(ValueError, match=r"uv\.lock\.owner names .* holds something else"), locking.held(path, "uv"):
        pytest.fail("held")
    assert [one.name for one in tmp_path.iterdir()] == ["uv.lock.owner"]


def test_a_damaged_lock_is_taken_over(tmp_path):
    path = locking.of_output(tmp_path / "uv")
    path.write_text("filelo")
    os.utime(path, (0, 0))
    with locking.held(path, "uv"):
        assert path.read_text().startswith("filelock/")


def test_an_empty_lock_is_taken_over_when_it_is_old(tmp_path, short):
    path = locking.of_output(tmp_path / "uv")
    with locking.held(path, "uv"):
        owner = locking._owner_file(path)
        record = owner.read_text()
    owner.write_text(record)  # of an earlier holder
    path.touch()
    before = time.monotonic()
    with locking.held(path, "uv"):
        assert 3 < time.monotonic() - before < 8
        assert path.read_text().startswith("filelock/")
    path.touch()
    os.utime(path, (0, 0))
    before = time.monotonic()
    with locking.held(path, "uv"):
        assert time.monotonic() - before < 4
    assert not [*tmp_path.iterdir()]


def test_an_error_inside_releases(tmp_path):
    path = locking.of_directory(tmp_path)
    with pytest.raises(KeyError), locking.held(path, "a"):
        raise KeyError
    with locking.held(path, "a"):
        pass


def test_the_same_process_twice(tmp_path):
    path = locking.of_directory(tmp_path)
    with (
        locking.held(path, "a"),
        pytest.raises(locking.Locked, match=rf"a is in use by this process \({os.getpid()}\)"),
        locking.held(path, "a"),
    ):
        pytest.fail("held twice")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the server's certificate")
def test_an_object_store(warm, tmp_path):
    with fake_gcs.serving(tmp_path) as (storage, environment):
        path, release = "gs://bucket/run/.lock", tmp_path / "release"

        def hold(name):
            return warm.start([path, str(release)], tmp_path / name, environment, "holding_command")

        def outcome(process):
            deadline = time.monotonic() + warm_commands.PATIENCE_S
            while not (found := re.search(r"^(held|\S+ is in use .*)\n", process.output, re.MULTILINE)):
                assert process.poll() is None and time.monotonic() < deadline, process.output
                time.sleep(0.02)
            return found[1]

        def kill(process):
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL

        both = [hold("first"), hold("second")]
        outcomes = [outcome(process) for process in both]
        assert sorted(outcome == "held" for outcome in outcomes) == [False, True]
        holder = both[outcomes.index("held")]
        refused = next(outcome for outcome in outcomes if outcome != "held")
        assert f"gs://bucket/run/.lock is in use by process {holder.pid} on" in refused
        kill(holder)
        assert "bucket/run/.lock" in storage.objects
        third = hold("third")
        assert outcome(third) == "held"  # of this machine, and dead
        kill(third)
        record = json.loads(storage.objects["bucket/run/.lock"]) | {
            "host": "node-17",
            "machine": "node-17 another boot",
        }
        storage.objects["bucket/run/.lock"] = json.dumps(record).encode()
        fourth = hold("fourth")
        assert outcome(fourth) == "held"  # expired
        release.touch()
        assert fourth.wait(30) == 0
        assert "bucket/run/.lock" not in storage.objects
