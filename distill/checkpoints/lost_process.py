"""Which errors mean that another process of a run has ended or no longer answers, and the message about them.

The same death has many forms. A collective over Gloo that fails raises JaxRuntimeError or ValueError, depending on the
call that waits for its result. A barrier raises JaxRuntimeError, which Orbax converts to TimeoutError.
"""

import contextlib
import re
from collections.abc import Iterator

from etils import epath

_STATUS = r"(?:UNKNOWN|INTERNAL|UNAVAILABLE|ABORTED|CANCELLED|DEADLINE_EXCEEDED|FAILED_PRECONDITION|NOT_FOUND)"
# Collectives and barriers of XLA's runtime; no storage and no configuration raises an error with these words.
_OF_ANY_ERROR = re.compile(
    rf"^{_STATUS}: (?:.*?)(?:\bGloo (?:.+ )?failed|\bNCCL\b.*remote process exited|\b[Bb]arrier (?:failed|timed out|was)"
    r"|Task \d+ heartbeat timeout|stopped sending heartbeats|(?i:coordination ?service)|another task died)"
)
"""Of an error of any type; JAX raises ValueError where a result is read as NumPy array."""
_OF_JAX = re.compile(
    r"\bGloo\b|Connection (?:reset|closed|refused)|Broken pipe|Socket closed|task died|remote process exited"
    r"|(?i:coordination ?service|barrier)|^UNAVAILABLE|^DEADLINE_EXCEEDED"
)
_LONGEST = 300  # characters of the cause in a message


class LostProcess(OSError):
    """Another process of the run has ended or no longer answers; the text names the cause and the newest checkpoint."""


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yields ``error``, the exception that caused it or that was handled when it was raised, and so on; each once."""
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        yield following
        following = following.__cause__ or (None if following.__suppress_context__ else following.__context__)


def cause(error: BaseException) -> BaseException | None:
    """The exception among ``error`` and its causes that reports a lost process; None if there is none.

    >>> cause(ValueError("UNKNOWN: Gloo AllGather failed: Connection closed by peer [127.0.0.1]:33673")) is not None
    True
    >>> cause(ValueError("UNAVAILABLE: Error reading gs://b/c: Connection reset by peer")) is None
    True
    """
    return next((one for one in causes(error) if _is_lost(one)), None)


def _is_lost(error: BaseException) -> bool:
    if isinstance(error, LostProcess):
        return True
    text = _first_line(error)
    of_jax = type(error).__name__ in ("JaxRuntimeError", "XlaRuntimeError")
    return bool(_OF_ANY_ERROR.search(text) or (of_jax and _OF_JAX.search(text)))


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error)[:8000].splitlines() if line.strip()), "")


def message(error: BaseException, remedy: str = "start all processes again") -> str:
    """One line about a lost process.

    Args:
      error: whose :func:`cause` is not None.
      remedy: the end of the line.
    """
    if isinstance(error, LostProcess):
        return str(error)
    found = cause(error)
    text = _first_line(found or error)
    text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
    return f"another process of the run has ended or no longer answers ({text}); {remedy}"


@contextlib.contextmanager
def naming_newest(folder: epath.PathLike) -> Iterator[None]:
    """Converts errors of a lost process to :class:`LostProcess`, which names the newest complete step and the remedy.

    Args:
      folder: of the steps.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, LostProcess) or cause(error) is None:
            raise
        raise LostProcess(message(error, newest(folder))) from error


def newest(folder: epath.PathLike) -> str:
    """The newest complete step of a folder of steps, and the remedy for a lost process."""
    import orbax.checkpoint as ocp  # slow; the commands import this module for their messages

    folder = epath.Path(folder)
    try:
        steps = ocp.utils.checkpoint_steps(folder) if folder.exists() else []
    except Exception as error:  # the storage may be gone as well, which must not hide the lost process
        return f"{folder} cannot be read now ({type(error).__name__}); start all processes again"
    if not steps:
        return f"{folder} holds no complete checkpoint: start all processes again, and the run begins again"
    return (
        f"step {max(steps)} is the newest complete checkpoint in {folder}: start all processes again, and the run "
        f"continues from step {max(steps)}"
    )
