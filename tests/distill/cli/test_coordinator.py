"""What is printed while JAX connects a process to the coordinator, and the end if its name never resolves."""

import socket
import threading

import pytest

from distill import exit_codes
from distill.cli import coordinator


class Ended(BaseException):
    """In place of the end of the process."""


class Clock(threading.Event):
    """Counts the seconds that a thread has waited for the event, which happens after 400; names resolve at a second."""

    def __init__(self):
        super().__init__()
        self.now, self.resolves = 0.0, float("inf")

    def wait(self, timeout=None):
        self.now += timeout
        if self.now > 400:
            self.set()
        return self.is_set()

    def lookup(self, host, port):
        assert (host, port) == ("no-such-host", "1234")
        if self.now < self.resolves:
            raise socket.gaierror(-2, "Name or service not known")


@pytest.fixture
def clock(monkeypatch):
    def leave(code):
        raise Ended(code)

    clock = Clock()
    monkeypatch.setattr(coordinator.time, "monotonic", lambda: clock.now)
    monkeypatch.setattr(coordinator.socket, "getaddrinfo", clock.lookup)
    monkeypatch.setattr(coordinator.os, "_exit", leave)
    return clock


def test_a_name_that_does_not_resolve_is_said_at_once_again_and_at_the_end(clock, capfd):
    with pytest.raises(Ended) as ended:
        coordinator._watch("no-such-host:1234", "distill train", clock)
    assert ended.value.args == (exit_codes.MACHINE,) and clock.now == coordinator.LIMIT_S < coordinator.JAX_LIMIT_S
    first, second, *_, last = capfd.readouterr().err.splitlines()
    assert first == (
        "distill train: the host name of no-such-host:1234 does not resolve yet (Name or service not known); waiting up to "
        "297 s more"
    )
    assert second.endswith("waiting up to 267 s more")
    assert last == (
        "distill train: the host name of no-such-host:1234 did not resolve within 300 s (Name or service not known); give "
        "every process the name or the address of the machine of process 0"
    )


def test_a_name_may_resolve_later(clock, capfd):
    clock.resolves = 40
    coordinator._watch("no-such-host:1234", "distill eval", clock)
    lines = capfd.readouterr().err.splitlines()
    assert [("does not resolve yet" in line) for line in lines[:3]] == [True, True, False]
    assert lines[2] == "distill eval: waiting for all processes of the run to connect to no-such-host:1234"


def test_a_quick_connection_prints_nothing(capfd):
    with coordinator.waiting("[::1]:1", "train"), coordinator.waiting(None, "train"):
        pass
    with pytest.raises(ValueError, match="of the code inside"), coordinator.waiting("localhost:1", "train"):
        raise ValueError("of the code inside")
    assert capfd.readouterr().err == ""
    assert coordinator._unresolved("127.0.0.1:1") is None and coordinator._unresolved(f"{'x' * 64}.:1")
