"""Preemption: SIGINT and SIGTERM make the training loop save a checkpoint and stop."""

import logging
import signal
import threading
import time
import types
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils

from distill.exit_codes import APART_S


class StopRequest:
    """Handles SIGINT and SIGTERM inside its ``with`` block. A second Ctrl-C raises KeyboardInterrupt at once.

    Args:
      sync_period: with several processes, steps between agreements, so that all of them stop at the same step.
      will: the consequence of a signal, for the log.

    Attributes:
      will: as given; the loop changes it when it has made its last step.
    """

    def __init__(self, sync_period: int = 20, will: str = "saving a checkpoint and stopping after this step"):
        self.name: str | None = None
        self._sync_period, self.will = sync_period, will
        self._previous: dict[int, object] = {}
        self._first_sigint: float | None = None
        self._signalled = -1, False  # the step of the newest exchange, and whether any process had a signal then

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _handle(self, number: int, frame: types.FrameType | None) -> None:
        del frame
        if number == signal.SIGINT:
            now = time.monotonic()
            if self._first_sigint is not None and now - self._first_sigint <= APART_S:
                return
            self._first_sigint = self._first_sigint or now
        self._note(number)

    def _note(self, number: int) -> None:
        if self.name is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.name = signal.Signals(number).name
        again = "; press Ctrl-C again to stop at once" if number == signal.SIGINT else ""
        logging.warning("%s: %s%s", self.name, self.will, again)

    def interrupt(self) -> None:
        """Obeys a KeyboardInterrupt that user code has raised, as the first Ctrl-C; raises it again after a signal."""
        self._note(signal.SIGINT)

    def agreed(self, step: int, wanted: Sequence[bool]) -> list[bool]:
        """Returns which of some things any process wants after ``step``; the same answer on every process.

        Several processes exchange, in one collective, what they want and whether they have received a signal.
        """
        flags = [self.name is not None, *wanted]
        if jax.process_count() > 1:
            exchanges = step % self._sync_period == 0
            flags = _any(flags) if exchanges else [False] * len(flags)
        self._signalled = step, flags[0]
        return flags[1:]

    def requested(self, step: int) -> bool:
        """Returns whether to stop after ``step``, as :meth:`agreed` has found; the same answer on every process."""
        if jax.process_count() == 1:
            return self.name is not None
        if self._signalled[0] != step:
            self.agreed(step, [])
        if self._signalled[1] and self.name is None:
            self.name = "SIGTERM"
        return self._signalled[1]


def _any(flags: Sequence[bool]) -> list[bool]:
    """Which flags any process has set."""
    return [bool(flag) for flag in multihost_utils.process_allgather(np.array(flags, np.int32)).any(axis=0)]
