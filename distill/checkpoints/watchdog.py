"""Ending a process whose library threads wait forever after a failed save."""

import os
import sys
import threading
import time

from distill import exit_codes


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
