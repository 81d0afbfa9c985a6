"""A folder of safetensors weights, read one tensor at a time: ``model.safetensors``, or shards and their index.

Nothing is unpickled, and every field of a file is checked before it is used: shards are inside the folder, and shapes are
known before a byte of a tensor is read.
"""

import contextlib
import json
import pathlib
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from distill import validation
from distill.checkpoints import storage_errors
from distill.validation import quoted

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
PICKLED_FILES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
FLOAT_DTYPES = ("F64", "F32", "BF16", "F16")
_MAX_JSON_BYTES = 64 * 2**20


class TensorInfo(NamedTuple):
    """A tensor as a file's header describes it.

    Attributes:
      file: the file's name in the folder.
      dtype: safetensors' name of it, such as ``F32``.
      shape: its dimensions.
    """

    file: str
    dtype: str
    shape: tuple[int, ...]


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """The JSON object in ``path``. Raises ValueError for anything else, FileNotFoundError if there is no file."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    size = path.stat().st_size
    if size > _MAX_JSON_BYTES:
        raise ValueError(f"{path} holds {size} bytes; a JSON file of a model holds at most {_MAX_JSON_BYTES}")
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold a JSON object; got a {type(value).__name__}")
    return value


class WeightsFolder:
    """The tensors of a folder. A context manager: files are open, lazily mapped, inside of ``with``.

    Attributes:
      folder: where the files are.
      tensors: their tensors, by name.
    """

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self.tensors: dict[str, TensorInfo] = {}
        self._files: dict[str, Any] = {}
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "WeightsFolder":
        try:
            self._open()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()
        self._files.clear()

    def read(self, name: str) -> np.ndarray:
        """One tensor as float32. Raises ValueError unless the file holds floating-point numbers under ``name``."""
        info = self.tensors[name]
        if info.dtype not in FLOAT_DTYPES:
            raise ValueError(f"{self.folder / info.file}: {name} must be one of {FLOAT_DTYPES}; got {info.dtype}")
        try:
            tensor = self._files[info.file].get_tensor(name)
        except SafetensorError as error:
            raise ValueError(f"{self.folder / info.file}: {name} cannot be read: {error}") from error
        return np.asarray(tensor).astype(np.float32, copy=False)

    def _open(self) -> None:
        single, index = self.folder / SINGLE_FILE, self.folder / INDEX_FILE
        if single.is_file():
            self._open_file(SINGLE_FILE)
            self.tensors = {name: self._info(SINGLE_FILE, name) for name in self._files[SINGLE_FILE].keys()}  # noqa: SIM118
        elif index.is_file():
            self._open_shards(index)
        else:
            raise FileNotFoundError(self._why_nothing())

    def _open_file(self, name: str) -> None:
        path = self.folder / name
        if not path.is_file():
            raise ValueError(f"{self.folder / INDEX_FILE} names {name}, which does not exist")
        try:
            self._files[name] = self._stack.enter_context(safe_open(path, framework="numpy"))
        except (SafetensorError, OSError) as error:
            if storage_errors.of_machine(error):
                raise OSError(
                    f"{path} cannot be read now: {error}; wait for the storage, and run the same command again"
                ) from error
            raise ValueError(f"{path} is no safetensors file, or a damaged one: {error}") from error

    def _info(self, file: str, name: str) -> TensorInfo:
        header = self._files[file].get_slice(name)
        return TensorInfo(file, header.get_dtype(), tuple(header.get_shape()))

    def _open_shards(self, index: pathlib.Path) -> None:
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise ValueError(
                f"{index} must hold an object 'weight_map' from tensor names to files; got {quoted(weight_map)}"
            )
        for name, file in weight_map.items():
            if not isinstance(file, str) or not file.endswith(".safetensors") or not validation.is_plain_name(file):
                raise ValueError(
                    f"{index}: {name:.200} must be in a .safetensors file of the same folder, named without a path; "
                    f"got {quoted(file)}"
                )
        for file in sorted(set(weight_map.values())):
            self._open_file(file)
            held = set(self._files[file].keys())
            absent = [name for name, where in weight_map.items() if where == file and name not in held]
            if absent:
                raise ValueError(f"{index} lists {', '.join(absent)} in {file}, which does not hold it")
        self.tensors = {name: self._info(file, name) for name, file in weight_map.items()}

    def _why_nothing(self) -> str:
        pickled = [name for name in PICKLED_FILES if (self.folder / name).is_file()]
        held = f"only {pickled[0]}, a pickle, and not" if pickled else "neither"
        return (
            f"{self.folder} has {held} {SINGLE_FILE} {'or' if pickled else 'nor'} {INDEX_FILE}. Reading a pickle runs "
            "whatever code it holds, so pickled weights (pytorch_model.bin) are refused. Convert them once, where you "
            "trust them: transformers.AutoModelForSeq2SeqLM.from_pretrained(NAME).save_pretrained(FOLDER) writes "
            f"{SINGLE_FILE}; on the Hugging Face hub, a pull request often holds the converted file already, and "
            "NAME@refs/pr/1 reads it"
        )
