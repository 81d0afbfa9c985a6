"""Hugging Face checkpoints, read and written: T5, T5 1.1, Flan-T5, mT5, umT5, ByT5, T5Gemma and T5Gemma 2.

Weights are safetensors, copied one tensor at a time: no second copy of the parameters exists in memory.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import huggingface_hub
import numpy as np
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from distill.checkpoints import storage_errors
from distill.checkpoints.arrays import Tensor
from distill.checkpoints.huggingface import gemma_weights, hub
from distill.checkpoints.huggingface import tensors as tensors_of
from distill.checkpoints.huggingface.config import scales_decoder_output
from distill.checkpoints.huggingface.families import config_from_hf, config_to_hf, entries, zeros
from distill.checkpoints.huggingface.names import IGNORED, LM_HEAD, SHARED, TABLE_COPIES
from distill.checkpoints.huggingface.safetensors_stream import SafetensorsWriter
from distill.checkpoints.huggingface.weights_folder import (
    FLOAT_DTYPES,
    INDEX_FILE,
    SINGLE_FILE,
    WeightsFolder,
    read_json,
)
from distill.checkpoints.weights import (
    Checkpoint,
    Weights,
    as_leaves,
    check_no_differences,
    from_leaves,
    reading_order,
    shape_text,
)
from distill.model.configs import NetworkConfig, family
from distill.model.t5gemma_config import T5GemmaConfig

Params = dict[str, Any]
Source = str | os.PathLike[str]

CONFIG_FILE = "config.json"
GENERATION_FILE = "generation_config.json"
# Settings of computation, which a file does not determine.
_FREE_FIELDS = ("dropout_rate", "dtype", "scan_layers", "remat_policy", "attention")
# The modules by which gin/models names the classes.
_GIN_MODULES = {"T5Config": "network", "T5GemmaConfig": "t5gemma_config", "StackConfig": "t5gemma_config"}


def resolve(source: Source, revision: str | None = None) -> pathlib.Path:
    """A local folder for ``source``: itself, or a snapshot of a hub repository.

    Hugging Face's own settings apply: ``HF_HUB_OFFLINE=1`` looks in its cache only.

    Args:
      source: a folder, ``owner/name`` (``name`` for T5 1.0) or ``owner/name@revision``.
      revision: a branch, tag, commit or ``refs/pr/…``; None: the one in ``source``, else the default branch.

    Raises:
      FileNotFoundError: ``source`` is neither, or the hub refuses it, see
        :func:`distill.checkpoints.huggingface.hub.refusal`.
      ValueError: two revisions are given.
    """
    path = pathlib.Path(source)
    if path.is_dir():
        return path
    name, named = split_revision(os.fspath(source))
    if named is not None and revision not in (None, named):
        raise ValueError(f"{source} names the revision {named!r}, and {revision!r} is given beside it")
    revision = named or revision
    if not is_hub_name(name):
        raise FileNotFoundError(f"{name} is not a folder")
    try:
        # The patterns exclude pickles.
        patterns = ["*.json", "model*.safetensors"]
        return pathlib.Path(huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None and storage_errors.of_machine(error):
            raise  # a full disk
        refused = hub.refusal(name, error)
        if refused is not None:
            raise FileNotFoundError(refused) from error
        offline = " (HF_HUB_OFFLINE is set)" if huggingface_hub.constants.HF_HUB_OFFLINE else ""
        raise FileNotFoundError(
            f"{os.fspath(source)!r} is neither a folder nor a Hugging Face repository that can be reached{offline}: "
            + " ".join(str(error).split())
        ) from error


def split_revision(source: str) -> tuple[str, str | None]:
    """The name and the revision in ``name@revision``; a path of a folder that exists, and a URL, have none.

    >>> split_revision("google/mt5-small@refs/pr/6")
    ('google/mt5-small', 'refs/pr/6')

    Raises:
      ValueError: no revision follows the "@".
    """
    name, at, revision = source.partition("@")
    if not at or "://" in source or not is_hub_name(name):
        return source, None
    if not revision:
        raise ValueError(f"{source!r} ends in '@'; expected name@revision: a branch, tag, commit or refs/pr/…")
    return name, revision


def is_hub_name(text: str) -> bool:
    """Whether ``text`` can be the name of a repository on the hub: ``name`` or ``owner/name``."""
    return "://" not in text and text.count("/") <= 1 and not text.startswith((".", "/", "~"))


def read_config(source: Source, *, revision: str | None = None, **overrides: Any) -> NetworkConfig:
    """The configuration of a checkpoint; ``overrides`` set fields, such as ``scan_layers=True``.

    Raises:
      FileNotFoundError: there is no such checkpoint.
      ValueError: its ``config.json`` is damaged or describes another kind of network.
    """
    path = resolve(source, revision) / CONFIG_FILE
    return config_from_hf(read_json(path), where=str(path), **overrides)


def load_params(
    source: Source, config: NetworkConfig, *, revision: str | None = None, shardings: Any = None, notes: bool = True
) -> Params:
    """The parameters of a checkpoint, for the network of ``config``.

    Args:
      source: a folder, or a repository on the hub.
      config: the network's; the parameters are stacked if ``scan_layers``.
      revision: a branch, tag, commit or ``refs/pr/…`` of the repository.
      shardings: as for :meth:`distill.checkpoints.weights.Weights.tree`.
      notes: log what is not read.

    Returns:
      float32 parameters.

    Raises:
      FileNotFoundError: there is no such checkpoint, or only a pickled one.
      ValueError: the files are damaged, or do not fit ``config``; every difference is listed, with both shapes.
    """
    folder = resolve(source, revision)
    with WeightsFolder(folder) as weights:
        _check_fit(folder, config, weights)
        return Weights(as_checkpoint(weights, config, notes=notes), config).tree(shardings)


def load_pretrained(
    source: Source, *, revision: str | None = None, shardings: Any = None, **overrides: Any
) -> tuple[NetworkConfig, Params]:
    """:func:`read_config`, and :func:`load_params` with it."""
    folder = resolve(source, revision)
    config = read_config(folder, **overrides)
    return config, load_params(folder, config, shardings=shardings)


def as_checkpoint(
    weights: WeightsFolder, config: NetworkConfig, where: Source | None = None, *, notes: bool = True
) -> Checkpoint:
    """The parameters in an opened folder under this project's names.

    Args:
      weights: the folder.
      config: the network's.
      where: its name in errors.
      notes: log what is not read.
    """
    if isinstance(config, T5GemmaConfig):
        return Checkpoint(str(where or weights.folder), gemma_weights.tensors(weights, config, notes=notes))
    wanted = {entry.name: entry for entry in entries(config)}
    tensors: dict[str, Tensor] = {}
    for name, entry in wanted.items():
        # An unscaled network may share its table with its logits; its output kernel is then a copy of the table.
        shared = name == LM_HEAD and name not in weights.tensors and _is_scaled(weights.folder) is False
        source = SHARED if shared else name
        if source in weights.tensors:
            tensors["/".join(entry.path)] = tensors_of.entry_tensor(weights, source, entry)
    for name, info in weights.tensors.items():
        if name not in wanted and name not in (*TABLE_COPIES, LM_HEAD, *IGNORED):
            tensors[name] = tensors_of.unread(info.shape, info.dtype)
    return Checkpoint(str(where or weights.folder), tensors)


def _is_scaled(folder: pathlib.Path) -> bool | None:
    """Whether the decoder's output is scaled; None without a ``config.json``."""
    path = folder / CONFIG_FILE
    return scales_decoder_output(read_json(path)) if path.is_file() else None


