"""The msgpack file ``checkpoint`` of a T5X checkpoint: a tree whose leaves are arrays or references to arrays.

Native checkpoints describe TensorStore arrays; T5X's older Orbax checkpoints hold ``PLACEHOLDER://<name>``.
"""

import os
from collections.abc import Iterator, Mapping
from typing import Any

import msgpack
import numpy as np
from etils import epath
from flax import serialization

from distill.checkpoints import arrays
from distill.checkpoints.arrays import Tensor, TensorInfo
from distill.validation import quoted

INDEX_FILE = "checkpoint"
VERSION = 3
PLACEHOLDER = "PLACEHOLDER://"
MAX_INDEX_BYTES = 4 * 2**30  # old checkpoints hold whole small networks in their index
_MAX_DEPTH = 64
_MAX_LEAVES = 10**6
_TENSORFLOW = (b"model_checkpoint_path", b"all_model_checkpoint_paths")
_SPEC_KEYS = {"driver", "kvstore", "metadata"}


def read(path: str | os.PathLike[str], *, max_bytes: int = MAX_INDEX_BYTES) -> dict[str, Any]:
    """The tree in an index file, arrays decoded.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is larger than ``max_bytes``, or no msgpack file of T5X's.
    """
    file = epath.Path(path)
    if not file.exists() or file.is_dir():
        raise FileNotFoundError(f"{path} does not exist")
    size = file.stat().length
    if size > max_bytes:
        raise ValueError(f"{path} holds {size} bytes; a T5X index holds at most {max_bytes}")
    data = file.read_bytes()
    if data.lstrip().startswith(_TENSORFLOW):
        raise ValueError(
            f"{path} belongs to a TensorFlow checkpoint (Mesh TensorFlow's T5). T5X's convert_tf_checkpoint turns it "
            "into one that can be read here"
        )
    try:
        tree = serialization.msgpack_restore(data)
    except MemoryError:
        raise
    except (msgpack.exceptions.UnpackException, Exception) as error:
        raise ValueError(
            f"{path} is no T5X index, or a damaged one: its contents are not those of the msgpack file that T5X writes. "
            "Give a T5X checkpoint (its folder, or the file 'checkpoint' in it), a model directory or a Hugging Face folder"
        ) from error
    if not isinstance(tree, dict):
        raise ValueError(f"{path} must hold a msgpack map; got a {type(tree).__name__}")
    return tree


def tensors(tree: Mapping[str, Any], folder: str | os.PathLike[str], where: str) -> dict[str, Tensor]:
    """Every array of an index, by its '/'-joined name below the state's root, read on demand.

    Args:
      tree: what :func:`read` returned.
      folder: holds the arrays that the index names.
      where: the index's name in errors.

    Raises:
      ValueError: an unknown version, a leaf of another kind, or one that refers to a path outside of ``folder``.
    """
    root: Any = tree
    if "version" in tree:
        version = tree["version"]
        if isinstance(version, bool) or not isinstance(version, int | np.integer) or not 2 <= version <= VERSION:
            raise ValueError(f"{where}: version must be 2 or 3; got {quoted(version, 40)}")
        root = tree.get("optimizer")
        if not isinstance(root, dict):
            raise ValueError(f"{where}: expected a map 'optimizer'; got {type(root).__name__}")
    result: dict[str, Tensor] = {}
    for name, leaf in _leaves(root, where):
        tensor = _tensor(leaf, folder, f"{where}: {name}")
        if tensor is not None:
            result[name] = tensor
    return result


def _leaves(tree: Any, where: str) -> Iterator[tuple[str, Any]]:
    stack: list[tuple[tuple[str, ...], Any]] = [((), tree)]
    count = 0
    while stack:
        path, node = stack.pop()
        if isinstance(node, dict) and not set(node) >= _SPEC_KEYS:
            if len(path) >= _MAX_DEPTH:
                raise ValueError(f"{where}: maps are nested more than {_MAX_DEPTH} deep")
            for key, value in node.items():
                if not isinstance(key, str) or "/" in key:
                    raise ValueError(f"{where}: names in the tree must be texts without '/'; got {quoted(key)}")
                stack.append(((*path, key), value))
        else:
            count += 1
            if count > _MAX_LEAVES:
                raise ValueError(f"{where}: more than {_MAX_LEAVES} leaves")
            yield "/".join(path), node


