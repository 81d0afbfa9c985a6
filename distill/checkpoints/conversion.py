"""From any checkpoint to any other, one array in memory at a time."""

import contextlib
import dataclasses
import functools
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import orbax.checkpoint as ocp
from etils import epath

from distill import validation
from distill.checkpoints import adapters, gemma_flax, huggingface, integrity, leftovers, orbax_tree, streamed_orbax
from distill.checkpoints import t5x as t5x_checkpoints
from distill.checkpoints.huggingface.weights_folder import WeightsFolder
from distill.checkpoints.weights import Checkpoint, Weights, flat_shapes, infer_config, reading_order, unflatten
from distill.model import configs
from distill.model.config import T5Config
from distill.model.configs import NetworkConfig

DISTILL, HUGGING_FACE, T5X, GEMMA_FLAX = "distill", "Hugging Face", "T5X", "Gemma Flax"
TO_FORMATS = ("hf", "t5x", "t5x_orbax", "distill")
Read = Callable[[str], Any]
Path = str | os.PathLike[str]


def kind_of(path: Path) -> str:
    """The format of ``path``: ``distill`` (a model directory), ``Hugging Face`` (a folder or hub name), ``Gemma Flax`` or
    ``T5X``.

    Raises:
      FileNotFoundError: a path that does not exist and cannot be a hub name.
      ValueError: a folder of no known format.
    """
    text, where = os.fspath(path), epath.Path(path)
    if (where / integrity.BEST).exists() or (where / integrity.LATEST).exists():
        return DISTILL
    if (where / huggingface.CONFIG_FILE).exists():
        return HUGGING_FACE
    if gemma_flax.find(where) is not None:
        return GEMMA_FLAX
    if where.exists():
        try:
            t5x_checkpoints.find(where)
        except FileNotFoundError:
            raise ValueError(
                f"{path} is no checkpoint: expected a model directory of this program ({integrity.LATEST}/, "
                f"{integrity.BEST}/), a Hugging Face folder (config.json), T5Gemma's Flax files (_METADATA) or a T5X "
                "checkpoint (a file 'checkpoint', or Orbax's 'state')"
            ) from None
        return T5X
    if huggingface.is_hub_name(huggingface.split_revision(text)[0]):
        return HUGGING_FACE
    raise FileNotFoundError(f"no checkpoint at {path}")


@dataclasses.dataclass(frozen=True)
class Source:
    """An opened checkpoint of any format.

    Attributes:
      kind: see :func:`kind_of`.
      checkpoint: its parameters, read on demand.
      config: the network's; that of a T5X or Gemma Flax checkpoint is inferred from shapes.
    """

    kind: str
    checkpoint: Checkpoint
    config: NetworkConfig

    def found(self) -> str:
        """A description in one line."""
        config, step = self.config, self.checkpoint.step
        parameters = sum(math.prod(shape) for shape in flat_shapes(config).values())
        layers = f"{config.num_encoder_layers} + {config.num_decoder_layers} layers"
        return (
            f"{self.kind} checkpoint {self.checkpoint.where}: vocabulary {config.vocab_size}, width {config.embed_dim}, "
            f"{layers}{' (stacked)' if self.checkpoint.scanned else ''}, "
            f"{'tied' if config.logits_via_embedding else 'separate'} output kernel, {parameters:,} parameters"
            + (f", step {step}" if step is not None else "")
        )


@contextlib.contextmanager
def open_source(path: Path, **overrides: Any) -> Iterator[Source]:
    """The checkpoint at ``path``, of any format; its files are open inside of ``with``.

    Args:
      path: local, ``gs://`` or the name of a model on the Hugging Face hub, also as ``name@revision``.
      **overrides: fields of the configuration that its files do not determine, or that override them.

    Raises:
      FileNotFoundError: ``path`` does not exist.
      ValueError: an unknown format, or damaged files.
    """
    kind = kind_of(path)
    if kind == T5X:
        checkpoint = t5x_checkpoints.open_checkpoint(path)
        yield Source(kind, checkpoint, infer_config(checkpoint, **overrides))
    elif kind == GEMMA_FLAX:
        yield Source(kind, *gemma_flax.open_source(path, **overrides))
    elif kind == DISTILL:
        yield _open_model_dir(path, overrides)
    else:
        folder = huggingface.resolve(path)
        config = huggingface.read_config(folder, **overrides)
        with WeightsFolder(folder) as weights:
            yield Source(kind, huggingface.as_checkpoint(weights, config, path), config)


