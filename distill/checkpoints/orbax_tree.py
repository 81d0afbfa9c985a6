"""The arrays of an Orbax tree (``_METADATA`` beside an OCDBT database or zarr folders), read one at a time.

Orbax restores whole trees onto a known structure; a converter must first list the arrays, and hold one at a time.
"""

import json
import os
from typing import Any

from etils import epath

from distill.checkpoints import arrays
from distill.checkpoints.arrays import Tensor
from distill.validation import quoted

METADATA_FILE = "_METADATA"
_OCDBT_MANIFEST = "manifest.ocdbt"
_MAX_METADATA_BYTES = 256 * 2**20
_MAX_LEAVES = 10**6
# Sequence indices, dictionary keys, attributes: Orbax's numbers for the kinds of keys in a path.
_ARRAY_TYPES = ("jax.Array", "np.ndarray", "scalar")


def is_tree(folder: str | os.PathLike[str]) -> bool:
    """Whether ``folder`` itself is an Orbax tree."""
    return (epath.Path(folder) / METADATA_FILE).exists()


def tensors(folder: str | os.PathLike[str], under: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """Every array of an Orbax tree by its '/'-joined path, read on demand.

    Args:
      folder: holds ``_METADATA``.
      under: only arrays below this path.

    Raises:
      FileNotFoundError: there is no such tree.
      ValueError: its files are damaged, or not Orbax's.
    """
    root = epath.Path(folder)
    metadata = _read_metadata(root)
    ocdbt = metadata.get("use_ocdbt", (root / _OCDBT_MANIFEST).exists())
    driver = "zarr3" if metadata.get("use_zarr3", False) else "zarr"
    result: dict[str, Tensor] = {}
    for path in _array_paths(metadata, root):
        if path[: len(under)] != under:
            continue
        name = ".".join(path)
        where = f"{root}: {'/'.join(path)}"
        spec = arrays.zarr_in_ocdbt if ocdbt else arrays.zarr_in_folder
        result["/".join(path)] = arrays.open_array(spec(root, name, driver=driver), where)
    return result


def paths(folder: str | os.PathLike[str]) -> list[str]:
    """The '/'-joined paths of the arrays of an Orbax tree, without opening them; raises as :func:`tensors`."""
    root = epath.Path(folder)
    return ["/".join(path) for path in _array_paths(_read_metadata(root), root)]


def _array_paths(metadata: dict[str, Any], root: epath.Path) -> list[tuple[str, ...]]:
    tree = metadata.get("tree_metadata")
    if not isinstance(tree, dict) or len(tree) > _MAX_LEAVES:
        raise ValueError(f"{root / METADATA_FILE}: expected a map 'tree_metadata' of at most {_MAX_LEAVES} arrays")
    entries = [_entry(entry, f"{root / METADATA_FILE}") for entry in tree.values()]
    return [path for path, is_array in entries if is_array]


def _read_metadata(root: epath.Path) -> dict[str, Any]:
    path = root / METADATA_FILE
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    size = path.stat().length
    if size > _MAX_METADATA_BYTES:
        raise ValueError(f"{path} holds {size} bytes; Orbax's metadata holds at most {_MAX_METADATA_BYTES}")
    try:
        metadata = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(metadata, dict):
        raise ValueError(f"{path} must hold a JSON object; got a {type(metadata).__name__}")
    return metadata


def _entry(entry: Any, where: str) -> tuple[tuple[str, ...], bool]:
    """A leaf's path, and whether it is an array."""
    try:
        keys = tuple(str(part["key"]) for part in entry["key_metadata"])
        kind = entry["value_metadata"]["value_type"]
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{where}: expected key_metadata and value_metadata; got {quoted(entry, 200)}") from error
    if not keys:
        raise ValueError(f"{where}: an array without a name")
    for key in keys:
        arrays.check_path(key, where)  # flat trees have names with '/'
    return keys, kind in _ARRAY_TYPES
