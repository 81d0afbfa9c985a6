"""Preemption: SIGINT and SIGTERM make the training loop save a checkpoint and stop."""

import logging
import signal
import threading
import types

import jax
import numpy as np
from jax.experimental import multihost_utils


class StopRequest:
    """Handles SIGINT and SIGTERM inside its ``with`` block. A second SIGINT raises KeyboardInterrupt at once.

    Args:
      sync_period: with several processes, steps between agreements, so that all of them stop at the same step.
      will: the consequence of a signal, for the log.
    """

    def __init__(self, sync_period: int = 20, will: str = "saving a checkpoint and stopping after this step"):
        self.name: str | None = None
        self._sync_period, self._will = sync_period, will
        self._previous: dict[int, object] = {}

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
        if self.name is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.name = signal.Signals(number).name
        again = "; press Ctrl-C again to stop at once" if number == signal.SIGINT else ""
        logging.warning("%s: %s%s", self.name, self._will, again)

    def interrupt(self) -> None:
        """Obeys a KeyboardInterrupt that user code has raised, as the first Ctrl-C; raises it again after a signal."""
        self._handle(signal.SIGINT, None)

    def agreed(self, step: int, wanted: bool) -> bool:
        """Returns whether any process wants something after ``step``; the same answer on every process."""
        if jax.process_count() == 1:
            return wanted
        return step % self._sync_period == 0 and bool(multihost_utils.process_allgather(np.int32(wanted)).any())

    def requested(self, step: int) -> bool:
        """Returns whether to stop after ``step``; the same answer on every process."""
        found = self.agreed(step, self.name is not None)
        if found and self.name is None:
            self.name = "SIGTERM"
        return found
