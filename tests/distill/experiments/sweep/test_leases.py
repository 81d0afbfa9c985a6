"""Leases: one holder at a time, taken over from dead processes, of this machine and of others."""

import json
import os
import subprocess
import sys
import time

from distill import locking
from distill.experiments.sweep import leases


def test_one_holder_at_a_time(tmp_path):
    lease = leases.claim(tmp_path, "a")
    assert lease is not None and leases.is_held(tmp_path, "a")
    assert leases.claim(tmp_path, "a") is None
    assert leases.claim(tmp_path, "b") is not None
    lease.release()
    lease.release()
    assert not leases.is_held(tmp_path, "a")
    assert leases.claim(tmp_path, "a") is not None


def test_the_lease_of_a_killed_process_is_taken_over(tmp_path):
    program = (
        "import sys, time, pathlib\nfrom distill.experiments.sweep import leases\n"
        "lease = leases.claim(pathlib.Path(sys.argv[1]), 'a')\nprint('held', flush=True)\ntime.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    assert leases.is_held(tmp_path, "a") and leases.claim(tmp_path, "a") is None
    process.kill()
    process.wait()
    assert not leases.is_held(tmp_path, "a")
    assert leases.claim(tmp_path, "a") is not None


def test_the_lease_of_another_machine_ends_when_it_shows_no_life(tmp_path):
    lease = leases.claim(tmp_path, "a")
    path = leases.path_of(tmp_path, "a")
    owner = path.with_name("a.lock.owner")
    owner.write_text(json.dumps({**json.loads(owner.read_text()), "machine": "another", "host": "far"}))
    assert locking.holder(path)["host"] == "far"
    old = time.time() - 2 * locking.LEASE
    os.utime(path, (old, old))
    assert locking.holder(path) is None
    lease.release()


def test_the_plan_is_changed_by_one_at_a_time(tmp_path):
    with leases.exclusively(tmp_path):
        assert leases.is_held(tmp_path, "plan")
    assert not leases.is_held(tmp_path, "plan")
