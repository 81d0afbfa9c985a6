"""Arrays in ``.npz`` files: written atomically, and read without pickle, on local disks and on ``gs://``.

A file may be from anyone. Before memory is allocated, the sizes that it gives of its arrays are compared with each other
and with a limit: zeros are compressed to a thousandth of their size.
"""

import io
import math
import tokenize
import zipfile
import zlib
from collections.abc import Mapping

import numpy as np
from etils import epath

from distill import atomic_files
from distill.validation import quoted

# How an array's file begins → how its header is read. NumPy writes version 3 for names of fields only.
_HEADERS = {
    np.lib.format.magic(1, 0): np.lib.format.read_array_header_1_0,
    np.lib.format.magic(2, 0): np.lib.format.read_array_header_2_0,
}
# Limits of a file's arrays, decompressed: these bytes in any file, or this many times the file's size (padded tokens are
# compressed to about a hundredth), but no more than the last.
_ANY_BYTES, _RATIO, _MOST_BYTES = 2 * 2**30, 400, 64 * 2**30


def read(path: epath.PathLike, what: str, remedy: str = "write the file again") -> dict[str, np.ndarray]:
    """Reads the arrays of an ``.npz`` file.

    Args:
      path: the file.
      what: its content, for the error.
      remedy: the remedy for a damaged file, for the error.

    Raises:
      ValueError: the file is not an ``.npz`` file, is damaged, contains Python objects, or arrays that are far larger than
        the file; one line, with path and reason.
      OSError: the file cannot be read.
    """
    return parse(epath.Path(path).read_bytes(), path, what, remedy)


def parse(
    content: bytes, path: epath.PathLike, what: str, remedy: str = "write the file again"
) -> dict[str, np.ndarray]:
    """As :func:`read`, for ``content`` that was read from ``path``; raises the same ValueError."""
    try:
        _check_sizes(content)
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (ValueError, KeyError, TypeError, AttributeError, EOFError, MemoryError, NotImplementedError, RuntimeError,
            SyntaxError, tokenize.TokenError, zipfile.BadZipFile, zlib.error) as error:  # fmt: skip
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"{path} holds no {what}: {reason}; {remedy}") from None


def _check_sizes(content: bytes) -> None:
    """Raises ValueError unless the arrays have the sizes that their headers give, and these are within the limits."""
    most = min(_MOST_BYTES, max(_ANY_BYTES, _RATIO * len(content)))
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = archive.infolist()
        if (total := sum(entry.file_size for entry in entries)) > most:
            raise ValueError(
                f"its arrays hold {total:,} bytes, and {len(content):,} when they are compressed; expected at most {most:,}"
            )
        for entry in entries:
            name = entry.filename.removesuffix(".npy")
            with archive.open(entry) as file:
                begin = file.read(np.lib.format.MAGIC_LEN)
                header = _HEADERS.get(begin)
                if header is None:
                    raise ValueError(f"{quoted(name)} is no array")
                shape, _, dtype = header(file)
                size = file.tell() + math.prod(shape) * dtype.itemsize
            if not dtype.hasobject and (size != entry.file_size or min(shape, default=0) < 0):
                raise ValueError(f"{quoted(name)} holds {entry.file_size:,} bytes, expected {size:,} for shape {shape}")


def write(path: epath.PathLike, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes the arrays to a compressed ``.npz`` file, which replaces an older one once it is complete."""
    path, held = epath.Path(path), io.BytesIO()
    np.savez_compressed(held, **dict(arrays))  # type: ignore[arg-type]
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_files.replace(path, held.getvalue())