def _open_model_dir(path: Path, overrides: Mapping[str, Any]) -> Source:
    """The parameters that validated best, else those of the newest checkpoint (their moving average if there is one)."""
    for folder in (integrity.BEST, integrity.LATEST):
        root = epath.Path(path) / folder
        steps = ocp.utils.checkpoint_steps(root) if root.exists() else []
        if not steps:
            continue
        step = max(steps)
        integrity.check_step(root / str(step))
        config = _saved_config(root / str(step) / "model" / "metadata", overrides)
        is_best = folder == integrity.BEST
        tree = orbax_tree.tensors(root / str(step) / "params") if is_best else adapters.tensors(root / str(step))
        if tree:
            return Source(DISTILL, Checkpoint(str(path), tree, step), config)
        raise ValueError(f"{root / str(step)} holds no parameters")
    raise FileNotFoundError(f"{path} holds no complete checkpoint")


def _saved_config(path: epath.Path, overrides: Mapping[str, Any]) -> NetworkConfig:
    try:
        return configs.from_json(json.loads(path.read_text()), **overrides)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} does not describe a network of this program: {error}") from error


def write_model_dir(read: Read, config: NetworkConfig, directory: Path, step: int = 0) -> None:
    """Writes a model directory that ``INITIAL_CHECKPOINT_PATH`` starts from: its best parameters, at ``step``.

    Raises ValueError if there is one already.
    """
    root = epath.Path(directory)
    if (root / integrity.BEST).exists() or (root / integrity.LATEST).exists():
        raise ValueError(f"{directory} holds a model already; name another directory")
    names = sorted(flat_shapes(config), key=reading_order)
    leaves = {name: streamed_orbax.Leaf(number, functools.partial(read, name)) for number, name in enumerate(names)}
    model = json.loads(json.dumps(dataclasses.asdict(config)))
    items = {"params": unflatten(leaves), "metrics": streamed_orbax.Json({}), "model": streamed_orbax.Json(model)}
    streamed_orbax.save(root / integrity.BEST, step, items)
    (root / integrity.LATEST).mkdir()  # identifies a model directory


def t5_only(config: NetworkConfig) -> T5Config:
    """Returns ``config``. Raises ValueError unless a T5X checkpoint can hold its network."""
    if not isinstance(config, T5Config):
        raise ValueError(f"T5X has no {configs.family(config)}; write it as 'hf' or 'distill'")
    return config


def convert(
    source: Path,
    to: Path,
    to_format: str = "hf",
    *,
    scan_layers: bool | None = None,
    layout: str = "t5",
    step: int | None = None,
    model_type: str | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Source:
    """Converts a checkpoint, one array in memory at a time.

    An error, such as a full disk, removes what was written, so that the same conversion can be made again.

    Args:
      source: any checkpoint, see :func:`open_source`.
      to: a folder, local or, except with ``hf``, on ``gs://``; for T5X the run's, in which ``checkpoint_<step>`` is made.
      to_format: ``hf``, ``t5x`` (native), ``t5x_orbax`` or ``distill``.
      scan_layers: whether the layers written are stacked (not in ``hf``); None: as in ``source``.
      layout: of T5X, see :func:`distill.checkpoints.t5x.checkpoint.write`.
      step: of the checkpoint written; None: the source's, or 0.
      model_type: of Hugging Face, see :func:`~distill.checkpoints.huggingface.config.config_to_hf`.
      overrides: fields of the configuration that the source does not determine, such as a T5X checkpoint's activations.

    Returns:
      The source.

    Raises:
      FileNotFoundError, ValueError: as :func:`open_source`; or ``to`` holds a checkpoint already, or is remote with ``hf``.
    """
    if to_format not in TO_FORMATS:
        raise ValueError(f"to_format must be one of {', '.join(TO_FORMATS)}; got {to_format!r}")
    if to_format == "hf":
        validation.check_local("a Hugging Face folder", to)
        names = (huggingface.CONFIG_FILE, huggingface.GENERATION_FILE)
        if any(epath.Path(to).glob("*.safetensors*")) or any((epath.Path(to) / name).exists() for name in names):
            raise ValueError(f"{to} holds a model already; name another directory")
    with open_source(source, **(overrides or {})) as opened:
        if to_format.startswith("t5x"):
            t5_only(opened.config)
        stacked = opened.checkpoint.scanned if scan_layers is None else scan_layers
        config = dataclasses.replace(opened.config, scan_layers=stacked and to_format != "hf")
        weights = Weights(opened.checkpoint, config)
        number = step if step is not None else opened.checkpoint.step or 0
        if to_format in ("hf", "distill"):
            with leftovers.removed_on_failure(to):
                if to_format == "hf":
                    huggingface.write(weights.read, config, to, model_type=model_type)
                else:
                    write_model_dir(weights.read, config, to, number)
        else:
            form = "orbax" if to_format == "t5x_orbax" else "native"
            t5x_checkpoints.write(weights.read, t5_only(config), to, number, format=form, layout=layout)
        weights.release()
        return opened
