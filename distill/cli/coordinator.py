"""Says what a process of several waits for while JAX connects it to the coordinator, process 0, and ends a vain wait."""

import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator

from distill import exit_codes
from distill.counting import counted

LIMIT_S = 300.0
"""Seconds in which all processes must connect to the coordinator."""
JAX_LIMIT_S = 360
"""JAX's limit for the connection, at which it aborts the process with a stack; longer than the limit here."""
_PERIOD_S = 30.0  # seconds from line to line
_FIRST_S = {"name": 3.0, "answer": 10.0, "others": _PERIOD_S}  # seconds until the first line, by what is missing
_CHECK_S = 1.0  # seconds between checks
_CONNECT_S = 2.0  # seconds in which the port must accept a connection


@contextlib.contextmanager
def waiting(
    address: str | None,
    command: str,
    *,
    processes: int | None = None,
    process: int | None = None,
    limit_s: float = LIMIT_S,
) -> Iterator[None]:
    """While the code inside connects, prints what it waits for; ends the process if that takes too long.

    The code inside runs at once: in some clusters a name resolves only when process 0 listens there.

    Args:
      address: HOST:PORT of process 0; None, if JAX finds it out, prints nothing and leaves the end to JAX.
      command: its name begins each line.
      processes: how many the run has; None if JAX finds it out.
      process: the number of this one; None if JAX finds it out.
      limit_s: seconds until the process ends; shorter than JAX's limit.
    """
    connected = threading.Event()
    if address is not None:
        watch = _Watch(address, f"distill {command}", processes, process, limit_s)
        threading.Thread(target=watch.until, args=(connected,), daemon=True, name="coordinator").start()
    try:
        yield
    finally:
        connected.set()


class _Watch:
    def __init__(self, address: str, program: str, processes: int | None, process: int | None, limit_s: float):
        self._address, self._program, self._limit_s, self._process = address, program, limit_s, process
        self._answered = False
        self._all = f"all {counted(processes, 'process', 'processes')}" if processes else "all processes"

    def until(self, connected: threading.Event) -> None:
        begun, next_line = time.monotonic(), 0.0
        while not connected.is_set():
            (missing, why), waited = _missing(self._address), time.monotonic() - begun
            if connected.is_set():
                return
            self._answered = self._answered or missing == "others"
            if waited >= self._limit_s:
                _end(f"{self._program}: {self._last_line(missing, why)}")
            if waited >= max(next_line, _FIRST_S[missing]):
                next_line = waited + _PERIOD_S
                line = self._line(missing, why, f"waiting up to {self._limit_s - waited:.0f} s more")
                print(f"{self._program}: {line}", file=sys.stderr, flush=True)
            connected.wait(_CHECK_S)

    def _line(self, missing: str, why: str, wait: str) -> str:
        if missing == "name":
            return f"the host name of {self._address} does not resolve yet ({why}); {wait}"
        if missing == "answer":
            return f"nothing answers at {self._address} yet ({why}); {wait} for process 0"
        return f"{wait} for {self._all} of the run to connect to {self._address}"

    def _last_line(self, missing: str, why: str) -> str:
        where, within, first = self._address, f"within {self._limit_s:.0f} s", self._process == 0
        if missing == "name":
            return (
                f"the host name of {where} did not resolve {within} ({why}); give every process the name or the address of "
                "the machine of process 0"
            )
        if missing == "answer" and self._answered:
            return f"process 0 answered at {where} and no longer does ({why}); look for the reason in its output"
        if missing == "answer":
            remedy = "this is process 0: give" if first else "start process 0 with the same address, or give"
            remedy += " every process an address and port of its machine"
            return f"nothing answered at {where} {within} ({why}); {remedy}"
        started = "of the others" if first else "process, also process 0,"
        return (
            f"not {self._all} of the run connected to {where} {within}; check that each {started} was started with this "
            "address, the same --num_processes and a --process_id of its own, and that its output has no error"
        )


def _missing(address: str) -> tuple[str, str]:
    """What the connection still needs: the host's ``name``, an ``answer`` of the port, or the ``others``; and why."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    try:
        number = socket.getaddrinfo(host, port)[0][4][1]
    except (OSError, UnicodeError) as error:
        return "name", _reason(error)
    try:
        socket.create_connection((host, int(number)), timeout=_CONNECT_S).close()
    except OSError as error:
        return "answer", _reason(error)
    return "others", ""


def _reason(error: OSError | UnicodeError) -> str:
    return getattr(error, "strerror", None) or str(error)


def _end(message: str) -> None:
    """Ends the process from this thread: its main thread waits inside JAX."""
    print(message, file=sys.__stderr__ or sys.stderr, flush=True)  # --quiet silences sys.stderr, and no errors
    os._exit(exit_codes.MACHINE)