def _setting_problems(folder: pathlib.Path, config: NetworkConfig) -> list[str]:
    """The settings in which the folder's ``config.json``, if it has one, and ``config`` differ."""
    if not (folder / CONFIG_FILE).is_file():
        return []
    theirs = read_config(folder)
    if family(theirs) != family(config):
        raise ValueError(
            f"{folder} is a {family(theirs)} network, the configuration is a {family(config)}; take a model file of "
            f"{family(theirs)} (gin/models)"
        )
    return [
        f"setting {name}: checkpoint {got!r}, configuration {expected!r} (--gin.{binding}={got!r})"
        for name, binding, got, expected in _differences(theirs, config)
    ]


def _differences(theirs: Any, ours: Any, stack: str = "") -> Iterator[tuple[str, str, Any, Any]]:
    """Yields name, gin parameter and both values of each setting that differs, those of a T5Gemma's two stacks included."""
    module = _GIN_MODULES[type(ours).__name__]
    for field in dataclasses.fields(ours):
        got, expected = getattr(theirs, field.name), getattr(ours, field.name)
        if dataclasses.is_dataclass(expected):
            yield from _differences(got, expected, field.name)
        elif field.name not in _FREE_FIELDS and got != expected:
            scope, prefix = (f"{stack}/", f"{stack}.") if stack else ("", "")
            yield f"{prefix}{field.name}", f"{scope}{module}.{type(ours).__name__}.{field.name}", got, expected


