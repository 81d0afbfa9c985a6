"""Real signals to real processes: one Ctrl-C saves and stops, the second ends the process at once."""

import os
import signal
import subprocess
import sys
import time

import pytest

from distill import exit_codes
from distill.cli import interrupts

# Waits, in C code as a compilation does, where no handler in Python can run; a first signal changes nothing.
WAITING = """
import hashlib, signal, sys, time
from distill.cli import main
def command(options):
    signal.signal(signal.SIGINT, lambda *_: None)
    print("begun", flush=True)
    {wait}
main.command_function = lambda name: command
sys.exit(main.main(["completion", "bash"]))
"""
WAITS = {"in Python": "time.sleep(60)", "in C": "hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)"}


@pytest.mark.parametrize("wait", WAITS)
def test_the_second_sigint_ends_the_process_at_once(wait):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", WAITING.format(wait=WAITS[wait])], **pipes)
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)  # the same Ctrl-C, passed on by a launcher
    time.sleep(interrupts.APART_S + 0.2)
    assert process.poll() is None
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - begun < 10
    assert process.returncode == exit_codes.INTERRUPTED == 128 + signal.SIGINT
    assert err.strip() == "stopped at once by a second SIGINT; progress since the last save is lost"


def test_the_earlier_descriptor_returns_and_the_thread_ends():
    before = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(before)
    with interrupts.second_ends(), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)
    after = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(after)
    assert after == before
