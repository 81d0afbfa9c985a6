"""Arrays in ``.npz`` files: written atomically, and read without pickle, on local disks and on ``gs://``."""

import io
import tokenize
import zipfile
import zlib
from collections.abc import Mapping

import numpy as np
from etils import epath

from distill import atomic_files


def read(path: epath.PathLike, what: str, remedy: str = "write the file again") -> dict[str, np.ndarray]:
    """Reads the arrays of an ``.npz`` file.

    Args:
      path: the file.
      what: its content, for the error.
      remedy: the remedy for a damaged file, for the error.

    Raises:
      ValueError: the file is not an ``.npz`` file, is damaged, or contains Python objects; one line, with path and reason.
      OSError: the file cannot be read.
    """
    return parse(epath.Path(path).read_bytes(), path, what, remedy)


def parse(
    content: bytes, path: epath.PathLike, what: str, remedy: str = "write the file again"
) -> dict[str, np.ndarray]:
    """As :func:`read`, for ``content`` that was read from ``path``; raises the same ValueError."""
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
            # NumPy returns the bytes of a file of another format.
            if others := [name for name, array in found.items() if not isinstance(array, np.ndarray)]:
                raise ValueError(f"{others[0]!r:.80} is no array")
            return found
    except (ValueError, KeyError, TypeError, AttributeError, EOFError, MemoryError, NotImplementedError, RuntimeError,
            SyntaxError, tokenize.TokenError, zipfile.BadZipFile, zlib.error) as error:  # fmt: skip
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"{path} holds no {what}: {reason}; {remedy}") from None


def write(path: epath.PathLike, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes the arrays to a compressed ``.npz`` file, which replaces an older one once it is complete."""
    path, held = epath.Path(path), io.BytesIO()
    np.savez_compressed(held, **dict(arrays))  # type: ignore[arg-type]
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_files.replace(path, held.getvalue())
