"""Ctrl-C: the first one stops a command after saving, a second one ends the process at once.

Python runs a signal's handler between two bytecode instructions, so a compilation of a minute would delay both. A thread
therefore reads the signals' numbers from the pipe that Python's C handler writes them to (:func:`signal.set_wakeup_fd`).
"""

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator

from distill import exit_codes

APART_S = 0.5
"""Two SIGINT within this time are one Ctrl-C, which a terminal and a launcher both pass on."""
_MESSAGE = b"\nstopped at once by a second SIGINT; progress since the last save is lost\n"


@contextlib.contextmanager
def second_ends() -> Iterator[None]:
    """Inside, a second SIGINT ends the process with :data:`distill.exit_codes.INTERRUPTED`; no clean-up code runs.

    Checkpoints and answers are written so that a killed process leaves them intact. Outside of the main thread, which alone
    receives signals, this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    previous = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reader,), daemon=True, name="interrupts").start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(previous)
        writer.close()  # ends the thread


def _watch(reader: socket.socket) -> None:
    first: float | None = None
    with reader:
        while received := reader.recv(64):
            for _ in range(received.count(signal.SIGINT)):
                now = time.monotonic()
                if first is None:
                    first = now
                elif now - first > APART_S:
                    os.write(2, _MESSAGE)
                    os._exit(exit_codes.INTERRUPTED)
