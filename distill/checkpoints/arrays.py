"""Arrays in files, read on demand: zarr arrays by TensorStore, in folders and in Orbax's OCDBT databases.

Files are not trusted: an array opens only inside its checkpoint, its dtype and size are checked before a byte of it is
read, and a missing chunk is an error, not zeros.
"""

import dataclasses
import itertools
import math
import os
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import tensorstore

from distill import validation

FLOATS = ("float64", "float32", "bfloat16", "float16")
MAX_RANK = 8
MAX_ELEMENTS = 2**40  # of one array; the largest of an 11-billion-parameter T5, all layers stacked, has 2**30
MAX_CHUNKS = 10**6  # of one array; one of 2**30 numbers in the chunks of T5X has 64
CHUNK_BYTES = 64 * 2**20  # of arrays that are written; T5X's own choice
READ_BYTES = 64 * 2**20  # of chunks that are fetched at a time
READ_CHUNKS = 1024  # fetched at a time; a missing one is found before the next are requested

_GCS = re.compile(r"gs://(?P<bucket>[^/]+)/(?P<path>.+)", re.DOTALL)


class TensorInfo(NamedTuple):
    """The shape and dtype of an array, known before it is read.

    Attributes:
      shape: its dimensions.
      dtype: NumPy's name of its elements, ``bfloat16`` included.
    """

    shape: tuple[int, ...]
    dtype: str


@dataclasses.dataclass(frozen=True)
class Tensor:
    """An array in a file.

    Attributes:
      info: its shape and dtype.
      load: reads the part of it that an index (a tuple of slices, or ``...``) selects.
    """

    info: TensorInfo
    load: Callable[[Any], np.ndarray]

    def read(self, index: Any = ...) -> np.ndarray:
        """The array, or the part of it that ``index`` selects, in its own dtype. Raises ValueError if it is damaged."""
        return self.load(index)


def check_shape(shape: Any, where: str) -> tuple[int, ...]:
    """``shape`` as a tuple. Raises ValueError unless it is a list of dimensions within the limits."""
    if not isinstance(shape, list | tuple) or len(shape) > MAX_RANK:
        raise ValueError(f"{where}: a shape must be a list of at most {MAX_RANK} dimensions; got {_short(shape)}")
    if any(isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 0 for size in shape):
        raise ValueError(f"{where}: the dimensions of a shape must be integers ≥ 0; got {_short(shape)}")
    if math.prod(int(size) for size in shape) > MAX_ELEMENTS:
        raise ValueError(f"{where}: an array has at most {MAX_ELEMENTS} elements; got the shape {_short(shape)}")
    return tuple(int(size) for size in shape)


def check_dtype(name: Any, where: str) -> str:
    """The name of a dtype. Raises ValueError for anything that is not one of numbers or booleans."""
    try:
        dtype = jnp.dtype(name)
    except (TypeError, ValueError, SyntaxError) as error:
        raise ValueError(f"{where}: no such dtype: {_short(name)}") from error
    if dtype.kind not in "fiubcV" or dtype.fields is not None or dtype.itemsize > 16 or dtype.hasobject:
        raise ValueError(f"{where}: an array must hold numbers; got dtype {_short(name)}")
    return dtype.name


def check_component(name: Any, where: str) -> str:
    """A name that stays inside the folder it is looked up in. Raises ValueError for any other."""
    if not validation.is_plain_name(name, 1024):  # in a database, names may be longer than those of files
        raise ValueError(f"{where}: expected a name inside the checkpoint's folder; got {_short(name)}")
    return name


def check_path(name: Any, where: str) -> str:
    """A name, or several joined by '/', that stay inside the folder. Raises ValueError for any other."""
    for part in name.split("/") if isinstance(name, str) else [name]:
        check_component(part, where)
    return str(name)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:120]}…"


def kvstore(path: str | os.PathLike[str]) -> dict[str, Any]:
    """TensorStore's description of a folder: local or ``gs://``. Raises ValueError for other schemes."""
    text = os.fspath(path)
    match = _GCS.fullmatch(text)
    if match:
        return {"driver": "gcs", "bucket": match["bucket"], "path": match["path"].rstrip("/") + "/"}
    if "://" in text:
        raise ValueError(f"a checkpoint must be on a local path or under gs://; got {text!r}")
    return {"driver": "file", "path": os.path.abspath(text) + "/"}


def zarr_in_folder(folder: str | os.PathLike[str], name: str, *, driver: str = "zarr") -> dict[str, Any]:
    """TensorStore's description of the array in the folder ``name`` of ``folder``."""
    store = kvstore(folder)
    return {"driver": driver, "kvstore": {**store, "path": f"{store['path']}{check_path(name, str(folder))}/"}}


