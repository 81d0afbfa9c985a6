"""Writing safetensors files whose tensors do not fit into memory together.

The library writes all tensors of a file at once. The format does not require this: its JSON header gives the
offset of each tensor, so space is reserved first, and tensors are then written one by one, in any order.
"""

import contextlib
import json
import math
import os
import pathlib
from collections.abc import Iterator, Mapping
from types import TracebackType

import numpy as np

from distill import atomic_files

BLOCK_BYTES = 16 * 2**20


class SafetensorsWriter:
    """One file of float32 tensors. A context manager; the file gets its name when all of them are written.

    Args:
      path: of the file.
      shapes: of the tensors, by name.
    """

    def __init__(self, path: str | os.PathLike[str], shapes: Mapping[str, tuple[int, ...]]):
        self._path = pathlib.Path(path)
        self._unfinished = pathlib.Path(atomic_files.partial(self._path))
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        self._places: dict[str, tuple[int, tuple[int, ...]]] = {}
        end = 0
        for name, shape in shapes.items():
            start, end = end, end + 4 * math.prod(shape)
            header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}
            self._places[name] = (start, shape)
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self._header, self._size = len(text).to_bytes(8, "little") + text, end
        self._written: set[str] = set()

    def __enter__(self) -> "SafetensorsWriter":
        self._file = self._unfinished.open("wb")
        self._file.write(self._header)
        self._file.truncate(len(self._header) + self._size)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        absent = self._places.keys() - self._written
        try:
            self._file.close()  # writes what is buffered
            if kind is None and not absent:
                os.replace(self._unfinished, self._path)
                return
        finally:
            with contextlib.suppress(OSError):
                self._unfinished.unlink()
        if kind is None:
            raise ValueError(f"{self._path}: {len(absent)} tensors were not written, such as {min(absent)}")

    def write(self, name: str, array: np.ndarray) -> None:
        """Writes one tensor, as float32, a few megabytes at a time. Raises ValueError if its shape is another."""
        start, shape = self._places[name]
        if array.shape != shape:
            raise ValueError(f"{self._path}: {name} must be of shape {list(shape)}; got {list(array.shape)}")
        self._file.seek(len(self._header) + start)
        for block in _blocks(array):
            self._file.write(np.ascontiguousarray(block, np.float32).data)
        self._written.add(name)


def _blocks(array: np.ndarray) -> Iterator[np.ndarray]:
    if array.ndim == 0 or array.size == 0:
        yield array
        return
    rows = max(1, BLOCK_BYTES * array.shape[0] // max(1, 4 * array.size))
    for start in range(0, array.shape[0], rows):
        yield array[start : start + rows]
