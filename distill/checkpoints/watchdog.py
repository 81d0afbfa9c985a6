"""Failed saves: their error, and the end of a process whose library threads wait forever after one."""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from distill import exit_codes


class SaveError(OSError):
    """A checkpoint could not be written; its text names the step, the folder and the cause."""


@contextlib.contextmanager
def saving(manager: Any) -> Iterator[None]:
    """Converts errors of an Orbax checkpoint manager that saves to :class:`SaveError`."""
    try:
        yield
    except Exception as error:  # of the operating system, of TensorStore, or of a storage's client
        # Orbax's threads wait for signals from the one that failed, and would keep the process for minutes.
        do_not_outlive()
        cause = f"{type(error).__name__}: {error}".splitlines()[0]
        raise SaveError(f"a checkpoint could not be written to {manager.directory}: {cause}") from error


def do_not_outlive(seconds: float = 5.0, code: int = exit_codes.MACHINE) -> None:
    """Ends the process ``seconds`` after its main thread has ended, even if other threads still wait.

    For errors after which threads of a library wait forever. The exit code is then ``code``, by
    default EX_IOERR.
    """

    def end() -> None:
        threading.main_thread().join()
        time.sleep(seconds)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    threading.Thread(target=end, daemon=True, name="do-not-outlive").start()