def zarr_in_ocdbt(folder: str | os.PathLike[str], name: str, *, driver: str = "zarr") -> dict[str, Any]:
    """TensorStore's description of the array ``name`` in the OCDBT database that ``folder`` is."""
    check_path(name, str(folder))
    return {"driver": driver, "kvstore": {"driver": "ocdbt", "base": kvstore(folder), "path": f"{name}/"}}


def open_array(spec: dict[str, Any], where: str, expected: TensorInfo | None = None) -> Tensor:
    """An array, opened for reading only.

    Args:
      spec: TensorStore's description of it.
      where: its name in errors.
      expected: its shape and dtype by an index; the file must agree.

    Raises:
      ValueError: it is missing, damaged, too large, or differs from ``expected``.
    """
    context = tensorstore.Context({"cache_pool": {"total_bytes_limit": 0}})
    try:
        # Chunks that are missing would be read as zeros.
        strict = {"fill_missing_data_reads": False, "open": True}
        array = tensorstore.open({**spec, **strict}, read=True, context=context).result()
        shape, name = tuple(array.shape), array.dtype.name
    except Exception as error:  # TensorStore raises many kinds; here all mean one thing
        raise ValueError(f"{where} cannot be opened: {error}") from error
    info = TensorInfo(check_shape(shape, where), check_dtype(name, where))
    if expected is not None and info != expected:
        raise ValueError(f"{where}: the index gives {_info_text(expected)}, but the array is {_info_text(info)}")
    chunks = _chunks(array)
    if (count := math.prod(-(-size // chunk) for size, chunk in zip(shape, chunks))) > MAX_CHUNKS:
        raise ValueError(
            f"{where}: an array has at most {MAX_CHUNKS:,} chunks; got {count:,} of shape {_short(list(chunks))} for "
            f"{_info_text(info)}; write the checkpoint with larger chunks"
        )

    def load(index: Any) -> np.ndarray:
        try:
            return _read_whole(array) if index is ... else np.asarray(array[index].read().result())
        except MemoryError:
            raise
        except Exception as error:
            raise ValueError(f"{where} cannot be read: {error}") from error

    return Tensor(info, load)


def _chunks(array: tensorstore.TensorStore) -> tuple[int, ...]:
    """The shape of the chunks that are read."""
    read_shape = array.chunk_layout.read_chunk.shape or ()  # None where the rank is 0
    return tuple(chunk or max(size, 1) for chunk, size in zip(read_shape, array.shape))


def _read_whole(array: tensorstore.TensorStore) -> np.ndarray:
    """All of an array, a few chunks at a time: TensorStore would fetch and hold all chunks at once."""
    try:
        result = np.empty(array.shape, array.dtype.numpy_dtype)
    except MemoryError:
        size = math.prod(array.shape) * array.dtype.numpy_dtype.itemsize
        raise ValueError(
            f"its shape {_short(list(array.shape))} needs {size:,} bytes, more than can be allocated"
        ) from None
    chunks = _chunks(array)
    at_once = min(READ_CHUNKS, max(1, READ_BYTES // max(1, result.itemsize * math.prod(chunks))))
    places = blocks(tuple(array.shape), chunks)
    while group := list(itertools.islice(places, at_once)):
        reads = [array[place].read() for place in group]
        for place in group:
            result[place] = reads.pop(0).result()
    return result


def in_memory(array: np.ndarray) -> Tensor:
    """An array that its index holds itself."""
    return Tensor(TensorInfo(tuple(array.shape), array.dtype.name), lambda index: array[index])


def chunk_shape(shape: tuple[int, ...], *, stacked: bool = False, max_bytes: int | None = None) -> tuple[int, ...]:
    """A chunk of float32, of ``CHUNK_BYTES`` by default: rows of the array, and of stacked ones (axis 1) layers first."""
    limit = CHUNK_BYTES if max_bytes is None else max_bytes
    chunk = [max(size, 1) for size in shape]
    axes = [1, 0] if stacked and len(shape) > 2 else [0]
    for axis in [*axes, *(a for a in range(len(shape)) if a not in axes)]:
        size = 4 * math.prod(chunk)
        if size > limit:
            chunk[axis] = max(1, chunk[axis] * limit // size)
    return tuple(chunk)


def blocks(shape: tuple[int, ...], chunks: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    """The index of every chunk of an array."""
    counts = [-(-size // chunk) for size, chunk in zip(shape, chunks)]
    for place in np.ndindex(*counts):
        yield tuple(slice(i * c, min((i + 1) * c, size)) for i, c, size in zip(place, chunks, shape))


def _info_text(info: TensorInfo) -> str:
    return f"{info.dtype} [{', '.join(map(str, info.shape))}]"
