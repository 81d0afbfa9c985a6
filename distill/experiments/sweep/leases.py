"""Leases: which worker trains which run, for workers of one or several machines on a shared directory.

A lease is a lock of :mod:`distill.locking` below ``.leases``: its holder shows signs of life, and the lease of a dead
worker is taken over, on the same machine at once and from another machine after ``locking.LEASE`` seconds. The model
directory's own lock, which the training process holds, keeps a run from being trained twice even if a lease is lost.
"""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from distill import locking
from distill.experiments.sweep import files

FOLDER = ".leases"
PREPARING = "preparing"
"""The lease of the process that checks the configurations of a sweep before its plan is written."""
_PLAN = "plan"
_WAIT_S = 600.0  # for the short sections that change the plan


def path_of(directory: Path, name: str) -> Path:
    """Returns the lock file of the lease ``name``."""
    return directory / FOLDER / f"{name}.lock"


def is_held(directory: Path, name: str) -> bool:
    """Returns whether a living worker holds the lease. Does not wait."""
    return locking.holder(path_of(directory, name)) is not None


def is_any_run_held(directory: Path) -> bool:
    """Returns whether living workers hold the lease of any run, or of the common start. Does not wait."""
    names = [path.stem for path in (directory / FOLDER).glob("*.lock")]
    return any(is_held(directory, name) for name in names if name not in (PREPARING, _PLAN))


class Lease:
    """A lease that this process holds until :meth:`release`, or to the end of a ``with`` block."""

    def __init__(self, name: str, stack: contextlib.ExitStack):
        self.name, self._stack = name, stack

    def __enter__(self) -> "Lease":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Gives the lease back; a second call does nothing."""
        self._stack.close()


def claim(directory: Path, name: str) -> Lease | None:
    """Takes a lease; returns None if another worker holds it."""
    if is_held(directory, name):
        return None
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locking.held(path_of(directory, name), name))
        except locking.Locked:
            return None
        return Lease(name, stack.pop_all())


@contextlib.contextmanager
def exclusively(directory: Path) -> Iterator[None]:
    """Holds the lock of the plan, for a section of milliseconds up to the checks of all runs; waits for other workers.

    Raises:
      distill.locking.Locked: another worker held it for ten minutes.
    """
    deadline = time.monotonic() + _WAIT_S
    while True:
        try:
            with contextlib.ExitStack() as stack:
                stack.enter_context(locking.held(path_of(directory, _PLAN), f"the plan of {directory}"))
                entered = stack.pop_all()
            break
        except locking.Locked:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
    with entered:
        yield


@contextlib.contextmanager
def preparing(directory: Path) -> Iterator[None]:
    """Holds the lease ``PREPARING`` if no other worker does. Folders that it made and that are still empty are removed."""
    with files.no_empty_folders(directory / FOLDER):
        lease = claim(directory, PREPARING)
        try:
            yield
        finally:
            if lease is not None:
                lease.release()
