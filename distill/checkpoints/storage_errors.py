"""Which errors are the storage's or the machine's, in whatever exception a library raises them.

A file that cannot be read now may be intact: a checkpoint on a server that answers 503 is not
damaged. TensorStore raises ValueError, Orbax RuntimeError, SQLite its own errors, and each names the cause in words.
"""

import errno
import logging
import re
import sys
from collections.abc import Callable
from typing import Any

from distill.checkpoints import lost_process

_OF_THE_PATH = (
    errno.ENOENT,
    errno.EEXIST,
    errno.EISDIR,
    errno.ENOTDIR,
    errno.ENAMETOOLONG,
    errno.ELOOP,
    errno.ENOTEMPTY,
)
_TENSORFLOW = (
    "AbortedError",
    "DeadlineExceededError",
    "InternalError",
    "PermissionDeniedError",
    "ResourceExhaustedError",
    "UnauthenticatedError",
    "UnavailableError",
    "UnknownError",
)
# Orbax's functions that log an exception which the caller raises afterwards; and asyncio's, which logs those of the arrays
# that failed together with the one whose exception is raised.
_RAISED_LATER = ("run", "_thread_func", "default_exception_handler")
# The words of status codes, of the operating system and of SQLite.
_WORDS = re.compile(
    r"\b(?:UNAVAILABLE|PERMISSION_DENIED|UNAUTHENTICATED|RESOURCE_EXHAUSTED|DEADLINE_EXCEEDED|ABORTED)\b"
    r"|No space left on device|Disk quota exceeded|File too large|Read-only file system|Permission denied"
    r"|Input/output error|database or disk is full|disk I/O error|Too many open files|Stale file handle"
    r"|HTTP (?:response )?(?:code )?(?:401|403|408|429|5\d\d)\b"
)


def of_machine(error: BaseException) -> BaseException | None:
    """The exception among ``error`` and its causes that is a fault of the storage or the machine; None if there is none.

    >>> of_machine(ValueError("RESOURCE_EXHAUSTED: Error writing file: No space left on device")) is not None
    True
    >>> of_machine(ValueError("batch_size must be positive")) is None
    True
    """
    return next((one for one in lost_process.causes(error) if _is_of_machine(one)), None)


def one_line(record: logging.LogRecord) -> bool:
    """A filter of the logs of Orbax and asyncio: faults of the storage or the machine have no traceback, but with INFO.

    Orbax logs an exception in one of its threads and raises it in the caller, whose message is enough: the record is
    dropped, as is every record of a lost process. Others, such as an old checkpoint that cannot be removed, become one
    line.
    """
    error = record.exc_info[1] if record.exc_info else None
    if error is None or logging.getLogger().isEnabledFor(logging.INFO):
        return True
    if lost_process.cause(error) is not None:
        return False
    if of_machine(error) is None:
        return True
    if record.funcName in _RAISED_LATER:
        return False
    record.msg, record.args = f"{record.getMessage()}: {' '.join(str(error).split())}", None
    record.exc_info = None
    return True


def hide_late_writes() -> None:
    """Has Python print nothing for a write that ends after its save has failed; other unraisable errors are as before.

    TensorStore calls back into the event loop of the save, which is closed by then. It cannot raise the RuntimeError that
    results, so Python prints a traceback for each array.
    """
    if not isinstance(sys.unraisablehook, _LateWritesHidden):
        sys.unraisablehook = _LateWritesHidden(sys.unraisablehook)


class _LateWritesHidden:
    """A ``sys.unraisablehook`` in front of another one."""

    def __init__(self, before: Callable[[Any], object]):
        self._before = before

    def __call__(self, found: Any) -> None:
        if not (isinstance(found.exc_value, RuntimeError) and str(found.exc_value) == "Event loop is closed"):
            self._before(found)


def _is_of_machine(error: BaseException) -> bool:
    if isinstance(error, OSError):
        if error.errno is None:
            return bool(_WORDS.search(str(error)))
        return error.errno not in _OF_THE_PATH
    library = sys.modules.get("tensorflow")
    if library is not None and isinstance(error, library.errors.OpError):
        return type(error).__name__ in _TENSORFLOW
    # JAX's own errors with these words are about devices.
    of_jax = type(error).__name__ in ("JaxRuntimeError", "XlaRuntimeError")
    return not of_jax and bool(_WORDS.search(str(error)[:4000]))
