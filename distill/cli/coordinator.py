"""Says what a process of several waits for while JAX connects it to the coordinator, process 0, without a word."""

import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator

from distill import exit_codes

LIMIT_S = 300.0
"""Seconds in which the host name of the coordinator must resolve."""
JAX_LIMIT_S = 360
"""JAX's limit for the connection, at which it aborts the process with a stack, after the line printed here."""
_FIRST_S, _PERIOD_S = 3.0, 30.0  # seconds until the first line on a name that does not resolve, and from line to line
_LOOKUP_S = 1.0  # seconds between lookups


@contextlib.contextmanager
def waiting(address: str | None, command: str) -> Iterator[None]:
    """While the code inside connects, prints what it waits for; ends the process if the host name never resolves.

    The code inside runs at once: in some clusters a name resolves only when process 0 listens there.

    Args:
      address: HOST:PORT of process 0; None, if JAX finds it out, prints nothing.
      command: its name begins each line.
    """
    connected = threading.Event()
    if address is not None:
        arguments = (address, f"distill {command}", connected)
        threading.Thread(target=_watch, args=arguments, daemon=True, name="coordinator").start()
    try:
        yield
    finally:
        connected.set()


def _watch(address: str, program: str, connected: threading.Event) -> None:
    begun, next_line = time.monotonic(), _FIRST_S
    while not connected.is_set():
        why, waited = _unresolved(address), time.monotonic() - begun
        if connected.is_set():
            return
        if why is not None and waited >= LIMIT_S:
            _end(
                f"{program}: the host name of {address} did not resolve within {LIMIT_S:.0f} s ({why}); give every process "
                "the name or the address of the machine of process 0"
            )
        if waited >= max(next_line, 0 if why else _PERIOD_S):
            next_line = waited + _PERIOD_S
            print(f"{program}: {_line(address, why, LIMIT_S - waited)}", file=sys.stderr, flush=True)
        connected.wait(_LOOKUP_S)


def _line(address: str, why: str | None, left: float) -> str:
    if why is None:
        return f"waiting for all processes of the run to connect to {address}"
    return f"the host name of {address} does not resolve yet ({why}); waiting up to {left:.0f} s more"


def _unresolved(address: str) -> str | None:
    """Why the host name of an address does not resolve; None if it does."""
    host, _, port = address.rpartition(":")
    try:
        socket.getaddrinfo(host.strip("[]"), port)
    except (OSError, UnicodeError) as error:
        return getattr(error, "strerror", None) or str(error)
    return None


def _end(message: str) -> None:
    """Ends the process from this thread: its main thread waits inside JAX."""
    print(message, file=sys.__stderr__ or sys.stderr, flush=True)  # --quiet silences sys.stderr, and no errors
    os._exit(exit_codes.MACHINE)
