"""Hugging Face checkpoints of the T5 family, read and written: T5, T5 1.1, Flan-T5, mT5, umT5, ByT5.

Weights are safetensors, and move one tensor at a time: beside the parameters themselves, no second copy of them exists.
"""

import collections
import json
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import huggingface_hub
import jax
import numpy as np
import safetensors.numpy
import sentencepiece
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from distill.interop.huggingface_config import config_from_hf, config_to_hf, scales_decoder_output
from distill.interop.huggingface_names import IGNORED, LM_HEAD, SHARED, TABLE_COPIES, Entry, entries
from distill.interop.weights_folder import (
    FLOAT_DTYPES,
    INDEX_FILE,
    SINGLE_FILE,
    WeightsFolder,
    iter_folder,
    read_json,
)
from distill.t5_config import T5Config

Params = dict[str, Any]
Source = str | os.PathLike[str]

CONFIG_FILE = "config.json"
GENERATION_FILE = "generation_config.json"
VOCABULARY_FILE = "spiece.model"
# How a network is computed, which a file does not decide.
_FREE_FIELDS = ("dropout_rate", "dtype", "scan_layers", "remat_policy", "attention")


def resolve(source: Source, revision: str | None = None) -> pathlib.Path:
    """A local folder for ``source``: itself, or a snapshot of the hub repository ``owner/name`` (``name`` for T5 1.0).

    Hugging Face's own settings count: ``HF_HUB_OFFLINE=1`` looks in its cache only.

    Raises:
      FileNotFoundError: if it is neither.
    """
    path = pathlib.Path(source)
    if path.is_dir():
        return path
    name = str(source)
    if name.count("/") > 1 or name.startswith((".", "/", "~")):
        raise FileNotFoundError(f"{name} is not a folder")
    try:
        # The patterns leave pickles where they are.
        patterns = ["*.json", "model*.safetensors", VOCABULARY_FILE]
        return pathlib.Path(huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        offline = " (HF_HUB_OFFLINE is set)" if huggingface_hub.constants.HF_HUB_OFFLINE else ""
        raise FileNotFoundError(
            f"{name!r} is neither a folder nor a Hugging Face repository within reach{offline}: {error}"
        ) from error


def read_config(source: Source, *, revision: str | None = None, **overrides: Any) -> T5Config:
    """The :class:`T5Config` of a checkpoint; ``overrides`` set fields otherwise, such as ``scan_layers=True``.

    Raises:
      FileNotFoundError: there is no such checkpoint.
      ValueError: its ``config.json`` is damaged or describes another kind of network.
    """
    path = resolve(source, revision) / CONFIG_FILE
    return config_from_hf(read_json(path), where=str(path), **overrides)


def iter_tensors(source: Source, *, revision: str | None = None) -> Iterator[tuple[str, np.ndarray]]:
    """(Hugging Face's name, float32 array) of every tensor of a checkpoint, one in memory at a time."""
    return iter_folder(resolve(source, revision))


def load_params(source: Source, config: T5Config, *, revision: str | None = None, shardings: Any = None) -> Params:
    """The parameters of a checkpoint, for the network of ``config``.

    Args:
      source: a folder, or a repository on the hub.
      config: what the parameters are for; stacked if ``scan_layers``.
      revision: a branch, tag, commit or ``refs/pr/…`` of the repository.
      shardings: a tree of shardings like the parameters: each is placed as soon as it is read, so this machine's memory
        holds one at a time. Without it the arrays are NumPy's.

    Returns:
      float32 parameters.

    Raises:
      FileNotFoundError: there is no such checkpoint, or only a pickled one.
      ValueError: the files are damaged, or do not fit ``config``; every difference is listed, with both shapes.
    """
    folder = resolve(source, revision)
    with WeightsFolder(folder) as weights:
        wanted = {entry.name: entry for entry in entries(config)}
        _check_fit(folder, config, weights, wanted)
        by_leaf: dict[tuple[str, ...], list[Entry]] = collections.defaultdict(list)
        for entry in wanted.values():
            stacked = entry.stacked() if config.scan_layers else None
            by_leaf[stacked[0] if stacked else entry.path].append(entry)
        params: Params = {}
        for path, parts in by_leaf.items():
            leaf = _read_leaf(weights, path, parts)
            if shardings is not None:
                sharding = shardings
                for key in path:
                    sharding = sharding[key]
                leaf = jax.device_put(leaf, sharding)
            node = params
            for key in path[:-1]:
                node = node.setdefault(key, {})
            node[path[-1]] = leaf
        return params


def load_pretrained(
    source: Source, *, revision: str | None = None, shardings: Any = None, **overrides: Any
) -> tuple[T5Config, Params]:
    """:func:`read_config`, and :func:`load_params` with it."""
    folder = resolve(source, revision)
    config = read_config(folder, **overrides)
    return config, load_params(folder, config, shardings=shardings)


def _read_leaf(weights: WeightsFolder, path: tuple[str, ...], parts: list[Entry]) -> np.ndarray:
    if parts[0].path == path:
        return _read_entry(weights, parts[0])
    shape = parts[0].shape[::-1] if parts[0].transposed else parts[0].shape
    leaf = np.empty((shape[0], len(parts), *shape[1:]), np.float32)
    for entry in parts:
        place = entry.stacked()
        assert place is not None  # only what is in layers is stacked
        leaf[:, place[1]] = _read_entry(weights, entry)
    return leaf


def _read_entry(weights: WeightsFolder, entry: Entry) -> np.ndarray:
    # An unscaled network may share its table with its logits; here its output kernel is then a copy of the table.
    name = SHARED if entry.name == LM_HEAD and LM_HEAD not in weights.tensors else entry.name
    tensor = weights.read(name)
    return np.ascontiguousarray(tensor.T if entry.transposed else tensor)


def _check_fit(folder: pathlib.Path, config: T5Config, weights: WeightsFolder, wanted: Mapping[str, Entry]) -> None:
    """Raises one ValueError that lists every way in which the files and ``config`` differ."""
    problems = []
    scaled = None
    if (folder / CONFIG_FILE).is_file():
        fields = read_json(folder / CONFIG_FILE)
        theirs = config_from_hf(fields, where=str(folder / CONFIG_FILE))
        scaled = scales_decoder_output(fields)
        for name in config.__dataclass_fields__:
            got, expected = getattr(theirs, name), getattr(config, name)
            if name not in _FREE_FIELDS and got != expected:
                problems.append(f"setting {name}: checkpoint {got!r}, configuration {expected!r}")
    held = weights.tensors
    for name, entry in wanted.items():
        if name in held:
            if held[name].shape != entry.shape:
                problems.append(f"{name}: checkpoint {_shape(held[name].shape)}, configuration {_shape(entry.shape)}")
            elif held[name].dtype not in FLOAT_DTYPES:
                problems.append(f"{name}: checkpoint {held[name].dtype}, wanted one of {FLOAT_DTYPES}")
        elif name != LM_HEAD or scaled is not False:
            problems.append(f"{name}: checkpoint has none, configuration {_shape(entry.shape)}")
    # A tied network's file may hold its one table under every name it goes by.
    names = TABLE_COPIES if scaled is False else (*TABLE_COPIES, LM_HEAD)
    copies = [name for name in names if name in held and name not in wanted]
    for name, info in held.items():
        if name not in wanted and name not in copies and name not in IGNORED:
            problems.append(f"{name}: checkpoint {_shape(info.shape)}, configuration has none")
    if copies and not problems:
        table = weights.read(SHARED)
        for name in copies:
            if held[name].shape != table.shape or not np.array_equal(weights.read(name), table):
                problems.append(f"{name}: checkpoint has one that is not {SHARED}, configuration uses that one table")
    if problems:
        counted = f"{len(problems)} difference" + ("s" if len(problems) > 1 else "")
        raise ValueError(f"{folder} does not fit the configuration ({counted}):\n  " + "\n  ".join(problems))


def _shape(shape: tuple[int, ...]) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"


def save_pretrained_folder(
    params: Params,
    config: T5Config,
    folder: Source,
    *,
    model_type: str | None = None,
    vocabulary_file: Source | None = None,
    extra_ids: int = 100,
    generation: Mapping[str, Any] | None = None,
    max_shard_bytes: int = 5_000_000_000,
) -> None:
    """Writes a folder that ``transformers``' ``T5ForConditionalGeneration.from_pretrained`` (MT5…, UMT5…) loads.

    Args:
      params: float parameters, stacked if ``config.scan_layers``; written as float32.
      config: their configuration.
      folder: where to; created if need be. Weights that lie there already are replaced.
      model_type: as for :func:`~distill.interop.huggingface_config.config_to_hf`.
      vocabulary_file: a SentencePiece model with T5's special ids, to lay beside the weights for T5's tokenizer.
      extra_ids: with ``vocabulary_file``: how many sentinel tokens the tokenizer adds after it.
      generation: defaults for ``generate``, such as ``{"num_beams": 4, "max_new_tokens": 64}``.
      max_shard_bytes: weights beyond this size go to several files with an index.

    Raises:
      ValueError: if no such model exists there, or a parameter is missing, is superfluous, has another shape, or lies on
        devices this process cannot reach; or for a vocabulary with other special ids. Nothing is written then.
    """
    fields = config_to_hf(config, model_type)
    leaves = {_path(key): leaf for key, leaf in jax.tree_util.tree_flatten_with_path(params)[0]}
    plan = [(entry, *_place(entry, config)) for entry in entries(config)]
    _check_params(leaves, plan, config)
    if vocabulary_file is not None:
        _check_vocabulary(vocabulary_file)
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _write_weights(folder, leaves, plan, max_shard_bytes)
    _write_json(folder / CONFIG_FILE, {**fields, "dtype": "float32"})
    ids = {name: fields[name] for name in ("decoder_start_token_id", "eos_token_id", "pad_token_id")}
    _write_json(folder / GENERATION_FILE, {**ids, **(generation or {})})
    if vocabulary_file is not None:
        shutil.copyfile(vocabulary_file, folder / VOCABULARY_FILE)
        tokens = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
        _write_json(
            folder / "tokenizer_config.json", {"tokenizer_class": "T5Tokenizer", "extra_ids": extra_ids, **tokens}
        )


def _path(key: tuple[Any, ...]) -> tuple[str, ...]:
    return tuple(part.key for part in key)


def _place(entry: Entry, config: T5Config) -> tuple[tuple[str, ...], int | None]:
    stacked = entry.stacked() if config.scan_layers else None
    return stacked or (entry.path, None)


def _check_params(leaves: Mapping[tuple[str, ...], Any], plan, config: T5Config) -> None:
    problems = []
    for entry, path, index in plan:
        shape = entry.shape[::-1] if entry.transposed else entry.shape
        if index is not None:
            layers = config.num_encoder_layers if path[0] == "encoder" else config.num_decoder_layers
            shape = (shape[0], layers, *shape[1:])
        if path not in leaves:
            problems.append(f"{'/'.join(path)}: there is none, configuration {_shape(shape)}")
        elif tuple(leaves[path].shape) != shape:
            problems.append(f"{'/'.join(path)}: {_shape(tuple(leaves[path].shape))}, configuration {_shape(shape)}")
        elif isinstance(leaves[path], jax.Array) and not leaves[path].is_fully_addressable:
            problems.append(f"{'/'.join(path)}: is spread over other processes' devices; replicate it first")
    for path in leaves.keys() - {path for _, path, _ in plan}:
        problems.append(f"{'/'.join(path)}: {_shape(tuple(leaves[path].shape))}, configuration has none")
    if problems:
        unique = list(dict.fromkeys(problems))
        raise ValueError("the parameters do not fit the configuration:\n  " + "\n  ".join(unique))


def _check_vocabulary(path: Source) -> None:
    """Raises ValueError unless T5's tokenizer there, which has these ids written into it, can use the vocabulary."""
    try:
        model = sentencepiece.SentencePieceProcessor(model_file=os.fspath(path))
    except (RuntimeError, OSError) as error:
        raise ValueError(f"{path} is no SentencePiece model: {error}") from error
    if (model.pad_id(), model.eos_id(), model.unk_id()) != (0, 1, 2):
        raise ValueError(
            f"{path}: T5's tokenizer in transformers wants a vocabulary with pad 0, eos 1, unk 2; got pad "
            f"{model.pad_id()}, eos {model.eos_id()}, unk {model.unk_id()}"
        )


def _write_weights(folder: pathlib.Path, leaves, plan, max_shard_bytes: int) -> None:
    shards: list[list[tuple[Entry, tuple[str, ...], int | None]]] = [[]]
    size = 0
    for item in plan:
        item_bytes = 4 * int(np.prod(item[0].shape))
        if shards[-1] and size + item_bytes > max_shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(item)
        size += item_bytes
    names = [SINGLE_FILE]
    if len(shards) > 1:
        names = [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
    weight_map = {}
    for name, shard in zip(names, shards):
        tensors = {}
        for entry, path, index in shard:
            leaf = np.asarray(leaves[path] if index is None else leaves[path][:, index], np.float32)
            tensors[entry.name] = np.ascontiguousarray(leaf.T if entry.transposed else leaf)
            weight_map[entry.name] = name
        # Under another name first: an interrupted write leaves no file that looks whole.
        unfinished = folder / f"{name}.unfinished"
        safetensors.numpy.save_file(tensors, unfinished, metadata={"format": "pt"})
        os.replace(unfinished, folder / name)
    for stale in [folder / SINGLE_FILE, *folder.glob("model-*-of-*.safetensors")]:
        if stale.name not in names:
            stale.unlink(missing_ok=True)
    if len(shards) > 1:
        total = sum(4 * int(np.prod(entry.shape)) for entry, _, _ in plan)
        _write_json(folder / INDEX_FILE, {"metadata": {"total_size": total}, "weight_map": weight_map})
    else:
        (folder / INDEX_FILE).unlink(missing_ok=True)


def _write_json(path: pathlib.Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