def _check_fit(folder: pathlib.Path, config: NetworkConfig, weights: WeightsFolder) -> None:
    """Raises one ValueError that lists every way in which the files and ``config`` differ, by the files' own names."""
    problems = _setting_problems(folder, config)
    if isinstance(config, T5GemmaConfig):
        return check_no_differences([*problems, *gemma_weights.problems(weights, config)], folder)
    wanted = {entry.name: entry for entry in entries(config)}
    scaled = _is_scaled(folder)
    held = weights.tensors
    for name, entry in wanted.items():
        if name in held:
            if held[name].shape != entry.shape:
                problems.append(
                    f"{name}: checkpoint {shape_text(held[name].shape)}, configuration {shape_text(entry.shape)}"
                )
            elif held[name].dtype not in FLOAT_DTYPES:
                problems.append(f"{name}: checkpoint {held[name].dtype}, wanted one of {FLOAT_DTYPES}")
        elif name != LM_HEAD or scaled is not False:
            problems.append(f"{name}: checkpoint has none, configuration {shape_text(entry.shape)}")
    # A tied network's file may hold its one table under each of its names.
    names = TABLE_COPIES if scaled is False else (*TABLE_COPIES, LM_HEAD)
    copies = [name for name in names if name in held and name not in wanted]
    for name, info in held.items():
        if name not in wanted and name not in copies and name not in IGNORED:
            problems.append(f"{name}: checkpoint {shape_text(info.shape)}, configuration has none")
    if copies and not problems:
        table = weights.read(SHARED)
        for name in copies:
            if held[name].shape != table.shape or not np.array_equal(weights.read(name), table):
                problems.append(f"{name}: checkpoint has one that is not {SHARED}, configuration uses that one table")
    return check_no_differences(problems, folder)


def save_pretrained_folder(params: Params, config: NetworkConfig, folder: Source, **options: Any) -> None:
    """:func:`write` for parameters in memory.

    Args:
      params: float parameters, stacked if ``config.scan_layers``.
      config: their configuration.
      folder: where to.
      **options: :func:`write`'s.

    Raises:
      ValueError: ``transformers`` has no such model, or a parameter is missing, is superfluous, has another shape, or is on
        devices that this process cannot read. Nothing is written then.
    """
    held = from_leaves(as_leaves(params, config))
    write(Weights(held, dataclasses.replace(config, scan_layers=False)).read, config, folder, **options)


def write(
    read: Callable[[str], np.ndarray],
    config: NetworkConfig,
    folder: Source,
    *,
    model_type: str | None = None,
    fields: Mapping[str, Any] | None = None,
    generation: Mapping[str, Any] | None = None,
    max_shard_bytes: int = 5_000_000_000,
) -> None:
    """Writes a folder that ``transformers``' ``AutoModelForSeq2SeqLM.from_pretrained`` loads.

    Args:
      read: returns a parameter of ``config`` (unstacked) by its '/'-joined name; called in reading order.
      config: of the network.
      folder: the output, created if needed. Existing weights in it are replaced.
      model_type: as for :func:`config_to_hf`.
      fields: further fields of ``config.json``, such as ``task_specific_params``.
      generation: defaults for ``generate``, such as ``{"num_beams": 4, "max_new_tokens": 64}``.
      max_shard_bytes: larger weights are written to several files with an index.

    Raises:
      ValueError: ``transformers`` has no such model.
    """
    config = dataclasses.replace(config, scan_layers=False)
    settings = {**config_to_hf(config, model_type), "dtype": "float32", **(fields or {})}
    root = pathlib.Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    plan = entries(config)
    constant = zeros(config)
    shapes = {entry.name: entry.shape for entry in plan} | constant
    shards = _shards(shapes, max_shard_bytes)
    place = {tensor: file for file, shard in shards.items() for tensor in shard}
    with contextlib.ExitStack() as stack:
        files = {name: stack.enter_context(SafetensorsWriter(root / name, shard)) for name, shard in shards.items()}
        for entry in sorted(plan, key=lambda entry: reading_order("/".join(entry.path))):
            array = read("/".join(entry.path))
            files[place[entry.name]].write(entry.name, array.T if entry.transposed else array)
            del array
        for name, shape in constant.items():
            files[place[name]].write(name, np.zeros(shape, np.float32))
    for stale in [root / SINGLE_FILE, *root.glob("model-*-of-*.safetensors"), root / INDEX_FILE]:
        if stale.name not in shards:
            stale.unlink(missing_ok=True)
    if len(shards) > 1:
        total = sum(4 * int(np.prod(shape)) for shape in shapes.values())
        _write_json(root / INDEX_FILE, {"metadata": {"total_size": total}, "weight_map": place})
    _write_json(root / CONFIG_FILE, settings)
    start = settings.get("decoder_start_token_id", settings.get("bos_token_id"))
    ids = {name: settings[name] for name in ("eos_token_id", "pad_token_id")} | {"decoder_start_token_id": start}
    _write_json(root / GENERATION_FILE, {**ids, **(generation or {})})


def _shards(shapes: Mapping[str, tuple[int, ...]], max_shard_bytes: int) -> dict[str, dict[str, tuple[int, ...]]]:
    """The shapes of the tensors of each file, by the file's name."""
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    size = 0
    for name, shape in shapes.items():
        tensor_bytes = 4 * int(np.prod(shape))
        if shards[-1] and size + tensor_bytes > max_shard_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = shape
        size += tensor_bytes
    if len(shards) == 1:
        return {SINGLE_FILE: shards[0]}
    return {f"model-{i:05}-of-{len(shards):05}.safetensors": shard for i, shard in enumerate(shards, start=1)}


def _write_json(path: pathlib.Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
