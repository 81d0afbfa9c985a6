"""Which errors end a command with one line, and their exit codes; any other error is a bug and shows a traceback."""

import errno
import os
import re
import sys

from distill import exit_codes
from distill.api.gin_files import without_gin
from distill.checkpoints import lost_process, storage_errors

_REMEDIES = {
    errno.ENOSPC: "free some space and run the same command again",
    errno.EDQUOT: "free some space and run the same command again",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f) and run the same command again",
    errno.EIO: "check the disk or the network storage, and run the same command again",
    errno.ESTALE: "check the disk or the network storage, and run the same command again",
    errno.ETIMEDOUT: "check the disk or the network storage, and run the same command again",
    errno.EACCES: "change the permission or use another path",
    errno.EPERM: "change the permission or use another path",
    errno.EROFS: "use another path",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.EEXIST: "use another path",
    errno.EISDIR: "give a file, not a folder",
    errno.ENOTDIR: "a file is in the place of a folder; use another path",
}
# Errors of a path that the user gave; all other operating-system errors are the machine's.
_MISTAKES = (errno.ENOENT, errno.EEXIST, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTEMPTY)
_TENSORFLOW_MISTAKES = ("NotFoundError", "AlreadyExistsError", "InvalidArgumentError", "OutOfRangeError")

_LONGEST = 8000  # characters of a message; a file may contain values of any length


def explain(error: BaseException) -> tuple[int, str] | None:
    """The exit code and the message, one line a mistake; None for an error that only a traceback explains."""
    found = _explained(error)
    if found is None or len(found[1]) <= _LONGEST:
        return found
    return found[0], f"{found[1][:_LONGEST]}… ({len(found[1]) - _LONGEST:,} more characters)"


def _explained(error: BaseException) -> tuple[int, str] | None:
    if lost_process.cause(error) is not None:
        return exit_codes.MACHINE, without_gin(lost_process.message(error))
    if isinstance(error, OSError):
        return _operating_system(error)
    if isinstance(error, MemoryError):
        return exit_codes.MACHINE, "the machine's memory is exhausted; use smaller batches, or a larger machine"
    tensorflow = _tensorflow(error) or _jax(error)
    if tensorflow is not None:
        return tensorflow
    of_machine = storage_errors.of_machine(error)
    if of_machine is not None:
        return exit_codes.MACHINE, _fault(error, of_machine)
    if isinstance(error, (ValueError, FloatingPointError)):
        return exit_codes.MISTAKE, without_gin(str(error))
    text = str(error)
    if isinstance(error, TypeError) and "supplied by Gin" in text:
        arguments = re.search(r"arguments: (\[.*?\])", text)
        function = re.search(r"In call to configurable '([^']+)'", text)
        return exit_codes.MISTAKE, (
            f"the configuration lacks {arguments[1] if arguments else 'arguments'} of "
            f"{function[1] if function else 'a function'}; is the run file missing (gin/runs/….gin)?"
        )
    if isinstance(error, RuntimeError) and text.startswith("Required bindings for"):
        return exit_codes.MISTAKE, without_gin(text.splitlines()[0])
    return None


def _fault(error: BaseException, cause: BaseException) -> str:
    """One line on a fault of the machine or the storage that a library raised as another error."""
    text = _first_line(without_gin(str(error))) or type(error).__name__
    why = _operating_system(cause)[1] if isinstance(cause, OSError) else _first_line(str(cause))
    known = why.partition("; ")[0].rpartition(": ")[2]
    remedy = "" if "; " in text else "; free space or wait for the storage, and run the same command again"
    return (text if known in text else f"{text}: {why}")[:1000] + remedy


def _operating_system(error: OSError) -> tuple[int, str]:
    number, name = error.errno, error.filename
    if number is None:  # libraries raise it with their own text
        code = exit_codes.MISTAKE if isinstance(error, (FileNotFoundError, FileExistsError)) else exit_codes.MACHINE
        return code, _first_line(without_gin(str(error))) or type(error).__name__
    text = error.strerror or os.strerror(number)
    name = os.fsdecode(name) if isinstance(name, (str, bytes)) else name
    shown = f"{name}: {text}" if name is not None else text
    remedy = _REMEDIES.get(number)
    if error.filename2 is not None:
        shown += f" (to {error.filename2})"
    code = exit_codes.MISTAKE if number in _MISTAKES else exit_codes.MACHINE
    return code, without_gin(shown) + (f"; {remedy}" if remedy else "")


def _tensorflow(error: BaseException) -> tuple[int, str] | None:
    """TensorFlow's errors, which its file systems raise; none if TensorFlow is not loaded."""
    library = sys.modules.get("tensorflow")
    if library is None or not isinstance(error, library.errors.OpError):
        return None
    whole = without_gin(error.message or str(error))
    # The file systems append the object in a line that begins with "when", such as "when reading gs://bucket/a".
    objects = [line.strip() for line in whole.splitlines()[1:] if line.strip().startswith("when ")]
    text = " ".join([_first_line(whole), *objects])
    mistake = type(error).__name__ in _TENSORFLOW_MISTAKES or "Is a directory" in text or "Not a directory" in text
    return exit_codes.MISTAKE if mistake else exit_codes.MACHINE, text


def _jax(error: BaseException) -> tuple[int, str] | None:
    """Errors of a device whose memory is exhausted; none if JAX is not loaded."""
    library = sys.modules.get("jax")
    if library is None or not isinstance(error, library.errors.JaxRuntimeError):
        return None
    text = _first_line(str(error))
    if not text.startswith("RESOURCE_EXHAUSTED"):
        return None
    return exit_codes.MACHINE, (
        f"the device's memory is exhausted ({text}); lower BATCH_SIZE, raise NUM_MICROBATCHES or use more devices"
    )


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")
