"""Real signals to real processes: one Ctrl-C saves and stops, the second ends the process at once."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from distill import exit_codes
from distill.cli import interrupts, main

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


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_ends_the_process_at_once_while_jax_connects(name):
    """Process 0 of two, whose other one is not started."""
    code = """
import argparse, sys
from distill.cli import main, runs
def command(options):
    print("begun", flush=True)
    runs.join(argparse.Namespace(
        coordinator_address="127.0.0.1:{port}", num_processes=2, process_id=0, multiprocess=False, command="train",
        heartbeat_timeout_seconds=100,
    ))
main.command_function = lambda name: command
sys.exit(main.main(["completion", "bash"]))
"""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", code.replace("{port}", str(port))], **pipes)
    assert process.stdout.readline() == "begun\n"
    deadline = time.monotonic() + 60
    while True:  # until process 0 listens, and so waits for the other one
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            break
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    begun = time.monotonic()
    process.send_signal(getattr(signal, name))
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - begun < 10
    assert (process.returncode, err) == (exit_codes.STOPPED, f"stopped by {name}; {exit_codes.START_OVER}\n")


def test_the_last_line_says_if_the_run_has_saved_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(interrupts, "_trained", [])
    lost = b"\nstopped at once by a second SIGINT; progress since the last save is lost\n"
    run, nothing = str(tmp_path), f"\nstopped at once by a second SIGINT; nothing was saved of the run in {tmp_path}, "
    assert interrupts.unsaved() is None and interrupts._message() == lost
    with contextlib.suppress(ValueError), interrupts.training_in(run):
        assert interrupts.unsaved() == run
        raise ValueError
    with interrupts.training_in(run):
        assert interrupts._message() == f"{nothing}which starts again\n".encode()
    assert interrupts.unsaved() is None
    (tmp_path / "checkpoints" / "20.orbax-checkpoint-tmp").mkdir(parents=True)
    with contextlib.suppress(exit_codes.Stopped), interrupts.training_in(run):
        raise exit_codes.Stopped("SIGINT")
    assert interrupts.unsaved() == run and main._stop_line("SIGINT", "sweep") == (
        f"stopped by SIGINT; nothing was saved of the run in {run}, which starts again; {exit_codes.CONTINUE}\n"
    )
    (tmp_path / "checkpoints" / "20").mkdir()
    assert interrupts._message() == lost
    with interrupts.training_in("gs://bucket/run"):
        assert interrupts.unsaved() is None


def test_the_last_line_says_what_becomes_of_workers():
    with interrupts.workers_train(save=True):
        assert interrupts._message().endswith(b"SIGINT; the workers save checkpoints and stop\n")
    with contextlib.suppress(exit_codes.Stopped), interrupts.workers_train(save=False):
        assert interrupts._message().endswith(b"; the workers stop, and joint seeds in progress start again\n")
        raise exit_codes.Stopped("SIGINT")
    assert interrupts._message().endswith(b"; progress since the last save is lost\n")


# Python's end runs what libraries registered, here in place of a thread that compiles and crashes.
ENDING = """
import atexit, os, signal, sys
from distill import exit_codes
from distill.cli import main
def command(options):
    atexit.register(lambda: print(signal.getsignal(signal.SIGINT) is signal.SIG_DFL))
    print("said")
    if {code}: raise exit_codes.Stopped("SIGINT")
    return 0
main.command_function = lambda name: command
sys.argv = ["distill", "completion", "bash"]
sys.exit(main.main())
"""


@pytest.mark.parametrize(("code", "said"), [(exit_codes.STOPPED, "said\n"), (exit_codes.DONE, "said\nTrue\n")])
def test_a_stopped_command_ends_without_the_end_of_python(code, said):
    done = subprocess.run([sys.executable, "-c", ENDING.format(code=code)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (code, said)
    assert done.stderr == ("stopped by SIGINT; run the same command again to start over\n" if code else "")


def test_the_earlier_descriptor_returns_and_the_thread_ends():
    before = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(before)
    with interrupts.second_ends(), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)
    after = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(after)
    assert after == before


# A callback of the garbage collector, such as JAX's, in which Python cannot raise; `__del__` is the same.
LOSING = """
import gc, os, signal, sys, time
from distill.cli import main
def collected(phase, info):
    if sent:
        os.kill(os.getpid(), sent.pop())
        time.sleep(0.01)  # the handler runs here
def command(options):
    gc.callbacks.append(collected)
    sent.append(signal.{name})
    gc.collect()
    {then}
    print("the signal was lost", flush=True)
    return 0
sent = []
main.command_function = lambda name: command
sys.exit(main.main(["completion", "bash"]))
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("then", ["time.sleep(60)", "[time.sleep(0.01) for _ in range(6000)]"])
def test_a_signal_where_python_cannot_raise_is_not_lost(name, then):
    line = [sys.executable, "-c", LOSING.format(name=name, then=then)]
    begun = time.monotonic()
    done = subprocess.run(line, capture_output=True, text=True, timeout=100)
    assert done.returncode == exit_codes.STOPPED, (done.stdout, done.stderr)
    assert time.monotonic() - begun < 50
    assert done.stderr == f"stopped by {name}; run the same command again to start over\n"
    assert not done.stdout


def test_other_exceptions_that_cannot_be_raised_are_shown(monkeypatch):
    shown = []
    monkeypatch.setattr(sys, "unraisablehook", shown.append)

    class Failing:
        def __del__(self):
            raise self.error

    with interrupts.second_ends() as again, interrupts.signals_raise("{}".format, again, last=False):
        for error in (ValueError("a fault"), interrupts.Interrupted("SIGTERM")):
            failing = Failing()
            failing.error = error
            del failing
    assert [str(one.exc_value) for one in shown] == ["a fault"]


def test_a_lost_signal_is_sent_again_until_the_command_ends():
    """Where a library swallows its exception; what ended the command, or came too late, does not reach the next one."""
    with interrupts.second_ends() as again, interrupts.signals_raise("{}".format, again, last=False) as received:
        for name in ("SIGTERM", "SIGINT"):
            with pytest.raises((interrupts.Interrupted, KeyboardInterrupt)):
                with contextlib.suppress(interrupts.Interrupted, KeyboardInterrupt):
                    os.kill(os.getpid(), getattr(signal, name))
                    time.sleep(5)
                time.sleep(5)
            received.handled()
        assert received.names == ["SIGTERM", "SIGTERM", "SIGINT", "SIGINT"]
        with contextlib.suppress(interrupts.Interrupted):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
    with interrupts.second_ends() as again, interrupts.signals_raise("{}".format, again, last=False) as received:
        time.sleep(3 * interrupts.AGAIN_S)
    assert not received.names
