"""What is printed while JAX connects a process to the coordinator, and the end of a wait that is in vain."""

import socket
import subprocess
import sys
import threading

import pytest

from distill import exit_codes
from distill.cli import coordinator


class Ended(BaseException):
    """In place of the end of the process."""


class Clock(threading.Event):
    """Counts the seconds that a thread has waited for the event, which happens after 400.

    The name resolves from one second on, and the port accepts connections from a second until another.
    """

    def __init__(self):
        super().__init__()
        self.now, self.resolves, self.answers, self.closes = 0.0, 0.0, 0.0, float("inf")

    def wait(self, timeout=None):
        self.now += timeout
        if self.now > 400:
            self.set()
        return self.is_set()

    def lookup(self, host, port):
        assert (host, port) == ("some-host", "1234")
        if self.now < self.resolves:
            raise socket.gaierror(-2, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.0.0.1", 1234))]

    def connection(self, address, timeout):
        assert address == ("some-host", 1234)
        if not self.answers <= self.now < self.closes:
            raise ConnectionRefusedError(111, "Connection refused")
        return socket.socket()


@pytest.fixture
def clock(monkeypatch):
    def leave(code):
        raise Ended(code)

    clock = Clock()
    monkeypatch.setattr(coordinator.time, "monotonic", lambda: clock.now)
    monkeypatch.setattr(coordinator.socket, "getaddrinfo", clock.lookup)
    monkeypatch.setattr(coordinator.socket, "create_connection", clock.connection)
    monkeypatch.setattr(coordinator.os, "_exit", leave)
    return clock


def lines(clock, capfd, process=None, processes=None):
    """What is printed until the end of the process, without the program's name, and the code it ends with, if any."""
    code = None
    try:
        coordinator._Watch("some-host:1234", "distill train", processes, process, coordinator.LIMIT_S).until(clock)
    except Ended as ended:
        (code,) = ended.args
        assert clock.now == coordinator.LIMIT_S < coordinator.JAX_LIMIT_S
    printed = capfd.readouterr().err.splitlines()
    assert all(line.startswith("distill train: ") for line in printed)
    return [line.removeprefix("distill train: ") for line in printed], code


def test_a_name_that_does_not_resolve_is_said_at_once_again_and_at_the_end(clock, capfd):
    clock.resolves = 1000
    (first, second, *_, last), code = lines(clock, capfd)
    why = "(Name or service not known)"
    assert code == exit_codes.MACHINE
    assert first == f"the host name of some-host:1234 does not resolve yet {why}; waiting up to 297 s more"
    assert second.endswith("waiting up to 267 s more")
    assert last == (
        f"the host name of some-host:1234 did not resolve within 300 s {why}; give every process the name or the address "
        "of the machine of process 0"
    )


def test_a_port_without_process_0_is_said_after_some_seconds_again_and_at_the_end(clock, capfd):
    clock.answers = 1000
    (first, second, *_, last), code = lines(clock, capfd, process=1, processes=2)
    assert code == exit_codes.MACHINE
    assert first == (
        "nothing answers at some-host:1234 yet (Connection refused); waiting up to 290 s more for process 0"
    )
    assert second.endswith("waiting up to 260 s more for process 0")
    assert last == (
        "nothing answered at some-host:1234 within 300 s (Connection refused); start process 0 with the same address, or "
        "give every process an address and port of its machine"
    )


def test_process_0_that_does_not_reach_itself_has_the_address_of_another_machine(clock, capfd):
    clock.answers = 1000
    assert lines(clock, capfd, process=0)[0][-1].endswith(
        "; this is process 0: give every process an address and port of its machine"
    )


@pytest.mark.parametrize(
    ("process", "others"), [(0, "of the others"), (1, "process, also process 0,"), (None, "process, also process 0,")]
)
def test_processes_that_are_missing_end_the_wait(clock, capfd, process, others):
    (first, second, *_, last), code = lines(clock, capfd, process=process, processes=2)
    assert code == exit_codes.MACHINE
    assert first == "waiting up to 270 s more for all 2 processes of the run to connect to some-host:1234"
    assert second.startswith("waiting up to 240 s more for all 2")
    assert last == (
        f"not all 2 processes of the run connected to some-host:1234 within 300 s; check that each {others} was started "
        "with this address, the same --num_processes and a --process_id of its own, and that its output has no error"
    )


def test_process_0_that_has_ended_is_said_to_have_answered(clock, capfd):
    clock.closes = 250
    assert lines(clock, capfd, process=1)[0][-1] == (
        "process 0 answered at some-host:1234 and no longer does (Connection refused); look for the reason in its output"
    )


def test_a_name_may_resolve_later(clock, capfd):
    clock.resolves = 40
    printed = [line.partition("; ")[0] for line in lines(clock, capfd)[0][:3]]
    assert [("does not resolve yet" in line) for line in printed] == [True, True, False]
    assert printed[2] == "waiting up to 237 s more for all processes of the run to connect to some-host:1234"


def test_the_process_ends_while_jax_waits():
    """Process 0 of two, whose other one is not started."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{server.getsockname()[1]}"
    code = f"""
import jax
from distill.cli import coordinator
with coordinator.waiting({address!r}, "train", processes=2, process=0, limit_s=2):
    jax.distributed.initialize({address!r}, 2, 0, initialization_timeout=60)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == exit_codes.MACHINE, ended.stderr
    assert (
        ended.stderr.startswith("distill train: not all 2 processes of the run connected to")
        and "Fatal" not in ended.stderr
    )


def test_a_quick_connection_prints_nothing(capfd):
    with coordinator.waiting("[::1]:1", "train"), coordinator.waiting(None, "train"):
        pass
    with pytest.raises(ValueError, match="of the code inside"), coordinator.waiting("localhost:1", "train"):
        raise ValueError("of the code inside")
    assert capfd.readouterr().err == ""
    assert coordinator._missing("127.0.0.1:1")[0] == "answer" and coordinator._missing(f"{'x' * 64}.:1")[0] == "name"