def _tensor(leaf: Any, folder: str | os.PathLike[str], where: str) -> Tensor | None:
    if leaf is None:
        return None
    if isinstance(leaf, np.ndarray | np.generic):
        array = np.asarray(leaf)
        arrays.check_shape(array.shape, where)
        arrays.check_dtype(array.dtype, where)
        return arrays.in_memory(array)
    if isinstance(leaf, bool | int | float):
        return arrays.in_memory(np.asarray(leaf))
    if isinstance(leaf, str) and leaf.startswith(PLACEHOLDER):
        name = arrays.check_component(leaf.removeprefix(PLACEHOLDER), where)
        return arrays.open_array(arrays.zarr_in_folder(folder, name), where)
    if isinstance(leaf, dict):
        return _described(leaf, folder, where)
    raise ValueError(f"{where}: expected an array or a reference to one; got {type(leaf).__name__} {quoted(leaf)}")


def _described(spec: dict[str, Any], folder: str | os.PathLike[str], where: str) -> Tensor:
    """An array by TensorStore's description of it, of which only name, shape and dtype are used."""
    store, metadata = spec["kvstore"], spec["metadata"]
    if spec["driver"] != "zarr" or not isinstance(store, dict) or not isinstance(metadata, dict):
        raise ValueError(f"{where}: expected a zarr array with 'kvstore' and 'metadata'; got {quoted(spec, 120)}")
    if store.get("driver") not in ("file", "gfile", "gcs"):
        raise ValueError(f"{where}: kvstore must be file, gfile or gcs; got {quoted(store.get('driver'))}")
    path = store.get("path", spec.get("path"))
    name = arrays.check_component(path.removesuffix("/") if isinstance(path, str) else path, where)
    dtype = spec.get("dtype", metadata.get("dtype"))
    if dtype in ("uint16", "<u2"):
        raise ValueError(f"{where}: bfloat16 stored as uint16, as T5X did before June 2021, is not read")
    expected = TensorInfo(arrays.check_shape(metadata.get("shape"), where), arrays.check_dtype(dtype, where))
    opening = arrays.zarr_in_folder(folder, name)

    def load(index: Any) -> np.ndarray:
        # Opened at each read: an index of many arrays is then read quickly, also over a network, and nothing stays open.
        described = opening
        if not (epath.Path(folder) / name / ".zarray").exists():
            described = opening | _assumed(metadata, expected)
        return arrays.open_array(described, where, expected).read(index)

    return Tensor(expected, load)


def _assumed(metadata: Mapping[str, Any], info: TensorInfo) -> dict[str, Any]:
    """The index's description, for an array whose own is missing (some copying tools skip dot files)."""
    layout = {name: metadata.get(name) for name in ("chunks", "compressor")}
    dtype = np.dtype(info.dtype).str if info.dtype != "bfloat16" else info.dtype
    fixed = {
        "dtype": dtype,
        "shape": list(info.shape),
        "fill_value": None,
        "filters": None,
        "order": "C",
        "zarr_format": 2,
    }
    return {"assume_metadata": True, "metadata": {**fixed, **layout}}


def write(path: str | os.PathLike[str], state: Mapping[str, Any]) -> None:
    """Writes an index of T5X's native format over ``state``, a tree of descriptions and small arrays."""
    epath.Path(path).write_bytes(serialization.msgpack_serialize({"version": VERSION, "optimizer": dict(state)}))


def describe(
    name: str, shape: tuple[int, ...], chunks: tuple[int, ...], compressor: Any, *, gcs: bool
) -> dict[str, Any]:
    """The leaf of an index for a float32 array in the folder ``name`` beside it."""
    # T5X fills in the bucket when it reads.
    store = {"driver": "gcs", "bucket": "t5x-dummy-bucket"} if gcs else {"driver": "file"}
    return {
        "driver": "zarr",
        "dtype": "float32",
        "kvstore": {**store, "path": f"{name}/"},
        "metadata": {"chunks": list(chunks), "compressor": compressor, "shape": list(shape)},
    }
